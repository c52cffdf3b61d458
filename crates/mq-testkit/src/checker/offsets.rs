//! Offsets: what lies where, what each group was given, and what it committed.

use std::collections::{BTreeMap, HashMap};

use super::{
    messages::{Id, Messages},
    pages::Pages,
};

/// Partitions are numbered over all logs.
#[derive(Debug, Default)]
pub(super) struct Offsets {
    /// By partition: the message at each offset, packed, plus one.
    records: Vec<Pages<u64>>,
    /// By group and partition.
    readers: HashMap<(u32, u32), Reader>,
    /// By group, partition and what its epoch is: the highest commit and its event.
    commits: HashMap<(u32, u32, Epoch), (u64, u64)>,
}

/// Within which commits never go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Epoch {
    Number(u64),
    /// Without a number: what one process did.
    File(usize),
}

#[derive(Debug, Default)]
struct Reader {
    /// The highest offset that was delivered, and the event.
    highest: (u64, u64),
    /// Delivered, and not known to be finished when last looked at.
    open: BTreeMap<u64, Id>,
    /// Look at all open ones once there are so many.
    prune_at: usize,
}

impl Offsets {
    /// A message lies at an offset; returns another one that does too.
    pub(super) fn put(&mut self, partition: u32, offset: u64, packed: u64) -> Option<Id> {
        let index = partition as usize;
        if self.records.len() <= index {
            self.records.resize_with(index + 1, Pages::default);
        }
        let record = self.records[index].get_mut(offset);
        match *record {
            0 => *record = packed + 1,
            same if same == packed + 1 => {}
            other => return Some(Id::unpacked(other - 1)),
        }
        None
    }

    /// A group was given a message.
    pub(super) fn delivered(
        &mut self,
        (group, partition): (u32, u32),
        (offset, number): (u64, u64),
        id: Id,
        messages: &Messages,
    ) {
        let reader = self.readers.entry((group, partition)).or_default();
        if offset >= reader.highest.0 {
            reader.highest = (offset, number);
        }
        if messages.had(group, id).is_finished() {
            return;
        }
        reader.open.insert(offset, id);
        if reader.open.len() > reader.prune_at {
            reader
                .open
                .retain(|_, id| !messages.had(group, *id).is_finished());
            // Where nobody commits, only this keeps the finished ones from piling up.
            reader.prune_at = (2 * reader.open.len()).max(PRUNE);
        }
    }

    /// A group committed; returns the lowest offset below that it has not finished.
    pub(super) fn ahead(
        &mut self,
        (group, partition): (u32, u32),
        next: u64,
        messages: &Messages,
    ) -> Option<u64> {
        let reader = self.readers.get_mut(&(group, partition))?;
        while let Some(entry) = reader.open.first_entry() {
            if *entry.key() >= next {
                return None;
            }
            if !messages.had(group, *entry.get()).is_finished() {
                return Some(*entry.key());
            }
            entry.remove();
        }
        None
    }

    /// A group committed; returns the event of an earlier commit that was higher.
    pub(super) fn back(
        &mut self,
        (group, partition): (u32, u32),
        epoch: Epoch,
        (next, number): (u64, u64),
    ) -> Option<u64> {
        let highest = self
            .commits
            .entry((group, partition, epoch))
            .or_insert((next, number));
        if next < highest.0 {
            return Some(highest.1);
        }
        *highest = (next, number);
        None
    }

    /// Each record below the highest that a group was given: partition, offset, message, and the
    /// event of that highest delivery.
    pub(super) fn below(&self, group: u32) -> impl Iterator<Item = (u32, u64, Id, u64)> {
        (0_u32..)
            .zip(&self.records)
            .filter_map(move |(partition, records)| {
                let reader = self.readers.get(&(group, partition))?;
                Some((partition, records, reader.highest))
            })
            .flat_map(|(partition, records, (highest, number))| {
                let records = records.sorted();
                records
                    .take_while(move |(offset, _)| *offset < highest)
                    .filter(|(_, packed)| *packed > 0)
                    .map(move |(offset, packed)| {
                        (partition, offset, Id::unpacked(packed - 1), number)
                    })
            })
    }

    pub(super) fn pages(&self) -> usize {
        self.records.iter().map(Pages::count).sum()
    }

    pub(super) fn bytes(&self) -> usize {
        let records: usize = self.records.iter().map(Pages::bytes).sum();
        let open: usize = self.readers.values().map(|reader| reader.open.len()).sum();
        records + open * 32 + self.readers.capacity() * 64 + self.commits.capacity() * 48
    }
}

const PRUNE: usize = 256;
