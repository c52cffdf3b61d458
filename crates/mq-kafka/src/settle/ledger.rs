//! The deliveries of one consumer: buffered, handed out, settled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mq_core::{
    Delivery, Destination, Error, ErrorKind, Position, Received, Result, Settle, Subscription,
    SubscriptionKind, Verdict,
    flow::{Flow, FlowKind},
    stale,
};
use tokio::sync::Notify;

use super::{
    book::{COMMIT_AFTER, Partition, Ready, Reject, Snapshot, State, Tag, again},
    marks::Marks,
    tracker::{Pushed, Tracker},
};

/// Shared by a consumer, its tasks and its deliveries. No call waits for the network.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    /// Something can be handed out, or nothing ever will.
    pub(crate) deliverable: Notify,
    /// There is room in the buffer again.
    pub(crate) room: Notify,
    /// A commit is due.
    pub(crate) due: Notify,
    /// A record was rejected.
    pub(crate) rejected: Notify,
    /// Something was settled, committed, lost or ended.
    pub(crate) progress: Notify,
    source: Subscription,
    flow: Flow,
    prefetch: usize,
    /// Where rejected records go.
    home: Option<Destination>,
}

/// A record as it comes from the poll.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// `None`: not for this subscription, or expired.
    pub(crate) received: Option<Received>,
}

