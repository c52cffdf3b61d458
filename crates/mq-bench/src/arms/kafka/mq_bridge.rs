//! mq-bridge over Kafka, whose client is rdkafka.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mq_bridge::{
    Route,
    endpoints::kafka::KafkaPublisher,
    models::{Endpoint, EndpointType, KafkaConfig},
    rdkafka::{
        ClientConfig, Offset, TopicPartitionList,
        consumer::{BaseConsumer, Consumer},
    },
    traits::MessagePublisher,
};

use super::{BATCH_BYTES, WINDOW};
use crate::{
    Result,
    arm::{Clock, Order},
    arms::amqp::mq_bridge::{Counting, send_batches},
};

/// Batches, some at once. It is idempotent with acks of all by itself; compression, which it would choose, is turned off, as nobody
/// else here compresses and these payloads are mostly one byte.
pub(crate) async fn produce(order: &Order, clock: &mut Clock) -> Result {
    let mut config = KafkaConfig::new(&order.address)
        .with_topic(&order.queue)
        .with_producer_option("batch.size", BATCH_BYTES.to_string())
        .with_producer_option("linger.ms", "5")
        .with_producer_option("compression.type", "none");
    config.create_topic = Some(false);
    let publisher = Arc::new(KafkaPublisher::new(&config).await?);
    // It connects at the first use, which asking for its state is: that fetches the metadata. The producer's id comes right after.
    let start = Instant::now();
    while !publisher.status().await.healthy {
        if start.elapsed() > PATIENCE {
            return Err("the producer does not connect".into());
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    clock.start();
    send_batches(publisher, order, WINDOW as u64 / AT_ONCE, AT_ONCE as usize).await?;
    clock.stop(order.messages);
    Ok(())
}

/// A route from the topic to a handler. It commits after each batch.
pub(crate) async fn consume_route(order: &Order, clock: &mut Clock) -> Result {
    let group = order.group.as_str();
    let commits = Commits::of(order, group).await?;
    // What rdkafka at its best is given too.
    let config = KafkaConfig::new(&order.address)
        .with_topic(&order.queue)
        .with_group_id(group)
        .with_consumer_option("fetch.queue.backoff.ms", "10")
        .with_consumer_option("fetch.message.max.bytes", (16 * 1024 * 1024).to_string());
    let counting = Arc::new(Counting::new(order));
    let input = Endpoint::new(EndpointType::Kafka(config));
    let route = Route::new(input, Endpoint::null())
        .with_batch_size(BATCH)
        .with_handler(Arc::clone(&counting));
    let route = route.run("bench").await?;
    // Joining a group takes seconds, and is no work of this row.
    counting.first().await;
    clock.start();
    counting.all().await?;
    commits.reach(order.messages).await?;
    clock.stop(order.messages);
    route.stop().await;
    Ok(route.join().await?)
}

/// What a group has committed, as the broker says it. The route does not wait for the answers to its commits.
struct Commits {
    asker: Arc<BaseConsumer>,
    topic: String,
}

impl Commits {
    /// Asks once, so that the group's coordinator is known afterwards.
    async fn of(order: &Order, group: &str) -> Result<Self> {
        let asker: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &order.address)
            .set("group.id", group)
            .create()?;
        let commits = Self {
            asker: Arc::new(asker),
            topic: order.queue.clone(),
        };
        commits.ask().await?;
        Ok(commits)
    }

    /// Waits until as many messages are committed.
    async fn reach(&self, messages: u64) -> Result {
        let start = Instant::now();
        while self.ask().await? < messages {
            if start.elapsed() > PATIENCE {
                return Err("the route did not commit all messages".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// The topic has one partition.
    async fn ask(&self) -> Result<u64> {
        let (asker, topic) = (Arc::clone(&self.asker), self.topic.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let mut partitions = TopicPartitionList::new();
            partitions.add_partition(&topic, 0);
            asker.committed_offsets(partitions, PATIENCE)
        });
        let found = asked.await??;
        let place = found.find_partition(&self.topic, 0);
        Ok(match place.map(|place| place.offset()) {
            Some(Offset::Offset(offset)) => offset.unsigned_abs(),
            _ => 0,
        })
    }
}

/// Batches that are on their way at once; together they are the window that the others have.
const AT_ONCE: u64 = 4;
/// Messages that a route takes at once, if as many are there. Fewer would only be more commits.
const BATCH: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(10);
