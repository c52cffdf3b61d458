//! The marks of one channel, by delivery tag, and what has to be sent for them.

use std::collections::VecDeque;

use super::Copy;
use crate::metrics::Settled;

/// What is known of each delivery that may still be settled.
///
/// Delivery tags of a channel count up from 1 (AMQP 0-9-1, section 1.8.3.13), so a queue by tag
/// needs no search.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The tag of the first mark.
    first: u64,
    marks: VecDeque<Mark>,
    /// No mark below this tag is to be sent, but for those at the front.
    unsent: u64,
    /// Acknowledgements that are not sent.
    acks: usize,
    /// Something is marked that must not wait.
    urgent: bool,
    /// What was taken and not yet counted.
    settled: Settled,
}

/// The state of one delivery.
#[derive(Debug)]
pub(crate) enum Mark {
    /// Handed out.
    Open,
    Ack,
    Requeue,
    Release,
    /// Handed back, and nobody saw it.
    Unseen,
    /// A copy is to be sent first.
    Copy(Box<Copy>),
    /// The copy is on its way.
    Copying,
    /// Nothing is left to be done.
    Sent,
}

/// One frame to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    /// `basic.ack` with `multiple`.
    AckUpTo(u64),
    /// `basic.ack`.
    Ack(u64),
    /// `basic.reject` with `requeue`, which a quorum queue counts.
    Requeue(u64),
    /// `basic.nack` with `requeue`, which from 4.3 on it does not count.
    Release(u64),
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            first: 1,
            marks: VecDeque::new(),
            unsent: 1,
            acks: 0,
            urgent: false,
            settled: Settled::default(),
        }
    }

    /// Takes note of a delivery. Tags come in order.
    pub(crate) fn open(&mut self, tag: u64) {
        let next = self.first + self.marks.len() as u64;
        // A tag that was skipped would be one that the client dropped: not ours to settle.
        self.marks.extend((next..tag).map(|_| Mark::Open));
        if tag >= next {
            self.marks.push_back(Mark::Open);
        }
    }

    /// Marks a delivery; false if it is not open.
    pub(crate) fn mark(&mut self, tag: u64, mark: Mark) -> bool {
        let Some(slot) = self.slot(tag).filter(|slot| matches!(slot, Mark::Open)) else {
            return false;
        };
        let ack = matches!(mark, Mark::Ack);
        *slot = mark;
        self.unsent = self.unsent.min(tag);
        if ack {
            self.acks += 1;
        } else {
            self.urgent = true;
        }
        true
    }

    /// The copy of this delivery is confirmed: its settlement must not wait.
    pub(crate) fn copied(&mut self, tag: u64) {
        if let Some(slot @ Mark::Copying) = self.slot(tag) {
            *slot = Mark::Ack;
            self.unsent = self.unsent.min(tag);
            self.acks += 1;
            self.urgent = true;
        }
    }

    /// Acknowledgements that are not sent.
    pub(crate) fn acks(&self) -> usize {
        self.acks
    }

    /// True if something must not wait.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// True if anything is to be sent.
    pub(crate) fn is_dirty(&self) -> bool {
        self.urgent || self.acks > 0
    }

    /// What has to be sent, in this order: acknowledgements together as far as there is no gap, and
    /// never across a negative one. Behind a gap, each negative one by itself; acknowledgements
    /// there only if `all`, since the gap may close soon.
    ///
    /// Copies to be made are appended to `copies`.
    pub(crate) fn take(&mut self, all: bool, copies: &mut Vec<(u64, Copy)>) -> Vec<Frame> {
        let all = all || self.urgent;
        let mut frames = Vec::new();
        let mut run = None;
        while let Some(mark) = self.marks.front() {
            let tag = self.first;
            match mark {
                Mark::Open | Mark::Copying | Mark::Copy(_) => break,
                Mark::Sent => {}
                Mark::Ack => {
                    run = Some(tag);
                    self.acks -= 1;
                    self.settled.acked += 1;
                }
                Mark::Requeue | Mark::Release | Mark::Unseen => {
                    frames.extend(run.take().map(Frame::AckUpTo));
                    frames.push(negative(mark, tag, &mut self.settled));
                }
            }
            self.marks.pop_front();
            self.first += 1;
        }
        frames.extend(run.map(Frame::AckUpTo));
        // Not from the first one on: behind a slow delivery there may be any number that were sent.
        let from = self.unsent.max(self.first);
        self.unsent = self.first + self.marks.len() as u64;
        let skipped = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        let behind = self.marks.range_mut(skipped.min(self.marks.len())..);
        for (tag, slot) in (from..).zip(behind) {
            match slot {
                Mark::Ack if all => {
                    frames.push(Frame::Ack(tag));
                    self.acks -= 1;
                    self.settled.acked += 1;
                    *slot = Mark::Sent;
                }
                Mark::Requeue | Mark::Release | Mark::Unseen => {
                    frames.push(negative(slot, tag, &mut self.settled));
                    *slot = Mark::Sent;
                }
                Mark::Copy(_) => {
                    if let Mark::Copy(copy) = std::mem::replace(slot, Mark::Copying) {
                        copies.push((tag, *copy));
                    }
                }
                Mark::Ack => self.unsent = self.unsent.min(tag),
                Mark::Open | Mark::Copying | Mark::Sent => {}
            }
        }
        self.urgent = false;
        frames
    }

    /// How much was taken since this was asked last, without what nobody saw.
    pub(crate) fn settled(&mut self) -> Settled {
        std::mem::take(&mut self.settled)
    }

    fn slot(&mut self, tag: u64) -> Option<&mut Mark> {
        self.marks
            .get_mut(usize::try_from(tag.checked_sub(self.first)?).ok()?)
    }
}

fn negative(mark: &Mark, tag: u64, settled: &mut Settled) -> Frame {
    match mark {
        Mark::Unseen => Frame::Release(tag),
        Mark::Release => {
            settled.released += 1;
            Frame::Release(tag)
        }
        _ => {
            settled.requeued += 1;
            Frame::Requeue(tag)
        }
    }
}

#[cfg(test)]
mod tests;
