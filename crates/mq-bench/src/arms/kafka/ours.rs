//! `mq-kafka`, plain and with a worker. Batches and commits are those of the other arms.

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    sync::Arc,
    time::Duration,
};

use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, Message, Outcome, Publisher, Received,
    Run, Subscription, Worker,
};
use mq_kafka::{At, ExactlyOnce, Kafka};

use super::{BATCH_BYTES, COMMIT_MS, COPY_COMMIT_MS, Commits, WINDOW};
use crate::{
    Result,
    arm::{Clock, Order, SharedTally, Tally, payload},
    arms::amqp::ours::{counting, filtered_tracing, retries, until},
};

/// Messages are enqueued, and their outcomes awaited once a window of them is on its way.
pub(crate) async fn produce(order: &Order, clock: &mut Clock) -> Result {
    let kafka = connect(order, COMMIT_MS).await?;
    let publisher = kafka.publisher();
    let to = Destination::queue(order.queue.as_str());
    clock.start();
    let mut pending = VecDeque::with_capacity(WINDOW);
    for number in 0..order.messages {
        if pending.len() == WINDOW
            && let Some(oldest) = pending.pop_front()
        {
            oldest.await?;
        }
        let message = Message::new(payload(number, order.size));
        pending.push_back(publisher.enqueue(&to, message).await?);
    }
    for outcome in pending {
        outcome.await?;
    }
    clock.stop(order.messages);
    Ok(kafka.close().await?)
}

/// Deliveries are taken as they are at hand, and each is acknowledged.
pub(crate) async fn consume(order: &Order, clock: &mut Clock) -> Result {
    let (kafka, source) = subscribed(order, COMMIT_MS).await?;
    let plan = ConsumePlan::new()
        .prefetch(u16::MAX)
        .dead_letters(DeadLetters::None);
    let mut consumer = kafka.consumer(&source, plan).await?;
    let mut tally = Tally::default();
    let mut batch = Vec::new();
    while tally.count < order.messages {
        if consumer.receive_many(&mut batch, 5000).await? == 0 {
            return Err("the consumer has ended by itself".into());
        }
        // Joining a group takes seconds, and is no work of this row.
        if tally.count == 0 {
            clock.start();
        }
        for delivery in batch.drain(..) {
            tally.add(delivery.payload().map_or(&[][..], |bytes| bytes));
            delivery.ack()?;
        }
    }
    consumer.settled().await?;
    clock.stop(order.messages);
    tally.check(order.messages)?;
    consumer.close().await?;
    Ok(kafka.close().await?)
}

/// A worker with a handler, which sees single messages.
pub(crate) async fn work(order: &Order, clock: &mut Clock) -> Result {
    worked(order, clock, |worker| worker).await
}

/// Sixteen runners, and each key's messages in their order.
pub(crate) async fn work_by_key(order: &Order, clock: &mut Clock) -> Result {
    worked(order, clock, |worker| {
        worker.concurrency(16).ordered_by_key()
    })
    .await
}

/// A worker with a handler under the layer of retries, in a program whose tracing leaves out our spans.
pub(crate) async fn work_retrying(order: &Order, clock: &mut Clock) -> Result {
    filtered_tracing();
    let (kafka, source) = subscribed(order, COMMIT_MS).await?;
    let tally = Arc::new(SharedTally::new(order.messages));
    let worker = worker(&kafka, source)
        .layer(retries())
        .run(counting(&tally));
    run(worker, &tally, order, clock).await?;
    Ok(kafka.close().await?)
}

async fn worked(
    order: &Order,
    clock: &mut Clock,
    shape: fn(Worker<Kafka>) -> Worker<Kafka>,
) -> Result {
    let (kafka, source) = subscribed(order, COMMIT_MS).await?;
    let tally = Arc::new(SharedTally::new(order.messages));
    let worker = shape(worker(&kafka, source)).run(counting(&tally));
    run(worker, &tally, order, clock).await?;
    Ok(kafka.close().await?)
}

