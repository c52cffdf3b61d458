//! `mq-memory`: its consumer, its batches, and a worker.

use std::{future::ready, sync::Arc, time::Duration};

use mq_core::{
    BatchSize, Broker, ConsumePlan, Consumer, DeadLetters, Destination, Message, Publisher,
    Received, Run, Subscription, Worker,
};
use mq_memory::Memory;

use super::ROOM;
use crate::{
    Result,
    arm::{Clock, Order, SharedTally, Tally, payload},
    arms::amqp::ours::{counting, filtered_tracing, retries, run},
};

/// Each message is published and awaited, delivered as it comes, and acknowledged.
pub(crate) async fn one_by_one(order: &Order, clock: &mut Clock) -> Result {
    moved(order, clock, 1).await
}

/// Messages are published and taken in batches of 128.
pub(crate) async fn batches(order: &Order, clock: &mut Clock) -> Result {
    moved(order, clock, BATCH).await
}

async fn moved(order: &Order, clock: &mut Clock, batch: usize) -> Result {
    let (broker, to, source) = queue(order).await?;
    let plan = ConsumePlan::new()
        .prefetch(ROOM as u16)
        .dead_letters(DeadLetters::None);
    let mut consumer = broker.consumer(&source, plan).await?;
    clock.start();
    let sending = tokio::spawn(publish(broker, to, order.clone(), batch));
    let mut tally = Tally::default();
    let mut taken = Vec::with_capacity(batch);
    while tally.count < order.messages {
        if consumer.receive_many(&mut taken, batch).await? == 0 {
            return Err("the consumer has ended by itself".into());
        }
        for delivery in taken.drain(..) {
            tally.add(delivery.payload().map_or(&[][..], |bytes| bytes));
            delivery.ack()?;
        }
    }
    consumer.settled().await?;
    clock.stop(order.messages);
    sending.await??;
    tally.check(order.messages)
}

/// A worker with a handler.
pub(crate) async fn work(order: &Order, clock: &mut Clock) -> Result {
    let tally = Arc::new(SharedTally::default());
    let handler = counting(&tally, order);
    worked(order, clock, &tally, 1, |worker| worker.run(handler)).await
}

/// A worker with a handler under the layer of retries, in a program whose tracing leaves out our spans.
pub(crate) async fn work_retrying(order: &Order, clock: &mut Clock) -> Result {
    filtered_tracing();
    let tally = Arc::new(SharedTally::default());
    let handler = counting(&tally, order);
    worked(order, clock, &tally, 1, |worker| {
        worker.layer(retries()).run(handler)
    })
    .await
}

/// A worker whose handler takes batches of 128, which are also published so.
pub(crate) async fn work_batches(order: &Order, clock: &mut Clock) -> Result {
    let tally = Arc::new(SharedTally::default());
    let (counted, messages) = (Arc::clone(&tally), order.messages);
    let handler = move |batch: Vec<Received>| {
        for received in &batch {
            counted.add(received.payload().map_or(&[][..], |bytes| bytes), messages);
        }
        ready(())
    };
    // The last batch may be a smaller one, which nothing follows.
    let size = BatchSize::new(BATCH, Duration::from_millis(1));
    worked(order, clock, &tally, BATCH, |worker| {
        worker.run_batch(size, handler)
    })
    .await
}

async fn worked(
    order: &Order,
    clock: &mut Clock,
    tally: &SharedTally,
    batch: usize,
    run_with: impl FnOnce(Worker<Memory>) -> Run,
) -> Result {
    let (broker, to, source) = queue(order).await?;
    let worker = run_with(Worker::new(&broker, source).prefetch(ROOM as u16));
    let sending = tokio::spawn(publish(broker, to, order.clone(), batch));
    run(worker, tally, order, clock).await?;
    sending.await?
}

async fn queue(order: &Order) -> Result<(Memory, Destination, Subscription)> {
    let broker = Memory::builder()
        .max_messages(order.messages as usize + 1)
        .build();
    let to = Destination::queue(order.queue.as_str());
    broker.declare(&to).await?;
    Ok((broker, to, Subscription::queue(order.queue.as_str())))
}

async fn publish(broker: Memory, to: Destination, order: Order, batch: usize) -> Result {
    let publisher = broker.publisher();
    let mut next = 0;
    while next < order.messages {
        if batch == 1 {
            let message = Message::new(payload(next, order.size));
            publisher.publish(&to, message).await?;
            next += 1;
        } else {
            let last = order.messages.min(next + batch as u64);
            let messages = (next..last).map(|n| Message::new(payload(n, order.size)).into());
            let outcomes = publisher.publish_batch(&to, messages.collect()).await;
            outcomes.all_confirmed()?;
            next = last;
        }
    }
    Ok(())
}

const BATCH: usize = 128;
