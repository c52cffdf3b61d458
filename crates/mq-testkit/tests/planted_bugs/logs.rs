//! Consumers of a log that commit offsets themselves, with planted bugs. The in-process broker
//! commits only what is settled, so the log is the test's own.

use std::collections::BTreeSet;

use mq_memory::core::Position;
use mq_testkit::history::{Event, Recorder, Tag};

use crate::lab::{Lab, QUEUE, record, some};

const COUNT: u64 = 40;

/// One partition.
struct Log {
    records: Vec<Tag>,
}

/// A member of the group that reads it.
struct Member<'l> {
    log: &'l Log,
    recorder: Recorder,
    epoch: u64,
    done: BTreeSet<u64>,
    committed: u64,
}

pub(crate) fn at(offset: u64) -> Position {
    Position {
        partition: 0,
        offset,
    }
}

impl Log {
    fn filled(lab: &Lab) -> Self {
        let recorder = lab.recorder("producer");
        let records = some(&recorder.tags(), COUNT);
        for (offset, tag) in (0..).zip(&records) {
            record(&recorder, Event::send(tag));
            record(&recorder, Event::ok(tag).at(QUEUE, at(offset)));
        }
        Self { records }
    }

    fn end(&self) -> u64 {
        self.records.len() as u64
    }
}

impl<'l> Member<'l> {
    /// A process that was given the partition.
    fn new(lab: &Lab, log: &'l Log, epoch: u64, committed: u64) -> Self {
        let recorder = lab.recorder("consumer");
        record(&recorder, Event::assign(QUEUE, QUEUE, 0, epoch));
        Self {
            log,
            recorder,
            epoch,
            done: BTreeSet::new(),
            committed,
        }
    }

    fn deliver(&self, offset: u64) {
        let tag = &self.log.records[offset as usize];
        record(
            &self.recorder,
            Event::deliver(QUEUE, tag).at(QUEUE, at(offset)),
        );
    }

    fn effect(&mut self, offset: u64) {
        let tag = &self.log.records[offset as usize];
        let event = Event::effect(QUEUE, tag).at(QUEUE, at(offset));
        record(&self.recorder, event.epoch(self.epoch));
        self.done.insert(offset);
    }

    fn commit(&mut self, next: u64) {
        let event = Event::commit(QUEUE, QUEUE, at(next)).epoch(self.epoch);
        record(&self.recorder, event);
        self.committed = next;
    }

    /// The lowest offset that is not done.
    fn watermark(&self) -> u64 {
        let undone = (self.committed..).find(|offset| !self.done.contains(offset));
        undone.unwrap_or(self.committed)
    }
}

/// Batches are handled by several at once, so they end in any order.
pub(crate) fn commit_the_highest(lab: &Lab) {
    let log = Log::filled(lab);
    let mut member = Member::new(lab, &log, 1, 0);
    for batch in (0..COUNT).collect::<Vec<_>>().chunks(5) {
        batch.iter().for_each(|offset| member.deliver(*offset));
        let mut open = batch.to_vec();
        while !open.is_empty() {
            let ended = open.swap_remove(lab.below(open.len() as u64) as usize);
            member.effect(ended);
            let highest = member.done.last().map_or(0, |offset| offset + 1);
            let next = if lab.bug { highest } else { member.watermark() };
            member.commit(next);
        }
    }
}

/// The consumer's position is behind what it was given; one message of each batch is still at work.
pub(crate) fn commit_positions(lab: &Lab) {
    let log = Log::filled(lab);
    let mut member = Member::new(lab, &log, 1, 0);
    let mut slow = None;
    for batch in (0..COUNT).collect::<Vec<_>>().chunks(5) {
        batch.iter().for_each(|offset| member.deliver(*offset));
        let takes_long = batch[lab.below(5) as usize];
        for offset in batch.iter().filter(|offset| **offset != takes_long) {
            member.effect(*offset);
        }
        if let Some(offset) = slow.replace(takes_long) {
            member.effect(offset);
        }
        let position = batch[4] + 1;
        let next = if lab.bug {
            position
        } else {
            member.watermark()
        };
        member.commit(next);
    }
    slow.into_iter().for_each(|offset| member.effect(offset));
    member.commit(log.end());
}