/// Verdicts that a caller waits for: partition, assignment, number.
pub(crate) type Awaited = Vec<(i32, u64, u64)>;

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
        source: Subscription,
        prefetch: usize,
        home: Option<Destination>,
        flow: Flow,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            deliverable: Notify::new(),
            room: Notify::new(),
            due: Notify::new(),
            rejected: Notify::new(),
            progress: Notify::new(),
            source,
            flow,
            prefetch,
            home,
        })
    }

    /// Tells a step of a delivery.
    fn tell(&self, kind: FlowKind, received: &Received) {
        self.flow.delivery(kind, &self.source, received, None);
    }

    /// Tells a step of a partition, with the offset that is next there.
    fn tell_partition(&self, kind: FlowKind, partition: i32, offset: i64) {
        if let (Ok(partition), Ok(offset)) = (u32::try_from(partition), u64::try_from(offset)) {
            let position = Some(Position { partition, offset });
            self.flow.consumer(kind, &self.source, position);
        }
    }

    /// Tells a step of the consumer.
    pub(crate) fn tell_consumer(&self, kind: FlowKind) {
        self.flow.consumer(kind, &self.source, None);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below leaves the state whole, also if a later line should panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition is ours from this offset on.
    pub(crate) fn assign(&self, partition: i32, offset: i64, metadata: &str) {
        let state = &mut *self.lock();
        state.assignments += 1;
        let entry = Partition {
            assignment: state.assignments,
            tracker: Tracker::new(offset, Marks::parse(metadata, offset)),
            committed: (offset, metadata.to_owned()),
            verdicts: 0,
            confirmed: 0,
            handed: 0,
            draining: false,
        };
        state.forget(&[partition]);
        if let Some(old) = state.partitions.insert(partition, entry) {
            state.handed -= old.handed;
        }
        self.tell_partition(FlowKind::Assigned, partition, offset);
    }

    /// True if the partition is ours.
    pub(crate) fn owns(&self, partition: i32) -> bool {
        self.lock().partitions.contains_key(&partition)
    }

    /// Takes in records, in the order of their partitions.
    pub(crate) fn push(&self, records: Vec<Incoming>) {
        let state = &mut *self.lock();
        for record in records {
            let Some(partition) = state.partitions.get_mut(&record.partition) else {
                continue;
            };
            let Some(received) = record.received else {
                partition.tracker.skip(record.offset);
                continue;
            };
            if let Pushed::Deliver { seq, failures } = partition.tracker.push(record.offset) {
                let tag = Tag {
                    partition: record.partition,
                    assignment: partition.assignment,
                    seq,
                };
                state.ready_bytes += received.message().size();
                let received = again(received, failures);
                state.ready.push_back(Ready { tag, received });
            }
        }
        if !state.ready.is_empty() {
            self.deliverable.notify_one();
        }
    }

    /// True if the buffer takes more.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.lock();
        state.ready.len() < BUFFER && state.ready_bytes < BUFFER_BYTES
    }

    /// The partitions that take no more, since too many records wait for one that is not settled.
    pub(crate) fn clogged(&self) -> Vec<i32> {
        let state = self.lock();
        let clogged = state
            .partitions
            .iter()
            .filter(|(_, p)| p.tracker.len() >= RING);
        clogged.map(|(partition, _)| *partition).collect()
    }

    /// Hands out what is at hand, within the prefetch.
    pub(crate) fn take(self: &Arc<Self>, into: &mut Vec<Delivery>, max: usize) -> Taken {
        let state = &mut *self.lock();
        if let Some(end) = &state.ended {
            return Taken::Ended(end.clone());
        }
        if state.is_held_up() {
            return Taken::Nothing;
        }
        let room = max.min(self.prefetch.saturating_sub(state.handed));
        let mut taken = 0;
        while taken < room {
            let Some((tag, received)) = state.next() else {
                break;
            };
            let Some(partition) = state.partitions.get_mut(&tag.partition) else {
                continue;
            };
            partition.tracker.hand_out(tag.seq);
            partition.handed += 1;
            state.handed += 1;
            taken += 1;
            self.tell(FlowKind::Delivered, &received);
            let sink = Arc::clone(self) as Arc<dyn Settle>;
            into.push(Delivery::new(received, sink, tag.pack()));
        }
        if state.ready.len() < BUFFER / 2 {
            self.room.notify_one();
        }
        match taken {
            0 => Taken::Nothing,
            n => Taken::Some(n),
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
    /// are stale.
    pub(crate) fn remove(&self, partitions: &[i32], how: FlowKind) {
        let state = &mut *self.lock();
        state.forget(partitions);
        for partition in partitions {
            if let Some(entry) = state.partitions.remove(partition) {
                state.handed -= entry.handed;
                state.lost |= entry.verdicts > entry.confirmed;
                self.tell_partition(how, *partition, entry.committed.0);
            }
        }
        self.progress.notify_waiters();
        self.deliverable.notify_one();
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
        self.deliverable.notify_one();
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

    /// The rejected records that nobody took yet.
    pub(crate) fn take_rejects(&self) -> Vec<Reject> {
        std::mem::take(&mut self.lock().rejects)
    }

    /// The copy of a rejected record is confirmed: the record is done, and that is committed at
    /// once.
    pub(crate) fn copied(&self, reject: &Reject) {
        if let Some(home) = &self.home {
            let (source, received) = (&self.source, &reject.received);
            self.flow.dead_lettered(source, received, None, home);
        }
        self.close_reject(reject, FlowKind::Acked, |tracker, seq| tracker.done(seq));
    }

    /// The copy of a rejected record was not confirmed: the record is delivered again.
    pub(crate) fn not_copied(&self, reject: &Reject) {
        self.close_reject(reject, FlowKind::Requeued, |tracker, seq| {
            tracker.give_back(seq, true);
        });
    }

    fn close_reject(
        &self,
        reject: &Reject,
        kind: FlowKind,
        verdict: impl FnOnce(&mut Tracker, u64),
    ) {
        let state = &mut *self.lock();
        state.rejects_open -= 1;
        if let Some(partition) = state.partition(reject.tag) {
            self.tell(kind, &reject.received);
            verdict(&mut partition.tracker, reject.tag.seq);
            partition.handed -= 1;
            partition.verdicts += 1;
            state.handed -= 1;
            state.done += 1;
            state.flush = true;
            self.due.notify_one();
        } else {
            state.lost = true;
        }
        self.deliverable.notify_one();
        self.progress.notify_waiters();
    }

    /// True while a rejected record is neither copied nor given up.
    pub(crate) fn is_copying(&self) -> bool {
        self.lock().rejects_open > 0
    }

    /// True if a commit should not wait for the clock.
    pub(crate) fn wants_flush(&self) -> bool {
        let state = self.lock();
        state.flush || state.done - state.asked >= COMMIT_AFTER
    }

    /// Where each partition that is not about to be given up goes on: the offset after the last record that came in.
    pub(crate) fn ends(&self) -> Vec<(i32, i64)> {
        let state = self.lock();
        let kept = state.partitions.iter().filter(|(_, p)| !p.draining);
        kept.map(|(at, p)| (*at, p.tracker.next())).collect()
    }

    /// Asks for a commit; returns the verdicts to wait for.
    pub(crate) fn request_flush(&self) -> Awaited {
        let state = &mut *self.lock();
        state.flush = true;
        self.due.notify_one();
        let open = state
            .partitions
            .iter()
            .filter(|(_, p)| p.verdicts > p.confirmed);
        open.map(|(at, p)| (*at, p.assignment, p.verdicts))
            .collect()
    }

    /// True if the broker has these verdicts, or never will.
    pub(crate) fn is_confirmed(&self, awaited: &Awaited) -> bool {
        let state = self.lock();
        awaited.iter().all(|(partition, assignment, verdicts)| {
            let entry = state.partitions.get(partition);
            entry.is_none_or(|p| p.assignment != *assignment || p.confirmed >= *verdicts)
        })
    }

    /// True once if a verdict could not reach the broker.
    pub(crate) fn take_lost(&self) -> bool {
        std::mem::take(&mut self.lock().lost)
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
                entry.committed = (place.offset, place.metadata);
                entry.confirmed = place.verdicts.unwrap_or(entry.confirmed);
            }
        }
        if let Some(done) = snapshot.done {
            let held_up = state.is_held_up();
            state.saved = done;
            state.refused = false;
            if held_up {
                self.deliverable.notify_one();
            }
        }
        self.progress.notify_waiters();
    }

    /// A commit was not taken: until one is, nothing more is handed out, since all of it would come again.
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
        match verdict {
            Verdict::Ack => {
                // Under the lock, as all of them here: before the commit that it leads to.
                self.tell(FlowKind::Acked, received);
                entry.tracker.done(tag.seq);
            }
            Verdict::Requeue | Verdict::Release => {
                let failed = matches!(verdict, Verdict::Requeue);
                let kind = match failed {
                    true => FlowKind::Requeued,
                    false => FlowKind::Released,
                };
                self.tell(kind, received);
                entry.tracker.give_back(tag.seq, failed);
                if !entry.draining {
                    let received = again(received.clone(), u32::from(failed));
                    state.again.insert((tag.partition, tag.seq), received);
                }
            }
            Verdict::Defer(_) => {
                return Err(unsupported("this backend cannot delay a message"));
            }
            Verdict::Reject(_) if self.home.is_none() => {
                return Err(unsupported("this consumer has no dead-letter home"));
            }
            Verdict::Reject(why) => {
                // It counts as handed out until its copy is confirmed, so that the prefetch bounds
                // the copies under way too.
                let received = received.clone();
                state.rejects.push(Reject { received, why, tag });
                state.rejects_open += 1;
                self.rejected.notify_one();
                return Ok(());
            }
        }
        if let Some(entry) = state.partition(tag) {
            entry.handed -= 1;
            entry.verdicts += 1;
        }
        state.handed -= 1;
        state.done += 1;
        if state.done - state.asked >= COMMIT_AFTER {
            self.due.notify_one();
        }
        self.deliverable.notify_one();
        self.progress.notify_waiters();
        Ok(())
    }
}

/// Records that are buffered between the poll and `receive_many`.
const BUFFER: usize = 4000;
const BUFFER_BYTES: usize = 16 * 1024 * 1024;
/// Records of one partition between its watermark and its newest one.
const RING: usize = 20_000;

#[cfg(test)]
mod tests;
