//! A queue: each message goes to one of its consumers.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use mq_core::Received;
use tokio::{sync::Notify, time::Instant};

use super::ready::{Entry, Ready};
use crate::error::Kept;

/// A queue whose consumers compete (RabbitMQ's shape).
#[derive(Debug)]
pub(crate) struct Queue {
    name: Arc<str>,
    limit: usize,
    state: Mutex<State>,
    /// Messages in the hands of consumers: they count against the limit. Not in `state`, so that
    /// an acknowledgement takes no lock that publishers want.
    held: AtomicUsize,
    /// One permit wakes one consumer, which wakes the next one if it leaves something.
    pub(crate) changed: Notify,
    /// Wakes those that stand by for a single active consumer.
    pub(crate) turn: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: Ready,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    id: u64,
    single: bool,
}

/// What a consumer that got nothing waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nothing {
    /// A message, or this time.
    Until(Option<Instant>),
    /// That the active consumer leaves.
    StandBy,
}

impl Queue {
    pub(crate) fn new(name: Arc<str>, limit: usize) -> Self {
        Self {
            name,
            limit,
            state: Mutex::default(),
            held: AtomicUsize::new(0),
            changed: Notify::new(),
            turn: Notify::new(),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Stores messages and wakes consumers once; `stored` hears of each whether it did fit.
    pub(crate) fn push(
        &self,
        messages: impl IntoIterator<Item = (Received, Option<Instant>)>,
        mut stored: impl FnMut(bool),
    ) {
        let mut state = self.lock();
        for (received, expires) in messages {
            let fits = state.ready.len() + self.held.load(Ordering::Relaxed) < self.limit;
            if fits {
                state.ready.push(received, expires);
            }
            stored(fits);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A consumer comes; `single` asks that only the first one is active.
    pub(crate) fn join(&self, id: u64, single: bool) {
        self.lock().members.push(Member { id, single });
        if single {
            // Those that wait for a message must now stand by, and leave the wake-ups to the first.
            self.changed.notify_waiters();
        }
    }

    /// A consumer goes, and what it had comes back.
    pub(crate) fn leave(&self, id: u64, held: Vec<Entry>, failed: bool) {
        let mut state = self.lock();
        state.members.retain(|member| member.id != id);
        self.held.fetch_sub(held.len(), Ordering::Relaxed);
        for entry in held {
            state.ready.put_back(entry, failed);
        }
        drop(state);
        self.turn.notify_waiters();
        self.changed.notify_one();
    }

    /// Takes up to `max` messages for a consumer.
    ///
    /// # Errors
    /// What to wait for, if there was none.
    pub(crate) fn take(
        &self,
        id: u64,
        max: usize,
        mut each: impl FnMut(Entry),
    ) -> Result<usize, Nothing> {
        let mut state = self.lock();
        let one_only = state.members.iter().any(|member| member.single);
        if one_only && state.members.first().is_none_or(|member| member.id != id) {
            return Err(Nothing::StandBy);
        }
        let mut taken = 0;
        while taken < max {
            let Some(entry) = state.ready.take() else {
                break;
            };
            each(entry);
            taken += 1;
        }
        if taken == 0 {
            return Err(Nothing::Until(state.ready.next_due()));
        }
        self.held.fetch_add(taken, Ordering::Relaxed);
        let more = !state.ready.is_idle();
        drop(state);
        if more {
            self.changed.notify_one();
        }
        Ok(taken)
    }

    /// What keeps it from being deleted. A message in the hands of a consumer is that consumer's.
    pub(crate) fn kept(&self, with_messages: bool) -> Option<Kept> {
        let mut state = self.lock();
        if !state.members.is_empty() {
            return Some(Kept::Consumers);
        }
        (!with_messages && state.ready.holds_any()).then_some(Kept::Messages)
    }

    /// A message is settled for good.
    pub(crate) fn done(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    /// A message comes back to its place.
    pub(crate) fn back(&self, entry: Entry, failed: bool) {
        let mut state = self.lock();
        self.held.fetch_sub(1, Ordering::Relaxed);
        state.ready.put_back(entry, failed);
        drop(state);
        self.changed.notify_one();
    }

    /// A copy takes the place of a message that is settled with it, and waits until `due`.
    pub(crate) fn later(&self, copy: Received, expires: Option<Instant>, due: Instant) {
        let mut state = self.lock();
        self.held.fetch_sub(1, Ordering::Relaxed);
        state.ready.push_later(copy, expires, due);
        drop(state);
        // Everybody who waits has to learn the new time: the one that knew it may stop waiting.
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
