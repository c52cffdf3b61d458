//! The watermark of one partition: which records are done, and what may be committed.

use std::collections::VecDeque;

use super::marks::{Mark, Marks};

/// Tracks the records of one partition from the committed offset on.
///
/// A ring of slots in the order of the log. Records are done in any order; only what lies below
/// the lowest record that is not done may be committed (rule K2). Offsets may have gaps.
#[derive(Debug)]
pub(crate) struct Tracker {
    slots: VecDeque<Slot>,
    /// The sequence number of the front slot; slots are numbered from 0 in the order of `push`.
    first: u64,
    /// The offset after the last record that was pushed.
    next: i64,
    /// What the last owner knew about the records from its committed offset on.
    inherited: Marks,
    /// Failures of records below the watermark that are not known to be committed.
    passed: Vec<(i64, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    offset: i64,
    state: State,
    /// Deliveries that ended in a failure.
    failures: u32,
    /// When it is due, in milliseconds since 1970; 0 if it is not deferred.
    due: u64,
    /// The record's own time, in ms since 1970.
    time: i64,
    /// Since when it waits for a handler, or is with one, in the caller's seconds. That is later than
    /// now if it is not due yet.
    since: u32,
}

/// The lowest record that is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oldest {
    pub(crate) offset: i64,
    /// The record's own time, in ms since 1970.
    pub(crate) time: i64,
    /// Since when it waits for a handler, or is with one, in the caller's seconds.
    pub(crate) since: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not handed out, or given back.
    Waiting,
    /// Handed out, no verdict yet.
    Out,
    /// Will not be delivered again.
    Done,
}

/// What [`Tracker::push`] found out about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// To be delivered: its number, and how many deliveries of it have failed before.
    Deliver {
        /// The number of its slot.
        seq: u64,
        /// Failed deliveries, known from the committed metadata.
        failures: u32,
        /// When it is due, in milliseconds since 1970; 0 if it was not deferred.
        due: u64,
    },
    /// An earlier owner has settled it.
    Settled,
}

impl Tracker {
    /// Starts at a committed offset, with the marks that were committed with it.
    pub(crate) fn new(committed: i64, inherited: Marks) -> Self {
        Self {
            slots: VecDeque::new(),
            first: 0,
            next: committed,
            inherited,
            passed: Vec::new(),
        }
    }

    /// Takes in the next record of the log, with its own time and that of now.
    pub(crate) fn push(&mut self, offset: i64, time: i64, now: u32) -> Pushed {
        let seq = self.first + self.slots.len() as u64;
        let (state, failures, due) = match self.inherited.get(offset) {
            Some(Mark::Done) => (State::Done, 0, 0),
            Some(Mark::Failed(failures)) => (State::Waiting, failures, 0),
            Some(Mark::Deferred(failures, due)) => (State::Waiting, failures, due),
            None => (State::Waiting, 0, 0),
        };
        self.append(Slot {
            offset,
            state,
            failures,
            due,
            time,
            since: now,
        });
        match state {
            State::Done => Pushed::Settled,
            _ => Pushed::Deliver { seq, failures, due },
        }
    }

    /// Takes in a record that is not for this subscription, or expired.
    pub(crate) fn skip(&mut self, offset: i64) {
        self.append(Slot {
            offset,
            state: State::Done,
            failures: 0,
            due: 0,
            time: 0,
            since: 0,
        });
    }

    fn append(&mut self, slot: Slot) {
        self.next = slot.offset + 1;
        self.slots.push_back(slot);
        self.advance();
    }

    /// Notes that the record is with a handler from now on.
    pub(crate) fn hand_out(&mut self, seq: u64, now: u32) {
        if let Some(slot) = self.slot(seq) {
            slot.state = State::Out;
            slot.due = 0;
            slot.since = now;
        }
    }

    /// Marks a record as done.
    pub(crate) fn done(&mut self, seq: u64) {
        if let Some(slot) = self.slot(seq) {
            slot.state = State::Done;
        }
        self.advance();
    }

    /// Takes a record back, to be delivered again; returns how many deliveries have failed.
    pub(crate) fn give_back(&mut self, seq: u64, failed: bool) -> u32 {
        let Some(slot) = self.slot(seq) else { return 0 };
        slot.state = State::Waiting;
        slot.failures = slot.failures.saturating_add(u32::from(failed));
        slot.failures
    }

    /// Takes a record back after a failure, not to be delivered before this time.
    pub(crate) fn defer(&mut self, seq: u64, due: u64) {
        self.give_back(seq, true);
        if let Some(slot) = self.slot(seq) {
            slot.due = due;
        }
    }

    /// Notes that nobody can have the record before then.
    pub(crate) fn wait(&mut self, seq: u64, since: u32) {
        if let Some(slot) = self.slot(seq) {
            slot.since = since;
        }
    }

