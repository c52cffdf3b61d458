//! A queue: each message goes to one of its consumers.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use mq_core::{Message, Received};
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use super::ready::{Entry, Ready};
use crate::{
    error::Kept,
    headers::{attempt, expires},
};

/// A queue whose consumers compete (RabbitMQ's shape).
///
/// Publishers and consumers have a lock each: a message goes into the inbox, and all that is there moves behind what is ready when a
/// consumer finds nothing more. So neither side waits for the other one at each message. Whoever wants both locks takes `state` first.
#[derive(Debug)]
pub(crate) struct Queue {
    name: Arc<str>,
    limit: u64,
    inbox: Mutex<Inbox>,
    state: Mutex<State>,
    /// Messages that have left for good: settled, or expired.
    gone: AtomicU64,
    /// Something in the inbox may have to go in front of what is ready.
    urgent: AtomicBool,
    /// Consumers that found nothing and wait for `changed`, or at least so many.
    waiting: AtomicUsize,
    /// One permit wakes one consumer, which wakes the next one if it leaves something.
    pub(crate) changed: Notify,
    /// Wakes those that stand by for a single active consumer.
    pub(crate) turn: Notify,
}

/// What was published since a consumer looked.
#[derive(Debug, Default)]
struct Inbox {
    fresh: VecDeque<Fresh>,
    /// Messages that ever came in.
    admitted: u64,
    /// `gone`, as it was when it was last needed here.
    gone: u64,
}

