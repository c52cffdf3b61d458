//! The deliveries of one consumer: buffered, handed out, settled.

mod flush;
mod transacted;
mod watched;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use krafka::KrafkaError;
use mq_core::{
    Deferred, Delivery, Error, ErrorKind, Position, Received, Result, Settle, Subscription,
    SubscriptionKind, Verdict, flow::FlowKind, stale, trace,
};
use tokio::{sync::Notify, time::Instant};
use tracing::Span;

pub(crate) use transacted::Moved;

use super::{
    book::{Partition, Ready, Snapshot, State, Tag, again},
    copier::Homes,
    keys::Keys,
    marks::Marks,
    moves::{Move, What},
    tracker::{Pushed, Tracker},
    waiting::{Wait, due},
};
use crate::{
    error::{self, Stage},
    metrics::Watch,
};

/// Shared by a consumer, its tasks and its deliveries. No call waits for the network.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    /// There is room in the buffer again.
    pub(crate) room: Notify,
    /// A commit is due.
    pub(crate) due: Notify,
    /// A record is to be copied elsewhere.
    pub(crate) moving: Notify,
    /// Something was settled, committed, lost or ended.
    pub(crate) progress: Notify,
    source: Subscription,
    /// What is read: the source itself, or one of its retry topics.
    log: Subscription,
    watch: Watch,
    window: Arc<Window>,
    /// Verdicts after which a commit is due, whatever the clock says.
    commit_after: u64,
    deferred: Deferred,
    pub(crate) homes: Homes,
    /// Seconds are counted from here.
    began: Instant,
}

/// What a consumer has handed out, of all topics that it reads.
#[derive(Debug)]
pub(crate) struct Window {
    /// Something can be handed out, or nothing ever will.
    pub(crate) deliverable: Notify,
    handed: AtomicUsize,
    /// Counts assignments, so that a settlement can be told from one of an earlier assignment, or of another topic.
    assignments: AtomicU64,
    prefetch: usize,
}

impl Window {
    pub(crate) fn new(prefetch: usize) -> Arc<Self> {
        Arc::new(Self {
            deliverable: Notify::new(),
            handed: AtomicUsize::new(0),
            assignments: AtomicU64::new(0),
            prefetch,
        })
    }

    /// How many more may be handed out.
    pub(super) fn room(&self) -> usize {
        self.prefetch.saturating_sub(self.handed.load(Relaxed))
    }

    /// The number of a new assignment.
    fn assign(&self) -> u64 {
        self.assignments.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn out(&self, count: usize) {
        self.handed.fetch_add(count, Relaxed);
    }

    pub(super) fn back(&self, count: usize) {
        self.handed.fetch_sub(count, Relaxed);
    }
}

/// A record as it comes from the poll.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// `None`: not for this subscription, or expired.
    pub(crate) received: Option<Received>,
    /// Not before then.
    pub(crate) wait: Option<Wait>,
    /// The record's own time, in ms since 1970.
    pub(crate) time: i64,
}

/// What [`Ledger::take`] found.
#[derive(Debug)]
pub(crate) enum Taken {
    /// So many were appended.
    Some(usize),
    /// Nothing at hand: wait for `deliverable`.
    Nothing,
    /// Nothing will come; with the error that ended it.
    Ended(Option<Error>),
}

impl Ledger {
    pub(crate) fn new(
        (source, log): (Subscription, Subscription),
        window: Arc<Window>,
        commit_after: u64,
        deferred: Deferred,
        homes: Homes,
        watch: Watch,
    ) -> Arc<Self> {
        let keys = (deferred == Deferred::InPlace).then(Keys::default);
        Arc::new(Self {
            state: Mutex::new(State {
                keys,
                ..State::default()
            }),
            room: Notify::new(),
            due: Notify::new(),
            moving: Notify::new(),
            progress: Notify::new(),
            source,
            log,
            watch,
            window,
            commit_after,
            deferred,
            homes,
            began: Instant::now(),
        })
    }

    /// Tells a step of a delivery.
    fn tell(&self, kind: FlowKind, received: &Received) {
        self.watch.flow.delivery(kind, &self.source, received, None);
    }

    /// Tells and counts the settlement of a delivery.
    fn settled(&self, kind: FlowKind, received: &Received) {
        self.tell(kind, received);
        self.watch.counters.settled(kind);
    }

    /// The span of what `receive` hands out.
    pub(crate) fn handed_out(&self, deliveries: &[Delivery]) {
        let received = deliveries.iter().map(Delivery::received);
        self.watch.tracer.received(&self.source, received);
    }

