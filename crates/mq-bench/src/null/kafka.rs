//! A null broker that speaks the protocol of Kafka, as a cluster of one node.
//!
//! Every topic is there, with one partition, save those that end with `.dead` and were not created: mq-kafka tells a queue
//! from a topic by them. What is produced is counted and swallowed. What is fetched is made up: the same record batch
//! again and again, with other numbers in it. A group has one member, who is its leader; what it commits is remembered.
//!
//! Not here: transactions, and the group protocols of KIP-848 and KIP-932.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{Display, Write as _},
    io::{self, BufReader, ErrorKind, Read, Write as _},
    mem,
    net::{TcpListener, TcpStream},
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsResponse, BrokerId, CreateTopicsRequest, CreateTopicsResponse,
        DeleteTopicsRequest, DeleteTopicsResponse, DescribeClusterRequest, DescribeClusterResponse,
        DescribeConfigsRequest, DescribeConfigsResponse, DescribeTopicPartitionsRequest,
        DescribeTopicPartitionsResponse, FetchRequest, FetchResponse, FindCoordinatorRequest,
        FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse, InitProducerIdRequest,
        InitProducerIdResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
        LeaveGroupResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest,
        MetadataResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
        OffsetFetchResponse, ProduceRequest, ProduceResponse, SyncGroupRequest, SyncGroupResponse,
        TopicName,
        api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey},
        create_topics_response::CreatableTopicResult,
        delete_topics_response::DeletableTopicResult,
        describe_cluster_response::DescribeClusterBroker,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult},
        describe_topic_partitions_response::{
            DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
        },
        fetch_response::{FetchableTopicResponse, PartitionData},
        find_coordinator_response::Coordinator,
        join_group_response::JoinGroupResponseMember,
        leave_group_response::MemberResponse,
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
        metadata_response::{
            MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        },
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
            OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        },
        produce_response::{PartitionProduceResponse, TopicProduceResponse},
    },
    protocol::{Decodable, Encodable, HeaderVersion, StrBytes, decode_request_header_from_buffer},
};

use super::Deliveries;

/// Serves whoever connects, for ever.
///
/// # Errors
/// Those of accepting a connection, and of starting a thread. What goes wrong with one connection ends that one alone.
pub(super) fn serve(listener: TcpListener, deliveries: Deliveries) -> io::Result<()> {
    let broker = Arc::new(Broker::new(deliveries));
    loop {
        let (socket, _) = listener.accept()?;
        let broker = Arc::clone(&broker);
        let serve = move || match converse(socket, &broker) {
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                eprintln!("null broker: Kafka: {error}");
            }
            // Clients come and go, and some do not say good-bye.
            Ok(()) | Err(_) => {}
        };
        thread::Builder::new()
            .name("null-kafka".into())
            .spawn(serve)?;
    }
}

/// What the connections share.
struct Broker {
    log: Log,
    /// The topics that were created or asked for, and those that were deleted.
    told: Mutex<HashMap<String, bool>>,
    /// The next offset of what is produced, by topic.
    produced: Mutex<HashMap<String, i64>>,
    /// By group.
    committed: Mutex<HashMap<String, Places>>,
    /// For members and producers.
    ids: AtomicI64,
}

/// By topic and partition.
type Places = BTreeMap<(String, i32), Place>;

#[derive(Clone)]
struct Place {
    offset: i64,
    metadata: Option<String>,
}

impl Broker {
    fn new(deliveries: Deliveries) -> Self {
        Self {
            log: Log::new(deliveries),
            told: Mutex::default(),
            produced: Mutex::default(),
            committed: Mutex::default(),
            ids: AtomicI64::new(1),
        }
    }

    fn has(&self, topic: &str) -> bool {
        let mut told = lock(&self.told);
        if let Some(there) = told.get(topic) {
            return *there;
        }
        let there = !topic.ends_with(".dead");
        if there {
            // A list of all topics has those that somebody asked for.
            told.insert(topic.to_owned(), true);
        }
        there
    }

    fn next_id(&self) -> i64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, to its end.
fn converse(mut socket: TcpStream, broker: &Broker) -> io::Result<()> {
    socket.set_nodelay(true)?;
    // The client reached it there, so the others will too.
    let here = socket.local_addr()?;
    let mut session = Session {
        broker,
        log: broker.log.clone(),
        host: here.ip().to_string().into(),
        port: here.port().into(),
    };
    let mut reader = BufReader::with_capacity(READ, socket.try_clone()?);
    let mut out = BytesMut::new();
    while let Some(request) = next(&mut reader)? {
        let pause = session.answer(request, &mut out)?;
        if !pause.is_zero() {
            thread::sleep(pause);
        }
        if reader.buffer().is_empty() || out.len() > WRITE {
            socket.write_all(&out)?;
            out.clear();
        }
    }
    Ok(())
}

/// The next request; `None` at the end.
fn next(reader: &mut impl Read) -> io::Result<Option<Bytes>> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > LARGEST {
        return Err(wrong(format!("a request of {length} bytes")));
    }
    let mut request = vec![0; length];
    reader.read_exact(&mut request)?;
    Ok(Some(request.into()))
}

/// One connection. It knows no socket.
struct Session<'a> {
    broker: &'a Broker,
    log: Log,
    /// Where the one node is.
    host: StrBytes,
    port: i32,
}

/// A request that is to be answered.
struct Call<'a> {
    id: i32,
    version: i16,
    body: Bytes,
    out: &'a mut BytesMut,
}

