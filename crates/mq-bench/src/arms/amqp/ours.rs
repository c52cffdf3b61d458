//! `mq-amqp`, plain and with a worker.

use std::{
    collections::VecDeque,
    future::{IntoFuture, Ready, ready},
    sync::Arc,
    time::Duration,
};

use mq_amqp::{Amqp, QueueSettings};
use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, Message, Publisher, Received, Run,
    Subscription, Worker,
};
use mq_reliability::retry::{Policy, Retry};
use tokio::{sync::oneshot, task::JoinHandle};

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
        let messages = (next..last).map(|n| Message::new(payload(n, order.size)).into());
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
        let most = usize::from(super::PREFETCH);
        if consumer.receive_many(&mut batch, most).await? == 0 {
            return Err("the consumer has ended by itself".into());
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
    Ok(broker.close().await?)
}

/// A worker with a handler.
pub(crate) async fn work(order: &Order, clock: &mut Clock) -> Result {
    let broker = connect(order).await?;
    let tally = Arc::new(SharedTally::new(order.messages));
    let worker = worker(&broker, order).await?.run(counting(&tally));
    run(worker, &tally, order, clock).await?;
    Ok(broker.close().await?)
}

/// A worker with a handler under the layer of retries, in a program whose tracing leaves out our spans.
pub(crate) async fn work_retrying(order: &Order, clock: &mut Clock) -> Result {
    filtered_tracing();
    let broker = connect(order).await?;
    let tally = Arc::new(SharedTally::new(order.messages));
    let worker = worker(&broker, order)
        .await?
        .layer(retries())
        .run(counting(&tally));
    run(worker, &tally, order, clock).await?;
    Ok(broker.close().await?)
}

/// A worker wants a home for what its handler rejects. All runs have the same one, which stays empty.
async fn worker(broker: &Amqp, order: &Order) -> Result<Worker<Amqp>> {
    let home = Destination::queue("mq-bench.dead");
    broker.declare(&home).await?;
    let worker = Worker::new(broker, Subscription::queue(order.queue.as_str()));
    Ok(worker
        .prefetch(super::PREFETCH)
        .dead_letters(DeadLetters::To(home)))
}

/// Tells a subscriber what is at least a warning: our spans, which are at the level of debugging, are asked for and not made.
pub(crate) fn filtered_tracing() {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
}

pub(crate) fn retries() -> Retry {
    Retry::new(Policy::fast(3).backoff(Duration::from_millis(20), Duration::from_secs(1)))
}

/// A handler that counts.
pub(crate) fn counting(
    tally: &Arc<SharedTally>,
) -> impl Fn(Received) -> Ready<()> + Clone + Send + Sync + 'static {
    let tally = Arc::clone(tally);
    move |received| {
        tally.add(received.payload().map_or(&[][..], |bytes| bytes));
        ready(())
    }
}

/// Runs a worker until all is handled, and opens its consumer as part of it. Its end waits until the broker has every verdict.
pub(crate) async fn run(
    worker: Run,
    tally: &SharedTally,
    order: &Order,
    clock: &mut Clock,
) -> Result {
    clock.start();
    let ending = until(worker, tally.all()).await?;
    ending.await??;
    clock.stop(order.messages);
    Ok(())
}

/// Runs a worker until this is done. It is told to end then, and may still be at it.
pub(crate) async fn until(
    worker: Run,
    done: impl Future<Output = ()>,
) -> Result<JoinHandle<mq_core::Result<()>>> {
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = worker.with_graceful_shutdown(async {
        // Either way it is over.
        let _ = stopped.await;
    });
    let mut worker = tokio::spawn(worker.into_future());
    tokio::select! {
        () = done => {}
        ended = &mut worker => {
            ended??;
            return Err("the worker has ended by itself".into());
        }
    }
    drop(stop);
    Ok(worker)
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
