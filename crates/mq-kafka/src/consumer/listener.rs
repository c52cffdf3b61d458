//! What happens when the group gives or takes partitions. It runs inside the poll.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use krafka::{
    admin::{AdminClient, OffsetSpec, TopicPartition},
    consumer::ConsumerRebalanceListener,
};
use mq_core::{Error, ErrorKind, Result, RetryAdvice, flow::FlowKind};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    assignment::Assigned,
    calls::{Noted, generation},
    events::{self, Events},
};
use crate::{
    error::{self, Stage, is_passing, is_unstable},
    settle::{Group, Ledger},
    topology::{committed, edges},
};

/// Brings the ledger up to date with the assignment.
pub(super) struct Listener {
    ledger: Arc<Ledger>,
    assigned: Arc<Assigned>,
    admin: Arc<AdminClient>,
    group_id: Arc<str>,
    topic: Arc<str>,
    /// Weak: the group's consumer owns this listener.
    group: OnceLock<Weak<Group>>,
    joined: watch::Sender<Joined>,
    events: Events,
    /// How long handlers may take to end what they have of a revoked partition. The whole group
    /// waits.
    drain: Duration,
    pub(super) rejoin: Rejoin,
    /// Partitions that are still the member's are to be placed anew.
    pub(super) anew: AtomicBool,
    /// The generation in which partitions were revoked since.
    pub(super) gave_up: Noted,
}

/// Whether a member has to join once more after it lost its membership and got it back.
///
/// A static member that joins again is given what it had, without a rebalance. If that was half of a
/// cooperative rebalance, the partitions that it was to give up are nobody's: the other half, which
/// begins when it has given them up, never comes.
#[derive(Debug, Default)]
pub(super) struct Rejoin {
    lost: AtomicBool,
    due: AtomicBool,
}

impl Rejoin {
    /// True once after each loss, when the membership is back.
    pub(super) fn take(&self) -> bool {
        self.due.swap(false, Relaxed)
    }

    /// It could not be done.
    pub(super) fn still(&self) {
        self.due.store(true, Relaxed);
    }
}

/// How far a member got since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Joined {
    /// Not yet a member.
    No,
    /// A member without partitions: others give some up in a further round, or there are none left.
    Empty,
    /// It has had partitions.
    Assigned,
}

impl Listener {
    /// A listener, and what tells of the first assignments.
    pub(super) fn new(
        ledger: Arc<Ledger>,
        assigned: Arc<Assigned>,
        admin: Arc<AdminClient>,
        group_id: Arc<str>,
        topic: Arc<str>,
        events: Events,
        drain: Duration,
    ) -> (Arc<Self>, watch::Receiver<Joined>) {
        let (joined, first) = watch::channel(Joined::No);
        let listener = Arc::new(Self {
            ledger,
            assigned,
            admin,
            group_id,
            topic,
            group: OnceLock::new(),
            joined,
            events,
            drain,
            rejoin: Rejoin::default(),
            anew: AtomicBool::new(false),
            gave_up: Noted::none(),
        });
        (listener, first)
    }

    /// Tells it which consumer it belongs to, before the first poll.
    pub(super) fn bind(&self, group: &Arc<Group>) {
        // Only the first call counts, and there is only one.
        let _ = self.group.set(Arc::downgrade(group));
    }

    fn group(&self) -> Option<Arc<Group>> {
        self.group.get()?.upgrade()
    }

    /// Gives the partitions that wait for it a place to read from. Not inside a poll.
    pub(super) async fn place(&self, group: &Group) -> Result<()> {
        let unplaced = self.ledger.unplaced();
        self.start(group, &unplaced).await?;
        self.assigned.tell(self.ledger.partitions());
        Ok(())
    }

