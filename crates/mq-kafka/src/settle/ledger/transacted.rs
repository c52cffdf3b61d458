//! A ledger whose verdicts reach the broker in transactions, not by commits of its own.

use std::sync::Arc;

use mq_core::{Deferred, flow::FlowKind};

use super::{
    super::{
        announced::Announced,
        moves::Move,
        staging::{Condemned, Room, Slice, Staging},
    },
    Ledger,
};

/// Where a transaction puts one partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    pub(crate) partition: i32,
    pub(crate) assignment: u64,
    pub(crate) next: i64,
    verdicts: Option<u64>,
}

impl From<&Slice> for Moved {
    fn from(slice: &Slice) -> Self {
        Self {
            partition: slice.partition,
            assignment: slice.assignment,
            next: slice.next,
            verdicts: slice.verdicts,
        }
    }
}

impl Ledger {
    /// From now on verdicts wait for transactions, which publish what is announced for them there. False if they do already, or
    /// if deliveries were asked for: then something of theirs may have been committed otherwise.
    pub(crate) fn begin_transactions(&self, announced: &Arc<Announced>) -> bool {
        let state = &mut *self.lock();
        if state.asked_for || state.staging.is_some() {
            return false;
        }
        state.staging = Some(Staging::new(Arc::clone(announced)));
        true
    }

    /// True if a deferred record holds those of its key.
    pub(crate) fn defers_in_place(&self) -> bool {
        self.deferred == Deferred::InPlace
    }

    /// True if it is to be committed as it is. Nothing is before the first deliveries are asked for: until then a guarantee
    /// may still say that it commits in transactions, which a plain commit beside them could undo.
    pub(crate) fn commits_by_itself(&self) -> bool {
        let state = self.lock();
        state.asked_for && state.staging.is_none()
    }

    /// True if verdicts reach the broker in transactions.
    pub(crate) fn is_transactional(&self) -> bool {
        self.lock().staging.is_some()
    }

    /// Takes what a transaction may hold now, as far as it has room: of each partition the records below the lowest one that
    /// is not done, with the offset that covers exactly them.
    pub(crate) fn take_staged(&self, mut room: Room) -> Vec<Slice> {
        let state = &mut *self.lock();
        let Some(staging) = &mut state.staging else {
            return Vec::new();
        };
        let was_full = staging.is_full();
        let mut slices = Vec::new();
        let mut partitions: Vec<i32> = state.partitions.keys().copied().collect();
        staging.in_turn(&mut partitions);
        for partition in partitions {
            let Some(entry) = state.partitions.get_mut(&partition) else {
                continue;
            };
            let first = entry.tracker.first();
            let (staged, more) = staging.take(partition, first, &mut room);
            let next = match (staged.last(), staging.holds_below(partition, first)) {
                // Only some of those that are ready.
                (Some(last), true) => last.offset + 1,
                (None, true) => continue,
                _ => entry.tracker.low_water(),
            };
            if next == entry.taken {
                continue;
            }
            entry.taken = next;
            staging.entered(partition);
            slices.push(Slice {
                partition,
                assignment: entry.assignment,
                next,
                staged,
                verdicts: (!more).then_some(entry.verdicts),
            });
        }
        if was_full {
            // There is room, or what is left waits for a record that may be handed out now.
            self.window.deliverable.notify_one();
        }
        slices
    }

