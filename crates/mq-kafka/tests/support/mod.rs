//! What the broker tests share.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

pub mod pki;
pub mod release;
pub mod scram;
pub mod warnings;
pub mod wire;

use std::{collections::HashMap, future::Future, time::Duration};

use krafka::{
    Record,
    admin::{AdminClient, ConfigOp, ConfigResource, NewTopic, OffsetSpec, TopicPartition},
    consumer::OffsetAndMetadata,
};
use mq_kafka::{
    Kafka, KafkaConsumer,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Delivery, Destination, Message, MessageId,
        Publisher, Subscription,
    },
};
use mq_testkit::{Check, Failure};
use tokio::{
    runtime::Runtime,
    task::JoinHandle,
    time::{sleep, timeout},
};

pub async fn queue(servers: &str, what: &str) -> Check<(Kafka, Destination)> {
    let kafka = Kafka::connect(servers).await?;
    let queue = Destination::queue(unique(what));
    kafka.declare(&queue).await?;
    Ok((kafka, queue))
}

/// A queue that refuses what is more than an hour ahead. Since 4.0 that is Kafka's own limit (KIP-1030); before, it has none.
pub async fn punctual_queue(
    kafka: &Kafka,
    bare: &Bare,
    what: &str,
    partitions: i32,
) -> Check<Destination> {
    let queue = Destination::queue(unique(what));
    let home = queue.dead_letter_home().expect("a queue has a home");
    bare.create(home.name(), 1, &[]).await?;
    let limit = ("message.timestamp.after.max.ms", "3600000");
    bare.create(queue.name(), partitions, &[limit]).await?;
    // The brokers themselves hear of it a moment later.
    let heard = async {
        while kafka.verify(&queue).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(20, heard).await?;
    Ok(queue)
}

pub async fn open(kafka: &Kafka, queue: &Destination) -> Check<KafkaConsumer> {
    let source = Subscription::queue(queue.name().clone());
    let plan = ConsumePlan::new().prefetch(u16::MAX);
    let plan = match queue.dead_letter_home() {
        Some(_) => plan,
        None => plan.dead_letters(DeadLetters::None),
    };
    Ok(kafka.consumer(&source, plan).await?)
}

/// Publishes numbers with one key, so that they lie in one partition.
pub async fn fill(kafka: &Kafka, queue: &Destination, numbers: std::ops::Range<u32>) -> Check {
    let messages = numbers
        .map(|n| Message::new(n.to_string()).key("one").build())
        .collect();
    kafka
        .publisher()
        .publish_batch(queue, messages)
        .await
        .all_confirmed()?;
    Ok(())
}

pub async fn take(consumer: &mut KafkaConsumer, count: usize) -> Check<Vec<Delivery>> {
    let mut taken = Vec::new();
    let all = async {
        while taken.len() < count {
            let missing = count - taken.len();
            if consumer.receive_many(&mut taken, missing).await? == 0 {
                return Err(Failure::new("the consumer ended"));
            }
        }
        Ok(())
    };
    timeout(Duration::from_secs(30), all)
        .await
        .unwrap_or_else(|_| Err(Failure::new(format!("not {count} deliveries in 30 s"))))?;
    Ok(taken)
}

pub async fn quiet(consumer: &mut KafkaConsumer) -> Check {
    match timeout(Duration::from_millis(1500), consumer.receive()).await {
        Err(_) => Ok(()),
        Ok(unexpected) => Err(Failure::new(format!("unexpected: {unexpected:?}"))),
    }
}

pub async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> Check<T> {
    let late = |_| Failure::new(format!("not done within {seconds} s"));
    timeout(Duration::from_secs(seconds), future)
        .await
        .map_err(late)
}

pub fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.payload().map_or(&[][..], |p| p)).into_owned()
}

pub fn unique(what: &str) -> String {
    let id = MessageId::unique().to_string();
    format!(
        "mq-kafka-test.{}.{what}",
        id.rsplit('-').next().unwrap_or_default()
    )
}

