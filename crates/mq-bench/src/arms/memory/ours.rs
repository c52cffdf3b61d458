//! `mq-memory`: its consumer, its batches, and a worker.

use std::sync::Arc;

use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, Message, Publisher, Received,
    Subscription, Worker,
};
use mq_memory::Memory;

use super::ROOM;
use crate::{
    Result,
    arm::{Clock, Order, SharedTally, Tally, payload},
    arms::amqp::ours::run,
};

/// Each message is published and awaited, delivered as it comes, and acknowledged.
pub(crate) async fn one_by_one(order: &Order, clock: &mut Clock) -> Result {
    moved(order, clock, 1).await
}

/// Messages are published and taken in batches of 128.
pub(crate) async fn batches(order: &Order, clock: &mut Clock) -> Result {
    moved(order, clock, 128).await
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
        consumer.receive_many(&mut taken, batch).await?;
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
    let (broker, to, source) = queue(order).await?;
    let (tally, messages) = (Arc::new(SharedTally::default()), order.messages);
    let counted = Arc::clone(&tally);
    let worker = Worker::new(&broker, source)
        .prefetch(ROOM as u16)
        .dead_letters(DeadLetters::None)
        .run(move |received: Received| {
            let tally = Arc::clone(&counted);
            async move { tally.add(received.payload().map_or(&[][..], |bytes| bytes), messages) }
        });
    let sending = tokio::spawn(publish(broker, to, order.clone(), 1));
    run(worker, &tally, order, clock).await?;
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
            let messages = (next..last).map(|n| Message::new(payload(n, order.size)));
            let outcomes = publisher.publish_batch(&to, messages.collect()).await;
            outcomes.all_confirmed()?;
            next = last;
        }
    }
    Ok(())
}
