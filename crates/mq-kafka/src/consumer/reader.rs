//! Reading a window of a topic again, by nobody's group.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use krafka::{
    ConsumerRecord, KrafkaError,
    consumer::{AutoOffsetReset, Consumer, IsolationLevel},
};
use mq_core::{Error, ErrorKind, Position, Received, Result};
use tokio::time::sleep;
use tracing::debug;

use super::Polls;
use crate::{
    connection::{Inner, handle},
    consumer::FETCH_BYTES,
    error::{self, Stage, closed, is_passing},
    headers,
    topology::{self, At},
};

/// Reads a window of a topic: the messages of each partition from one place to another, and no
/// further; from [`Kafka::reader`](crate::Kafka::reader).
///
/// It has no group: it takes nothing from the consumers of the topic, moves no place of theirs, and
/// settles nothing. It reads what transactions committed. Messages of one partition come in their
/// order; those of different partitions mixed. Expired messages come too.
///
/// Dropping it ends the reading; nothing is left behind.
pub struct KafkaReader {
    consumer: Consumer,
    topic: Arc<str>,
    /// Where the window ends in each partition that is not read to its end.
    ends: HashMap<i32, i64>,
    read: VecDeque<ConsumerRecord>,
    /// Partitions whose window ended, and where, that are still fetched.
    ended: Vec<(i32, i64)>,
    progress: Instant,
    patience: Duration,
    polls: Polls,
    inner: Arc<Inner>,
}

impl KafkaReader {
    pub(crate) async fn open(inner: Arc<Inner>, topic: &str, window: Range<At>) -> Result<Self> {
        if inner.closing.is_cancelled() {
            return Err(closed(READ));
        }
        let found = topology::find(&inner, READ, "topic", topic).await?;
        let all: Vec<i32> = (0..i32::try_from(found.partitions).unwrap_or(i32::MAX)).collect();
        let (admin, config) = (&inner.admin, &inner.config);
        let starts = window.start.resolve(admin, READ, topic, &all).await?;
        let mut ends = window.end.resolve_end(admin, READ, topic, &all).await?;
        ends.retain(|partition, end| starts.get(partition).is_some_and(|start| start < end));
        let failed = |e| error::map(READ, Stage::Before, e).with("topic", topic);
        let consumer = handle(config)
            .await?
            .consumer_without_group()
            .enable_auto_commit(false)
            .auto_offset_reset(AutoOffsetReset::None)
            .isolation_level(IsolationLevel::ReadCommitted)
            .max_poll_records(BATCH)
            .max_buffered_records(4 * BATCH)
            .fetch_max_bytes(FETCH_BYTES)
            .metrics_push(false)
            .build()
            .await
            .map_err(failed)?;
        let partitions = ends.keys().copied().collect();
        consumer.assign(topic, partitions).await.map_err(failed)?;
        for partition in ends.keys() {
            let start = starts.get(partition).copied().unwrap_or_default();
            let sought = consumer.seek(topic, *partition, start).await;
            sought.map_err(failed)?;
        }
        Ok(Self {
            consumer,
            topic: topic.into(),
            ends,
            read: VecDeque::new(),
            ended: Vec::new(),
            progress: Instant::now(),
            patience: config.unreachable_after,
            polls: Polls::new(config.request_timeout()),
            inner,
        })
    }