    /// The offset that may be committed: that of the lowest record that is not done, or the next
    /// one of the log.
    pub(crate) fn low_water(&self) -> i64 {
        self.slots.front().map_or(self.next, |slot| slot.offset)
    }

    /// The number of the lowest record that is not done: all below it are.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The broker has this offset: what lies below it does not come again.
    pub(crate) fn committed(&mut self, offset: i64) {
        self.passed.retain(|(passed, _)| *passed >= offset);
    }

    /// What is to be known of the records from the committed offset on if all of them come again: how often each has failed, also
    /// of those that are done, and what was inherited of those that were not read yet.
    pub(crate) fn failures(&self) -> Marks {
        let slots = self.slots.iter().map(|slot| (slot.offset, slot.failures));
        let failed = self.passed.iter().copied().chain(slots);
        let failed = failed.filter(|(_, failures)| *failures > 0);
        let mut marks: Marks = failed
            .map(|(offset, failures)| (offset, Mark::Failed(failures)))
            .collect();
        marks.extend_from(&self.inherited, self.next);
        marks
    }

    /// The offset after the last record that was pushed.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// The lowest record that is not done, if one was taken in.
    pub(crate) fn oldest(&self) -> Option<Oldest> {
        self.slots.front().map(|slot| Oldest {
            offset: slot.offset,
            time: slot.time,
            since: slot.since,
        })
    }

    /// How many records lie between the watermark and the newest one.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// What to commit with the watermark: the records above it that are done, and the failures of
    /// those that are not. A record that is handed out counts as failed, since nobody will be able
    /// to say otherwise if this process dies now.
    pub(crate) fn marks(&self) -> Marks {
        let known = self.slots.iter().filter_map(|slot| {
            let mark = match (slot.state, slot.failures) {
                (State::Done, _) => Mark::Done,
                (State::Out, failures) => Mark::Failed(failures.saturating_add(1)),
                (State::Waiting, 0) => return None,
                (State::Waiting, failures) if slot.due > 0 => Mark::Deferred(failures, slot.due),
                (State::Waiting, failures) => Mark::Failed(failures),
            };
            Some((slot.offset, mark))
        });
        let mut marks: Marks = known.collect();
        // What was inherited for records that were not read again yet still holds.
        marks.extend_from(&self.inherited, self.next);
        marks
    }