    /// Reads where the group stands, and starts there. A partition without a place was added after
    /// the group began, or belongs to a queue: it is read from its beginning.
    async fn start(&self, group: &Group, partitions: &[i32]) -> Result<()> {
        let (id, topic) = (&*self.group_id, &*self.topic);
        let places = committed(&self.admin, "consume", id, topic, Some(partitions)).await?;
        let new: Vec<i32> = partitions
            .iter()
            .filter(|p| places.get(p).is_none_or(|place| place.offset.is_none()))
            .copied()
            .collect();
        let starts = edges(&self.admin, "consume", topic, &new, OffsetSpec::Earliest).await?;
        // The client would go back to the end of the log and say nothing. Where no leader answers
        // just now it is left alone.
        let last = OffsetSpec::Latest;
        let ends = edges(&self.admin, "consume", topic, partitions, last);
        let ends = timeout(LOOK, ends).await.ok().and_then(Result::ok);
        for (partition, end) in ends.unwrap_or_default() {
            let place = places.get(&partition).and_then(|place| place.offset);
            if let Some(offset) = place.filter(|offset| *offset > end) {
                return Err(beyond(topic, partition, offset, end));
            }
        }
        for partition in partitions {
            let place = places.get(partition).cloned().unwrap_or_default();
            let Some(offset) = place.offset.or_else(|| starts.get(partition).copied()) else {
                continue;
            };
            let seek = group.consumer.seek(topic, *partition, offset).await;
            seek.map_err(|e| error::map("consume", Stage::Before, e))?;
            self.ledger.assign(*partition, offset, &place.metadata);
        }
        Ok(())
    }
}

impl Listener {
    /// What is settled of these partitions is committed in its transaction, or that is aborted. A new owner does not begin before
    /// (it asks for stable offsets), and what would be sent later is fenced by the group's generation.
    async fn end_transaction(&self, partitions: &[i32]) {
        self.ledger.request_flush();
        let committed = self
            .ledger
            .until(|ledger| ledger.has_ended() || ledger.is_transacted(partitions));
        let _ = timeout(TRANSACTION, committed).await;
        self.ledger.remove(partitions, FlowKind::Revoked);
        let ended = self
            .ledger
            .until(|ledger| ledger.has_ended() || ledger.is_transacted(partitions));
        if timeout(TRANSACTION, ended).await.is_err() {
            debug!(group = %self.group_id, "a transaction outlives its partitions");
        }
    }
}

impl Listener {
    /// What was given to the member under another id may have been others' since, whether or not it is its own again.
    async fn lose_of_another(&self) {
        let partitions = self.ledger.partitions();
        let Some(group) = self.group().filter(|_| !partitions.is_empty()) else {
            return;
        };
        if group.is_another().await {
            self.lose(&partitions);
            self.anew.store(true, Relaxed);
        }
    }

    fn lose(&self, partitions: &[i32]) {
        debug!(group = %self.group_id, ?partitions, "partitions lost");
        self.ledger.rebalanced();
        let removed = self.ledger.remove(partitions, FlowKind::Lost);
        self.assigned.tell(self.ledger.partitions());
        self.events
            .tell_partitions(events::lost, &self.group_id, &removed);
        self.rejoin.lost.store(true, Relaxed);
    }
}

