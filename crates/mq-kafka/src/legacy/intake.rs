//! The task of a consumer: fetches, hands over to the ledger, and commits.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use kafka::client::CommitOffset;
use mq_core::{Error, ErrorKind, Result, flow::FlowKind, stale};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    connection::Inner,
    consumer::CONSUME,
    error::{self, is_passing},
    fetch::{Part, fetch},
    record::Fetched,
    thread::{ClientThread, Failed},
};
use crate::{
    error::closed,
    settle::{Incoming, Ledger},
};

pub(super) struct Intake {
    pub(super) inner: Arc<Inner>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) thread: ClientThread,
    pub(super) queue: Arc<str>,
    /// What the group has, or would read from.
    pub(super) committed: BTreeMap<i32, i64>,
    /// When all of it was last committed. A group without members keeps a place only for so long after its commit.
    pub(super) renewed: Instant,
    pub(super) stop: CancellationToken,
}

impl Intake {
    /// Fetches and commits until it is stopped or has failed for too long.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut sizes: HashMap<i32, i32> = HashMap::new();
        let mut failing: Option<Instant> = None;
        let mut committed_at = Instant::now();
        let mut looked_at = Instant::now();
        while !self.stop.is_cancelled() {
            let worked = async {
                if self.ledger.wants_flush() || committed_at.elapsed() >= COMMIT_EVERY {
                    self.commit().await?;
                    committed_at = Instant::now();
                }
                if looked_at.elapsed() >= LOOK_EVERY {
                    self.look_for_more().await?;
                    looked_at = Instant::now();
                }
                self.fetch(&mut sizes).await
            };
            match worked.await {
                Ok(()) => failing = None,
                Err(error) if is_passing(&error) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.inner.config.unreachable_after {
                        self.ledger.end(Some(self.gone(error)));
                        break;
                    }
                    self.pause(BACKOFF).await;
                }
                Err(error) => {
                    self.ledger.end(Some(error.with("queue", &self.queue)));
                    break;
                }
            }
        }
        self.finish().await
    }

    /// The last commit, after which settlements are stale.
    async fn finish(mut self) -> Result<()> {
        let last = match self.ledger.failure() {
            Some(_) => Ok(()),
            None => self.commit().await,
        };
        let partitions = self.ledger.partitions();
        self.ledger.remove(&partitions, FlowKind::Revoked);
        let closing = self.inner.closing.is_cancelled();
        self.ledger.end(closing.then(|| closed(CONSUME)));
        match self.ledger.take_lost() {
            true => Err(stale(&self.queue)),
            false => last,
        }
    }

    /// Waits, but not when it is to stop.
    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = sleep(time) => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn fetch(&mut self, sizes: &mut HashMap<i32, i32>) -> Result<()> {
        let clogged = match self.ledger.has_room() {
            true => self.ledger.clogged(),
            false => self.ledger.partitions(),
        };
        let ends = self.ledger.ends().into_iter();
        let wanted: Vec<Part> = ends
            .filter(|(partition, _)| !clogged.contains(partition))
            .map(|(partition, offset)| Part {
                partition,
                offset,
                bytes: sizes.get(&partition).copied().unwrap_or(SMALLEST_FETCH),
            })
            .collect();
        if wanted.is_empty() {
            tokio::select! {
                () = self.ledger.room.notified() => {}
                () = self.ledger.due.notified() => {}
                () = sleep(FULL) => {}
                () = self.stop.cancelled() => {}
            }
            return Ok(());
        }
        let queue = Arc::clone(&self.queue);
        let fetching = move |client: &mut _| fetch(client, &queue, &wanted);
        let deadline = self.inner.config.request_timeout;
        let called = self.thread.call(deadline, fetching).await;
        let fetched = called.map_err(|failed| error::map(CONSUME, failed))?;
        let waits = fetched.records.is_empty() && !fetched.behind.is_empty();
        for part in &fetched.behind {
            sizes.insert(
                part.partition,
                part.bytes.saturating_mul(2).min(LARGEST_FETCH),
            );
        }
        for one in &fetched.records {
            sizes.remove(&one.partition);
        }
        self.ledger.push(self.incoming(fetched.records));
        if waits
            && fetched
                .behind
                .iter()
                .all(|part| part.bytes >= LARGEST_FETCH)
        {
            // All that is there may be the marks of transactions, of which this client sees nothing.
            self.pause(BACKOFF).await;
        }
        Ok(())
    }

    fn incoming(&self, records: Vec<Fetched>) -> Vec<Incoming> {
        let records = records.into_iter().map(|record| Incoming {
            partition: record.partition,
            offset: record.offset,
            // The records of these brokers' protocol have no time.
            time: 0,
            wait: None,
            received: Some(record.received(&self.queue)),
        });
        records.collect()
    }

    /// Commits what has changed.
    async fn commit(&mut self) -> Result<()> {
        if self.renewed.elapsed() >= RENEW_EVERY {
            self.committed.clear();
            self.renewed = Instant::now();
        }
        let snapshot = self.ledger.snapshot(None).without_marks();
        let places = snapshot.places.iter();
        let changed: Vec<(i32, i64)> = places
            .filter(|place| self.committed.get(&place.partition) != Some(&place.offset))
            .map(|place| (place.partition, place.offset))
            .collect();
        let taken = commit(&self.inner, &mut self.thread, &self.queue, changed.clone()).await;
        if let Err(failed) = taken {
            self.ledger.refused();
            return Err(error::map("commit", failed));
        }
        self.committed.extend(changed);
        self.ledger.committed(snapshot);
        Ok(())
    }

    /// Partitions that were added are read from their beginning.
    async fn look_for_more(&mut self) -> Result<()> {
        let Some(count) = self.inner.partitions(CONSUME, &self.queue).await? else {
            return Err(Error::new(
                ErrorKind::Lost,
                CONSUME,
                "the queue is not there any more",
            ));
        };
        for partition in 0..i32::try_from(count).unwrap_or(i32::MAX) {
            if !self.ledger.owns(partition) {
                self.ledger.assign(partition, 0, "");
                self.committed.insert(partition, 0);
                // Its own client does not know the partition yet.
                self.thread = ClientThread::new(&self.inner.threads);
            }
        }
        Ok(())
    }

    fn gone(&self, error: Error) -> Error {
        Error::new(
            ErrorKind::Disconnected,
            CONSUME,
            "the cluster could not be reached for too long",
        )
        .with("queue", &self.queue)
        .caused_by(error)
    }
}

