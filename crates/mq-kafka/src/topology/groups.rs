//! The groups of a cluster: who is in them, and how far they are.

use std::{collections::BTreeMap, fmt, sync::Arc};

use krafka::{
    KrafkaError,
    admin::{
        ConsumerGroupMember, DescribeConsumerGroupsOptions, GroupType,
        ListConsumerGroupOffsetsOptions, ListConsumerGroupsOptions,
    },
    error::ErrorCode,
};
use mq_core::{Error, ErrorKind, Result};

use super::offsets::readable_ends;
use crate::{
    config::GroupProtocol,
    connection::Inner,
    error::{self, Stage},
};

/// Looks at the groups of a cluster and changes nothing; from
/// [`Kafka::groups`](crate::Kafka::groups).
///
/// The group of a queue has the queue's name, that of a durable subscription its full name
/// (`billing@events`).
#[derive(Clone)]
pub struct Groups {
    inner: Arc<Inner>,
}

/// A group of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupListing {
    /// Its name (`group.id`).
    pub name: String,
    /// Its state in Kafka's own word, such as `Stable`, `Empty` or `PreparingRebalance`; `None`
    /// where the broker does not say.
    pub state: Option<String>,
    /// The protocol of its members; `None` if it is another kind of group, such as a streams group.
    pub protocol: Option<GroupProtocol>,
}

/// What is known of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupDescription {
    /// Its name (`group.id`).
    pub name: String,
    /// Its state in Kafka's own word, such as `Stable`, `Empty` or `PreparingRebalance`.
    pub state: String,
    /// The protocol of its members; `None` if it is another kind of group, such as a streams group.
    pub protocol: Option<GroupProtocol>,
    /// Who shares out the partitions, such as `cooperative-sticky` or `uniform`.
    pub assignor: Option<String>,
    /// Its members, in the order of their ids. One that was killed is among them until its session
    /// is over.
    pub members: Vec<GroupMember>,
    /// Its places, in the order of topics and partitions.
    pub places: Vec<GroupPlace>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupMember {
    /// The id that it has in this session.
    pub id: String,
    /// The name that it keeps over restarts
    /// ([`instance_id`](crate::KafkaBuilder::instance_id)), if it has one.
    pub instance_id: Option<String>,
    /// The name of its client ([`KafkaBuilder::name`](crate::KafkaBuilder::name)).
    pub client: String,
    /// Where it runs, as the broker sees it.
    pub host: String,
    /// Its partitions in ascending order, by topic.
    pub assignment: BTreeMap<String, Vec<u32>>,
}

/// How far a group is in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupPlace {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset where the group goes on.
    pub committed: u64,
    /// The last stable offset: where what is committed ends. `None` if its leader does not answer.
    pub end: Option<u64>,
    /// Offsets from the one to the other: an upper bound of the messages that are not handled yet.
    pub lag: Option<u64>,
}

impl Groups {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// All groups, in the order of their names.
    ///
    /// # Errors
    /// Those of a connection; [`Permission`](ErrorKind::Permission).
    ///
    /// # Cancel safety
    /// It only asks.
    pub async fn list(&self) -> Result<Vec<GroupListing>> {
        const LIST: &str = "list groups";
        let options = ListConsumerGroupsOptions::default();
        let listed = self.inner.admin.list_consumer_groups(options).await;
        let failed = |e| error::map(LIST, Stage::Before, e);
        let mut groups = Vec::new();
        // Each broker knows its own; without one of them the list would have a gap.
        for (broker, listed) in listed.map_err(failed)? {
            let listed = listed.map_err(|e| failed(e).with("broker", broker))?;
            groups.extend(listed.into_iter().map(|group| GroupListing {
                protocol: group.group_type.as_ref().and_then(protocol),
                name: group.group_id,
                state: group.state,
            }));
        }
        groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(groups)
    }