/// The client stores the offset of what it hands out, and commits what is stored now and then.
pub(crate) fn auto_offset_store(lab: &Lab) {
    let log = Log::filled(lab);
    let mut member = Member::new(lab, &log, 1, 0);
    let mut stored = 0;
    for offset in 0..COUNT {
        member.deliver(offset);
        if lab.bug {
            stored = offset + 1;
        }
        if lab.below(5) == 0 {
            member.commit(stored);
        }
        member.effect(offset);
        stored = offset + 1;
    }
    member.commit(stored);
}

/// The partition goes to another member while this one has something to commit.
pub(crate) fn commit_after_revoke(lab: &Lab) {
    let log = Log::filled(lab);
    let mut first = Member::new(lab, &log, 1, 0);
    let goes_at = 1 + lab.below(COUNT - 1);
    for offset in 0..goes_at {
        first.deliver(offset);
        first.effect(offset);
    }
    if !lab.bug {
        first.commit(goes_at);
    }
    record(&first.recorder, Event::revoke(QUEUE, QUEUE, 0, 1));
    if lab.bug {
        first.commit(goes_at);
    }
    let mut second = Member::new(lab, &log, 2, first.committed);
    for offset in first.committed..COUNT {
        second.deliver(offset);
        second.effect(offset);
        second.commit(offset + 1);
    }
}

/// Commits are sent by several tasks and may arrive in another order.
pub(crate) fn commits_overtake(lab: &Lab) {
    let log = Log::filled(lab);
    let mut member = Member::new(lab, &log, 1, 0);
    let mut delayed = None;
    for offset in 0..COUNT {
        member.deliver(offset);
        member.effect(offset);
        let next = member.watermark();
        if lab.bug && delayed.is_none() && lab.below(5) == 0 {
            delayed = Some(next);
            continue;
        }
        member.commit(next);
        if let Some(earlier) = delayed.take() {
            member.commit(earlier);
        }
    }
    member.commit(COUNT);
}

/// A member dies before it committed anything; the next one begins where the log ends by then.
pub(crate) fn start_at_the_end(lab: &Lab) {
    let log = Log::filled(lab);
    let mut first = Member::new(lab, &log, 1, 0);
    let dies_at = lab.below(COUNT / 2);
    for offset in 0..dies_at {
        first.deliver(offset);
        first.effect(offset);
    }
    let end_by_then = dies_at + 1 + lab.below(COUNT / 4);
    let begins = if lab.bug {
        end_by_then
    } else {
        first.committed
    };
    let mut second = Member::new(lab, &log, 2, begins);
    for offset in begins..COUNT {
        second.deliver(offset);
        second.effect(offset);
        second.commit(offset + 1);
    }
}

/// A broker that lacks the last records becomes leader, and gives their offsets to others. Here all
/// of them had been read, so nothing else is wrong.
pub(crate) fn unclean_leader(lab: &Lab) {
    let mut log = Log::filled(lab);
    let mut member = Member::new(lab, &log, 1, 0);
    for offset in 0..COUNT {
        member.deliver(offset);
        member.effect(offset);
    }
    drop(member);
    let kept = if lab.bug {
        COUNT - 1 - lab.below(5)
    } else {
        COUNT
    };
    log.records.truncate(kept as usize);
    let recorder = lab.recorder("producer");
    for tag in some(&recorder.tags(), 10) {
        record(&recorder, Event::send(&tag));
        record(&recorder, Event::ok(&tag).at(QUEUE, at(log.end())));
        log.records.push(tag);
    }
    let mut member = Member::new(lab, &log, 2, kept);
    for offset in kept..log.end() {
        member.deliver(offset);
        member.effect(offset);
    }
}