    /// Counts a change of what the group's members have.
    pub(crate) fn rebalanced(&self) {
        self.watch.counters.rebalanced();
    }

    /// The span of a commit.
    pub(crate) fn commit_span(&self) -> Span {
        self.watch.tracer.settle(&self.source, "commit", None)
    }

    /// Counts a commit that was asked for, and ends its span.
    pub(crate) fn commit_answered(&self, span: &Span, failure: Option<&KrafkaError>) {
        self.watch.counters.committed(failure.is_none());
        if let Some(failure) = failure.filter(|_| !span.is_disabled()) {
            let error = error::map("commit", Stage::Before, failure.clone());
            trace::failed::<()>(span, &Err(error));
        }
    }

    /// Tells a step of a partition, with the offset that is next there.
    fn tell_partition(&self, kind: FlowKind, partition: i32, offset: i64) {
        if let (Ok(partition), Ok(offset)) = (u32::try_from(partition), u64::try_from(offset)) {
            let position = Some(Position { partition, offset });
            self.watch.flow.consumer(kind, &self.log, position);
        }
    }

    /// Tells a step of the consumer.
    pub(crate) fn tell_consumer(&self, kind: FlowKind) {
        self.watch.flow.consumer(kind, &self.log, None);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below leaves the state whole, also if a later line should panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition is ours from this offset on.
    pub(crate) fn assign(&self, partition: i32, offset: i64, metadata: &str) {
        let state = &mut *self.lock();
        let rewound = state.unplaced.remove(&partition).flatten();
        let again = rewound.is_some();
        let marks = match metadata {
            "" => rewound.unwrap_or_default(),
            metadata => Marks::parse(metadata, offset),
        };
        let entry = Partition {
            assignment: self.window.assign(),
            tracker: Tracker::new(offset, marks),
            committed: (offset, metadata.to_owned()),
            taken: offset,
            wanted: offset,
            verdicts: 0,
            confirmed: 0,
            handed: 0,
            waiting: 0,
            waiting_bytes: 0,
            draining: false,
            end: None,
            held: None,
            told: None,
        };
        state.forget(&[partition]);
        if let Some(old) = state.partitions.insert(partition, entry) {
            self.window.back(old.handed);
            self.watch.counters.given_up(old.handed);
        }
        if !again {
            self.watch.counters.partition(FlowKind::Assigned);
            self.tell_partition(FlowKind::Assigned, partition, offset);
        }
    }

    /// True if the partition is ours.
    pub(crate) fn owns(&self, partition: i32) -> bool {
        self.lock().partitions.contains_key(&partition)
    }

    /// Takes in records, in the order of their partitions.
    pub(crate) fn push(&self, records: Vec<Incoming>) {
        let now = self.now();
        let state = &mut *self.lock();
        for record in records {
            let Some(partition) = state.partitions.get_mut(&record.partition) else {
                continue;
            };
            let Some(received) = record.received else {
                partition.tracker.skip(record.offset);
                continue;
            };
            let pushed = partition.tracker.push(record.offset, record.time, now);
            if let Pushed::Deliver { seq, failures, due } = pushed {
                let tag = Tag {
                    partition: record.partition,
                    assignment: partition.assignment,
                    seq,
                };
                let received = again(received, failures);
                if let Some(staging) = &mut state.staging
                    && let Some(why) = staging.condemned(record.partition, record.offset)
                {
                    state.stage_move(tag, &received, What::Reject(why));
                    self.due.notify_one();
                    continue;
                }
                // Deferred in place by an earlier owner, or a retry copy.
                if let Some(wait) = Wait::until(due, Duration::MAX).or(record.wait) {
                    partition.tracker.wait(seq, self.second(wait.until));
                    if let Some(received) = state.enter(tag, received) {
                        state.wait(tag, wait, received);
                    }
                    continue;
                }
                state.ready_bytes += received.message().size();
                state.ready.push_back(Ready { tag, received });
            }
        }
        if !state.ready.is_empty() || !state.waiting.is_empty() {
            self.window.deliverable.notify_one();
        }
    }

    /// True if the buffer takes more.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.lock();
        state.ready.len() < BUFFER && state.ready_bytes < BUFFER_BYTES
    }

    /// The partitions that take no more, since too many records wait for one that is not settled or
    /// not due.
    pub(crate) fn clogged(&self) -> Vec<i32> {
        let state = self.lock();
        let clogged = state.partitions.iter().filter(|(_, p)| p.is_clogged());
        clogged.map(|(partition, _)| *partition).collect()
    }