    fn slot(&mut self, seq: u64) -> Option<&mut Slot> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(index)
    }

    fn advance(&mut self) {
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.state == State::Done) {
            self.first += 1;
            if slot.failures > 0 {
                self.passed.push((slot.offset, slot.failures));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn delivered(tracker: &mut Tracker, offset: i64) -> (u64, u32) {
        match tracker.push(offset, 0, 0) {
            Pushed::Deliver { seq, failures, .. } => (seq, failures),
            Pushed::Settled => panic!("{offset} is settled"),
        }
    }

    #[test]
    fn commits_below_the_lowest_open_record() {
        let mut tracker = Tracker::new(10, Marks::default());
        let (a, _) = delivered(&mut tracker, 10);
        let (b, _) = delivered(&mut tracker, 11);
        tracker.done(b);
        assert_eq!(tracker.low_water(), 10);
        tracker.done(a);
        assert_eq!((tracker.low_water(), tracker.len()), (12, 0));
    }

    #[test]
    fn a_new_owner_knows_until_when_a_record_waits() {
        let mut tracker = Tracker::new(0, Marks::default());
        let (seq, _) = delivered(&mut tracker, 0);
        tracker.hand_out(seq, 0);
        tracker.defer(seq, 77);
        let mut again = Tracker::new(0, tracker.marks());
        let expected = Pushed::Deliver {
            seq: 0,
            failures: 1,
            due: 77,
        };
        assert_eq!(again.push(0, 0, 0), expected);
        // In work it is a failure like any other.
        again.hand_out(0, 0);
        assert_eq!(again.marks().get(0), Some(Mark::Failed(2)));
    }

    #[test]
    fn a_new_owner_knows_what_was_done_and_what_failed() {
        let mut tracker = Tracker::new(0, Marks::default());
        let seqs: Vec<u64> = (0..4).map(|o| delivered(&mut tracker, o).0).collect();
        seqs.iter().for_each(|seq| tracker.hand_out(*seq, 0));
        assert_eq!(tracker.give_back(seqs[0], true), 1);
        tracker.done(seqs[1]);
        assert_eq!(tracker.give_back(seqs[2], false), 0);
        // 0 failed once, 1 is done, 2 was handed back, 3 is with a handler.
        let (text, complete) = tracker.marks().encode(tracker.low_water());
        assert!(complete);
        let mut next = Tracker::new(0, Marks::parse(&text, 0));
        assert_eq!(delivered(&mut next, 0).1, 1);
        assert_eq!(next.push(1, 0, 0), Pushed::Settled);
        assert_eq!(delivered(&mut next, 2).1, 0);
        assert_eq!(delivered(&mut next, 3).1, 1);
    }

    #[test]
    fn failures_are_known_until_the_record_is_committed() {
        let mut tracker = Tracker::new(0, Marks::default());
        let seqs: Vec<u64> = (0..4).map(|o| delivered(&mut tracker, o).0).collect();
        // 0 and 1 are done after a failure, and so is 3, above the watermark.
        for seq in [0, 1, 3] {
            tracker.give_back(seqs[seq], true);
            tracker.done(seqs[seq]);
        }
        let failed = |tracker: &Tracker| {
            let failures = tracker.failures();
            (0..4).filter_map(move |offset| Some((offset, failures.get(offset)?)))
        };
        let once = |offset| (offset, Mark::Failed(1));
        assert!(failed(&tracker).eq([once(0), once(1), once(3)]));
        tracker.committed(1);
        assert!(failed(&tracker).eq([once(1), once(3)]));
        // It goes back before the records are read again.
        let again = Tracker::new(1, tracker.failures());
        assert!(failed(&again).eq([once(1), once(3)]));
    }

    #[test]
    fn keeps_inherited_marks_of_records_not_read_yet() {
        let marks: Marks = [(5, Mark::Done), (6, Mark::Failed(3))]
            .into_iter()
            .collect();
        let mut tracker = Tracker::new(4, marks);
        delivered(&mut tracker, 4);
        let (text, _) = tracker.marks().encode(4);
        let again = Marks::parse(&text, 4);
        assert_eq!(again.get(5), Some(Mark::Done));
        assert_eq!(again.get(6), Some(Mark::Failed(3)));
    }

    #[test]
    fn the_oldest_record_is_the_one_that_holds_the_watermark() {
        let mut tracker = Tracker::new(10, Marks::default());
        assert_eq!(tracker.oldest(), None);
        let seqs: Vec<u64> = [(10, 500), (12, 400)]
            .into_iter()
            .map(|(offset, time)| match tracker.push(offset, time, 1) {
                Pushed::Deliver { seq, .. } => seq,
                Pushed::Settled => panic!("{offset} is settled"),
            })
            .collect();
        tracker.hand_out(seqs[0], 3);
        let oldest = |offset, time, since| {
            Some(Oldest {
                offset,
                time,
                since,
            })
        };
        assert_eq!(tracker.oldest(), oldest(10, 500, 3));
        tracker.done(seqs[0]);
        assert_eq!(tracker.oldest(), oldest(12, 400, 1));
        tracker.done(seqs[1]);
        assert_eq!(tracker.oldest(), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push { gap: i64 },
        Skip { gap: i64 },
        Done(usize),
        Back(usize, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..3_i64).prop_map(|gap| Step::Push { gap }),
            (0..3_i64).prop_map(|gap| Step::Skip { gap }),
            (0..64_usize).prop_map(Step::Done),
            (0..64_usize, any::<bool>()).prop_map(|(i, f)| Step::Back(i, f)),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against a model that keeps every record for ever and looks at all of them each time.
        #[test]
        fn the_watermark_never_passes_an_unfinished_record(start in 0..1000_i64, steps in steps()) {
            let mut tracker = Tracker::new(start, Marks::default());
            let mut model: BTreeMap<i64, (bool, u32)> = BTreeMap::new();
            let mut seqs: Vec<(u64, i64)> = Vec::new();
            let mut next = start;
            for step in steps {
                match step {
                    Step::Push { gap } => {
                        let (seq, _) = delivered(&mut tracker, next + gap);
                        seqs.push((seq, next + gap));
                        model.insert(next + gap, (false, 0));
                        next += gap + 1;
                    }
                    Step::Skip { gap } => {
                        tracker.skip(next + gap);
                        model.insert(next + gap, (true, 0));
                        next += gap + 1;
                    }
                    Step::Done(i) if !seqs.is_empty() => {
                        let (seq, offset) = seqs.swap_remove(i % seqs.len());
                        tracker.done(seq);
                        model.insert(offset, (true, 0));
                    }
                    Step::Back(i, failed) if !seqs.is_empty() => {
                        let (seq, offset) = seqs[i % seqs.len()];
                        let failures = tracker.give_back(seq, failed);
                        let entry = model.get_mut(&offset).expect("known");
                        entry.1 += u32::from(failed);
                        prop_assert_eq!(failures, entry.1);
                    }
                    _ => {}
                }
                let open = model.iter().find(|(_, (done, _))| !done);
                prop_assert_eq!(tracker.low_water(), open.map_or(next, |(o, _)| *o));
                let marks = tracker.marks();
                for (offset, (done, failures)) in model.range(tracker.low_water()..) {
                    let expected = match (done, failures) {
                        (true, _) => Some(Mark::Done),
                        (false, 0) => None,
                        (false, n) => Some(Mark::Failed(*n)),
                    };
                    prop_assert_eq!(marks.get(*offset), expected);
                }
            }
        }
    }
}
