//! rdkafka, as well as it can be written by hand.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{
        BaseRecord, DeliveryResult, FutureProducer, FutureRecord, Producer, ProducerContext,
        ThreadedProducer,
    },
};
use tokio::sync::Notify;

use super::{BATCH_BYTES, COMMIT_MS, WINDOW};
use crate::{
    Result,
    arm::{Clock, Order, Tally, payload},
};

/// Records are enqueued without waiting, and the outcomes of the oldest awaited once a window of them is on its way.
pub(crate) async fn produce(order: &Order, clock: &mut Clock) -> Result {
    let producer: FutureProducer = producing(order).create()?;
    look(producer.clone(), order).await?;
    clock.start();
    let mut pending = VecDeque::with_capacity(WINDOW);
    for number in 0..order.messages {
        let body = payload(number, order.size);
        let mut record = FutureRecord::<(), _>::to(&order.queue).payload(&body);
        loop {
            if pending.len() == WINDOW
                && let Some(oldest) = pending.pop_front()
            {
                stored(oldest).await?;
            }
            match producer.send_result(record) {
                Ok(handle) => {
                    pending.push_back(handle);
                    break;
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    match pending.pop_front() {
                        Some(oldest) => stored(oldest).await?,
                        None => tokio::task::yield_now().await,
                    }
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
    for handle in pending {
        stored(handle).await?;
    }
    clock.stop(order.messages);
    Ok(())
}

/// The other shape that is a candidate for the best: outcomes are counted as they come, on the client's own thread, with nothing
/// allocated for each.
pub(crate) async fn produce_counted(order: &Order, clock: &mut Clock) -> Result {
    let outcomes = Arc::new(Outcomes {
        messages: order.messages,
        ..Outcomes::default()
    });
    let producer: ThreadedProducer<Context> =
        producing(order).create_with_context(Context(Arc::clone(&outcomes)))?;
    look(producer.clone(), order).await?;
    clock.start();
    for number in 0..order.messages {
        outcomes
            .reach((number + 1).saturating_sub(WINDOW as u64))
            .await;
        let body = payload(number, order.size);
        // The queue has room for more than the window.
        let record = BaseRecord::<(), _>::to(&order.queue).payload(&body);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    outcomes.reach(order.messages).await;
    clock.stop(order.messages);
    match outcomes.failed.load(Relaxed) {
        0 => Ok(()),
        failed => Err(format!("{failed} records were not stored").into()),
    }
}

#[derive(Debug, Default)]
struct Outcomes {
    messages: u64,
    known: AtomicU64,
    failed: AtomicU64,
    more: Notify,
}

impl Outcomes {
    /// Waits until so many outcomes are known.
    async fn reach(&self, count: u64) {
        while self.known.load(Relaxed) < count {
            self.more.notified().await;
        }
    }
}

struct Context(Arc<Outcomes>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let Self(outcomes) = self;
        if result.is_err() {
            outcomes.failed.fetch_add(1, Relaxed);
        }
        let known = outcomes.known.fetch_add(1, Relaxed) + 1;
        // Whoever waits is woken for many at once.
        if known.is_multiple_of(WAKES) || known == outcomes.messages {
            outcomes.more.notify_one();
        }
    }
}

fn producing(order: &Order) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &order.address)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("batch.size", BATCH_BYTES.to_string())
        .set("batch.num.messages", "10000")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "100000")
        .set("queue.buffering.max.kbytes", "65536");
    config
}

/// Metadata is there before the first record, as with the other clients.
async fn look<C, P>(producer: P, order: &Order) -> Result
where
    C: ProducerContext,
    P: Producer<C> + Send + 'static,
{
    let topic = order.queue.clone();
    let look = move || {
        let client = producer.client();
        client
            .fetch_metadata(Some(&topic), Duration::from_secs(10))
            .map(drop)
    };
    Ok(tokio::task::spawn_blocking(look).await??)
}

async fn stored(handle: rdkafka::producer::DeliveryFuture) -> Result {
    match handle.await? {
        Ok(_) => Ok(()),
        Err((error, _)) => Err(error.into()),
    }
}

fn consuming(order: &Order) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &order.address)
        .set("group.id", order.group.as_str())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.message.max.bytes", (16 * 1024 * 1024).to_string())
        .set("queued.min.messages", "100000");
    config
}

/// One stream for all messages; commits on a clock and at the end.
pub(crate) async fn consume(order: &Order, clock: &mut Clock) -> Result {
    let consumer: StreamConsumer = consuming(order).create()?;
    consumer.subscribe(&[&order.queue])?;
    let mut tally = Tally::default();
    let mut places: BTreeMap<i32, i64> = BTreeMap::new();
    let mut committed = Instant::now();
    {
        let mut stream = consumer.stream();
        while tally.count < order.messages {
            let message = stream.next().await.ok_or("the stream ended")??;
            if tally.count == 0 {
                clock.start();
            }
            tally.add(message.payload().unwrap_or_default());
            places.insert(message.partition(), message.offset() + 1);
            // A look at the time costs more than a message.
            if tally.count.is_multiple_of(1000)
                && committed.elapsed() > Duration::from_millis(COMMIT_MS)
            {
                commit(&consumer, order, &places, CommitMode::Async)?;
                committed = Instant::now();
            }
        }
    }
    commit(&consumer, order, &places, CommitMode::Sync)?;
    clock.stop(order.messages);
    tally.check(order.messages)
}

/// The other shape that is a candidate for the best: a thread of its own that polls.
pub(crate) async fn consume_polled(order: &Order, clock: &mut Clock) -> Result {
    let consumer: BaseConsumer = consuming(order).create()?;
    consumer.subscribe(&[&order.queue])?;
    tokio::task::block_in_place(|| {
        let mut tally = Tally::default();
        let mut places: BTreeMap<i32, i64> = BTreeMap::new();
        let mut committed = Instant::now();
        while tally.count < order.messages {
            let Some(message) = consumer.poll(Duration::from_millis(100)) else {
                continue;
            };
            let message = message?;
            if tally.count == 0 {
                clock.start();
            }
            tally.add(message.payload().unwrap_or_default());
            places.insert(message.partition(), message.offset() + 1);
            if tally.count.is_multiple_of(1000)
                && committed.elapsed() > Duration::from_millis(COMMIT_MS)
            {
                commit(&consumer, order, &places, CommitMode::Async)?;
                committed = Instant::now();
            }
        }
        commit(&consumer, order, &places, CommitMode::Sync)?;
        clock.stop(order.messages);
        tally.check(order.messages)
    })
}

fn commit<C: ConsumerContext>(
    consumer: &impl Consumer<C>,
    order: &Order,
    places: &BTreeMap<i32, i64>,
    mode: CommitMode,
) -> Result {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in places {
        list.add_partition_offset(&order.queue, *partition, Offset::Offset(*offset))?;
    }
    Ok(consumer.commit(&list, mode)?)
}

/// Outcomes to a wake.
const WAKES: u64 = 256;
