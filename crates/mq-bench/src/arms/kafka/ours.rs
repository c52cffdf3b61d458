//! `mq-kafka`, plain and with a worker.

use std::{collections::VecDeque, sync::Arc};

use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, Message, Publisher, Received,
    Subscription, Worker,
};
use mq_kafka::{At, ExactlyOnce, Kafka};

use super::WINDOW;
use crate::{
    Result,
    arm::{Clock, Order, SharedTally, Tally, payload},
    arms::amqp::ours::run,
};

/// Messages are enqueued, and their outcomes awaited once a window of them is on its way.
pub(crate) async fn produce(order: &Order, clock: &mut Clock) -> Result {
    let kafka = Kafka::connect(&order.address).await?;
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
    let (kafka, source) = subscribed(order).await?;
    let plan = ConsumePlan::new()
        .prefetch(u16::MAX)
        .dead_letters(DeadLetters::None);
    let mut consumer = kafka.consumer(&source, plan).await?;
    let mut tally = Tally::default();
    let mut batch = Vec::new();
    while tally.count < order.messages {
        consumer.receive_many(&mut batch, 5000).await?;
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
    worked(order, clock, |worker| worker.concurrency(16).ordered_by_key()).await
}

async fn worked(
    order: &Order,
    clock: &mut Clock,
    shape: fn(Worker<Kafka>) -> Worker<Kafka>,
) -> Result {
    let (kafka, source) = subscribed(order).await?;
    let (tally, messages) = (Arc::new(SharedTally::default()), order.messages);
    let counted = Arc::clone(&tally);
    let worker = Worker::new(&kafka, source)
        .prefetch(u16::MAX)
        .dead_letters(DeadLetters::None);
    let worker = shape(worker).run(move |received: Received| {
        let tally = Arc::clone(&counted);
        async move { tally.add(received.payload().map_or(&[][..], |bytes| bytes), messages) }
    });
    run(worker, &tally, order, clock).await?;
    Ok(kafka.close().await?)
}

/// Copies each message to another topic, once, in transactions.
pub(crate) async fn copy_exactly_once(order: &Order, clock: &mut Clock) -> Result {
    let (kafka, source) = subscribed(order).await?;
    let target = copies(&kafka, order).await?;
    let guarantee = ExactlyOnce::new(super::fresh_group());
    let (tally, messages) = (Arc::new(SharedTally::default()), order.messages);
    let counted = Arc::clone(&tally);
    let worker = Worker::new(&kafka, source)
        .guarantee(guarantee)
        .prefetch(u16::MAX)
        .dead_letters(DeadLetters::None)
        .run(move |received: Received| {
            let (tally, target) = (Arc::clone(&counted), target.clone());
            async move {
                tally.add(received.payload().map_or(&[][..], |bytes| bytes), messages);
                let copy = Message::new(received.payload().cloned().unwrap_or_default());
                mq_core::Outcome::ack().publish(&target, copy)
            }
        });
    run(worker, &tally, order, clock).await?;
    Ok(kafka.close().await?)
}

/// Copies each message to another topic, at least once.
pub(crate) async fn copy_at_least_once(order: &Order, clock: &mut Clock) -> Result {
    let (kafka, source) = subscribed(order).await?;
    let target = copies(&kafka, order).await?;
    let (tally, messages) = (Arc::new(SharedTally::default()), order.messages);
    let counted = Arc::clone(&tally);
    let worker = Worker::new(&kafka, source)
        .prefetch(u16::MAX)
        .dead_letters(DeadLetters::None)
        .run(move |received: Received| {
            let (tally, target) = (Arc::clone(&counted), target.clone());
            async move {
                tally.add(received.payload().map_or(&[][..], |bytes| bytes), messages);
                let copy = Message::new(received.payload().cloned().unwrap_or_default());
                mq_core::Outcome::ack().publish(&target, copy)
            }
        });
    run(worker, &tally, order, clock).await?;
    Ok(kafka.close().await?)
}

async fn copies(kafka: &Kafka, order: &Order) -> Result<Destination> {
    let target = Destination::topic(format!("{}-copies-{}", order.queue, super::fresh_group()));
    kafka.declare(&target).await?;
    Ok(target)
}

/// A group of its own that begins at the first message.
async fn subscribed(order: &Order) -> Result<(Kafka, Subscription)> {
    let kafka = Kafka::connect(&order.address).await?;
    let source = Subscription::durable(order.queue.as_str(), super::fresh_group());
    kafka.declare_from(&source, At::Earliest).await?;
    Ok((kafka, source))
}