    /// Hands out what is at hand, within the prefetch.
    pub(crate) fn take(self: &Arc<Self>, into: &mut Vec<Delivery>, max: usize) -> Taken {
        let state = &mut *self.lock();
        if let Some(end) = &state.ended {
            return Taken::Ended(end.clone());
        }
        state.asked_for = true;
        if !state.hands_out(self.commit_after) {
            return Taken::Nothing;
        }
        let room = max.min(self.window.room());
        let gone = state.let_go(self.commit_after, room);
        if gone.going_on > 0 {
            self.window.out(gone.going_on);
            self.watch.counters.going_on(gone.going_on);
            self.moving.notify_one();
        }
        if gone.done > 0 {
            self.due.notify_one();
        }
        let room = room - gone.going_on;
        let now = self.now();
        let (mut taken, mut redelivered) = (0, 0);
        while taken < room {
            let Some((tag, received)) = state.next(self.commit_after) else {
                break;
            };
            let Some(received) = state.enter(tag, received) else {
                continue;
            };
            let Some(partition) = state.partitions.get_mut(&tag.partition) else {
                continue;
            };
            partition.tracker.hand_out(tag.seq, now);
            partition.handed += 1;
            self.window.out(1);
            taken += 1;
            redelivered += usize::from(received.attempt() > 1);
            self.tell(FlowKind::Delivered, &received);
            let sink = Arc::clone(self) as Arc<dyn Settle>;
            into.push(Delivery::new(received, sink, tag.pack()));
        }
        // Under the lock, so that nothing of it is given up before.
        self.watch.counters.delivered(taken, redelivered);
        if state.ready.len() < BUFFER / 2 {
            self.room.notify_one();
        }
        match taken {
            0 => Taken::Nothing,
            n => Taken::Some(n),
        }
    }

