//! What waits for a transaction: of each settled record its outputs, in the order of the log.
//!
//! A record's outputs leave this buffer together with the offset that covers the record, never before: so a transaction
//! holds the outputs of exactly the records whose offsets it commits.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use krafka::Record;
use mq_core::{Received, Rejection, flow::PublishFlow};

use super::{
    announced::Announced,
    book::Tag,
    moves::{Move, What},
};

/// The verdicts of one consumer that no transaction has taken yet.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    /// Where the outputs of a verdict are.
    announced: Arc<Announced>,
    /// What is settled, by partition and slot.
    staged: HashMap<i32, BTreeMap<u64, Staged>>,
    count: usize,
    bytes: usize,
    /// Partitions of which a transaction has something that is not committed yet.
    in_transaction: HashSet<i32>,
    /// The partition that is asked first, or the next one behind it.
    turn: i32,
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
    /// Its copy goes to another topic.
    pub(crate) moved: Option<Move>,
    bytes: usize,
}

/// How much more a transaction may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    records: usize,
    /// Of their outputs and copies. The last record may be over it: else one that is larger would never be taken.
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

impl Room {
    /// For so many records, in a transaction that has so many bytes. It is bounded as what waits for it is: the copies of records
    /// stay with it until it is committed.
    pub(crate) fn new(records: usize, bytes: usize) -> Self {
        Self {
            records,
            bytes: STAGED_BYTES.saturating_sub(bytes),
        }
    }

    pub(crate) fn is_none(self) -> bool {
        self.records == 0 || self.bytes == 0
    }
}

impl Slice {
    /// The size of all outputs and copies.
    pub(crate) fn bytes(&self) -> usize {
        self.staged.iter().map(|staged| staged.bytes).sum()
    }
}

impl Staged {
    fn new(offset: i64, outputs: Vec<Output>, moved: Option<Move>) -> Self {
        let outputs_bytes: usize = outputs.iter().map(|o| o.record.estimated_size()).sum();
        let moved_bytes = moved.as_ref().map_or(0, |m| m.received.message().size());
        Self {
            offset,
            outputs,
            moved,
            bytes: outputs_bytes + moved_bytes,
        }
    }
}

impl Staging {
    /// Takes outputs from there.
    pub(super) fn new(announced: Arc<Announced>) -> Self {
        Self {
            announced,
            ..Self::default()
        }
    }

    /// True if no more records should be handed out until a transaction has taken some.
    pub(super) fn is_full(&self) -> bool {
        self.count >= STAGED || self.bytes >= STAGED_BYTES
    }

    /// Takes in a record that is done, with its outputs and where it goes from here, if it does.
    pub(super) fn settled(&mut self, tag: Tag, received: &Received, what: Option<What>) {
        let outputs = self.announced.take(tag.pack());
        let offset = received.position().map_or(0, |p| p.offset);
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let moved = what.map(|what| Move {
            received: received.clone(),
            what,
            tag,
        });
        let staged = Staged::new(offset, outputs, moved);
        self.count += 1;
        self.bytes += staged.bytes;
        self.staged
            .entry(tag.partition)
            .or_default()
            .insert(tag.seq, staged);
    }

    /// True if something of the partition is left below this slot.
    pub(super) fn holds_below(&self, partition: i32, seq: u64) -> bool {
        let lowest = self.staged.get(&partition).and_then(|s| s.keys().next());
        lowest.is_some_and(|lowest| *lowest < seq)
    }

    /// Takes records of a partition, as far as there is room, all of them below the slot `first`; and whether any settled one is
    /// left.
    pub(super) fn take(
        &mut self,
        partition: i32,
        first: u64,
        room: &mut Room,
    ) -> (Vec<Staged>, bool) {
        let Some(all) = self.staged.get_mut(&partition) else {
            return (Vec::new(), false);
        };
        let mut taken = Vec::new();
        while !room.is_none()
            && let Some(entry) = all.first_entry()
            && *entry.key() < first
        {
            let staged = entry.remove();
            room.records -= 1;
            room.bytes = room.bytes.saturating_sub(staged.bytes);
            self.count -= 1;
            self.bytes -= staged.bytes;
            taken.push(staged);
        }
        if !taken.is_empty() {
            self.turn = partition.saturating_add(1);
        }
        (taken, !all.is_empty())
    }

    /// Puts partitions into the order in which they are asked: from the one after the last that something was taken of, so that each
    /// has its turn, however much the others have.
    pub(super) fn in_turn(&self, partitions: &mut [i32]) {
        partitions.sort_unstable();
        let at = partitions.partition_point(|partition| *partition < self.turn);
        partitions.rotate_left(at);
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

    pub(super) fn condemn(&mut self, condemned: Option<Condemned>) {
        if let Some((partition, offset, why)) = condemned {
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