/// The bare client: what a peer does that knows nothing of this crate.
pub struct Bare(krafka::Kafka);

/// What a group committed for one partition: the offset, and the text beside it.
pub type Place = (i64, String);

impl Bare {
    pub async fn connect(servers: &str) -> Check<Self> {
        Ok(Self(krafka::Kafka::builder(servers).connect().await?))
    }

    pub fn admin(&self) -> AdminClient {
        self.0.admin()
    }

    pub async fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Check {
        let mut new = NewTopic::new(topic, partitions, -1)?;
        for (name, value) in settings {
            new = new.with_config(*name, *value);
        }
        let mut created = self
            .admin()
            .create_topics([new], Default::default())
            .await?;
        created.remove(topic).expect("an answer")?;
        Ok(())
    }

    pub async fn delete(&self, topic: &str) -> Check {
        let mut gone = self
            .admin()
            .delete_topics([topic], Default::default())
            .await?;
        gone.remove(topic).expect("an answer")?;
        Ok(())
    }

    pub async fn set(&self, topic: &str, name: &str, value: &str) -> Check {
        let change = (
            ConfigResource::topic(topic),
            vec![ConfigOp::set(name, value)],
        );
        let admin = self.admin();
        let set = admin.incremental_alter_configs([change], Default::default());
        for (_, result) in set.await? {
            result?;
        }
        heard(&admin, ConfigResource::topic(topic), &[(name, value)]).await
    }

    pub async fn add_partitions(&self, topic: &str, total: i32) -> Check {
        let admin = self.admin();
        let added = admin.create_partitions([(topic, total)], Default::default());
        added.await?.remove(topic).expect("an answer")?;
        Ok(())
    }

    /// A setting of the brokers, as the first one has it.
    pub async fn broker_setting(&self, name: &str) -> Check<String> {
        let admin = self.admin();
        let cluster = admin.describe_cluster(Default::default()).await?;
        let first = cluster.brokers.first().expect("a broker");
        let resource = ConfigResource::broker(first.id);
        let described = admin.describe_configs([resource.clone()], Default::default());
        let entries = described.await?.remove(&resource).expect("an answer")?;
        let found = entries.into_iter().find(|entry| entry.name == name);
        let value = found.and_then(|entry| entry.value);
        value.ok_or_else(|| Failure::new(format!("no setting {name}")))
    }

    /// How many records each partition has ever had.
    pub async fn ends(&self, topic: &str, partitions: i32) -> Check<Vec<i64>> {
        let all = (0..partitions).map(|p| (TopicPartition::new(topic, p), OffsetSpec::Latest));
        let found = self.admin().list_offsets(all, Default::default()).await?;
        let mut ends = Vec::new();
        for p in 0..partitions {
            let end = found[&TopicPartition::new(topic, p)].as_ref();
            ends.push(end.map_err(Clone::clone)?.offset);
        }
        Ok(ends)
    }

    pub async fn partitions(&self, topic: &str) -> Check<usize> {
        let admin = self.admin();
        let described = admin.describe_topics([topic], Default::default());
        let mut described = described.await?;
        Ok(described
            .remove(topic)
            .expect("an answer")?
            .partitions
            .len())
    }

    pub async fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Check {
        let at = (TopicPartition::new(topic, partition), before);
        let admin = self.admin();
        for (_, result) in admin.delete_records([at], Default::default()).await? {
            result?;
        }
        Ok(())
    }

    /// How many members a group has, dead ones included until their session ends.
    pub async fn members(&self, group: &str) -> Check<usize> {
        let admin = self.admin();
        let described = admin.describe_consumer_groups([group], Default::default());
        let mut described = described.await?;
        Ok(described.remove(group).expect("an answer")?.members.len())
    }

    /// What a group committed in a topic.
    pub async fn places(&self, group: &str, topic: &str) -> Check<HashMap<i32, Place>> {
        let admin = self.admin();
        let listed = admin.list_consumer_group_offsets(group, Default::default());
        let mut places = HashMap::new();
        for (at, place) in listed.await? {
            let place = place?;
            if let (true, Some(offset)) = (at.topic == topic, place.offset) {
                places.insert(at.partition, (offset, place.metadata.unwrap_or_default()));
            }
        }
        Ok(places)
    }