/// Commits offsets for the group of a queue, as nobody's member: a group that has members refuses.
pub(super) async fn commit(
    inner: &Inner,
    thread: &mut ClientThread,
    queue: &Arc<str>,
    places: Vec<(i32, i64)>,
) -> Result<(), Failed> {
    if places.is_empty() {
        return Ok(());
    }
    let queue = Arc::clone(queue);
    let committing = move |client: &mut kafka::client::KafkaClient| {
        let offsets = places.iter();
        let offsets =
            offsets.map(|(partition, offset)| CommitOffset::new(&queue, *partition, *offset));
        client.commit_offsets(&queue, offsets)
    };
    thread.call(inner.config.request_timeout, committing).await
}

/// The shortest retention of places that a broker had by default is a day.
const RENEW_EVERY: Duration = Duration::from_hours(1);
const COMMIT_EVERY: Duration = Duration::from_millis(250);
const LOOK_EVERY: Duration = Duration::from_secs(30);
const BACKOFF: Duration = Duration::from_millis(200);
/// While nothing more is taken in: a commit may be due.
const FULL: Duration = Duration::from_millis(50);
/// What is asked for of a partition; more, step by step, where its next record is larger.
const SMALLEST_FETCH: i32 = 1024 * 1024;
const LARGEST_FETCH: i32 = 64 * 1024 * 1024;