    /// When something is due that waits; not while it may not be handed out.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let state = self.lock();
        match state.ended {
            // Without room it stays where it is, however long it is due.
            None if self.window.room() > 0 => state.next_due(self.commit_after),
            _ => None,
        }
    }

    /// Stops handing out what belongs to these partitions; what was only buffered is forgotten.
    pub(crate) fn drain(&self, partitions: &[i32]) {
        let state = &mut *self.lock();
        for partition in partitions {
            if let Some(entry) = state.partitions.get_mut(partition) {
                entry.draining = true;
            }
        }
        state.forget(partitions);
    }

    /// True if nothing of these partitions is with a handler.
    pub(crate) fn is_drained(&self, partitions: &[i32]) -> bool {
        let state = self.lock();
        let open = |p| {
            state
                .partitions
                .get(p)
                .is_some_and(|entry| entry.handed > 0)
        };
        !partitions.iter().any(open)
    }

    /// These partitions are no longer ours, since they were revoked or lost: settlements from now on
    /// are stale. Returns those that were ours.
    pub(crate) fn remove(&self, partitions: &[i32], how: FlowKind) -> Vec<i32> {
        let state = &mut *self.lock();
        state.forget(partitions);
        if let Some(staging) = &mut state.staging {
            staging.remove(partitions);
            // A transaction that has something of theirs must end now.
            self.due.notify_one();
        }
        let mut removed = Vec::new();
        for partition in partitions {
            let unplaced = state.unplaced.remove(partition);
            if let Some(entry) = state.partitions.remove(partition) {
                removed.push(*partition);
                self.window.back(entry.handed);
                state.lost |= entry.verdicts > entry.confirmed;
                self.watch.counters.given_up(entry.handed);
                self.watch.counters.partition(how);
                self.tell_partition(how, *partition, entry.committed.0);
            } else if let Some(rewound) = unplaced {
                removed.push(*partition);
                if rewound.is_some() {
                    self.watch.counters.partition(how);
                }
            }
        }
        self.progress.notify_waiters();
        self.window.deliverable.notify_one();
        removed
    }

    /// Every partition, in ascending order.
    pub(crate) fn partitions(&self) -> Vec<i32> {
        let mut partitions: Vec<i32> = self.lock().partitions.keys().copied().collect();
        partitions.sort_unstable();
        partitions
    }

    /// Hands out nothing more, for ever. The first end counts.
    pub(crate) fn end(&self, error: Option<Error>) {
        self.lock().ended.get_or_insert(error);
        self.window.deliverable.notify_one();
        self.progress.notify_waiters();
    }

    /// The error that ended it.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().ended.clone().flatten()
    }

    /// True if it ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// True if a record is at hand that nobody has yet.
    pub(crate) fn has_ready(&self) -> bool {
        let state = self.lock();
        !state.ready.is_empty() || !state.again.is_empty()
    }

    /// The records to be copied elsewhere that nobody took yet.
    pub(crate) fn take_moves(&self) -> Vec<Move> {
        std::mem::take(&mut self.lock().moves)
    }

    /// The copy of a record is confirmed: the record is done, and that is committed at once.
    pub(crate) fn copied(&self, moved: &Move) {
        let told = self.tell_copied(moved);
        self.close_move(moved, told, true);
    }

    /// Tells and counts what a copy stands for; returns what becomes of its original, if somebody had that.
    fn tell_copied(&self, moved: &Move) -> Option<FlowKind> {
        let (source, received) = (&self.source, &moved.received);
        match (&moved.what, &self.homes.dead) {
            (What::Reject(_), Some(home)) => {
                self.watch.flow.dead_lettered(source, received, None, home);
                self.watch.counters.dead_lettered();
                Some(FlowKind::Acked)
            }
            (What::Defer { .. }, _) => {
                self.tell(FlowKind::Deferred, received);
                self.watch.counters.deferred();
                Some(FlowKind::Acked)
            }
            // Nobody had it.
            (What::GoOn { .. } | What::Again { .. }, _) | (What::Reject(_), None) => None,
        }
    }

    /// The copy of a record was not confirmed: the record is delivered again.
    pub(crate) fn not_copied(&self, moved: &Move) {
        let told = match moved.what {
            What::GoOn { .. } => None,
            _ => Some(FlowKind::Requeued),
        };
        self.close_move(moved, told, false);
    }

    fn close_move(&self, moved: &Move, told: Option<FlowKind>, done: bool) {
        let state = &mut *self.lock();
        state.moves_open -= 1;
        if let Some(partition) = state.partition(moved.tag) {
            match told {
                Some(kind) => self.settled(kind, &moved.received),
                None => self.watch.counters.given_up(1),
            }
            partition.handed -= 1;
            partition.verdicts += 1;
            self.window.back(1);
            if done {
                partition.tracker.done(moved.tag.seq);
                state.pass_on(moved.tag, &moved.received);
            } else {
                partition.tracker.give_back(moved.tag.seq, told.is_some());
            }
            state.done += 1;
            state.flush = true;
            self.due.notify_one();
        } else {
            state.lost = true;
        }
        self.window.deliverable.notify_one();
        self.progress.notify_waiters();
    }

    /// It counts as handed out until its copy is confirmed, so that the prefetch bounds the copies
    /// under way too.
    fn move_out(&self, state: &mut State, tag: Tag, received: &Received, what: What) {
        let received = received.clone();
        state.moves.push(Move {
            received,
            what,
            tag,
        });
        state.moves_open += 1;
        self.moving.notify_one();
    }

    /// True while a record is neither copied nor given up.
    pub(crate) fn is_copying(&self) -> bool {
        self.lock().moves_open > 0
    }

    /// Where each partition that is not about to be given up goes on: the offset after the last record that came in.
    pub(crate) fn ends(&self) -> Vec<(i32, i64)> {
        let state = self.lock();
        let kept = state.partitions.iter().filter(|(_, p)| !p.draining);
        kept.map(|(at, p)| (*at, p.tracker.next())).collect()
    }

    /// What may be committed now, of all partitions or of these.
    pub(crate) fn snapshot(&self, only: Option<&[i32]>) -> Snapshot {
        let state = &mut *self.lock();
        let mut done = None;
        if only.is_none() {
            state.flush = false;
            state.asked = state.done;
            done = Some(state.done);
        }
        let wanted = |partition: &i32| only.is_none_or(|only| only.contains(partition));
        let owned = state.partitions.iter().filter(|(at, _)| wanted(at));
        let places = owned.map(|(at, partition)| partition.place(*at)).collect();
        Snapshot { places, done }
    }

    /// The broker has these places; for an ephemeral subscription nobody needs to.
    pub(crate) fn committed(&self, snapshot: Snapshot) {
        let group = !matches!(self.source.kind(), SubscriptionKind::Ephemeral { .. });
        let state = &mut *self.lock();
        for place in snapshot.places {
            let Some(entry) = state.partitions.get_mut(&place.partition) else {
                continue;
            };
            if entry.assignment == place.assignment {
                if group && place.offset != entry.committed.0 {
                    self.tell_partition(FlowKind::Committed, place.partition, place.offset);
                }
                entry.tracker.committed(place.offset);
                entry.committed = (place.offset, place.metadata);
                entry.confirmed = place.verdicts.unwrap_or(entry.confirmed);
            }
        }
        if let Some(done) = snapshot.done {
            let held_up = state.is_held_up(self.commit_after);
            state.saved = done;
            state.refused = false;
            if held_up {
                self.window.deliverable.notify_one();
            }
        }
        self.progress.notify_waiters();
    }

    /// A commit was not taken, or not yet: until one is, nothing more is handed out, since all of it would come again.
    pub(crate) fn refused(&self) {
        self.lock().refused = true;
    }
}

