//! Who reads the copies.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use krafka::consumer::{AutoOffsetReset, IsolationLevel};
use mq_core::{Broker, ConsumePlan, Consumer, DeadLetters, Received, Subscription};
use mq_kafka::{Kafka, KafkaConsumer};
use mq_testkit::history::{Event, Recorder, Tag};

use super::{FROM, PART, TARGET};
use crate::Result;

/// What a reader of committed data has seen, recorded as the effects of its group.
pub(super) struct Reader {
    group: &'static str,
    recorder: Recorder,
    seen: Mutex<Seen>,
}

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    /// Where the copies lie: a record that is read twice is no second copy.
    pub(super) places: BTreeSet<(u32, u64)>,
    /// Of which record each part is there, and how often.
    parts: [HashMap<(u32, u64), u32>; 2],
    last: HashMap<(u32, u32, usize), u64>,
    /// Copies that lie behind one of a later record of the same source partition.
    pub(super) reordered: u64,
    /// Copies that can't be read.
    pub(super) corrupt: u64,
}

impl Seen {
    /// Records whose two copies are not both there.
    pub(super) fn torn(&self) -> usize {
        let [a, b] = &self.parts;
        let only =
            |x: &HashMap<_, _>, y: &HashMap<_, _>| x.keys().filter(|k| !y.contains_key(*k)).count();
        only(a, b) + only(b, a)
    }

    /// Copies beyond one of each.
    pub(super) fn doubled(&self) -> u64 {
        let all = self.parts.iter().flat_map(HashMap::values);
        all.map(|copies| u64::from(copies - 1)).sum()
    }
}

impl Reader {
    pub(super) fn new(group: &'static str, recorder: Recorder) -> Arc<Self> {
        Arc::new(Self {
            group,
            recorder,
            seen: Mutex::default(),
        })
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn open(kafka: &Kafka, from: &Subscription) -> Result<KafkaConsumer> {
        let plan = ConsumePlan::new()
            .prefetch(2000)
            .dead_letters(DeadLetters::None);
        Ok(kafka.consumer(from, plan).await?)
    }

    /// Reads for ever, or until so much is read and nothing more comes.
    pub(super) async fn read(&self, consumer: &mut KafkaConsumer, until: Option<usize>) -> Result {
        let mut batch = Vec::new();
        loop {
            let enough = until.is_some_and(|until| self.seen().places.len() >= until);
            let wait = if enough { QUIET } else { PATIENCE };
            let received = consumer.receive_many(&mut batch, 2000);
            match tokio::time::timeout(wait, received).await {
                Err(_) if until.is_some() => return Ok(()),
                Err(_) => continue,
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Err("a reader's consumer ended".into()),
                Ok(Err(error)) => return Err(error.into()),
            }
            for delivery in batch.drain(..) {
                self.take(delivery.received())?;
                delivery.ack()?;
            }
        }
    }

    fn take(&self, received: &Received) -> Result {
        let Some(at) = received.position() else {
            return Err("a copy without a position".into());
        };
        let seen = &mut *self.seen();
        if !seen.places.insert((at.partition, at.offset)) {
            return Ok(());
        }
        let from = received.headers().text(FROM).and_then(|from| {
            let (partition, offset) = from.split_once(':')?;
            Some((partition.parse::<u32>().ok()?, offset.parse::<u64>().ok()?))
        });
        let part = match received.headers().text(PART) {
            Some("a") => 0,
            Some("b") => 1,
            _ => return Ok(seen.corrupt += 1),
        };
        let Some(from) = from else {
            return Ok(seen.corrupt += 1);
        };
        *seen.parts[part].entry(from).or_default() += 1;
        let last = seen.last.insert((at.partition, from.0, part), from.1);
        seen.reordered += u64::from(last.is_some_and(|last| last > from.1));
        if part == 0 {
            match Tag::from_payload(received.payload().map_or(&[][..], |payload| payload)) {
                Ok(tag) => {
                    self.recorder
                        .record(Event::deliver(self.group, &tag).at(TARGET, at))?;
                    self.recorder.record(Event::effect(self.group, &tag))?;
                }
                Err(_) => seen.corrupt += 1,
            }
        }
        Ok(())
    }
}

/// How many batches of aborted copies there are in the log, and how many copies: what a reader sees that asks for uncommitted data,
/// less what is committed.
pub(super) async fn aborted(
    address: &str,
    committed: &BTreeSet<(u32, u64)>,
) -> Result<(usize, usize)> {
    let kafka = krafka::Kafka::builder(address).connect().await?;
    let reader = kafka
        .consumer_without_group()
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .isolation_level(IsolationLevel::ReadUncommitted)
        .enable_auto_commit(false)
        .build()
        .await?;
    reader.subscribe([TARGET]).await?;
    let mut all: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    let mut last = Instant::now();
    while last.elapsed() < QUIET {
        for record in reader.poll(Duration::from_millis(300)).await? {
            let (partition, offset) = (
                record.partition.cast_unsigned(),
                record.offset.cast_unsigned(),
            );
            all.entry(partition).or_default().insert(offset);
            last = Instant::now();
        }
    }
    let (mut batches, mut copies) = (0, 0);
    for (partition, offsets) in all {
        let mut before = None;
        for offset in offsets
            .iter()
            .filter(|o| !committed.contains(&(partition, **o)))
        {
            copies += 1;
            // What lies between two of them is a marker, or a committed one.
            if before.is_none_or(|before: u64| before + 1 != *offset) {
                batches += 1;
            }
            before = Some(*offset);
        }
    }
    Ok((batches, copies))
}

/// How long nothing comes before there is taken to be no more.
const QUIET: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(120);
