//! What waits for its time: deferred records, each until it is due.

use std::time::{Duration, SystemTime};

use mq_core::{Received, time};
use tokio::time::Instant;

use super::{
    book::{State, Tag},
    moves::{Move, What},
};

/// Until when a record waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    pub(crate) until: Instant,
    /// It is due later than that, in milliseconds since 1970, and goes on to a longer delay.
    pub(crate) goes_on: Option<u64>,
}

/// A record that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    received: Received,
    goes_on: Option<u64>,
}

/// What became of records that are not to be handed out.
#[derive(Debug, Default)]
pub(super) struct LetGo {
    /// So many are to be copied.
    pub(super) going_on: usize,
    /// So many are done.
    pub(super) done: usize,
}

impl Wait {
    /// Until an instant in milliseconds since 1970, and never longer than `most`; `None` if that
    /// has passed.
    pub(crate) fn until(due: u64, most: Duration) -> Option<Self> {
        // The usual case, of each record that comes in: no look at the clock.
        if due == 0 {
            return None;
        }
        // A time that no clock has is later than any delay.
        let rest = match time::from_millis(due) {
            Some(due) => due.duration_since(SystemTime::now()).unwrap_or_default(),
            None => Duration::MAX,
        };
        (!rest.is_zero()).then(|| Self {
            until: after(rest.min(most)),
            goes_on: (rest > most).then_some(due),
        })
    }
}

/// When a message is due that is deferred now, in whole milliseconds since 1970, rounded up.
pub(super) fn due(delay: Duration) -> u64 {
    let now = SystemTime::now();
    let due = now.checked_add(delay).unwrap_or(now + FAR);
    time::to_millis(due).saturating_add(1)
}

/// The instant so much later.
fn after(delay: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(delay).unwrap_or(now + FAR)
}

impl State {
    /// Lets a record wait; it counts for its partition until it is let go.
    pub(super) fn wait(&mut self, tag: Tag, wait: Wait, received: Received) {
        if let Some(owner) = self.partitions.get_mut(&tag.partition) {
            owner.waiting += 1;
            owner.waiting_bytes += received.size();
        }
        let waiting = Waiting {
            received,
            goes_on: wait.goes_on,
        };
        self.waiting
            .insert((wait.until, tag.partition, tag.seq), waiting);
    }

    /// Lets a record wait until an instant in milliseconds since 1970, and returns that; what is due by now is to be handed out.
    pub(super) fn hold(&mut self, tag: Tag, due: u64, received: Received) -> Option<Instant> {
        let Some(wait) = Wait::until(due, Duration::MAX) else {
            self.again.insert((tag.partition, tag.seq), received);
            return None;
        };
        self.wait(tag, wait, received);
        Some(wait.until)
    }

    /// When the next one is due of those that may be let go.
    pub(super) fn next_due(&self, commit_after: u64) -> Option<Instant> {
        let held_up = self.is_held_up(commit_after);
        let mut waiting = self.waiting.keys();
        let next =
            waiting.find(|(_, partition, seq)| !held_up || self.is_waited_for(*partition, *seq));
        next.map(|(until, ..)| *until)
    }

    /// Lets go of what is due, and while the rest is held up only of what transactions wait for: most is to be handed out, expired
    /// ones are done, and some goes on to a longer delay. No more than there is room for: what waits is counted, and bounds what is
    /// read.
    pub(super) fn let_go(&mut self, commit_after: u64, room: usize) -> LetGo {
        let mut gone = LetGo::default();
        if self.waiting.is_empty() {
            return gone;
        }
        let (now, wall) = (Instant::now(), SystemTime::now());
        let held_up = self.is_held_up(commit_after);
        let due = self.waiting.range(..=(now, i32::MAX, u64::MAX));
        let due: Vec<_> = due
            .map(|(at, _)| *at)
            .filter(|(_, partition, seq)| !held_up || self.is_waited_for(*partition, *seq))
            .take(room.saturating_sub(self.again.len()))
            .collect();
        for at in due {
            let (_, partition, seq) = at;
            let Some(Waiting { received, goes_on }) = self.waiting.remove(&at) else {
                continue;
            };
            let Some(owner) = self.partitions.get_mut(&partition) else {
                continue;
            };
            let assignment = owner.assignment;
            let tag = Tag {
                partition,
                assignment,
                seq,
            };
            owner.waiting -= 1;
            owner.waiting_bytes -= received.size();
            if is_expired(&received, wall) {
                owner.tracker.done(seq);
                gone.done += 1;
                self.pass_on(tag, &received);
            } else if let Some(due) = goes_on {
                let attempts = received.attempt() - 1;
                let what = What::GoOn { due, attempts };
                if self.staging.is_some() {
                    self.stage_move(tag, &received, what);
                    gone.done += 1;
                    continue;
                }
                // It is in work like one that is handed out.
                owner.handed += 1;
                gone.going_on += 1;
                self.moves.push(Move {
                    received,
                    what,
                    tag,
                });
            } else {
                self.again.insert((partition, seq), received);
            }
        }
        self.moves_open += gone.going_on;
        gone
    }

    /// The record is done: where keys are kept in order, the next one of its key is to be handed
    /// out.
    pub(super) fn pass_on(&mut self, tag: Tag, received: &Received) {
        let next = self
            .keys
            .as_mut()
            .and_then(|keys| keys.leave(tag, received));
        if let Some(next) = next {
            if let Some(owner) = self.partitions.get_mut(&tag.partition) {
                owner.waiting -= 1;
                owner.waiting_bytes -= next.received.size();
            }
            self.again
                .insert((next.tag.partition, next.tag.seq), next.received);
        }
    }
}

/// True if the message expired while it waited.
fn is_expired(received: &Received, now: SystemTime) -> bool {
    let at = received
        .expires_in()
        .and_then(|after| received.time().checked_add(after));
    at.is_some_and(|at| at <= now)
}

/// Longer than any process lives; every clock has that time.
const FAR: Duration = Duration::from_hours(30 * 365 * 24);

/// What of one partition may wait in this process.
pub(super) const WAITING: usize = 1000;
pub(super) const WAITING_BYTES: usize = 2 * 1024 * 1024;
