//! A group's place in one partition: what is committed, what is open, and who may read on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::Instant;

/// Where a group stands in one partition.
///
/// Records below `committed` are finished. The window holds what became of those handed out since;
/// the next record to hand out for the first time lies behind it.
#[derive(Debug)]
pub(crate) struct Cursor {
    committed: u64,
    window: VecDeque<Slot>,
    /// Records of the window to deliver again, in place.
    again: BTreeSet<u64>,
    /// Failed deliveries of unfinished records; they outlive the member that failed.
    failures: BTreeMap<u64, u32>,
    open: usize,
    /// Counts changes of the owner: a settlement of an earlier one is stale.
    epoch: u32,
    pub(crate) owner: Option<u64>,
    /// Who owns it as soon as nothing is open, or at the deadline.
    pub(crate) heir: Option<(u64, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Open,
    Again,
    Done,
}

impl Cursor {
    pub(crate) fn at(offset: u64) -> Self {
        Self {
            committed: offset,
            window: VecDeque::new(),
            again: BTreeSet::new(),
            failures: BTreeMap::new(),
            open: 0,
            epoch: 0,
            owner: None,
            heir: None,
        }
    }

    /// The lowest offset that is not finished.
    pub(crate) fn committed(&self) -> u64 {
        self.committed
    }

    /// True if this record was finished before one that lies in front of it.
    pub(crate) fn is_done(&self, offset: u64) -> bool {
        let index = offset.checked_sub(self.committed);
        let index = index.and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.window.get(index)) == Some(&Slot::Done)
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// True if nothing is in the hands of a consumer.
    pub(crate) fn is_idle(&self) -> bool {
        self.open == 0
    }

    /// Hands out the next record: one to deliver again, or the one at the end of the window if the
    /// log has it. Its failures and whether it was handed out before come with it.
    pub(crate) fn take(&mut self, end: u64) -> Option<(u64, u32)> {
        let offset = match self.again.pop_first() {
            Some(offset) => offset,
            None => {
                let offset = self.committed + self.window.len() as u64;
                if offset >= end {
                    return None;
                }
                self.window.push_back(Slot::Open);
                offset
            }
        };
        self.set(offset, Slot::Open);
        self.open += 1;
        Some((
            offset,
            self.failures.get(&offset).copied().unwrap_or_default(),
        ))
    }

    /// True while a settlement from this epoch still counts.
    pub(crate) fn is_open(&self, epoch: u32, offset: u64) -> bool {
        epoch == self.epoch
            && offset
                .checked_sub(self.committed)
                .and_then(|index| self.window.get(usize::try_from(index).ok()?))
                == Some(&Slot::Open)
    }

    /// An open record is finished; the committed offset moves up to the first unfinished one.
    pub(crate) fn done(&mut self, offset: u64) {
        self.open -= 1;
        self.set(offset, Slot::Done);
        while self.window.front() == Some(&Slot::Done) {
            self.window.pop_front();
            self.failures.remove(&self.committed);
            self.committed += 1;
        }
    }

    /// An open record is to be delivered again, in place.
    pub(crate) fn back(&mut self, offset: u64, failed: bool) {
        self.open -= 1;
        self.set(offset, Slot::Again);
        self.again.insert(offset);
        if failed {
            self.failed(offset);
        }
    }

    pub(crate) fn failed(&mut self, offset: u64) {
        let count = self.failures.entry(offset).or_default();
        *count = count.saturating_add(1);
    }

    /// Another member goes on from the committed offset.
    pub(crate) fn pass_to(&mut self, owner: Option<u64>) {
        self.owner = owner;
        self.heir = None;
        self.epoch = self.epoch.wrapping_add(1);
        self.window.clear();
        self.again.clear();
        self.open = 0;
    }

    fn set(&mut self, offset: u64, slot: Slot) {
        let index = usize::try_from(offset - self.committed).unwrap_or(usize::MAX);
        if let Some(place) = self.window.get_mut(index) {
            *place = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_committed_offset_waits_for_the_lowest_unfinished_record() {
        let mut cursor = Cursor::at(5);
        for offset in 5..8 {
            assert_eq!(cursor.take(8), Some((offset, 0)));
        }
        assert_eq!(cursor.take(8), None);
        cursor.done(6);
        cursor.done(7);
        assert_eq!(cursor.committed(), 5);
        cursor.back(5, true);
        assert_eq!(cursor.take(8), Some((5, 1)));
        cursor.done(5);
        assert_eq!(cursor.committed(), 8);
    }

    #[test]
    fn a_new_owner_goes_on_from_the_committed_offset_and_the_old_one_is_stale() {
        let mut cursor = Cursor::at(0);
        let epoch = cursor.epoch();
        let _ = (cursor.take(3), cursor.take(3), cursor.take(3));
        cursor.done(0);
        cursor.done(2);
        assert!(cursor.is_open(epoch, 1));
        cursor.pass_to(Some(9));
        assert!(!cursor.is_open(epoch, 1));
        assert_eq!(cursor.take(3), Some((1, 0)));
        assert_eq!(cursor.take(3), Some((2, 0)));
    }

    #[test]
    fn what_comes_back_is_handed_out_lowest_first() {
        let mut cursor = Cursor::at(0);
        let _ = (cursor.take(4), cursor.take(4), cursor.take(4));
        cursor.back(2, false);
        cursor.back(0, true);
        assert_eq!(cursor.take(4), Some((0, 1)));
        assert_eq!(cursor.take(4), Some((2, 0)));
        assert_eq!(cursor.take(4), Some((3, 0)));
    }

    proptest! {
        /// Whatever the order of settlements, the committed offset is the lowest offset that a
        /// naive model has not finished, and each open record can be settled.
        #[test]
        fn agrees_with_a_naive_model(steps in prop::collection::vec((0_u8..4, any::<u8>()), 1..200)) {
            let (mut cursor, mut open, mut done) = (Cursor::at(0), Vec::new(), BTreeSet::new());
            for (step, pick) in steps {
                let index = usize::from(pick) % open.len().max(1);
                match step {
                    1 if !open.is_empty() => {
                        let offset = open.swap_remove(index);
                        cursor.done(offset);
                        done.insert(offset);
                    }
                    2 if !open.is_empty() => cursor.back(open.swap_remove(index), pick % 2 == 0),
                    3 if pick < 8 => {
                        cursor.pass_to(None);
                        let lowest = cursor.committed();
                        open.clear();
                        done.retain(|offset| *offset < lowest);
                    }
                    _ => if let Some((offset, _)) = cursor.take(64) {
                        prop_assert!(!open.contains(&offset) && !done.contains(&offset));
                        open.push(offset);
                    }
                }
                let expected = (0..).find(|offset| !done.contains(offset));
                prop_assert_eq!(Some(cursor.committed()), expected);
                prop_assert!(open.iter().all(|offset| cursor.is_open(cursor.epoch(), *offset)));
                prop_assert_eq!(cursor.is_idle(), open.is_empty());
            }
        }
    }
}