/// Copies each message to another topic, once, in transactions that end by the clock.
pub(crate) async fn copy_exactly_once(order: &Order, clock: &mut Clock) -> Result {
    let (kafka, source) = subscribed(order, COPY_COMMIT_MS).await?;
    let guarantee = ExactlyOnce::new(order.group.as_str())
        .commit_every(Duration::from_millis(COPY_COMMIT_MS))
        .commit_after(usize::MAX);
    let tally = Arc::new(SharedTally::new(order.messages));
    let worker = worker(&kafka, source)
        .guarantee(guarantee)
        .run(copying(&tally, order));
    run_copying(worker, &tally, order, clock).await?;
    Ok(kafka.close().await?)
}

/// Copies each message to another topic, at least once. A runner waits until its copy is stored, so there are many: in a transaction
/// copies are only handed over.
pub(crate) async fn copy_at_least_once(order: &Order, clock: &mut Clock) -> Result {
    let (kafka, source) = subscribed(order, COPY_COMMIT_MS).await?;
    let tally = Arc::new(SharedTally::new(order.messages));
    let worker = worker(&kafka, source)
        .concurrency(COPIES)
        .run(copying(&tally, order));
    run_copying(worker, &tally, order, clock).await?;
    Ok(kafka.close().await?)
}

/// A handler that counts, and answers with a copy.
fn copying(
    tally: &Arc<SharedTally>,
    order: &Order,
) -> impl Fn(Received) -> Ready<Outcome> + Clone + Send + Sync + 'static {
    let tally = Arc::clone(tally);
    let target = Destination::topic(order.copies());
    move |received| {
        let payload = received.payload().cloned().unwrap_or_default();
        tally.add(&payload);
        ready(Outcome::ack().publish(&target, Message::new(payload)))
    }
}

/// Runs a worker until all is handled, and looks whether it is committed. Joining a group takes seconds, and leaving it takes its time
/// too; they are no work of a row.
async fn run(worker: Run, tally: &SharedTally, order: &Order, clock: &mut Clock) -> Result {
    let commits = Commits::of(order).await?;
    let done = async {
        tally.first().await;
        clock.start();
        tally.all().await;
        clock.stop(order.messages);
    };
    let ending = until(worker, done).await?;
    commits.reach(order.messages).await?;
    Ok(ending.await??)
}

/// The same up to the last commit: what is handled before it may not be copied yet.
async fn run_copying(worker: Run, tally: &SharedTally, order: &Order, clock: &mut Clock) -> Result {
    let commits = Commits::of(order).await?;
    let done = async {
        tally.first().await;
        clock.start();
        tally.all().await;
    };
    let ending = until(worker, done).await?;
    commits.reach(order.messages).await?;
    clock.stop(order.messages);
    Ok(ending.await??)
}

fn worker(kafka: &Kafka, source: Subscription) -> Worker<Kafka> {
    Worker::new(kafka, source).prefetch(u16::MAX)
}

/// A group of its own that begins at the first message.
async fn subscribed(order: &Order, commit_ms: u64) -> Result<(Kafka, Subscription)> {
    let kafka = connect(order, commit_ms).await?;
    let source = Subscription::durable(order.queue.as_str(), order.group.as_str());
    kafka.declare_from(&source, At::Earliest).await?;
    Ok((kafka, source))
}

async fn connect(order: &Order, commit_ms: u64) -> Result<Kafka> {
    let builder = Kafka::builder(&order.address)
        .batch_bytes(BATCH_BYTES)
        .commit_every(Duration::from_millis(commit_ms))
        // By the clock alone, as the others do.
        .commit_after(u32::MAX);
    Ok(builder.connect().await?)
}

/// Runners of a copy at least once. More gain nothing: a batch has about 4000 records.
const COPIES: usize = 4096;
