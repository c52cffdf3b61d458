//! RustStream over Kafka: its publisher, and its app with tracked commits.

use std::{convert::Infallible, future::ready, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use ruststream::{ConnectedBroker, OutgoingMessage};
use ruststream_rdkafka::prelude::*;

use super::{BATCH_BYTES, COMMIT_MS, Commits, WINDOW};
use crate::{
    Result,
    arm::{Clock, Order, SharedTally, payload},
};

/// A publish ends with the answer for its record, so as many of them as the window has room for are polled together.
pub(crate) async fn produce(order: &Order, clock: &mut Clock) -> Result {
    let broker = KafkaBroker::new([order.address.as_str()])
        .producer_config("acks", "all")
        .producer_config("enable.idempotence", "true")
        .producer_config("batch.size", BATCH_BYTES.to_string())
        .producer_config("linger.ms", "5")
        .connect()
        .await?;
    let publisher = broker.publisher(Publish::default());
    // The first publish opens the producer, which then asks for the topic: here one to a partition that is not there, so that it
    // stores nothing. Its failure is expected.
    let nowhere = KafkaOptions::default().partition(i32::MAX);
    let message = OutgoingMessage::new(&order.queue, b"warm");
    if publisher.publish(message, Some(&nowhere)).await.is_ok() {
        return Err("a record was stored that does not count".into());
    }
    let (topic, size, publisher) = (order.queue.as_str(), order.size, &publisher);
    clock.start();
    stream::iter(0..order.messages)
        .map(|number| async move {
            let body = payload(number, size);
            publisher
                .publish(OutgoingMessage::new(topic, &body), None)
                .await
        })
        .buffer_unordered(WINDOW)
        .try_for_each(|()| ready(Ok(())))
        .await?;
    clock.stop(order.messages);
    broker.shutdown().await?;
    Ok(())
}

/// Its app with a handler of raw bytes, one message at a time: its acknowledgements are notes in memory that need no waiting.
pub(crate) async fn consume_app(order: &Order, clock: &mut Clock) -> Result {
    let tally = Arc::new(SharedTally::new(order.messages));
    let topic = KafkaTopic::new(order.queue.as_str())
        .group(order.group.as_str())
        .start(StartOffset::Earliest)
        .commit(Commit::Tracked)
        .config("auto.commit.interval.ms", COMMIT_MS.to_string())
        .config("fetch.queue.backoff.ms", "10")
        .config("fetch.message.max.bytes", (16 * 1024 * 1024).to_string());
    let state = Arc::clone(&tally);
    let app = RustStream::new(AppInfo::new("bench", "0.0.0"))
        .on_startup(async move |()| Ok::<_, Infallible>(state))
        .with_broker(KafkaBroker::new([order.address.as_str()]), |scope| {
            scope.include(receive.map_source(|_| topic));
        });
    let commits = Commits::of(order).await?;
    let running = app.start().await?;
    let done = async {
        // Joining a group takes seconds, and is no work of this row.
        tally.first().await;
        clock.start();
        tally.all().await;
        clock.stop(order.messages);
    };
    tokio::select! {
        () = done => {}
        () = running.stopping() => return Err("the app has stopped by itself".into()),
    }
    // It commits the last offsets as it closes the consumer.
    let committed = commits.reach(order.messages);
    let (ended, committed) = tokio::join!(running.shutdown(), committed);
    ended?;
    committed
}

/// The payload as it came, without a codec.
#[derive(Deserialized)]
struct Frame<'a>(&'a [u8]);

// The topic is known only when it is mounted, which takes another source in its place.
#[subscriber(KafkaTopic::new("bench"))]
async fn receive(frame: &Frame<'_>, ctx: &mut Context<'_, (), Arc<SharedTally>>) -> HandlerOutcome {
    ctx.state().add(frame.0);
    HandlerOutcome::ack()
}