    /// True if all of these are still ours.
    pub(crate) fn holds<'a>(&self, moved: impl IntoIterator<Item = &'a Moved>) -> bool {
        let state = self.lock();
        moved.into_iter().all(|moved| {
            let entry = state.partitions.get(&moved.partition);
            entry.is_some_and(|entry| entry.assignment == moved.assignment)
        })
    }

    /// A transaction was committed.
    pub(crate) fn transacted<'a>(&self, moved: impl IntoIterator<Item = &'a Moved>) {
        self.watch.counters.committed(true);
        let state = &mut *self.lock();
        for moved in moved {
            let Some(entry) = state.partitions.get_mut(&moved.partition) else {
                continue;
            };
            if entry.assignment == moved.assignment {
                self.tell_partition(FlowKind::Committed, moved.partition, moved.next);
                entry.committed = (moved.next, String::new());
                entry.tracker.committed(moved.next);
                entry.confirmed = moved.verdicts.unwrap_or(entry.confirmed);
            }
        }
        if let Some(staging) = &mut state.staging {
            staging.left();
        }
        self.progress.notify_waiters();
    }

    /// A transaction was aborted, or its predecessor's end was awaited: everything that is not committed comes again, from the
    /// place that the broker tells next. What is with handlers is stale from here on.
    pub(crate) fn rewind(&self, condemned: Option<Condemned>) {
        let state = &mut *self.lock();
        let Some(staging) = &mut state.staging else {
            return;
        };
        staging.condemn(condemned);
        staging.rewind();
        let all: Vec<i32> = state.partitions.keys().copied().collect();
        state.forget(&all);
        for (at, entry) in std::mem::take(&mut state.partitions) {
            state.lost |= entry.verdicts > entry.confirmed;
            self.window.back(entry.handed);
            self.watch.counters.given_up(entry.handed);
            match entry.draining {
                // About to be given up: it does not come again here.
                true => {
                    self.watch.counters.partition(FlowKind::Revoked);
                    self.tell_partition(FlowKind::Revoked, at, entry.committed.0);
                }
                false => drop(state.unplaced.insert(at, Some(entry.tracker.failures()))),
            }
        }
        self.room.notify_one();
        self.progress.notify_waiters();
        self.window.deliverable.notify_one();
    }

    /// These partitions are ours, and where to read on in them can't be told yet.
    pub(crate) fn hold_back(&self, partitions: &[i32]) {
        let state = &mut *self.lock();
        for partition in partitions {
            state.unplaced.entry(*partition).or_default();
        }
    }

    /// The partitions that wait for their place.
    pub(crate) fn unplaced(&self) -> Vec<i32> {
        self.lock().unplaced.keys().copied().collect()
    }

    /// True if no transaction has something of these partitions, and none could take more now.
    pub(crate) fn is_transacted(&self, partitions: &[i32]) -> bool {
        let state = self.lock();
        let open = state.staging.as_ref();
        let open = open.is_some_and(|staging| staging.is_in_transaction(partitions));
        let taken = |p| {
            let entry = state.partitions.get(p);
            entry.is_none_or(|entry| entry.tracker.low_water() == entry.taken)
        };
        !open && partitions.iter().all(taken)
    }

    /// True if a commit should not wait for the clock. It is told until transactions have all that could be in one when it was
    /// asked for: what was settled while the outputs of one were sent is not in that.
    pub(crate) fn take_flush(&self) -> bool {
        let state = &mut *self.lock();
        let asked = state.flush;
        state.flush = asked && state.partitions.values().any(|p| p.taken < p.wanted);
        asked
    }

    /// True if the partition is ours, and not committed up to this offset.
    pub(crate) fn is_before(&self, partition: i32, offset: i64) -> bool {
        let state = self.lock();
        match state.partitions.get(&partition) {
            Some(entry) => entry.committed.0 < offset,
            None => state.unplaced.contains_key(&partition),
        }
    }

    /// Waits until it is so. What changes it tells `progress`.
    pub(crate) async fn until(&self, is: impl Fn(&Self) -> bool) {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            if is(self) {
                return;
            }
            progress.await;
        }
    }

    /// The copy of a record is committed, with the offset that covers the record.
    pub(crate) fn copied_in_transaction(&self, moved: &Move) {
        if let Some(kind) = self.tell_copied(moved) {
            self.tell(kind, &moved.received);
            self.watch.counters.ended(kind);
        }
    }

    /// How many verdicts were given.
    pub(crate) fn verdicts(&self) -> u64 {
        self.lock().done
    }
}
