//! What a ledger knows: the state behind its lock.

use std::collections::{BTreeMap, HashMap, VecDeque};

use mq_core::{Error, Received};
use tokio::time::Instant;

use super::{
    keys::Keys,
    marks::Marks,
    moves::{Move, What},
    staging::Staging,
    tracker::Tracker,
    waiting::{WAITING, WAITING_BYTES, Waiting},
};

/// The deliveries of all partitions.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) partitions: HashMap<i32, Partition>,
    pub(super) ready: VecDeque<Ready>,
    pub(super) ready_bytes: usize,
    /// Given back in place, in the order of the log: delivered before what is buffered.
    pub(super) again: BTreeMap<(i32, u64), Received>,
    /// Deferred: not to be handed out before its time.
    pub(super) waiting: BTreeMap<(Instant, i32, u64), Waiting>,
    /// Where the order of keys is kept.
    pub(super) keys: Option<Keys>,
    pub(super) moves: Vec<Move>,
    pub(super) moves_open: usize,
    /// Verdicts that were given; up to which of them a commit was asked for, and up to which one was taken.
    pub(super) done: u64,
    pub(super) asked: u64,
    pub(super) saved: u64,
    /// The last commit was not taken.
    pub(super) refused: bool,
    pub(super) flush: bool,
    /// A verdict was given that can no longer reach the broker.
    pub(super) lost: bool,
    pub(super) ended: Option<Option<Error>>,
    /// Somebody has asked for deliveries; before that nothing is committed.
    pub(super) asked_for: bool,
    /// Partitions that are ours and have no place to read from; of one that had a place, the failures of its records.
    pub(super) unplaced: BTreeMap<i32, Option<Marks>>,
    /// Where verdicts wait for a transaction, if that is how they reach the broker.
    pub(super) staging: Option<Staging>,
}

/// The deliveries of one assignment of a partition.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) assignment: u64,
    pub(super) tracker: Tracker,
    pub(super) committed: (i64, String),
    /// Up to where transactions have taken it.
    pub(super) taken: i64,
    /// Up to where a commit was asked for that does not wait for the clock.
    pub(super) wanted: i64,
    /// Verdicts that were given, and up to which of them the broker has them.
    pub(super) verdicts: u64,
    pub(super) confirmed: u64,
    pub(super) handed: usize,
    /// Records that wait for their time or behind one of their key, and their size.
    pub(super) waiting: usize,
    pub(super) waiting_bytes: usize,
    /// About to be given up: nothing more is handed out.
    pub(super) draining: bool,
    /// Where its log ended when somebody last looked: what a reader may read.
    pub(super) end: Option<i64>,
    /// The transaction that was open at `end` then.
    pub(super) held: Option<Held>,
    /// The record that was told to be stalled last.
    pub(super) told: Option<i64>,
}

/// An open transaction, which holds up what lies behind its first record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Offsets to the high watermark.
    pub(super) unstable: i64,
    /// When it was seen first.
    pub(super) since: u32,
    /// It was told to be open for too long.
    pub(super) told: bool,
}

/// A buffered delivery.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) tag: Tag,
    pub(super) received: Received,
}

/// What may be committed, and of all partitions how many verdicts were given before it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) places: Vec<Place>,
    pub(super) done: Option<u64>,
}

/// What may be committed of one partition, and how many verdicts that covers.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) metadata: String,
    /// It differs from what was committed last.
    pub(crate) changed: bool,
    pub(super) assignment: u64,
    /// `None` if the metadata had no room for all of them.
    pub(super) verdicts: Option<u64>,
}

/// Names a delivery: which assignment of which partition, and the slot in its tracker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag {
    pub(super) partition: i32,
    pub(super) assignment: u64,
    pub(super) seq: u64,
}

#[cfg(feature = "legacy")]
impl Snapshot {
    /// The same for a client that commits an offset and no text beside it: what is settled above the
    /// offset does not reach the broker.
    pub(crate) fn without_marks(mut self) -> Self {
        for place in &mut self.places {
            if Marks::parse(&place.metadata, place.offset).has_done() {
                place.verdicts = None;
            }
            place.metadata.clear();
        }
        self
    }
}

impl State {
    /// The partition that a delivery came from, if it is still the same assignment.
    pub(super) fn partition(&mut self, tag: Tag) -> Option<&mut Partition> {
        let entry = self.partitions.get_mut(&tag.partition)?;
        (entry.assignment == tag.assignment).then_some(entry)
    }

    /// True while what is handed out could not be committed soon: if this process dies, it comes again.
    ///
    /// That is after twice the verdicts that make a commit due, so that work goes on while one is
    /// under way.
    pub(super) fn is_held_up(&self, commit_after: u64) -> bool {
        match &self.staging {
            Some(staging) => staging.is_full(),
            None => self.refused || self.done - self.saved >= 2 * commit_after,
        }
    }