/// A message as it was published.
#[derive(Debug)]
struct Fresh {
    message: Message,
    routing_key: Option<Arc<str>>,
    expires: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    ready: Ready,
    members: Vec<Member>,
    /// What was in the inbox and is not behind `ready` yet. It changes places with the inbox's, so that neither is made anew.
    fresh: VecDeque<Fresh>,
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
            limit: limit as u64,
            inbox: Mutex::default(),
            state: Mutex::default(),
            gone: AtomicU64::new(0),
            urgent: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            changed: Notify::new(),
            turn: Notify::new(),
        }
    }

    /// Stores a message and wakes a consumer; false if it did not fit.
    pub(crate) fn push(&self, message: Message, routing_key: Option<Arc<str>>) -> bool {
        // The time of the publish, not that of the first look at it.
        message.time();
        let stored = self.put(&mut self.lock_inbox(), message, routing_key);
        self.wake_one();
        stored
    }

    /// Stores messages and wakes consumers once; `stored` hears of each whether it did fit.
    pub(crate) fn push_all(
        &self,
        messages: impl IntoIterator<Item = Message>,
        mut stored: impl FnMut(bool),
    ) {
        let mut inbox = self.lock_inbox();
        for message in messages {
            message.time();
            stored(self.put(&mut inbox, message, None));
        }
        drop(inbox);
        self.wake_one();
    }

    fn put(&self, inbox: &mut Inbox, message: Message, routing_key: Option<Arc<str>>) -> bool {
        if !inbox.has_room(self.limit, &self.gone) {
            return false;
        }
        if message.priority().is_some() {
            self.urgent.store(true, Ordering::Relaxed);
        }
        inbox.admitted += 1;
        inbox.fresh.push_back(Fresh {
            expires: expires(&message),
            routing_key,
            message,
        });
        true
    }

    /// A consumer comes; `single` asks that only the first one is active.
    pub(crate) fn join(&self, id: u64, single: bool) {
        self.lock().members.push(Member { id, single });
        if single {
            // Those that wait for a message must now stand by, and leave the wake-ups to the first.
            self.wake_all();
        }
    }

    /// A consumer goes, and what it had comes back.
    pub(crate) fn leave(&self, id: u64, held: Vec<Entry>, failed: bool) {
        let mut state = self.lock();
        state.members.retain(|member| member.id != id);
        for entry in held {
            state.ready.put_back(entry, failed);
        }
        drop(state);
        self.turn.notify_waiters();
        self.wake_one();
    }

    /// Takes up to `max` messages for a consumer; where there is none it listens with its `ear` from then on.
    ///
    /// # Errors
    /// What to wait for, if there was none.
    pub(crate) fn take(
        &self,
        id: u64,
        max: usize,
        mut ear: Option<Pin<&mut Notified<'_>>>,
        mut each: impl FnMut(Entry),
    ) -> Result<usize, Nothing> {
        let mut state = self.lock();
        let one_only = state.members.iter().any(|member| member.single);
        if one_only && state.members.first().is_none_or(|member| member.id != id) {
            return Err(Nothing::StandBy);
        }
        if state.ready.has_deferred() || self.urgent.load(Ordering::Relaxed) {
            self.admit_all(&mut state);
        }
        let mut taken = 0;
        while taken < max {
            match state.ready.take() {
                Some(entry) => {
                    each(entry);
                    taken += 1;
                }
                None if self.admit(
                    &mut state,
                    ear.as_mut().filter(|_| taken == 0).map(Pin::as_mut),
                ) => {}
                None => break,
            }
        }
        let more = taken > 0 && (!state.ready.is_idle() || !state.fresh.is_empty());
        self.forget_expired(&mut state);
        if taken == 0 {
            return Err(Nothing::Until(state.ready.next_due()));
        }
        drop(state);
        if more {
            self.wake_one();
        }
        Ok(taken)
    }

    /// What keeps it from being deleted. A message in the hands of a consumer is that consumer's.
    pub(crate) fn kept(&self, with_messages: bool) -> Option<Kept> {
        let mut state = self.lock();
        if !state.members.is_empty() {
            return Some(Kept::Consumers);
        }
        self.admit_all(&mut state);
        let holds = state.ready.holds_any();
        self.forget_expired(&mut state);
        (!with_messages && holds).then_some(Kept::Messages)
    }

    /// A message is settled for good.
    pub(crate) fn done(&self) {
        self.gone.fetch_add(1, Ordering::Relaxed);
    }

    /// A message comes back to its place.
    pub(crate) fn back(&self, entry: Entry, failed: bool) {
        self.lock().ready.put_back(entry, failed);
        self.wake_one();
    }

    /// A copy takes the place of a message that is settled with it, and waits until `due`.
    pub(crate) fn later(&self, copy: Received, expires: Option<Instant>, due: Instant) {
        self.lock().ready.push_later(copy, expires, due);
        // Everybody who waits has to learn the new time: the one that knew it may stop waiting.
        self.wake_all();
    }

    /// Makes every consumer that waits for a message look again.
    pub(crate) fn wake_all(&self) {
        // Each of them listened before it was counted, so each is reached.
        self.waiting.store(0, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// Wakes a consumer, if one waits. Whoever waits was counted under a lock that the caller has had since.
    fn wake_one(&self) {
        let waiting = |count: usize| count.checked_sub(1);
        if self.waiting.load(Ordering::Relaxed) > 0
            && self
                .waiting
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, waiting)
                .is_ok()
        {
            self.changed.notify_one();
        }
    }

    /// Moves some of what was published behind what is ready, so that the lock is not kept for long; false if there was nothing, and
    /// then a consumer listens.
    fn admit(&self, state: &mut State, ear: Option<Pin<&mut Notified<'_>>>) -> bool {
        if state.fresh.is_empty() {
            let mut inbox = self.lock_inbox();
            if inbox.fresh.is_empty() {
                if let Some(ear) = ear {
                    // It listens before it is counted, so that of two that are counted each is woken for itself.
                    ear.enable();
                    self.waiting.fetch_add(1, Ordering::Relaxed);
                }
                return false;
            }
            mem::swap(&mut inbox.fresh, &mut state.fresh);
            let urgent = self.urgent.swap(false, Ordering::Relaxed);
            drop(inbox);
            if urgent {
                self.admit_some(state, usize::MAX);
            }
        }
        self.admit_some(state, SLICE);
        true
    }

    /// Moves all that was published behind what is ready.
    fn admit_all(&self, state: &mut State) {
        self.admit_some(state, usize::MAX);
        // Once: what comes in meanwhile is younger than this look.
        if self.admit(state, None) {
            self.admit_some(state, usize::MAX);
        }
    }

    fn admit_some(&self, state: &mut State, most: usize) {
        let State { ready, fresh, .. } = state;
        let count = most.min(fresh.len());
        for one in fresh.drain(..count) {
            let attempt = attempt(&one.message);
            let received = Received::new(one.message, Arc::clone(&self.name), one.routing_key);
            ready.push(received.with_attempt(attempt), one.expires);
        }
        if fresh.is_empty() && fresh.capacity() > KEPT {
            // Of a burst that is over.
            *fresh = VecDeque::new();
        }
    }

    /// What has expired makes room.
    fn forget_expired(&self, state: &mut State) {
        let expired = state.ready.take_expired();
        if expired > 0 {
            self.gone.fetch_add(expired, Ordering::Relaxed);
        }
    }

    fn lock_inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inbox {
    /// True if one more fits; what has left is looked up only when it matters.
    fn has_room(&mut self, limit: u64, gone: &AtomicU64) -> bool {
        if self.admitted - self.gone >= limit {
            self.gone = gone.load(Ordering::Relaxed);
        }
        self.admitted - self.gone < limit
    }
}

/// So many messages go behind what is ready at a time.
const SLICE: usize = 1024;
/// Room for so many is kept for the next ones.
const KEPT: usize = 4096;

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;

    use super::*;

    fn push(queue: &Queue, payload: &'static str) {
        assert!(queue.push(Message::new(payload).into(), None));
    }

    fn take(queue: &Queue, ear: Option<Pin<&mut Notified<'_>>>) -> Vec<Entry> {
        let mut taken = Vec::new();
        let count = queue.take(1, 1, ear, |entry| taken.push(entry));
        assert_eq!(count.unwrap_or(0), taken.len());
        taken
    }

    #[test]
    fn two_consumers_that_are_about_to_wait_are_both_woken() {
        let queue = Queue::new("q".into(), 10);
        let (mut one, mut other) = (
            pin!(queue.changed.notified()),
            pin!(queue.changed.notified()),
        );
        assert!(take(&queue, Some(one.as_mut())).is_empty());
        assert!(take(&queue, Some(other.as_mut())).is_empty());
        push(&queue, "a");
        push(&queue, "b");
        assert!(one.now_or_never().is_some() && other.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_only_what_has_expired_listens() {
        let queue = Queue::new("q".into(), 10);
        let second = std::time::Duration::from_secs(1);
        let late = Message::new("late").expires_in(second);
        assert!(queue.push(late.into(), None));
        tokio::time::advance(2 * second).await;
        let mut ear = pin!(queue.changed.notified());
        assert!(take(&queue, Some(ear.as_mut())).is_empty());
        push(&queue, "x");
        assert!(ear.now_or_never().is_some());
    }

    #[test]
    fn a_long_queue_is_moved_in_parts_and_in_order() {
        let count = 8 * SLICE as u64;
        let queue = Queue::new("q".into(), 2 * count as usize);
        let messages = (0..count).map(|n| Message::new(n.to_string()).into());
        queue.push_all(messages, |fits| assert!(fits));
        let mut next = 0;
        while let Some(entry) = take(&queue, None).pop() {
            let payload = entry.received.payload().expect("a payload");
            assert_eq!(*payload, next.to_string().as_bytes());
            if next == 0 {
                let state = queue.lock();
                assert_eq!(state.fresh.len() as u64, count - SLICE as u64);
            }
            next += 1;
        }
        assert_eq!(next, count);
        let state = queue.lock();
        assert!(state.fresh.capacity() <= KEPT);
    }
}
