//! mq-bridge over RabbitMQ, and what its arms over the other brokers share.

use std::{
    slice,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use lapin::{
    Channel, Connection, ConnectionProperties, options::QueueDeclareOptions, types::FieldTable,
};
use mq_bridge::{
    CanonicalMessage, Handled, HandlerError, Route, SentBatch,
    endpoints::amqp::AmqpPublisher,
    models::{AmqpConfig, Endpoint, EndpointType},
    outcomes::Passthrough,
    traits::{Handler, MessagePublisher},
};
use tokio::task::JoinSet;

use crate::{
    Result,
    arm::{Clock, Order, SharedTally, payload},
};

/// Batches of 1000, one after the other: persistent, mandatory, and each message with its confirm, which is how it sends when nothing
/// else is asked for.
pub(crate) async fn publish_batch(order: &Order, clock: &mut Clock) -> Result {
    published(order, clock, 1).await
}

/// Smaller ones, some at once, in the same window. It awaits each publish until it is written, so a batch alone is written message by
/// message; the messages of several are written together.
pub(crate) async fn publish_batches_at_once(order: &Order, clock: &mut Clock) -> Result {
    published(order, clock, 8).await
}

async fn published(order: &Order, clock: &mut Clock, at_once: usize) -> Result {
    let config = AmqpConfig {
        // The queue is there already, of a type that its declaration cannot name.
        no_declare_queue: true,
        ..config(order)
    };
    let publisher = Arc::new(AmqpPublisher::new(&config).await?);
    clock.start();
    send_batches(publisher, order, (super::WINDOW / at_once) as u64, at_once).await?;
    clock.stop(order.messages);
    Ok(())
}

/// A route from the queue to a handler. It always declares its queue, so it can only be a classic one.
pub(crate) async fn consume_route(order: &Order, clock: &mut Clock) -> Result {
    let watch = Connection::connect(&order.address, ConnectionProperties::default()).await?;
    let channel = watch.create_channel().await?;
    let config = AmqpConfig {
        prefetch_count: Some(super::PREFETCH),
        ..config(order)
    };
    let counting = Arc::new(Counting::new(order));
    let input = Endpoint::new(EndpointType::Amqp(config));
    let route = Route::new(input, Endpoint::null()).with_handler(Arc::clone(&counting));
    // A route connects and consumes in one step. Deliveries may be here when it returns, at most as many as are prefetched.
    let route = route.run("bench").await?;
    clock.start();
    counting.all().await;
    route.stop().await;
    route.join().await?;
    left(&channel, order).await?;
    clock.stop(order.messages);
    Ok(watch.close(200, "done".into()).await?)
}

fn config(order: &Order) -> AmqpConfig {
    AmqpConfig {
        url: order.address.clone(),
        queue: Some(order.queue.clone()),
        ..AmqpConfig::default()
    }
}

/// A route that has ended wrote all its acknowledgements. The broker has handled them once the consumer is gone, because that was
/// written after them.
async fn left(channel: &Channel, order: &Order) -> Result {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let name = order.queue.as_str().into();
        let queue = channel
            .queue_declare(name, options, FieldTable::default())
            .await?;
        if queue.consumer_count() == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err("the route did not leave the queue".into())
}

/// Sends all messages in batches, and some batches at once, as its own benches do with a publisher that tasks share.
pub(crate) async fn send_batches(
    publisher: Arc<dyn MessagePublisher>,
    order: &Order,
    batch: u64,
    at_once: usize,
) -> Result {
    let next = Arc::new(AtomicU64::new(0));
    let mut senders: JoinSet<Result> = JoinSet::new();
    for _ in 0..at_once {
        let (publisher, next) = (Arc::clone(&publisher), Arc::clone(&next));
        let (messages, size) = (order.messages, order.size);
        senders.spawn(async move {
            loop {
                let first = next.fetch_add(batch, Relaxed);
                if first >= messages {
                    return Ok(());
                }
                let batch = messages_of(first, messages.min(first + batch), size);
                confirmed(publisher.send_batch(batch).await?)?;
            }
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    Ok(())
}

/// The messages from `first` to before `last`. Their numbers are their ids, so that none is made up.
pub(crate) fn messages_of(first: u64, last: u64, size: usize) -> Vec<CanonicalMessage> {
    let message = |n: u64| CanonicalMessage::new(payload(n, size), Some(n.into()));
    (first..last).map(message).collect()
}

pub(crate) fn confirmed(sent: SentBatch) -> Result {
    match sent {
        SentBatch::Ack => Ok(()),
        SentBatch::Partial { failed, .. } => match failed.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        },
    }
}

/// Counts what it sees. It only observes, for which mq-bridge has a way of its own that hands over whole batches and clones nothing:
/// its fastest.
pub(crate) struct Counting(SharedTally);

impl Counting {
    pub(crate) fn new(order: &Order) -> Self {
        Self(SharedTally::new(order.messages))
    }

    /// Waits for the first message.
    pub(crate) async fn first(&self) {
        self.0.first().await;
    }

    /// Waits for all.
    pub(crate) async fn all(&self) {
        self.0.all().await;
    }

    fn add(&self, messages: &[CanonicalMessage]) {
        for message in messages {
            self.0.add(&message.payload);
        }
    }
}

/// Written as `async_trait` would, which its trait is made with.
impl Handler for Counting {
    fn handle<'life0, 'async_trait>(
        &'life0 self,
        message: CanonicalMessage,
    ) -> BoxFuture<'async_trait, Result<Handled, HandlerError>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        self.add(slice::from_ref(&message));
        Box::pin(async { Ok(Handled::Ack) })
    }

    fn observe(&self, messages: &[CanonicalMessage]) -> Option<Passthrough> {
        self.add(messages);
        Some(Passthrough::Ack)
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