    /// True if anything may be handed out. In a transaction nothing passes a record that is not done, so what was given back, and
    /// what the transaction waits for, comes also while the rest is held up.
    pub(super) fn hands_out(&self, commit_after: u64) -> bool {
        self.staging.is_some() || !self.is_held_up(commit_after)
    }

    /// True if transactions stand still in a partition until this record is done: it is the lowest one that is not, and all below
    /// it is in a transaction.
    pub(super) fn is_waited_for(&self, partition: i32, seq: u64) -> bool {
        let owner = self.partitions.get(&partition);
        let lowest = owner.is_some_and(|owner| owner.tracker.first() == seq);
        let staging = self.staging.as_ref().filter(|_| lowest);
        staging.is_some_and(|staging| !staging.holds_below(partition, seq))
    }

    /// A record that nobody has is done, and leaves for another topic in the next transaction.
    pub(super) fn stage_move(&mut self, tag: Tag, received: &Received, what: What) {
        let Some(staging) = &mut self.staging else {
            return;
        };
        staging.settled(tag, received, Some(what));
        if let Some(owner) = self.partitions.get_mut(&tag.partition) {
            owner.tracker.done(tag.seq);
            owner.verdicts += 1;
        }
        self.done += 1;
    }

    pub(super) fn next(&mut self, commit_after: u64) -> Option<(Tag, Received)> {
        if let Some(((partition, seq), received)) = self.again.pop_first() {
            let assignment = self.partitions.get(&partition).map_or(0, |p| p.assignment);
            let tag = Tag {
                partition,
                assignment,
                seq,
            };
            return Some((tag, received));
        }
        let at = match self.is_held_up(commit_after) {
            // It may lie behind what others have to wait with.
            true => {
                let mut tags = self.ready.iter().map(|ready| ready.tag);
                tags.position(|tag| self.is_waited_for(tag.partition, tag.seq))?
            }
            false => 0,
        };
        let ready = self.ready.remove(at)?;
        self.ready_bytes -= ready.received.message().size();
        Some((ready.tag, ready.received))
    }

    /// Gives the delivery back if it may be handed out; where the order of keys is kept, it may have
    /// to wait behind an earlier one.
    pub(super) fn enter(&mut self, tag: Tag, received: Received) -> Option<Received> {
        let Some(keys) = &mut self.keys else {
            return Some(received);
        };
        let size = received.size();
        let turn = keys.enter(tag, received);
        if let (None, Some(owner)) = (&turn, self.partitions.get_mut(&tag.partition)) {
            owner.waiting += 1;
            owner.waiting_bytes += size;
        }
        turn
    }

    pub(super) fn forget(&mut self, partitions: &[i32]) {
        self.ready
            .retain(|r| !partitions.contains(&r.tag.partition));
        self.ready_bytes = self.ready.iter().map(|r| r.received.message().size()).sum();
        self.again
            .retain(|(partition, _), _| !partitions.contains(partition));
        self.waiting
            .retain(|(_, partition, _), _| !partitions.contains(partition));
        if let Some(keys) = &mut self.keys {
            keys.forget(partitions);
        }
        for partition in partitions {
            if let Some(entry) = self.partitions.get_mut(partition) {
                (entry.waiting, entry.waiting_bytes) = (0, 0);
            }
        }
    }
}

impl Partition {
    /// True if it is to take no more for now.
    pub(super) fn is_clogged(&self) -> bool {
        self.tracker.len() >= RING || self.waiting >= WAITING || self.waiting_bytes >= WAITING_BYTES
    }

    pub(super) fn place(&self, partition: i32) -> Place {
        let offset = self.tracker.low_water();
        let (metadata, complete) = self.tracker.marks().encode(offset);
        Place {
            partition,
            changed: offset != self.committed.0 || metadata != self.committed.1,
            offset,
            metadata,
            assignment: self.assignment,
            // Verdicts that do not fit reach the broker when the watermark passes them.
            verdicts: complete.then_some(self.verdicts),
        }
    }
}

impl Tag {
    /// 24 bits of assignment, 40 of slot: neither runs out in the life of a consumer.
    pub(super) fn pack(self) -> u64 {
        self.assignment << SEQ_BITS | self.seq & SEQ_MASK
    }

    pub(super) fn unpack(partition: i32, tag: u64) -> Self {
        Self {
            partition,
            assignment: tag >> SEQ_BITS,
            seq: tag & SEQ_MASK,
        }
    }
}

/// The same message at a later attempt.
pub(super) fn again(received: Received, failures: u32) -> Received {
    if failures == 0 {
        return received;
    }
    let attempt = received.attempt().saturating_add(failures);
    received.with_attempt(attempt)
}

/// Records of one partition between its watermark and its newest one.
const RING: usize = 20_000;
const SEQ_BITS: u32 = 40;
const SEQ_MASK: u64 = (1 << SEQ_BITS) - 1;