impl Settle for Ledger {
    fn settle(&self, tag: u64, verdict: Verdict, received: &Received) -> Result<()> {
        let position = received.position().map(|p| i32::try_from(p.partition));
        let Some(Ok(partition)) = position else {
            return Err(stale(self.source.name()));
        };
        let tag = Tag::unpack(partition, tag);
        let unsupported = |text| {
            Error::new(ErrorKind::Unsupported, "settle", text).with("source", self.source.name())
        };
        let state = &mut *self.lock();
        // After the end nothing is sure to be committed any more.
        let entry = match state.ended {
            None => state.partition(tag),
            Some(_) => None,
        };
        let Some(entry) = entry else {
            return Err(stale(self.source.name()));
        };
        let leaves = match verdict {
            Verdict::Ack => {
                // Under the lock, as all of them here: before the commit that it leads to.
                self.settled(FlowKind::Acked, received);
                entry.tracker.done(tag.seq);
                if let Some(staging) = &mut state.staging {
                    staging.settled(tag, received, None);
                    self.due.notify_one();
                }
                state.pass_on(tag, received);
                None
            }
            Verdict::Requeue | Verdict::Release => {
                let failed = matches!(verdict, Verdict::Requeue);
                let kind = match failed {
                    true => FlowKind::Requeued,
                    false => FlowKind::Released,
                };
                self.settled(kind, received);
                entry.tracker.give_back(tag.seq, failed);
                if !entry.draining {
                    let received = again(received.clone(), u32::from(failed));
                    state.again.insert((tag.partition, tag.seq), received);
                }
                None
            }
            Verdict::Defer(delay) if self.deferred == Deferred::InPlace => {
                self.tell(FlowKind::Deferred, received);
                self.watch.counters.deferred();
                self.watch.counters.given_up(1);
                let due = due(delay);
                entry.tracker.defer(tag.seq, due);
                if !entry.draining
                    && let Some(until) = state.hold(tag, due, again(received.clone(), 1))
                    && let Some(entry) = state.partition(tag)
                {
                    entry.tracker.wait(tag.seq, self.second(until));
                }
                None
            }
            Verdict::Defer(_) if self.homes.tiers.is_empty() => {
                return Err(unsupported("this subscription has no retry topics").help(
                    "give its delays to KafkaBuilder::delays and declare it, then open it anew",
                ));
            }
            Verdict::Defer(delay) => {
                let (due, attempts) = (due(delay), received.attempt());
                Some(What::Defer { due, attempts })
            }
            Verdict::Reject(_) if self.homes.dead.is_none() => {
                return Err(unsupported("this consumer has no dead-letter home"));
            }
            Verdict::Reject(why) => Some(What::Reject(why)),
        };
        if let Some(what) = leaves {
            let Some(staging) = &mut state.staging else {
                self.move_out(state, tag, received, what);
                return Ok(());
            };
            staging.settled(tag, received, Some(what));
            self.watch.counters.given_up(1);
            self.due.notify_one();
            if let Some(entry) = state.partition(tag) {
                entry.tracker.done(tag.seq);
            }
        }
        if let Some(entry) = state.partition(tag) {
            entry.handed -= 1;
            entry.verdicts += 1;
        }
        self.window.back(1);
        state.done += 1;
        if state.done - state.asked >= self.commit_after {
            self.due.notify_one();
        }
        self.window.deliverable.notify_one();
        self.progress.notify_waiters();
        Ok(())
    }
}

/// Records that are buffered between the poll and `receive_many`.
const BUFFER: usize = 16_000;
const BUFFER_BYTES: usize = 16 * 1024 * 1024;

#[cfg(test)]
pub(super) mod tests;