    /// The next message; `None` once every partition was read to the end of the window.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout) if nothing came for
    /// [`unreachable_after`](crate::KafkaBuilder::unreachable_after), be it that no broker answers
    /// or that a transaction is open before the window's end; the next call goes on.
    /// [`Lost`](ErrorKind::Lost) if messages of the window are no longer there, or the topic is
    /// not. [`Closed`](ErrorKind::Closed) once the connection is closed.
    ///
    /// # Cancel safety
    /// Dropped, no message is left out: the next call goes on.
    pub async fn next(&mut self) -> Result<Option<Received>> {
        loop {
            if let Some(record) = self.read.pop_front() {
                return Ok(Some(self.received(record)));
            }
            if self.ends.is_empty() {
                return Ok(None);
            }
            if self.inner.closing.is_cancelled() {
                return Err(closed(READ));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<()> {
        self.leave_ended().await;
        let asked = Instant::now();
        match self.polls.poll(&self.consumer, POLL).await {
            Ok(records) if records.is_empty() => {
                self.pass_gaps().await;
                // Whatever ends polls early, a loop over this does not turn without a pause.
                if asked.elapsed() < POLL {
                    sleep(EARLY).await;
                }
            }
            Ok(records) => self.take_in(records),
            Err(error) if is_passing(&error) => {
                debug!(topic = %self.topic, %error, "poll failed");
                sleep(BACKOFF).await;
            }
            Err(error) => {
                let partition = match &error {
                    KrafkaError::NoOffset { partitions } => partitions.first().map(|(_, p)| *p),
                    _ => None,
                };
                let error = error::map(READ, Stage::Before, error).with("topic", &self.topic);
                return Err(match partition {
                    Some(partition) => error.with("partition", partition),
                    None => error,
                });
            }
        }
        if self.ends.is_empty() || self.progress.elapsed() < self.patience {
            return Ok(());
        }
        self.progress = Instant::now();
        let partitions: Vec<String> = self.ends.keys().map(ToString::to_string).collect();
        Err(Error::new(
            ErrorKind::Timeout,
            READ,
            "the window is not read to its end, and nothing comes",
        )
        .with("topic", &self.topic)
        .with("partitions", partitions.join(","))
        .help("look whether its brokers answer, and whether a transaction is open in it"))
    }

    /// Has what is read to its end fetched no more. A seek makes the client forget what it buffered of it: that counts against what it
    /// may buffer of the others.
    async fn leave_ended(&mut self) {
        let ended: Vec<i32> = self.ended.iter().map(|(partition, _)| *partition).collect();
        self.consumer.pause(&self.topic, &ended).await;
        for (partition, end) in &self.ended {
            if let Err(error) = self.consumer.seek(&self.topic, *partition, *end).await {
                debug!(topic = %self.topic, partition, %error, "its buffer is not forgotten");
            }
        }
        self.ended.clear();
    }

    fn take_in(&mut self, records: Vec<ConsumerRecord>) {
        self.progress = Instant::now();
        for record in records {
            let (partition, next) = (record.partition, record.offset + 1);
            let Some(end) = self.ends.get(&partition).copied() else {
                continue;
            };
            if record.offset < end {
                self.read.push_back(record);
            }
            if next >= end {
                self.end(partition, end);
            }
        }
    }

    /// The last offsets of a window may be no messages: marks of transactions, or what compaction
    /// removed.
    async fn pass_gaps(&mut self) {
        let open: Vec<(i32, i64)> = self.ends.iter().map(|(p, end)| (*p, *end)).collect();
        for (partition, end) in open {
            // Not the place that is fetched next: records before that may still be in the client's buffer.
            let next = self.consumer.position(&self.topic, partition).await;
            if next.is_some_and(|next| next >= end) {
                self.end(partition, end);
            }
        }
    }

    fn end(&mut self, partition: i32, end: i64) {
        self.ends.remove(&partition);
        self.ended.push((partition, end));
    }

    fn received(&self, record: ConsumerRecord) -> Received {
        let position = Position {
            partition: u32::try_from(record.partition).unwrap_or_default(),
            offset: u64::try_from(record.offset).unwrap_or_default(),
        };
        let (message, key) = headers::from_record(record);
        Received::new(message, Arc::clone(&self.topic), key).with_position(position)
    }
}

impl fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaReader")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

const READ: &str = "read";
const BATCH: i32 = 2000;
/// How long one poll waits for records.
const POLL: Duration = Duration::from_millis(250);
const BACKOFF: Duration = Duration::from_millis(200);
const EARLY: Duration = Duration::from_millis(10);