    /// Members, places and lag of a group.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is no such group;
    /// [`Unsupported`](ErrorKind::Unsupported) for a share group, whose members the client cannot ask
    /// for; [`Permission`](ErrorKind::Permission); those of a connection.
    ///
    /// # Cancel safety
    /// It only asks.
    pub async fn describe(&self, name: &str) -> Result<GroupDescription> {
        let failed = |e| error::map(DESCRIBE, Stage::Before, e).with("group", name);
        let options = DescribeConsumerGroupsOptions::default();
        let admin = &self.inner.admin;
        let described = admin.describe_consumer_groups([name], options).await;
        let found = match described.map_err(failed)?.remove(name) {
            None => return Err(self.not_described(name).await?),
            Some(Err(KrafkaError::Broker {
                code: ErrorCode::GroupIdNotFound,
                ..
            })) => return Err(self.not_described(name).await?),
            Some(found) => found.map_err(failed)?,
        };
        // Older brokers describe what they do not know so.
        if found.state == "Dead" {
            return Err(self.not_described(name).await?);
        }
        let mut members: Vec<GroupMember> = found.members.into_iter().map(member).collect();
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(GroupDescription {
            name: found.group_id,
            state: found.state,
            protocol: protocol(&found.group_type),
            assignor: found.assignor.filter(|name| !name.is_empty()),
            members,
            places: self.places(name).await?,
        })
    }

    /// Why a group is not described: brokers answer for a share group as if it were not there.
    ///
    /// # Errors
    /// The groups cannot be listed.
    async fn not_described(&self, name: &str) -> Result<Error> {
        let failed = |e| error::map(DESCRIBE, Stage::Before, e).with("group", name);
        let options = ListConsumerGroupsOptions::default();
        let listed = self.inner.admin.list_consumer_groups(options).await;
        // The broker that has it is among those that answer: it has just said that it is no other kind.
        let groups = listed.map_err(failed)?.into_values().flatten().flatten();
        let is_share = |kind: &GroupType| protocol(kind) == Some(GroupProtocol::Share);
        let is_shared = groups
            .filter(|group| group.group_id == name)
            .any(|group| group.group_type.as_ref().is_some_and(is_share));
        if !is_shared {
            return Ok(missing(name));
        }
        let text = "it is a share group, and the client cannot ask who is in it";
        Ok(Error::new(ErrorKind::Unsupported, DESCRIBE, text)
            .with("group", name)
            .help("`list` tells its state, and Kafka's own kafka-share-groups.sh the rest"))
    }

    async fn places(&self, name: &str) -> Result<Vec<GroupPlace>> {
        let failed = |e| error::map(DESCRIBE, Stage::Before, e).with("group", name);
        let admin = &self.inner.admin;
        let options = ListConsumerGroupOffsetsOptions::default();
        let listed = admin.list_consumer_group_offsets(name, options).await;
        let mut committed: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
        for (at, place) in listed.map_err(failed)? {
            if let Some(offset) = place.map_err(failed)?.offset {
                let topic = committed.entry(at.topic).or_default();
                topic.insert(at.partition, offset);
            }
        }
        let mut places = Vec::new();
        for (topic, partitions) in committed {
            let all: Vec<i32> = partitions.keys().copied().collect();
            let ends = readable_ends(admin, &topic, &all, true).await;
            for (partition, offset) in partitions {
                let end = ends.get(&partition);
                places.push(GroupPlace {
                    topic: topic.clone(),
                    partition: u32::try_from(partition).unwrap_or_default(),
                    committed: u64::try_from(offset).unwrap_or_default(),
                    end: end.and_then(|end| u64::try_from(*end).ok()),
                    lag: end.map(|end| u64::try_from(end - offset).unwrap_or_default()),
                });
            }
        }
        Ok(places)
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").finish_non_exhaustive()
    }
}

fn member(found: ConsumerGroupMember) -> GroupMember {
    let mut assignment: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for topic in found.assignment.unwrap_or_default() {
        let numbers = topic
            .partitions
            .iter()
            .filter_map(|p| u32::try_from(*p).ok());
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.sort_unstable();
        assignment.insert(topic.topic_name, numbers);
    }
    GroupMember {
        id: found.member_id,
        instance_id: found.instance_id,
        client: found.client_id,
        host: found.client_host,
        assignment,
    }
}

fn protocol(kind: &GroupType) -> Option<GroupProtocol> {
    match kind {
        GroupType::Classic => Some(GroupProtocol::Classic),
        GroupType::Consumer => Some(GroupProtocol::Consumer),
        GroupType::Unknown(name) if name.eq_ignore_ascii_case("share") => {
            Some(GroupProtocol::Share)
        }
        _ => None,
    }
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, DESCRIBE, "there is no such group")
        .with("group", name)
        .help("a group is there from its first member or its first committed place on")
}

const DESCRIBE: &str = "describe group";
