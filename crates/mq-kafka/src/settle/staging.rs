//! What waits for a transaction: of each settled record its outputs, in the order of the log.
//!
//! A record's outputs leave this buffer together with the offset that covers the record, never before: so a transaction
//! holds the outputs of exactly the records whose offsets it commits.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use krafka::Record;
use mq_core::{Received, Rejection, flow::PublishFlow};

use super::book::Tag;

/// The verdicts of one consumer that no transaction has taken yet.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    /// Outputs whose verdict follows at once, by partition and tag.
    announced: HashMap<(i32, u64), Vec<Output>>,
    /// What is settled, by partition and slot.
    staged: HashMap<i32, BTreeMap<u64, Staged>>,
    count: usize,
    bytes: usize,
    /// Partitions of which a transaction has something that is not committed yet.
    in_transaction: HashSet<i32>,
    /// Records whose outputs the broker refused for good.
    condemned: HashMap<(i32, i64), Box<Rejection>>,
}

/// A record that can't be published as it is: partition, offset, why.
pub(crate) type Condemned = (i32, i64, Box<Rejection>);

/// A message to publish in the transaction of the record that it comes from.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) record: Record,
    pub(crate) flow: Option<Box<PublishFlow>>,
}

/// A record that is settled, with all that goes with it.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) offset: i64,
    pub(crate) outputs: Vec<Output>,
    /// Its copy goes to the dead-letter home.
    pub(crate) dead: Option<(Received, Box<Rejection>)>,
    bytes: usize,
}

/// What a transaction takes of one partition.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) partition: i32,
    pub(crate) assignment: u64,
    /// Where the group goes on once it is committed.
    pub(crate) next: i64,
    pub(crate) staged: Vec<Staged>,
    /// How many verdicts that covers; `None` if there are more.
    pub(super) verdicts: Option<u64>,
}

impl Staged {
    fn new(offset: i64, outputs: Vec<Output>, dead: Option<(Received, Box<Rejection>)>) -> Self {
        let outputs_bytes: usize = outputs.iter().map(|o| o.record.estimated_size()).sum();
        let dead_bytes = dead.as_ref().map_or(0, |(r, _)| r.message().size());
        Self {
            offset,
            outputs,
            dead,
            bytes: outputs_bytes + dead_bytes,
        }
    }

    /// A record that goes to the dead letters without having been handled again.
    pub(super) fn rejected(offset: i64, received: Received, why: Box<Rejection>) -> Self {
        Self::new(offset, Vec::new(), Some((received, why)))
    }
}

impl Staging {
    /// True if no more records should be handed out until a transaction has taken some.
    pub(super) fn is_full(&self) -> bool {
        self.count >= STAGED || self.bytes >= STAGED_BYTES
    }

    /// Outputs of the delivery whose verdict is about to be given.
    pub(super) fn announce(&mut self, partition: i32, tag: u64, outputs: Vec<Output>) {
        self.announced.insert((partition, tag), outputs);
    }

    /// The verdict was not taken.
    pub(super) fn retract(&mut self, partition: i32, tag: u64) {
        self.announced.remove(&(partition, tag));
    }

    pub(super) fn acked(&mut self, tag: Tag, received: &Received) {
        self.settled(tag, received, None);
    }

    pub(super) fn rejected(&mut self, tag: Tag, received: &Received, why: Box<Rejection>) {
        self.settled(tag, received, Some((received.clone(), why)));
    }

    fn settled(&mut self, tag: Tag, received: &Received, dead: Option<(Received, Box<Rejection>)>) {
        let outputs = self.announced.remove(&(tag.partition, tag.pack()));
        let offset = received.position().map_or(0, |p| p.offset);
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let staged = Staged::new(offset, outputs.unwrap_or_default(), dead);
        self.stage(tag.partition, tag.seq, staged);
    }

    pub(super) fn stage(&mut self, partition: i32, seq: u64, staged: Staged) {
        self.count += 1;
        self.bytes += staged.bytes;
        self.staged
            .entry(partition)
            .or_default()
            .insert(seq, staged);
    }

    /// Takes at most `max` records of a partition, all of them below the slot `first`; and whether any settled one is left.
    pub(super) fn take(&mut self, partition: i32, first: u64, max: usize) -> (Vec<Staged>, bool) {
        let Some(all) = self.staged.get_mut(&partition) else {
            return (Vec::new(), false);
        };
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(entry) = all.first_entry()
            && *entry.key() < first
        {
            taken.push(entry.remove());
        }
        self.count -= taken.len();
        self.bytes -= taken.iter().map(|staged| staged.bytes).sum::<usize>();
        (taken, !all.is_empty())
    }

    pub(super) fn entered(&mut self, partition: i32) {
        self.in_transaction.insert(partition);
    }

    /// The transaction has ended.
    pub(super) fn left(&mut self) {
        self.in_transaction.clear();
    }

    pub(super) fn is_in_transaction(&self, partitions: &[i32]) -> bool {
        partitions.iter().any(|p| self.in_transaction.contains(p))
    }

    /// Everything comes again.
    pub(super) fn rewind(&mut self) {
        self.staged.clear();
        (self.count, self.bytes) = (0, 0);
        self.in_transaction.clear();
    }

    pub(super) fn condemn(&mut self, condemned: Vec<Condemned>) {
        for (partition, offset, why) in condemned {
            self.condemned.insert((partition, offset), why);
        }
    }

    /// Why this record goes to the dead letters, told once.
    pub(super) fn condemned(&mut self, partition: i32, offset: i64) -> Option<Box<Rejection>> {
        match self.condemned.is_empty() {
            true => None,
            false => self.condemned.remove(&(partition, offset)),
        }
    }

    /// These are no longer ours.
    pub(super) fn remove(&mut self, partitions: &[i32]) {
        let gone: BTreeSet<i32> = partitions.iter().copied().collect();
        for partition in partitions {
            let staged = self.staged.remove(partition).unwrap_or_default();
            self.count -= staged.len();
            self.bytes -= staged.values().map(|staged| staged.bytes).sum::<usize>();
        }
        self.condemned.retain(|(p, _), _| !gone.contains(p));
    }
}

/// Records that wait for a transaction before nothing more is handed out.
const STAGED: usize = 10_000;
/// Bytes of outputs that wait for a transaction before nothing more is handed out.
const STAGED_BYTES: usize = 32 * 1024 * 1024;
