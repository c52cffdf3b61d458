//! `mq-memory`: its consumer, its batches, and a worker.

use std::{
    future::ready,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mq_core::{
    BatchSize, Broker, ConsumePlan, Consumer, DeadLetters, Destination, Message, Publisher,
    Received, Run, Subscription, Worker,
};
use mq_memory::Memory;
use tokio::sync::Semaphore;

use super::{ROOM, ROOM_IN_BATCHES};
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
    let room = room(batch);
    let sending = publish(broker, to, order.clone(), batch, Arc::clone(&room));
    let sending = tokio::spawn(sending);
    let mut tally = Tally::default();
    let mut taken = Vec::with_capacity(batch);
    let mut released = 0;
    while tally.count < order.messages {
        if consumer.receive_many(&mut taken, batch).await? == 0 {
            return Err("the consumer has ended by itself".into());
        }
        released += taken.len();
        if released >= RELEASED {
            room.add_permits(mem::take(&mut released));
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
    let (tally, room) = (Arc::new(SharedTally::new(order.messages)), room(1));
    let handler = making_room(&room, counting(&tally));
    let run = |worker: Worker<Memory>| worker.run(handler);
    worked(order, clock, &tally, 1, &room, run).await
}

/// A worker with a handler under the layer of retries, in a program whose tracing leaves out our spans.
pub(crate) async fn work_retrying(order: &Order, clock: &mut Clock) -> Result {
    filtered_tracing();
    let (tally, room) = (Arc::new(SharedTally::new(order.messages)), room(1));
    let handler = making_room(&room, counting(&tally));
    let run = |worker: Worker<Memory>| worker.layer(retries()).run(handler);
    worked(order, clock, &tally, 1, &room, run).await
}

/// A worker whose handler takes batches of 128, which are also published so.
pub(crate) async fn work_batches(order: &Order, clock: &mut Clock) -> Result {
    let (tally, room) = (Arc::new(SharedTally::new(order.messages)), room(BATCH));
    let counted = Arc::clone(&tally);
    let taken = Arc::clone(&room);
    let handler = move |batch: Vec<Received>| {
        taken.add_permits(batch.len());
        for received in &batch {
            counted.add(received.payload().map_or(&[][..], |bytes| bytes));
        }
        ready(())
    };
    // The last batch may be a smaller one, which nothing follows.
    let size = BatchSize::new(BATCH, Duration::from_millis(1));
    let run = |worker: Worker<Memory>| worker.run_batch(size, handler);
    worked(order, clock, &tally, BATCH, &room, run).await
}

async fn worked(
    order: &Order,
    clock: &mut Clock,
    tally: &SharedTally,
    batch: usize,
    room: &Arc<Semaphore>,
    run_with: impl FnOnce(Worker<Memory>) -> Run,
) -> Result {
    let (broker, to, source) = queue(order).await?;
    let worker = run_with(Worker::new(&broker, source).prefetch(ROOM as u16));
    let sending = publish(broker, to, order.clone(), batch, Arc::clone(room));
    let sending = tokio::spawn(sending);
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

/// How many messages there may be between the two ends, as the channels of the others have it. A queue of ours is as long as it is
/// let: without this, what is measured is how fast the process gets more memory.
fn room(batch: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(match batch {
        1 => ROOM,
        _ => ROOM_IN_BATCHES * batch,
    }))
}

fn making_room<F, O>(
    room: &Arc<Semaphore>,
    handler: F,
) -> impl Fn(Received) -> O + Clone + Send + Sync + 'static
where
    F: Fn(Received) -> O + Clone + Send + Sync + 'static,
{
    let (room, taken) = (Arc::clone(room), Arc::new(AtomicUsize::new(0)));
    move |received| {
        // Not after each one: it would wake the publisher for each.
        if taken.fetch_add(1, Ordering::Relaxed) % RELEASED == RELEASED - 1 {
            room.add_permits(RELEASED);
        }
        handler(received)
    }
}

async fn publish(
    broker: Memory,
    to: Destination,
    order: Order,
    batch: usize,
    room: Arc<Semaphore>,
) -> Result {
    let publisher = broker.publisher();
    let mut next = 0;
    while next < order.messages {
        if batch == 1 {
            room.acquire().await?.forget();
            let message = Message::new(payload(next, order.size));
            publisher.publish(&to, message).await?;
            next += 1;
        } else {
            let last = order.messages.min(next + batch as u64);
            room.acquire_many((last - next) as u32).await?.forget();
            let messages = (next..last).map(|n| Message::new(payload(n, order.size)).into());
            let outcomes = publisher.publish_batch(&to, messages.collect()).await;
            outcomes.all_confirmed()?;
            next = last;
        }
    }
    Ok(())
}

const BATCH: usize = 128;
/// So much room is given back at a time.
const RELEASED: usize = 64;
