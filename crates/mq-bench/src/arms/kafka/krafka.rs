//! Bare krafka, as well as it can be written by hand.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use krafka::{
    Kafka, Record,
    admin::TopicPartition,
    consumer::{AutoOffsetReset, Consumer, IsolationLevel, OffsetAndMetadata},
    producer::{Acks, Producer},
};

use super::{BATCH_BYTES, COMMIT_MS, COPY_COMMIT_MS, WINDOW};
use crate::{
    Result,
    arm::{Clock, Order, Tally, id, payload},
};

/// Records are enqueued, and the outcomes of the oldest awaited once a window of them is on its way.
pub(crate) async fn produce(order: &Order, clock: &mut Clock) -> Result {
    let record = |number| Record::new(order.queue.as_str(), payload(number, order.size));
    produce_all(order, clock, record).await
}

/// The same, with the id of a message in a header, as it is where a message that comes twice shall be known.
pub(crate) async fn produce_with_ids(order: &Order, clock: &mut Clock) -> Result {
    let record = |number: u64| {
        let record = Record::new(order.queue.as_str(), payload(number, order.size));
        record.header("mq-id", id(number))
    };
    produce_all(order, clock, record).await
}

/// Fills a topic that others read: with keys, ten thousand of them.
pub(crate) async fn fill(order: &Order) -> Result {
    let record = |number: u64| {
        let record = Record::new(order.queue.as_str(), payload(number, order.size));
        record.key((number % KEYS).to_string())
    };
    produce_all(order, &mut Clock::default(), record).await
}

async fn produce_all(order: &Order, clock: &mut Clock, record: impl Fn(u64) -> Record) -> Result {
    let kafka = Kafka::builder(&order.address).connect().await?;
    let producer = producer(&kafka).await?;
    clock.start();
    let mut pending = VecDeque::with_capacity(WINDOW);
    for number in 0..order.messages {
        if pending.len() == WINDOW
            && let Some(oldest) = pending.pop_front()
        {
            _ = oldest.await?;
        }
        pending.push_back(producer.enqueue(record(number)).await?);
    }
    for handle in pending {
        _ = handle.await?;
    }
    clock.stop(order.messages);
    Ok(producer.close().await?)
}

/// Polls, and commits on a clock and at the end.
pub(crate) async fn consume(order: &Order, clock: &mut Clock) -> Result {
    let kafka = Kafka::builder(&order.address).connect().await?;
    let consumer = consumer(&kafka, order).await?;
    let mut tally = Tally::default();
    let mut places: BTreeMap<i32, i64> = BTreeMap::new();
    let mut committed = Instant::now();
    let mut begun = false;
    while tally.count < order.messages {
        let records = consumer.poll(Duration::from_millis(100)).await?;
        if records.is_empty() {
            continue;
        }
        // Joining a group takes seconds, and is no work of this row.
        if !begun {
            begun = true;
            clock.start();
        }
        for record in records {
            tally.add(record.value.as_deref().unwrap_or_default());
            places.insert(record.partition, record.offset + 1);
        }
        if committed.elapsed() > Duration::from_millis(COMMIT_MS) {
            commit(&consumer, order, &places).await?;
            committed = Instant::now();
        }
    }
    commit(&consumer, order, &places).await?;
    clock.stop(order.messages);
    tally.check(order.messages)?;
    Ok(consumer.close().await?)
}

/// Copies each message to another topic, at least once: before a commit all copies are stored that belong to it.
pub(crate) async fn copy(order: &Order, clock: &mut Clock) -> Result {
    let kafka = Kafka::builder(&order.address).connect().await?;
    let producer = producer(&kafka).await?;
    let consumer = consumer(&kafka, order).await?;
    let copies = order.copies();
    let mut tally = Tally::default();
    let mut places: BTreeMap<i32, i64> = BTreeMap::new();
    let mut pending = VecDeque::with_capacity(WINDOW);
    let mut committed = Instant::now();
    let mut begun = false;
    while tally.count < order.messages {
        let records = consumer.poll(Duration::from_millis(100)).await?;
        if records.is_empty() {
            continue;
        }
        if !begun {
            begun = true;
            clock.start();
        }
        for record in records {
            let value = record.value.unwrap_or_default();
            tally.add(&value);
            places.insert(record.partition, record.offset + 1);
            if pending.len() == WINDOW
                && let Some(oldest) = pending.pop_front()
            {
                _ = oldest.await?;
            }
            pending.push_back(
                producer
                    .enqueue(Record::new(copies.as_str(), value))
                    .await?,
            );
        }
        let last = tally.count >= order.messages;
        if last || committed.elapsed() > Duration::from_millis(COPY_COMMIT_MS) {
            for handle in pending.drain(..) {
                _ = handle.await?;
            }
            commit(&consumer, order, &places).await?;
            committed = Instant::now();
        }
    }
    clock.stop(order.messages);
    tally.check(order.messages)?;
    consumer.close().await?;
    Ok(producer.close().await?)
}

async fn producer(kafka: &Kafka) -> Result<Producer> {
    let producer = kafka
        .producer()
        .acks(Acks::All)
        .idempotent(true)
        .batch_size(BATCH_BYTES)
        // While one batch is on its way the next one fills.
        .linger(Duration::ZERO)
        .buffer_memory(64 * 1024 * 1024)
        .metrics_push(false)
        .build();
    Ok(producer.await?)
}

/// A member of the group of this order.
async fn consumer(kafka: &Kafka, order: &Order) -> Result<Consumer> {
    let consumer = kafka
        .consumer(order.group.as_str())
        .enable_auto_commit(false)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .isolation_level(IsolationLevel::ReadCommitted)
        .max_poll_records(5000)
        .max_buffered_records(20_000)
        .fetch_max_bytes(16 * 1024 * 1024)
        // It waits for each answer before it asks again; with the usual 1 MiB it is a third to half as fast.
        .max_partition_fetch_bytes(4 * 1024 * 1024)
        .metrics_push(false)
        .build()
        .await?;
    consumer.subscribe([&order.queue]).await?;
    Ok(consumer)
}

async fn commit(consumer: &Consumer, order: &Order, places: &BTreeMap<i32, i64>) -> Result {
    let places = places.iter().map(|(partition, offset)| {
        let at = TopicPartition::new(&*order.queue, *partition);
        (at, OffsetAndMetadata::new(*offset))
    });
    Ok(consumer.commit_offsets(places).await?)
}

const KEYS: u64 = 10_000;
