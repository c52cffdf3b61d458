//! Kafka: idempotent producing with the answer of all in-sync replicas, and consuming with commits.

pub(crate) mod krafka;
#[cfg(feature = "mq-bridge")]
pub(crate) mod mq_bridge;
pub(crate) mod ours;
#[cfg(feature = "rdkafka")]
pub(crate) mod rdkafka;
#[cfg(feature = "ruststream")]
pub(crate) mod ruststream;

use std::time::{Duration, Instant};

use ::krafka::{
    Kafka,
    admin::{ListConsumerGroupOffsetsOptions, TopicPartition},
};

use crate::{Result, arm::Order};

/// What the group of a run has committed of its topic, as the broker says it.
pub(crate) struct Commits {
    kafka: Kafka,
    groups: [String; 2],
    at: TopicPartition,
}

impl Commits {
    /// Asks once, so that the coordinator of the group is known afterwards.
    pub(crate) async fn of(order: &Order) -> Result<Self> {
        let (group, topic) = (&order.group, &order.queue);
        let commits = Self {
            kafka: Kafka::builder(&order.address).connect().await?,
            // Ours name a group by their own rule.
            groups: [group.clone(), format!("{group}@{topic}")],
            at: TopicPartition::new(topic.as_str(), 0),
        };
        commits.ask().await?;
        Ok(commits)
    }

    /// The offset behind the last message that is committed.
    pub(crate) async fn ask(&self) -> Result<u64> {
        let mut found = 0;
        for group in &self.groups {
            let options = ListConsumerGroupOffsetsOptions::default().require_stable(true);
            let admin = self.kafka.admin();
            let mut places = admin.list_consumer_group_offsets(group, options).await?;
            if let Some(place) = places.remove(&self.at) {
                found = found.max(u64::try_from(place?.offset.unwrap_or(0))?);
            }
        }
        Ok(found)
    }

    /// Waits until so many messages are committed.
    async fn reach(&self, messages: u64) -> Result {
        let start = Instant::now();
        while self.ask().await? < messages {
            if start.elapsed() > PATIENCE {
                return Err("not all messages were committed".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// Records without an outcome.
const WINDOW: usize = 10_000;
const BATCH_BYTES: usize = 1024 * 1024;
/// How often offsets are committed, in milliseconds.
const COMMIT_MS: u64 = 250;
/// The same for those that copy.
const COPY_COMMIT_MS: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(10);