impl ConsumerRebalanceListener for Listener {
    async fn on_partitions_assigned(&self, partitions: &[TopicPartition]) {
        let group = self.group();
        let _at_work = group.as_ref().map(|group| group.polls.at_work());
        self.lose_of_another().await;
        if let Some(group) = &group {
            group.owns().await;
        }
        let partitions = numbers(partitions);
        debug!(group = %self.group_id, ?partitions, "partitions assigned");
        if let Some(group) = &group
            && !partitions.is_empty()
        {
            self.ledger.rebalanced();
            let mut result = self.start(group, &partitions).await;
            for _ in 0..START_TRIES {
                match &result {
                    Err(error) if error.is_retryable() && !is_unstable(error) => {
                        sleep(START_BACKOFF).await;
                        result = self.start(group, &partitions).await;
                    }
                    _ => break,
                }
            }
            if let Err(error) = result {
                // A transaction may hold the place until its time-out: longer than the others can be
                // held up here.
                if is_unstable(&error) {
                    debug!(group = %self.group_id, %error, "no place to read from yet");
                    self.ledger.hold_back(&partitions);
                } else {
                    self.ledger.end(Some(error.with("group", &self.group_id)));
                }
            }
            self.assigned.tell(self.ledger.partitions());
            self.events
                .tell_partitions(events::assigned, &self.group_id, &partitions);
        }
        self.rejoin
            .due
            .fetch_or(self.rejoin.lost.swap(false, Relaxed), Relaxed);
        let now = match partitions.is_empty() {
            true => Joined::Empty,
            false => Joined::Assigned,
        };
        self.joined.send_modify(|joined| *joined = now.max(*joined));
    }

    /// The partitions are still ours here: what is with handlers gets a moment to end, the
    /// watermark is committed, and whatever comes later is stale.
    async fn on_partitions_revoked(&self, partitions: &[TopicPartition]) {
        let group = self.group();
        let _at_work = group.as_ref().map(|group| group.polls.at_work());
        self.lose_of_another().await;
        let partitions = numbers(partitions);
        debug!(group = %self.group_id, ?partitions, "partitions revoked");
        self.ledger.rebalanced();
        self.ledger.drain(&partitions);
        let drained = async {
            loop {
                let mut progress = std::pin::pin!(self.ledger.progress.notified());
                progress.as_mut().enable();
                if self.ledger.is_drained(&partitions) {
                    return;
                }
                progress.await;
            }
        };
        // Past this the records come again elsewhere, which at least once allows.
        let _ = timeout(self.drain, drained).await;
        if self.ledger.is_transactional() {
            self.end_transaction(&partitions).await;
        }
        if let Some(group) = &group {
            for _ in 0..COMMIT_TRIES {
                match group.commit(&self.ledger, Some(&partitions)).await {
                    Err(error) if is_passing(&error) => {
                        debug!(group = %self.group_id, %error, "commit before revocation failed");
                        sleep(COMMIT_BACKOFF).await;
                    }
                    _ => break,
                }
            }
        }
        let removed = self.ledger.remove(&partitions, FlowKind::Revoked);
        if let Some(group) = &group {
            self.gave_up.note(generation(&group.consumer).await);
        }
        self.assigned.tell(self.ledger.partitions());
        self.events
            .tell_partitions(events::revoked, &self.group_id, &removed);
    }

    /// They belong to somebody else already: no commit.
    async fn on_partitions_lost(&self, partitions: &[TopicPartition]) {
        self.lose(&numbers(partitions));
    }
}

fn beyond(topic: &str, partition: i32, offset: i64, end: i64) -> Error {
    Error::new(
        ErrorKind::Lost,
        "consume",
        "the group's committed offset lies behind the end of the log",
    )
    .with("topic", topic)
    .with("partition", partition)
    .with("offset", offset)
    .with("end", end)
    .help("somebody moved it, or the log lost its end; move it where reading shall go on")
    .advise(RetryAdvice::Never)
}

fn numbers(partitions: &[TopicPartition]) -> Vec<i32> {
    let mut numbers: Vec<i32> = partitions.iter().map(|p| p.partition).collect();
    numbers.sort_unstable();
    numbers
}

/// How long the ends of partitions may take to be told: it is milliseconds, or not now.
const LOOK: Duration = Duration::from_secs(2);
/// How long a transaction may take to end before its partitions are given up.
const TRANSACTION: Duration = Duration::from_secs(5);
const COMMIT_TRIES: usize = 5;
const COMMIT_BACKOFF: Duration = Duration::from_millis(100);
const START_TRIES: usize = 5;
const START_BACKOFF: Duration = Duration::from_millis(200);
