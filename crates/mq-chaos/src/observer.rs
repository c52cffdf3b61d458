//! What the broker itself says, asked beside the crates under test: what is left to read, what a group has committed.

use std::{collections::BTreeMap, time::Duration};

use krafka::admin::{
    AdminClient, ListConsumerGroupOffsetsOptions, ListOffsetsOptions, OffsetSpec, TopicPartition,
};
use lapin::{Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable};
use mq_core::Position;
use mq_testkit::history::{Event, Recorder};

use crate::{
    Result,
    broker::{Kind, ORDERS, PARTITIONS},
};

/// Asks the broker through a connection of its own.
pub(crate) struct Observer {
    kind: Kind,
    address: String,
    admin: Option<AdminClient>,
    /// What was recorded for each partition.
    committed: BTreeMap<u32, u64>,
}

impl Observer {
    pub(crate) fn new(kind: Kind, address: &str) -> Self {
        Self {
            kind,
            address: address.to_owned(),
            admin: None,
            committed: BTreeMap::new(),
        }
    }

    /// How many messages are left: ready in the queue, or above the group's committed offsets. An answer also says that the
    /// broker is there with all that the run needs.
    pub(crate) async fn left(&mut self) -> Result<u64> {
        let asked = async {
            match self.kind {
                Kind::RabbitMq => self.ready(ORDERS).await,
                Kind::Kafka => self.above().await,
            }
        };
        tokio::time::timeout(PATIENCE, asked).await?
    }

    /// How many messages were put aside as dead letters.
    pub(crate) async fn dead(&mut self) -> Result<u64> {
        let home = self.kind.subscription().dead_letter_home();
        let home = home.ok_or("the subscription has no dead-letter home")?;
        let asked = async {
            match self.kind {
                Kind::RabbitMq => self.ready(home.name()).await,
                // `declare` gives every topic of this connection the same partitions.
                Kind::Kafka => Ok(self.ends(home.name(), PARTITIONS).await?.values().sum()),
            }
        };
        tokio::time::timeout(PATIENCE, asked).await?
    }

    /// Records what the group has committed since it was asked last. Nothing for a broker without positions.
    pub(crate) async fn record_commits(&mut self, recorder: &Recorder) -> Result {
        if self.kind == Kind::RabbitMq {
            return Ok(());
        }
        let group = self.kind.subscription().name().clone();
        let found = tokio::time::timeout(PATIENCE, self.commits()).await??;
        for (partition, offset) in found {
            if self.committed.insert(partition, offset) != Some(offset) {
                let next = Position { partition, offset };
                recorder.record(Event::commit(&group, ORDERS, next))?;
            }
        }
        Ok(())
    }

    async fn ready(&self, queue: &str) -> Result<u64> {
        let connection = self.connection().await?;
        let channel = connection.create_channel().await?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(queue.into(), passive, FieldTable::default());
        let ready = declared.await?.message_count();
        connection.close(200, "done".into()).await?;
        Ok(ready.into())
    }

    /// To the first of the addresses that answers.
    async fn connection(&self) -> Result<Connection> {
        let mut last = None;
        for address in self.address.split(',') {
            let properties = ConnectionProperties::default();
            match Connection::connect(address, properties).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or("there is no address".into(), Into::into))
    }

    async fn above(&mut self) -> Result<u64> {
        let committed = self.commits().await?;
        let ends = self.ends(ORDERS, PARTITIONS).await?;
        let left = ends.into_iter().map(|(partition, end)| {
            let done = committed.get(&partition).copied().unwrap_or(0);
            end.saturating_sub(done)
        });
        Ok(left.sum())
    }

    async fn commits(&mut self) -> Result<BTreeMap<u32, u64>> {
        let group = self.kind.subscription().name().to_string();
        let options = ListConsumerGroupOffsetsOptions::default().require_stable(true);
        let admin = self.admin().await?;
        let mut found = BTreeMap::new();
        for (at, place) in admin.list_consumer_group_offsets(group, options).await? {
            if let Some(offset) = place?.offset {
                found.insert(u32::try_from(at.partition)?, u64::try_from(offset)?);
            }
        }
        Ok(found)
    }

    async fn ends(&mut self, topic: &str, partitions: u32) -> Result<BTreeMap<u32, u64>> {
        let all =
            (0..partitions as i32).map(|p| (TopicPartition::new(topic, p), OffsetSpec::Latest));
        let admin = self.admin().await?;
        let mut found = BTreeMap::new();
        for (at, end) in admin
            .list_offsets(all, ListOffsetsOptions::default())
            .await?
        {
            found.insert(u32::try_from(at.partition)?, u64::try_from(end?.offset)?);
        }
        Ok(found)
    }

    async fn admin(&mut self) -> Result<&AdminClient> {
        let made = match self.admin.take() {
            Some(admin) => admin,
            None => {
                let kafka = krafka::Kafka::builder(&self.address)
                    .client_id("mq-chaos")
                    .request_timeout(Duration::from_secs(3))
                    .connect_timeout(Duration::from_secs(2))
                    .allow_auto_create_topics(false)
                    .connect()
                    .await?;
                kafka.admin().default_api_timeout(Duration::from_secs(4))
            }
        };
        Ok(self.admin.insert(made))
    }
}

const PATIENCE: Duration = Duration::from_secs(8);