impl Call<'_> {
    fn read<Q: Decodable>(&mut self) -> io::Result<Q> {
        Q::decode(&mut self.body, self.version).map_err(wrong)
    }

    fn answer<Q: Decodable, A: Encodable + HeaderVersion>(
        mut self,
        how: impl FnOnce(Q) -> A,
    ) -> io::Result<()> {
        let asked = self.read()?;
        self.put(&how(asked))
    }

    fn put<A: Encodable + HeaderVersion>(self, answer: &A) -> io::Result<()> {
        let begin = self.out.len();
        self.out.put_i32(0);
        self.out.put_i32(self.id);
        if A::header_version(self.version) > 0 {
            // No tagged fields.
            self.out.put_u8(0);
        }
        answer.encode(self.out, self.version).map_err(wrong)?;
        let length = (self.out.len() - begin - 4) as u32;
        self.out[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

impl Session<'_> {
    /// Answers one request. Returns how long it shall be waited before that is sent.
    fn answer(&mut self, mut request: Bytes, out: &mut BytesMut) -> io::Result<Duration> {
        let header = decode_request_header_from_buffer(&mut request).map_err(wrong)?;
        let (number, version) = (header.request_api_key, header.request_api_version);
        let served = VERSIONS.iter().find(|(key, ..)| *key as i16 == number);
        let Some((key, least, most)) = served else {
            return Err(wrong(format!("request {number} is not known here")));
        };
        let mut call = Call {
            id: header.correlation_id,
            version,
            body: request,
            out,
        };
        if !(*least..=*most).contains(&version) {
            if *key != ApiKey::ApiVersions {
                return Err(wrong(format!(
                    "version {version} of {key:?} is not known here"
                )));
            }
            // Told in the oldest version, so that it is understood.
            call.version = 0;
            let refused = versions().with_error_code(UNSUPPORTED_VERSION);
            call.put(&refused)?;
            return Ok(Duration::ZERO);
        }
        let mut pause = Duration::ZERO;
        match key {
            ApiKey::ApiVersions => call.put(&versions()),
            ApiKey::Produce => {
                let asked: ProduceRequest = call.read()?;
                let silent = asked.acks == 0;
                let answer = self.produce(asked);
                if silent { Ok(()) } else { call.put(&answer) }
            }
            ApiKey::Fetch => call.answer(|asked| {
                let (answer, waits) = self.fetch(asked, version);
                pause = waits;
                answer
            }),
            ApiKey::Metadata => call.answer(|asked| self.metadata(asked, version)),
            ApiKey::ListOffsets => call.answer(|asked| self.list_offsets(asked)),
            ApiKey::InitProducerId => call.answer(|_: InitProducerIdRequest| {
                let id = self.broker.next_id().into();
                InitProducerIdResponse::default()
                    .with_producer_id(id)
                    .with_producer_epoch(0)
            }),
            ApiKey::FindCoordinator => call.answer(|asked| self.find_coordinator(asked, version)),
            ApiKey::JoinGroup => call.answer(|asked| self.join_group(asked, version)),
            ApiKey::SyncGroup => call.answer(|asked| sync_group(asked, version)),
            ApiKey::Heartbeat => call.answer(|_: HeartbeatRequest| HeartbeatResponse::default()),
            ApiKey::LeaveGroup => call.answer(|asked| leave_group(asked, version)),
            ApiKey::OffsetCommit => call.answer(|asked| self.offset_commit(asked)),
            ApiKey::OffsetFetch => call.answer(|asked| self.offset_fetch(asked, version)),
            ApiKey::DescribeTopicPartitions => call.answer(|asked| self.describe_topics(asked)),
            ApiKey::DescribeConfigs => call.answer(describe_configs),
            ApiKey::DescribeCluster => call.answer(|_: DescribeClusterRequest| self.cluster()),
            ApiKey::CreateTopics => call.answer(|asked| self.create_topics(asked, version)),
            ApiKey::DeleteTopics => call.answer(|asked| self.delete_topics(asked)),
            _ => Err(wrong(format!("{key:?} is not known here"))),
        }?;
        Ok(pause)
    }

    fn produce(&self, asked: ProduceRequest) -> ProduceResponse {
        let topics = asked.topic_data.into_iter().map(|topic| {
            let partitions = topic.partition_data.into_iter().map(|partition| {
                let answer = PartitionProduceResponse::default().with_index(partition.index);
                match records(&partition.records.unwrap_or_default()) {
                    _ if partition.index != 0 => answer.with_error_code(UNKNOWN_TOPIC),
                    None => answer.with_error_code(CORRUPT_MESSAGE),
                    Some(count) => answer.with_base_offset(self.store(topic.name.as_str(), count)),
                }
            });
            TopicProduceResponse::default()
                .with_partition_responses(partitions.collect())
                .with_name(topic.name)
        });
        ProduceResponse::default().with_responses(topics.collect())
    }

    /// The offset of the first of so many records.
    fn store(&self, topic: &str, count: i64) -> i64 {
        let mut produced = lock(&self.broker.produced);
        if let Some(next) = produced.get_mut(topic) {
            return mem::replace(next, next.wrapping_add(count));
        }
        produced.insert(topic.to_owned(), count);
        0
    }

    /// What is asked for, and how long to wait where there is nothing. One partition gets records, and whichever is behind it
    /// gets them when it is at its end.
    fn fetch(&mut self, asked: FetchRequest, version: i16) -> (FetchResponse, Duration) {
        let end = self.log.end();
        let most = usize::try_from(asked.max_bytes).unwrap_or(0);
        let (mut sent, mut told) = (false, false);
        let mut topics = Vec::with_capacity(asked.topics.len());
        for topic in asked.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in topic.partitions {
                let mut answer = PartitionData::default()
                    .with_partition_index(partition.partition)
                    .with_high_watermark(end)
                    .with_last_stable_offset(end);
                if version >= 5 {
                    answer = answer.with_log_start_offset(0);
                }
                match u64::try_from(partition.fetch_offset) {
                    _ if partition.partition != 0 => answer = answer.with_error_code(UNKNOWN_TOPIC),
                    Ok(offset) if offset <= self.log.count => {
                        if !sent && offset < self.log.count {
                            let own = usize::try_from(partition.partition_max_bytes).unwrap_or(0);
                            answer.records = Some(self.log.read(offset, own.min(most)));
                            sent = true;
                        }
                    }
                    _ => answer = answer.with_error_code(OFFSET_OUT_OF_RANGE),
                }
                told |= answer.error_code != 0;
                partitions.push(answer);
            }
            let answer = FetchableTopicResponse::default().with_topic(topic.topic);
            topics.push(answer.with_partitions(partitions));
        }
        let pause = match sent || told {
            true => Duration::ZERO,
            // What comes behind it on this connection shall not wait for long.
            false => PAUSE.min(Duration::from_millis(
                asked.max_wait_ms.try_into().unwrap_or(0),
            )),
        };
        (FetchResponse::default().with_responses(topics), pause)
    }

    fn metadata(&self, asked: MetadataRequest, version: i16) -> MetadataResponse {
        let names: Vec<TopicName> = match asked.topics {
            Some(topics) => topics.into_iter().filter_map(|topic| topic.name).collect(),
            None => {
                let told = lock(&self.broker.told);
                let created = told.iter().filter(|(_, there)| **there);
                created
                    .map(|(name, _)| TopicName(name.clone().into()))
                    .collect()
            }
        };
        let topics = names.into_iter().map(|name| {
            let mut topic = MetadataResponseTopic::default();
            if self.broker.has(&name) {
                let partition = MetadataResponsePartition::default()
                    .with_leader_id(NODE)
                    .with_replica_nodes(vec![NODE])
                    .with_isr_nodes(vec![NODE]);
                topic.partitions = vec![partition];
                if version >= 10 {
                    topic.topic_id = id_of(&name);
                }
            } else {
                topic.error_code = UNKNOWN_TOPIC;
            }
            topic.with_name(Some(name))
        });
        let node = MetadataResponseBroker::default()
            .with_node_id(NODE)
            .with_host(self.host.clone())
            .with_port(self.port);
        MetadataResponse::default()
            .with_brokers(vec![node])
            .with_cluster_id(Some(CLUSTER.into()))
            .with_controller_id(NODE)
            .with_topics(topics.collect())
    }

    fn describe_topics(
        &self,
        asked: DescribeTopicPartitionsRequest,
    ) -> DescribeTopicPartitionsResponse {
        let topics = asked.topics.into_iter().map(|topic| {
            let answer = DescribeTopicPartitionsResponseTopic::default();
            let answer = match self.broker.has(&topic.name) {
                false => answer.with_error_code(UNKNOWN_TOPIC),
                true => answer
                    .with_topic_id(id_of(&topic.name))
                    .with_partitions(vec![
                        DescribeTopicPartitionsResponsePartition::default()
                            .with_leader_id(NODE)
                            .with_replica_nodes(vec![NODE])
                            .with_isr_nodes(vec![NODE]),
                    ]),
            };
            answer.with_name(Some(topic.name))
        });
        DescribeTopicPartitionsResponse::default().with_topics(topics.collect())
    }

    fn cluster(&self) -> DescribeClusterResponse {
        let node = DescribeClusterBroker::default()
            .with_broker_id(NODE)
            .with_host(self.host.clone())
            .with_port(self.port);
        DescribeClusterResponse::default()
            .with_cluster_id(CLUSTER.into())
            .with_controller_id(NODE)
            .with_brokers(vec![node])
    }

    fn create_topics(&self, asked: CreateTopicsRequest, version: i16) -> CreateTopicsResponse {
        let topics = asked.topics.into_iter().map(|topic| {
            lock(&self.broker.told).insert(topic.name.to_string(), true);
            let answer = CreatableTopicResult::default();
            let answer = match version {
                5.. => answer.with_num_partitions(1).with_replication_factor(1),
                _ => answer,
            };
            let answer = if version >= 7 {
                answer.with_topic_id(id_of(&topic.name))
            } else {
                answer
            };
            answer.with_name(topic.name)
        });
        CreateTopicsResponse::default().with_topics(topics.collect())
    }

    fn delete_topics(&self, asked: DeleteTopicsRequest) -> DeleteTopicsResponse {
        let states = asked.topics.into_iter().filter_map(|topic| topic.name);
        let topics = asked.topic_names.into_iter().chain(states).map(|name| {
            lock(&self.broker.told).insert(name.to_string(), false);
            DeletableTopicResult::default().with_name(Some(name))
        });
        DeleteTopicsResponse::default().with_responses(topics.collect())
    }

    fn list_offsets(&self, asked: ListOffsetsRequest) -> ListOffsetsResponse {
        let produced = lock(&self.broker.produced);
        let topics = asked.topics.into_iter().map(|topic| {
            // What was produced is behind what is made up.
            let end = self.log.end();
            let end = end.saturating_add(produced.get(topic.name.as_str()).copied().unwrap_or(0));
            let partitions = topic.partitions.into_iter().map(|partition| {
                let answer = ListOffsetsPartitionResponse::default()
                    .with_partition_index(partition.partition_index);
                match partition.timestamp {
                    _ if partition.partition_index != 0 => answer.with_error_code(UNKNOWN_TOPIC),
                    LATEST => answer.with_offset(end),
                    MAX_TIMESTAMP => answer.with_offset(end - 1).with_timestamp(self.log.time),
                    time if time > self.log.time => answer,
                    _ => answer.with_offset(0),
                }
            });
            ListOffsetsTopicResponse::default()
                .with_partitions(partitions.collect())
                .with_name(topic.name)
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    fn find_coordinator(
        &self,
        asked: FindCoordinatorRequest,
        version: i16,
    ) -> FindCoordinatorResponse {
        let answer = FindCoordinatorResponse::default();
        if version < 4 {
            return answer
                .with_node_id(NODE)
                .with_host(self.host.clone())
                .with_port(self.port);
        }
        let coordinators = asked.coordinator_keys.into_iter().map(|key| {
            Coordinator::default()
                .with_key(key)
                .with_node_id(NODE)
                .with_host(self.host.clone())
                .with_port(self.port)
        });
        answer.with_coordinators(coordinators.collect())
    }

    /// Whoever joins is the only member.
    fn join_group(&self, asked: JoinGroupRequest, version: i16) -> JoinGroupResponse {
        let id = match &*asked.member_id {
            "" => StrBytes::from_string(format!("member-{}", self.broker.next_id())),
            _ => asked.member_id,
        };
        let mut answer = JoinGroupResponse::default()
            .with_generation_id(GENERATION)
            .with_leader(id.clone())
            .with_member_id(id.clone());
        let mut member = JoinGroupResponseMember::default().with_member_id(id);
        if let Some(protocol) = asked.protocols.into_iter().next() {
            member = member.with_metadata(protocol.metadata);
            answer = answer.with_protocol_name(Some(protocol.name));
        }
        if version >= 5 {
            member = member.with_group_instance_id(asked.group_instance_id);
        }
        if version >= 7 {
            answer = answer.with_protocol_type(Some(asked.protocol_type));
        }
        answer.with_members(vec![member])
    }

    fn offset_commit(&self, asked: OffsetCommitRequest) -> OffsetCommitResponse {
        let mut committed = lock(&self.broker.committed);
        let places = committed.entry(asked.group_id.to_string()).or_default();
        let topics = asked.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.into_iter().map(|partition| {
                let index = partition.partition_index;
                let place = Place {
                    offset: partition.committed_offset,
                    metadata: partition.committed_metadata.map(|text| text.to_string()),
                };
                places.insert((topic.name.to_string(), index), place);
                OffsetCommitResponsePartition::default().with_partition_index(index)
            });
            OffsetCommitResponseTopic::default()
                .with_partitions(partitions.collect())
                .with_name(topic.name)
        });
        let topics = topics.collect();
        OffsetCommitResponse::default().with_topics(topics)
    }

    fn offset_fetch(&self, asked: OffsetFetchRequest, version: i16) -> OffsetFetchResponse {
        let answer = OffsetFetchResponse::default();
        if version < 8 {
            let asked_for = asked.topics.map(|topics| {
                let topics = topics.into_iter();
                topics
                    .map(|topic| (topic.name.to_string(), topic.partition_indexes))
                    .collect()
            });
            let topics =
                self.places(&asked.group_id, asked_for)
                    .into_iter()
                    .map(|(name, places)| {
                        let partitions = places.into_iter().map(|(index, place)| {
                            OffsetFetchResponsePartition::default()
                                .with_partition_index(index)
                                .with_committed_offset(place.offset)
                                .with_metadata(place.metadata.map(StrBytes::from_string))
                        });
                        OffsetFetchResponseTopic::default()
                            .with_name(TopicName(name.into()))
                            .with_partitions(partitions.collect())
                    });
            return answer.with_topics(topics.collect());
        }
        let groups = asked.groups.into_iter().map(|group| {
            let asked_for = group.topics.map(|topics| {
                let topics = topics.into_iter();
                topics
                    .map(|topic| (topic.name.to_string(), topic.partition_indexes))
                    .collect()
            });
            let topics =
                self.places(&group.group_id, asked_for)
                    .into_iter()
                    .map(|(name, places)| {
                        let partitions = places.into_iter().map(|(index, place)| {
                            OffsetFetchResponsePartitions::default()
                                .with_partition_index(index)
                                .with_committed_offset(place.offset)
                                .with_metadata(place.metadata.map(StrBytes::from_string))
                        });
                        OffsetFetchResponseTopics::default()
                            .with_name(TopicName(name.into()))
                            .with_partitions(partitions.collect())
                    });
            OffsetFetchResponseGroup::default()
                .with_topics(topics.collect())
                .with_group_id(group.group_id)
        });
        answer.with_groups(groups.collect())
    }

    /// The places of a group in these partitions, or in all that it ever committed.
    fn places(
        &self,
        group: &str,
        asked_for: Option<Vec<(String, Vec<i32>)>>,
    ) -> Vec<(String, Vec<(i32, Place)>)> {
        let committed = lock(&self.broker.committed);
        let places = committed.get(group);
        if let Some(topics) = asked_for {
            let topics = topics.into_iter().map(|(topic, partitions)| {
                let places = partitions.into_iter().map(|partition| {
                    let place = places.and_then(|all| all.get(&(topic.clone(), partition)));
                    let none = || Place {
                        offset: -1,
                        metadata: Some(String::new()),
                    };
                    (partition, place.cloned().unwrap_or_else(none))
                });
                let places = places.collect();
                (topic, places)
            });
            return topics.collect();
        }
        let mut topics: Vec<(String, Vec<(i32, Place)>)> = Vec::new();
        for ((topic, partition), place) in places.into_iter().flatten() {
            let place = (*partition, place.clone());
            match topics.last_mut() {
                Some((last, places)) if last == topic => places.push(place),
                _ => topics.push((topic.clone(), vec![place])),
            }
        }
        topics
    }
}

/// The leader's own assignment: it is the only member.
fn sync_group(asked: SyncGroupRequest, version: i16) -> SyncGroupResponse {
    let own = asked
        .assignments
        .into_iter()
        .find(|one| one.member_id == asked.member_id);
    let answer = SyncGroupResponse::default()
        .with_assignment(own.map(|own| own.assignment).unwrap_or_default());
    if version < 5 {
        return answer;
    }
    answer
        .with_protocol_type(asked.protocol_type)
        .with_protocol_name(asked.protocol_name)
}

fn leave_group(asked: LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
    let answer = LeaveGroupResponse::default();
    if version < 3 {
        return answer;
    }
    let members = asked.members.into_iter().map(|member| {
        MemberResponse::default()
            .with_member_id(member.member_id)
            .with_group_instance_id(member.group_instance_id)
    });
    answer.with_members(members.collect())
}

fn describe_configs(asked: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = asked.resources.into_iter().map(|resource| {
        let wanted = |name: &str| {
            let keys = resource.configuration_keys.as_ref();
            keys.is_none_or(|keys| keys.iter().any(|key| &**key == name))
        };
        let known = CONFIGS.into_iter().filter(|(name, _)| wanted(name));
        let configs = known.map(|(name, value)| {
            DescribeConfigsResourceResult::default()
                .with_name(name.into())
                .with_value(Some(value.into()))
                .with_config_source(DEFAULT_CONFIG)
        });
        let configs = configs.collect();
        let DescribeConfigsResource {
            resource_type,
            resource_name,
            ..
        } = resource;
        DescribeConfigsResult::default()
            .with_resource_type(resource_type)
            .with_resource_name(resource_name)
            .with_configs(configs)
            .with_error_message(None)
    });
    DescribeConfigsResponse::default().with_results(results.collect())
}

fn versions() -> ApiVersionsResponse {
    let keys = VERSIONS.iter().map(|(key, least, most)| {
        ApiVersion::default()
            .with_api_key(*key as i16)
            .with_min_version(*least)
            .with_max_version(*most)
    });
    let supported = SupportedFeatureKey::default()
        .with_name(FEATURE.0.into())
        .with_min_version(1)
        .with_max_version(FEATURE.1);
    let finalized = FinalizedFeatureKey::default()
        .with_name(FEATURE.0.into())
        .with_min_version_level(FEATURE.1)
        .with_max_version_level(FEATURE.1);
    ApiVersionsResponse::default()
        .with_api_keys(keys.collect())
        .with_supported_features(vec![supported])
        .with_finalized_features_epoch(0)
        .with_finalized_features(vec![finalized])
}

/// An id that goes with a name, as a number of 128 bits in hexadecimal digits (by FNV-1a), read as what is wanted. Clients keep
/// topics by their ids, so each name has another one.
fn id_of<I: FromStr + Default>(name: &str) -> I {
    let step = |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul((1 << 88) + 0x13B);
    let hash = name
        .as_bytes()
        .iter()
        .fold(0x6C62_272E_07BB_0142_62B8_2175_6295_C58D, step);
    format!("{hash:032x}").parse().unwrap_or_default()
}

/// How many records the batches hold, by their headers alone.
fn records(mut batches: &[u8]) -> Option<i64> {
    let mut count = 0;
    while !batches.is_empty() {
        let length = i32::from_be_bytes(*batches.get(LENGTH..)?.first_chunk()?);
        let last = i32::from_be_bytes(*batches.get(LAST_DELTA..)?.first_chunk()?);
        count += i64::from(last) + 1;
        batches = batches.get(LENGTH + 4 + usize::try_from(length).ok()?..)?;
    }
    Some(count)
}

/// A log that is made up as it is read. A clone has batches of its own to write to.
#[derive(Clone)]
struct Log {
    count: u64,
    time: i64,
    /// Batches one after the other, each as long as every other.
    batches: Bytes,
    template: Arc<Template>,
    /// The last batch, if it is not a whole one.
    tail: Bytes,
}

/// What has to be written to a batch for it to be another one.
struct Template {
    /// Records of a batch: a power of two, so that the number of each record is that of the first one with some bits more.
    records: u64,
    /// Bytes of a batch.
    length: usize,
    /// Where the number of each record is.
    numbers: Vec<usize>,
    /// The checksum of the first batch.
    checksum: u32,
    /// How each bit of the first number changes the checksum. It is linear: changes add up.
    changes: [u32; 64],
}

impl Log {
    fn new(Deliveries { count, size }: Deliveries) -> Self {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let time = i64::try_from(time.as_millis()).unwrap_or_default();
        let size = size.max(8);
        let fitting = (BATCH / size).clamp(1, RECORDS);
        let records = 1_u64 << fitting.ilog2();
        let (first, numbers) = batch(0, records, size, time);
        let left = count % records;
        let tail = match left {
            0 => Bytes::new(),
            _ => batch(count - left, left, size, time).0.into(),
        };
        let checksum = crc32c(&first[CHECKED..]);
        let mut changes = [0; 64];
        let mut changed = first.clone();
        // Bits that no number has would be waste.
        let highest = count.checked_ilog2().unwrap_or(0);
        for bit in records.ilog2()..=highest {
            let number = |at: usize| (1_u64 << bit | at as u64).to_be_bytes();
            for (at, place) in numbers.iter().enumerate() {
                changed[*place..][..8].copy_from_slice(&number(at));
            }
            changes[bit as usize] = crc32c(&changed[CHECKED..]) ^ checksum;
        }
        let length = first.len();
        let batches = first.repeat((WRITE / length).max(1)).into();
        let template = Arc::new(Template {
            records,
            length,
            numbers,
            checksum,
            changes,
        });
        Self {
            count,
            time,
            batches,
            template,
            tail,
        }
    }

    fn end(&self) -> i64 {
        i64::try_from(self.count).unwrap_or(i64::MAX)
    }

    /// Batches from the one with this offset on, about so many bytes of them, and at least one.
    fn read(&mut self, offset: u64, most: usize) -> Bytes {
        let template = &self.template;
        let (first, whole) = (offset / template.records, self.count / template.records);
        if first >= whole {
            return self.tail.clone();
        }
        // Nobody holds what was read before: it is written to where it is.
        let lent = mem::take(&mut self.batches).try_into_mut();
        let mut batches = lent.unwrap_or_else(|shared| BytesMut::from(&*shared));
        let fitting = most.min(batches.len()) / template.length;
        let fitting = (fitting.max(1) as u64).min(whole - first);
        for (batch, bytes) in
            (first..first + fitting).zip(batches.chunks_exact_mut(template.length))
        {
            template.write(batch * template.records, bytes);
        }
        self.batches = batches.freeze();
        self.batches.slice(..fitting as usize * template.length)
    }
}

impl Template {
    /// Makes this batch the one that begins with this number.
    fn write(&self, first: u64, batch: &mut [u8]) {
        batch[..8].copy_from_slice(&first.to_be_bytes());
        for (number, place) in (first..).zip(&self.numbers) {
            batch[*place..][..8].copy_from_slice(&number.to_be_bytes());
        }
        let mut checksum = self.checksum;
        let mut bits = first;
        while bits != 0 {
            checksum ^= self.changes[bits.trailing_zeros() as usize];
            bits &= bits - 1;
        }
        batch[CHECKSUM..CHECKED].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// A record batch of version 2, with where the number of each record is.
fn batch(first: u64, records: u64, size: usize, time: i64) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    bytes.put_u64(first);
    // The length comes at the end.
    bytes.put_i32(0);
    // The epoch of the leader, which is not known, and the version.
    bytes.put_i32(-1);
    bytes.put_i8(2);
    bytes.put_u32(0);
    bytes.put_i16(0);
    bytes.put_u32(records as u32 - 1);
    bytes.put_i64(time);
    bytes.put_i64(time);
    // No idempotent producer.
    bytes.put_i64(-1);
    bytes.put_i16(-1);
    bytes.put_i32(-1);
    bytes.put_u32(records as u32);
    let mut numbers = Vec::new();
    let mut key = String::new();
    let mut record = Vec::new();
    for at in 0..records {
        key.clear();
        // Writing to a String does not fail. The key is the same in each batch, and so is the checksum's part of it.
        let _ = write!(key, "{at}");
        record.clear();
        // Attributes, and no time beside that of the batch.
        record.extend_from_slice(&[0, 0]);
        varint(&mut record, at as i64);
        varint(&mut record, key.len() as i64);
        record.extend_from_slice(key.as_bytes());
        varint(&mut record, size as i64);
        let value = record.len();
        record.put_u64(first + at);
        record.resize(value + size, FILLING);
        // No headers.
        record.push(0);
        varint(&mut bytes, record.len() as i64);
        numbers.push(bytes.len() + value);
        bytes.extend_from_slice(&record);
    }
    let length = (bytes.len() - LENGTH - 4) as u32;
    bytes[LENGTH..LENGTH + 4].copy_from_slice(&length.to_be_bytes());
    let checksum = crc32c(&bytes[CHECKED..]);
    bytes[CHECKSUM..CHECKED].copy_from_slice(&checksum.to_be_bytes());
    (bytes, numbers)
}

/// A number in the zig-zag form of Protocol Buffers.
fn varint(out: &mut Vec<u8>, number: i64) {
    let mut left = ((number << 1) ^ (number >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// The checksum of record batches (Castagnoli). It is needed at the start alone.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let mut value = at as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ (if value & 1 == 1 { 0x82F6_3B78 } else { 0 });
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        table
    };
    let step = |crc: u32, byte: &u8| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)];
    !bytes.iter().fold(!0, step)
}

fn wrong(what: impl Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_string())
}

