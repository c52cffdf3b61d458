//! mq-bridge over Kafka, whose client is rdkafka.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mq_bridge::{
    Route,
    endpoints::kafka::KafkaPublisher,
    models::{Endpoint, EndpointType, KafkaConfig},
    traits::MessagePublisher,
};

use super::{BATCH_BYTES, Commits, PATIENCE, WINDOW};
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
    // It does not wait for the answers to its commits.
    let commits = Commits::of(order).await?;
    // What rdkafka at its best is given too.
    let config = KafkaConfig::new(&order.address)
        .with_topic(&order.queue)
        .with_group_id(order.group.as_str())
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
    counting.all().await;
    clock.stop(order.messages);
    commits.reach(order.messages).await?;
    route.stop().await;
    Ok(route.join().await?)
}

/// Batches that are on their way at once; together they are the window that the others have.
const AT_ONCE: u64 = 4;
/// Messages that a route takes at once, if as many are there. Fewer would only be more commits.
const BATCH: usize = 4096;