    /// Moves a group that has no member, as an operator does.
    pub async fn reset(&self, group: &str, topic: &str, partition: i32, offset: i64) -> Check {
        let place = (TopicPartition::new(topic, partition), offset);
        let admin = self.admin();
        let set = admin.alter_consumer_group_offsets(group, [place], Default::default());
        for (_, result) in set.await? {
            result?;
        }
        Ok(())
    }

    /// Commits as a member of the group does that is no consumer of ours.
    pub async fn commit(&self, group: &str, topic: &str, places: Vec<(i32, i64, &str)>) -> Check {
        let member = self.0.consumer(group).enable_auto_commit(false);
        let member = member.build().await?;
        member.subscribe([topic]).await?;
        let joined = async {
            while member.assignment().await.is_empty() {
                member.poll(Duration::from_millis(100)).await?;
            }
            Ok::<_, krafka::KrafkaError>(())
        };
        within(60, joined).await??;
        let places = places.into_iter().map(|(partition, offset, text)| {
            let place = OffsetAndMetadata::with_metadata(offset, text);
            (TopicPartition::new(topic, partition), place)
        });
        let committed = member.commit_offsets(places).await;
        member.close().await?;
        Ok(committed?)
    }

    /// Writes records as they are.
    pub async fn write(&self, records: impl IntoIterator<Item = Record>) -> Check {
        let producer = self.0.producer().build().await?;
        let mut stored = Vec::new();
        for record in records {
            stored.push(producer.enqueue(record).await?);
        }
        for one in stored {
            // Where it lies is of no interest.
            let _ = one.await?;
        }
        Ok(producer.close().await?)
    }
}

/// Waits until the broker has these settings: the controller takes them, and it hears of them a moment later.
pub async fn heard(admin: &AdminClient, of: ConfigResource, settings: &[(&str, &str)]) -> Check {
    let heard = async {
        loop {
            let described = admin.describe_configs([of.clone()], Default::default());
            let found = described.await?.remove(&of).expect("an answer")?;
            let has = |(name, value): &(&str, &str)| {
                let mut of = found.iter().filter(|entry| entry.name == *name);
                of.any(|entry| entry.value.as_deref() == Some(*value))
            };
            if settings.iter().all(has) {
                return Check::Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(10, heard).await?
}

/// The timestamps of a topic's records, as the broker has them, in milliseconds.
pub async fn stamps(servers: &str, topic: &str) -> Check<Vec<u64>> {
    let bare = krafka::Kafka::builder(servers).connect().await?;
    let reader = bare.consumer_without_group().enable_auto_commit(false);
    let reader = reader.auto_offset_reset(krafka::consumer::AutoOffsetReset::Earliest);
    let reader = reader.build().await?;
    reader.subscribe([topic]).await?;
    let mut stamps = Vec::new();
    let found = async {
        while stamps.is_empty() {
            for record in reader.poll(Duration::from_millis(200)).await? {
                stamps.push(u64::try_from(record.timestamp).unwrap_or_default());
            }
        }
        Ok::<_, krafka::KrafkaError>(())
    };
    within(60, found).await??;
    reader.close().await?;
    Ok(stamps)
}

pub fn check(good: bool, otherwise: impl Into<String>) -> Check {
    if good {
        Ok(())
    } else {
        Err(Failure::new(otherwise))
    }
}

pub fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: &str) -> Check {
    check(
        found == expected,
        format!("{what}: found {found:?}, expected {expected:?}"),
    )
}

/// A runtime of its own inside another one, where it must not end by its own drop.
pub struct Own(Option<Runtime>);

impl Own {
    pub fn new() -> Check<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        Ok(Self(Some(builder.worker_threads(1).enable_all().build()?)))
    }

    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.0.as_ref().expect("it has not ended").spawn(task)
    }

    pub fn end(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.end();
    }
}