/// What is answered. No version names a topic by its id.
const VERSIONS: [(ApiKey, i16, i16); 18] = [
    (ApiKey::Produce, 3, 12),
    (ApiKey::Fetch, 4, 12),
    (ApiKey::ListOffsets, 1, 10),
    (ApiKey::Metadata, 4, 13),
    (ApiKey::OffsetCommit, 2, 9),
    (ApiKey::OffsetFetch, 1, 9),
    (ApiKey::FindCoordinator, 0, 6),
    (ApiKey::JoinGroup, 0, 9),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::InitProducerId, 0, 5),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::DescribeCluster, 0, 2),
    (ApiKey::DescribeTopicPartitions, 0, 0),
];
/// What a topic's and a node's settings are.
const CONFIGS: [(&str, &str); 7] = [
    ("max.message.bytes", "1048588"),
    ("min.insync.replicas", "1"),
    ("unclean.leader.election.enable", "false"),
    ("retention.ms", "604800000"),
    ("retention.bytes", "-1"),
    ("cleanup.policy", "delete"),
    ("default.replication.factor", "1"),
];
const DEFAULT_CONFIG: i8 = 5;
/// The level of Kafka 4.0.
const FEATURE: (&str, i16) = ("metadata.version", 25);
const CLUSTER: &str = "null";
const NODE: BrokerId = BrokerId(1);
const GENERATION: i32 = 1;

