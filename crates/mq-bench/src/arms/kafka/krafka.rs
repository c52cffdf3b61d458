//! Bare krafka, as well as it can be written by hand.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use krafka::{
    Kafka, Record,
    admin::TopicPartition,
    consumer::{AutoOffsetReset, IsolationLevel},
    producer::Acks,
};

use super::{BATCH_BYTES, COMMIT_MS, WINDOW, fresh_group};
use crate::{
    Result,
    arm::{Clock, Order, Tally, payload},
};

/// Records are enqueued, and the outcomes of the oldest awaited once a window of them is on its way.
pub(crate) async fn produce(order: &Order, clock: &mut Clock) -> Result {
    let record = |number| Record::new(order.queue.as_str(), payload(number, order.size));
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
    let producer = kafka
        .producer()
        .acks(Acks::All)
        .idempotent(true)
        .batch_size(BATCH_BYTES)
        .linger(Duration::ZERO)
        .buffer_memory(64 * 1024 * 1024)
        .metrics_push(false)
        .build()
        .await?;
    clock.start();
    let mut pending = VecDeque::with_capacity(WINDOW);
    for number in 0..order.messages {
        if pending.len() == WINDOW
            && let Some(oldest) = pending.pop_front()
        {
            oldest.await?;
        }
        pending.push_back(producer.enqueue(record(number)).await?);
    }
    for handle in pending {
        handle.await?;
    }
    clock.stop(order.messages);
    Ok(producer.close().await?)
}

/// Polls, and commits on a clock and at the end.
pub(crate) async fn consume(order: &Order, clock: &mut Clock) -> Result {
    let kafka = Kafka::builder(&order.address).connect().await?;
    let consumer = kafka
        .consumer(fresh_group())
        .enable_auto_commit(false)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .isolation_level(IsolationLevel::ReadCommitted)
        .max_poll_records(5000)
        .max_buffered_records(20_000)
        .fetch_max_bytes(16 * 1024 * 1024)
        .metrics_push(false)
        .build()
        .await?;
    consumer.subscribe([&order.queue]).await?;
    let mut tally = Tally::default();
    let mut places: HashMap<i32, i64> = HashMap::new();
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

async fn commit(
    consumer: &krafka::consumer::Consumer,
    order: &Order,
    places: &HashMap<i32, i64>,
) -> Result {
    let places = places
        .iter()
        .map(|(partition, offset)| (TopicPartition::new(&*order.queue, *partition), *offset));
    Ok(consumer.commit_offsets(places).await?)
}

const KEYS: u64 = 10_000;
