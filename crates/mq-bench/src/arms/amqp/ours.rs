//! `mq-amqp`, plain and with a worker.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use mq_amqp::{Amqp, QueueSettings};
use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, Message, Publisher, Received,
    Subscription, Worker,
};
use mq_reliability::retry::{Policy, Retry};
use tokio::sync::oneshot;

use crate::{
    Result,
    arm::{Clock, Order, SharedTally, Tally, payload},
};

/// Messages are enqueued, and their outcomes awaited once a window of them is on its way.
pub(crate) async fn publish(order: &Order, clock: &mut Clock) -> Result {
    let broker = connect(order).await?;
    let publisher = broker.publisher();
    let to = Destination::queue(order.queue.as_str());
    clock.start();
    let mut pending = VecDeque::with_capacity(super::WINDOW);
    for number in 0..order.messages {
        if pending.len() == super::WINDOW
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
    Ok(broker.close().await?)
}

/// Batches, two on their way at a time.
pub(crate) async fn publish_batches(order: &Order, clock: &mut Clock) -> Result {
    let broker = connect(order).await?;
    let publisher = broker.publisher();
    let to = Destination::queue(order.queue.as_str());
    clock.start();
    let mut pending: VecDeque<mq_core::PendingBatch> = VecDeque::new();
    let mut next = 0;
    while next < order.messages {
        let last = order.messages.min(next + BATCH);
        let messages = (next..last).map(|n| Message::new(payload(n, order.size)));
        let batch = publisher.enqueue_batch(&to, messages.collect()).await;
        pending.push_back(batch);
        next = last;
        if pending.len() == super::WINDOW / BATCH as usize
            && let Some(oldest) = pending.pop_front()
        {
            oldest.await.all_confirmed()?;
        }
    }
    for batch in pending {
        batch.await.all_confirmed()?;
    }
    clock.stop(order.messages);
    Ok(broker.close().await?)
}

/// Deliveries are taken as they are at hand, and each is acknowledged.
pub(crate) async fn consume(order: &Order, clock: &mut Clock) -> Result {
    let broker = connect(order).await?;
    let source = Subscription::queue(order.queue.as_str());
    let plan = ConsumePlan::new()
        .prefetch(super::PREFETCH)
        .dead_letters(DeadLetters::None);
    clock.start();
    let mut consumer = broker.consumer(&source, plan).await?;
    let mut tally = Tally::default();
    let mut batch = Vec::new();
    while tally.count < order.messages {
        consumer
            .receive_many(&mut batch, usize::from(super::PREFETCH))
            .await?;
        for delivery in batch.drain(..) {
            tally.add(delivery.payload().map_or(&[][..], |bytes| bytes));
            delivery.ack()?;
        }
    }
    consumer.settled().await?;
    clock.stop(order.messages);
    tally.check(order.messages)?;
    consumer.close().await?;
    Ok(broker.close().await?)
}

/// A worker with a handler.
pub(crate) async fn work(order: &Order, clock: &mut Clock) -> Result {
    let broker = connect(order).await?;
    let (tally, messages) = (Arc::new(SharedTally::default()), order.messages);
    let counted = Arc::clone(&tally);
    let worker = worker(&broker, order).run(move |received: Received| {
        let tally = Arc::clone(&counted);
        async move { tally.add(received.payload().map_or(&[][..], |bytes| bytes), messages) }
    });
    run(worker, &tally, order, clock).await?;
    Ok(broker.close().await?)
}

/// A worker with a handler under the layer of retries.
pub(crate) async fn work_retrying(order: &Order, clock: &mut Clock) -> Result {
    let broker = connect(order).await?;
    let (tally, messages) = (Arc::new(SharedTally::default()), order.messages);
    let counted = Arc::clone(&tally);
    let policy = Policy::fast(3).backoff(Duration::from_millis(20), Duration::from_secs(1));
    let worker = worker(&broker, order)
        .layer(Retry::new(policy))
        .run(move |received: Received| {
            let tally = Arc::clone(&counted);
            async move { tally.add(received.payload().map_or(&[][..], |bytes| bytes), messages) }
        });
    run(worker, &tally, order, clock).await?;
    Ok(broker.close().await?)
}

fn worker(broker: &Amqp, order: &Order) -> Worker<Amqp> {
    Worker::new(broker, Subscription::queue(order.queue.as_str()))
        .prefetch(super::PREFETCH)
        .dead_letters(DeadLetters::None)
}

/// Its end waits until the broker has every verdict.
pub(crate) async fn run(
    worker: mq_core::Run,
    tally: &SharedTally,
    order: &Order,
    clock: &mut Clock,
) -> Result {
    let (stop, stopped) = oneshot::channel::<()>();
    clock.start();
    let worker = worker.with_graceful_shutdown(async {
        // Either way it is over.
        let _ = stopped.await;
    });
    let worker = tokio::spawn(worker.into_future());
    tally.all(order.messages).await?;
    drop(stop);
    worker.await??;
    clock.stop(order.messages);
    Ok(())
}

async fn connect(order: &Order) -> Result<Amqp> {
    let settings = match order.queue.ends_with("classic") {
        true => QueueSettings::classic(),
        false => QueueSettings::quorum(),
    };
    let builder = Amqp::builder()
        .url(&order.address)?
        .publish_window(super::WINDOW)
        .queue(order.queue.as_str(), settings);
    Ok(builder.connect().await?)
}

const BATCH: u64 = 250;