const OFFSET_OUT_OF_RANGE: i16 = 1;
const CORRUPT_MESSAGE: i16 = 2;
const UNKNOWN_TOPIC: i16 = 3;
const UNSUPPORTED_VERSION: i16 = 35;
/// Of `ListOffsets`.
const LATEST: i64 = -1;
const MAX_TIMESTAMP: i64 = -3;

/// Where a record batch has its length, its checksum, what that is of, and the offset of its last record.
const LENGTH: usize = 8;
const CHECKSUM: usize = 17;
const CHECKED: usize = 21;
const LAST_DELTA: usize = 23;

/// As in the payloads that are produced.
const FILLING: u8 = 0xA5;
/// About the most bytes of payload, and the most records, of a batch.
const BATCH: usize = 256 * 1024;
const RECORDS: usize = 4096;
/// Bytes that are read at once.
const READ: usize = 256 * 1024;
/// About the most bytes that are written at once.
const WRITE: usize = 1024 * 1024;
/// More is no request.
const LARGEST: usize = 256 * 1024 * 1024;
/// How long a client waits at the end of a log.
const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{
        GroupId,
        create_topics_request::CreatableTopic,
        describe_topic_partitions_request::TopicRequest,
        fetch_request::{FetchPartition, FetchTopic},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics},
        produce_request::{PartitionProduceData, TopicProduceData},
    };

    use super::*;

    fn broker(count: u64, size: usize) -> Broker {
        Broker::new(Deliveries { count, size })
    }

    fn session(broker: &Broker) -> Session<'_> {
        let log = broker.log.clone();
        Session {
            broker,
            log,
            host: "localhost".into(),
            port: 9092,
        }
    }

    fn topic(name: &'static str) -> TopicName {
        TopicName(name.into())
    }

    /// A zig-zag number, and what is behind it.
    fn number(bytes: &[u8]) -> (i64, &[u8]) {
        let mut raw = 0;
        for (at, byte) in bytes.iter().enumerate() {
            raw |= u64::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                return ((raw >> 1) as i64 ^ -((raw & 1) as i64), &bytes[at + 1..]);
            }
        }
        panic!("it does not end");
    }

    /// Offset and value of each record. The checksums are looked at.
    fn read(mut batches: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        let u32_at =
            |bytes: &[u8], at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().unwrap());
        while !batches.is_empty() {
            let (batch, rest) = batches.split_at(12 + u32_at(batches, 8) as usize);
            batches = rest;
            assert_eq!(u32_at(batch, 17), crc32c(&batch[21..]));
            let base = u64::from_be_bytes(*batch.first_chunk().unwrap());
            let count = u32_at(batch, 57);
            assert_eq!(u32_at(batch, 23), count - 1);
            let mut left = &batch[61..];
            for at in 0..u64::from(count) {
                let (length, rest) = number(left);
                let (record, rest) = rest.split_at(length as usize);
                left = rest;
                assert_eq!(record[..2], [0, 0]);
                let (delta, record) = number(&record[2..]);
                assert_eq!(delta as u64, at);
                let (length, record) = number(record);
                let (key, record) = record.split_at(length as usize);
                assert_eq!(key, at.to_string().as_bytes());
                let (length, record) = number(record);
                let (value, record) = record.split_at(length as usize);
                assert_eq!(record, [0]);
                found.push((base + at, value.to_vec()));
            }
            assert!(left.is_empty());
        }
        found
    }

    fn fetch(session: &mut Session<'_>, offset: i64, most: i32) -> (PartitionData, Duration) {
        let partition = FetchPartition::default()
            .with_fetch_offset(offset)
            .with_partition_max_bytes(most);
        let topics = vec![
            FetchTopic::default()
                .with_topic(topic("t"))
                .with_partitions(vec![partition]),
        ];
        let asked = FetchRequest::default()
            .with_max_wait_ms(500)
            .with_max_bytes(i32::MAX);
        let (mut answer, pause) = session.fetch(asked.with_topics(topics), 12);
        (answer.responses.remove(0).partitions.remove(0), pause)
    }

    #[test]
    fn the_checksum_is_that_of_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn a_log_is_read_from_its_beginning_to_its_end() {
        for (count, size, most) in [
            (100_000, 256, 1 << 20),
            (10_001, 8, 0),
            (3, 1_000_000, 100),
            (7, 9, i32::MAX),
            (4096, 64, 9),
        ] {
            let broker = broker(count, size);
            let mut session = session(&broker);
            let mut next = 0;
            while next < count {
                let (answer, pause) = fetch(&mut session, next as i64, most);
                assert_eq!((answer.error_code, pause), (0, Duration::ZERO));
                assert_eq!(answer.high_watermark, count as i64);
                let records = answer.records.expect("records");
                assert!(records.len() <= WRITE + size + 100);
                for (offset, value) in read(&records) {
                    assert_eq!(offset, next);
                    let (head, filling) = value.split_first_chunk().expect("a number");
                    assert_eq!(u64::from_be_bytes(*head), offset);
                    assert!(value.len() == size && filling.iter().all(|byte| *byte == FILLING));
                    next += 1;
                }
            }
            assert_eq!(next, count);
            let (answer, pause) = fetch(&mut session, count as i64, most);
            assert_eq!((answer.error_code, pause), (0, PAUSE));
            assert_eq!(answer.records, Some(Bytes::new()));
            let (answer, pause) = fetch(&mut session, count as i64 + 1, most);
            assert_eq!(
                (answer.error_code, pause),
                (OFFSET_OUT_OF_RANGE, Duration::ZERO)
            );
        }
    }

    #[test]
    fn a_log_without_end_is_read_anywhere() {
        let broker = broker(u64::MAX, 100);
        let mut session = session(&broker);
        for offset in [0, 1_000, 123_456_789_012, i64::MAX - 5_000] {
            let records = fetch(&mut session, offset, 1).0.records.expect("records");
            let found = read(&records);
            assert!(found[0].0 <= offset as u64 && found.last().unwrap().0 >= offset as u64);
            assert!(
                found
                    .iter()
                    .all(|(offset, value)| value[..8] == offset.to_be_bytes())
            );
        }
    }

    #[test]
    fn what_is_produced_is_counted() {
        let broker = broker(0, 8);
        let session = session(&broker);
        let produce = |records: Option<Bytes>| {
            let data = PartitionProduceData::default().with_records(records);
            let data = TopicProduceData::default()
                .with_name(topic("t"))
                .with_partition_data(vec![data]);
            let mut answer = session.produce(ProduceRequest::default().with_topic_data(vec![data]));
            let answer = answer.responses.remove(0).partition_responses.remove(0);
            (answer.error_code, answer.base_offset)
        };
        let five = batch(0, 5, 8, 0).0;
        assert_eq!(produce(Some(five.clone().into())), (0, 0));
        assert_eq!(produce(Some(five.repeat(2).into())), (0, 5));
        assert_eq!(produce(Some(five.clone().into())), (0, 15));
        assert_eq!(
            produce(Some(Bytes::copy_from_slice(&five[..40]))).0,
            CORRUPT_MESSAGE
        );
    }

    #[test]
    fn topics_are_there_and_dead_letter_topics_once_they_are_created() {
        let broker = broker(0, 8);
        let session = session(&broker);
        let found = || {
            let names = ["q", "q.dead"].map(topic);
            let asked = names.map(|name| MetadataRequestTopic::default().with_name(Some(name)));
            let asked = MetadataRequest::default().with_topics(Some(asked.to_vec()));
            let metadata = session.metadata(asked, 12).topics;
            let asked = ["q", "q.dead"].map(|name| TopicRequest::default().with_name(topic(name)));
            let asked = DescribeTopicPartitionsRequest::default().with_topics(asked.to_vec());
            let described = session.describe_topics(asked).topics;
            let codes: Vec<i16> = metadata.iter().map(|topic| topic.error_code).collect();
            assert!(
                described
                    .iter()
                    .map(|topic| topic.error_code)
                    .eq(codes.iter().copied())
            );
            assert_eq!(metadata[0].topic_id, described[0].topic_id);
            assert_ne!(metadata[0].topic_id, metadata[1].topic_id);
            codes
        };
        assert_eq!(found(), [0, UNKNOWN_TOPIC]);
        let created = CreatableTopic::default().with_name(topic("q.dead"));
        session.create_topics(CreateTopicsRequest::default().with_topics(vec![created]), 7);
        assert_eq!(found(), [0, 0]);
        let all = session
            .metadata(MetadataRequest::default().with_topics(None), 12)
            .topics;
        assert_eq!(all.len(), 2);
        let deleted = DeleteTopicsRequest::default().with_topic_names(vec![topic("q")]);
        session.delete_topics(deleted);
        assert_eq!(found(), [UNKNOWN_TOPIC, 0]);
    }

    #[test]
    fn a_group_goes_on_where_it_was() {
        let broker = broker(10, 8);
        let session = session(&broker);
        let group = || GroupId("g".into());
        let places = |topics: Option<Vec<OffsetFetchRequestTopics>>| {
            let asked = OffsetFetchRequestGroup::default()
                .with_group_id(group())
                .with_topics(topics);
            let asked = OffsetFetchRequest::default().with_groups(vec![asked]);
            let mut answer = session.offset_fetch(asked, 8);
            let topics = answer.groups.remove(0).topics.into_iter();
            let partitions = topics.flat_map(|topic| topic.partitions);
            partitions
                .map(|one| (one.committed_offset, one.metadata))
                .collect::<Vec<_>>()
        };
        let one = || {
            let topics = OffsetFetchRequestTopics::default().with_name(topic("t"));
            Some(vec![topics.with_partition_indexes(vec![0])])
        };
        assert_eq!(places(None), []);
        assert_eq!(places(one()), [(-1, Some("".into()))]);
        let partition = OffsetCommitRequestPartition::default()
            .with_committed_offset(7)
            .with_committed_metadata(Some("m".into()));
        let topics = OffsetCommitRequestTopic::default()
            .with_name(topic("t"))
            .with_partitions(vec![partition]);
        let commit = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_topics(vec![topics]);
        session.offset_commit(commit);
        assert_eq!(places(None), [(7, Some("m".into()))]);
        assert_eq!(places(one()), [(7, Some("m".into()))]);
    }

    #[test]
    fn requests_are_answered_by_their_numbers() {
        let broker = broker(0, 8);
        let mut session = session(&broker);
        let mut out = BytesMut::new();
        // Key, version, correlation, and a client without a name.
        let request = |key: u8, version: u8, body: &[u8]| {
            let header = [0, key, 0, version, 0, 0, 0, 9, 0xFF, 0xFF];
            Bytes::from([&header[..], body].concat())
        };
        session
            .answer(request(18, 0, &[]), &mut out)
            .expect("ApiVersions");
        let keys = VERSIONS.len();
        assert_eq!(out.len(), 4 + 4 + 2 + 4 + 6 * keys);
        assert_eq!(
            out[..14],
            [
                0,
                0,
                0,
                (out.len() - 4) as u8,
                0,
                0,
                0,
                9,
                0,
                0,
                0,
                0,
                0,
                keys as u8
            ]
        );
        out.clear();
        // One of a later version is told which ones there are.
        session
            .answer(request(18, 5, &[0]), &mut out)
            .expect("ApiVersions");
        assert_eq!(out[8..10], UNSUPPORTED_VERSION.to_be_bytes());
        out.clear();
        let heartbeat = [&[0, 1, b'g', 0, 0, 0, 1, 0, 1, b'm'][..]].concat();
        session
            .answer(request(12, 0, &heartbeat), &mut out)
            .expect("Heartbeat");
        assert_eq!(&out[..], [0, 0, 0, 6, 0, 0, 0, 9, 0, 0]);
        for bad in [
            request(27, 0, &[]),
            request(0, 2, &[]),
            request(12, 0, &[0]),
        ] {
            assert!(session.answer(bad, &mut out).is_err());
        }
    }
}
