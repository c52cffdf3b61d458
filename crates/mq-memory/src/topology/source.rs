//! Where a consumer's messages come from: a queue, or its group's share of a log.

use std::{pin::Pin, sync::Arc};

use mq_core::Received;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use super::{
    log::Log,
    queue::{Nothing, Queue},
    ready::Entry,
};

/// A message in the hands of a consumer.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) entry: Entry,
    /// Where in a log it lies; `None` for a queue, and for a copy beside the log.
    pub(crate) place: Option<Place>,
}

/// A partition, and the count of its owners at the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    partition: u32,
    epoch: u32,
}

/// What a consumer that got nothing waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For room under its prefetch.
    Room,
    /// For a message, or this time.
    Until(Option<Instant>),
    /// For the active consumer to leave.
    StandBy,
}

/// A queue, or a group that reads a log.
#[derive(Debug)]
pub(crate) enum Source {
    Queue(Arc<Queue>),
    Log(Arc<Log>, u64),
}

impl Place {
    pub(crate) fn new(partition: usize, epoch: u32) -> Self {
        // The number of partitions is a u32.
        Self {
            partition: partition as u32,
            epoch,
        }
    }

    pub(crate) fn partition(self) -> usize {
        self.partition as usize
    }

    pub(crate) fn epoch(self) -> u32 {
        self.epoch
    }
}

impl Source {
    /// Takes up to `max` messages for a consumer; where there is none it listens with its `ear` from then on.
    ///
    /// # Errors
    /// What to wait for, if there was none.
    pub(crate) fn take(
        &self,
        member: u64,
        max: usize,
        ear: Option<Pin<&mut Notified<'_>>>,
        mut each: impl FnMut(Held),
    ) -> Result<usize, Wait> {
        match self {
            Self::Queue(queue) => queue
                .take(member, max, ear, |entry| each(Held { entry, place: None }))
                .map_err(|nothing| match nothing {
                    Nothing::Until(due) => Wait::Until(due),
                    Nothing::StandBy => Wait::StandBy,
                }),
            Self::Log(log, group) => log.take(*group, member, max, each).map_err(Wait::Until),
        }
    }

    /// The message as it is handed out.
    pub(crate) fn deliver(&self, held: &Held) -> Received {
        let received = held.entry.received.clone();
        let received = match held.entry.failures {
            0 => received,
            failures => {
                let attempt = received.attempt().saturating_add(failures);
                received.with_attempt(attempt)
            }
        };
        match self {
            Self::Queue(_) => received.with_redelivered(held.entry.redelivered),
            // A log's broker does not know.
            Self::Log(..) => received,
        }
    }

    /// True while a settlement of this message still reaches the source.
    pub(crate) fn owns(&self, held: &Held) -> bool {
        match self {
            Self::Queue(_) => true,
            Self::Log(log, group) => log.owns(*group, held),
        }
    }

    /// A message is settled for good.
    pub(crate) fn done(&self, held: &Held) {
        match self {
            Self::Queue(queue) => queue.done(),
            Self::Log(log, group) => log.done(*group, held),
        }
    }

    /// A message is to be delivered again.
    pub(crate) fn back(&self, held: Held, failed: bool) {
        match self {
            Self::Queue(queue) => queue.back(held.entry, failed),
            Self::Log(log, group) => log.back(*group, held, failed),
        }
    }

    /// A copy is to be delivered when it is due, and the original is settled.
    pub(crate) fn later(&self, held: &Held, copy: Received, due: Instant) {
        match self {
            Self::Queue(queue) => queue.later(copy, held.entry.expires, due),
            Self::Log(log, group) => log.later(*group, held, copy, due),
        }
    }

    /// A consumer goes, and what it had is delivered again.
    pub(crate) fn leave(&self, member: u64, held: Vec<Held>, failed: bool) {
        match self {
            Self::Queue(queue) => {
                queue.leave(
                    member,
                    held.into_iter().map(|held| held.entry).collect(),
                    failed,
                );
            }
            Self::Log(log, group) => log.leave(*group, member, held, failed),
        }
    }

    /// Makes every consumer look again.
    pub(crate) fn wake_all(&self) {
        match self {
            Self::Queue(queue) => {
                queue.wake_all();
                queue.turn.notify_waiters();
            }
            Self::Log(log, group) => log.wake_all(*group),
        }
    }

    /// What wakes a consumer that waits for this; `None` if only its own wake-up does.
    pub(crate) fn waker(&self, wait: Wait) -> Option<&Notify> {
        match (self, wait) {
            (Self::Queue(queue), Wait::Until(_)) => Some(&queue.changed),
            (Self::Queue(queue), Wait::StandBy) => Some(&queue.turn),
            (Self::Queue(_), Wait::Room) | (Self::Log(..), _) => None,
        }
    }
}
