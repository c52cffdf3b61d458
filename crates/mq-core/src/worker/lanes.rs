//! Who is next: a ready queue shared by the runners, and a queue of its own for each busy key.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    mem,
    pin::{Pin, pin},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::{Instant, timeout_at},
};

use crate::{Key, Settlement};

/// Hands deliveries to runners.
///
/// With order by key, a key that a runner has is *busy*: its later deliveries wait in a queue of
/// their own and hold up nobody else. What is in here is bounded by the intake, which asks for
/// room first.
#[derive(Debug)]
pub(super) struct Lanes {
    state: Mutex<State>,
    ordered: bool,
    /// Wakes runners: something is ready, or it is over.
    ready: Notify,
    /// Wakes the intake: there is room.
    room: Notify,
}

/// That fewer than so many are open; and then that half of them or less is ready.
#[derive(Debug)]
struct Wanted {
    limit: usize,
    half: bool,
}

/// A delivery that a runner is done with.
#[derive(Debug)]
pub(super) struct Done {
    /// As [`Lanes::key_of`] has it.
    pub(super) key: Option<Key>,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Settlement>,
    /// One entry for each busy key, with its waiting deliveries.
    busy: HashMap<Key, VecDeque<Settlement>>,
    /// Deliveries in here or with a runner.
    open: usize,
    /// What the intake waits for.
    wanted: Option<Wanted>,
    /// Runners that found nothing and wait, or at least so many.
    idle: usize,
    closed: bool,
    /// What is in here is not handed out any more.
    stopped: bool,
}

impl Lanes {
    pub(super) fn new(ordered: bool) -> Self {
        let state = Mutex::new(State::default());
        Self {
            state,
            ordered,
            ready: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Waits until fewer than `limit` deliveries are open, and half of that or less is ready; returns how many more fit.
    ///
    /// The runners have enough until then. Asked for after each delivery that is done, the next ones would come one by one.
    /// Where there is room it does not wait for long: only who is asked for more tells that it is over.
    pub(super) async fn room(&self, limit: usize) -> usize {
        let mut until = None;
        loop {
            // Before the look, so that a completion in between is not missed.
            let woken = self.room.notified();
            let has_room = {
                let mut state = self.lock();
                state.wanted = None;
                let has_room = state.open < limit;
                let late = until.is_some_and(|until| until <= Instant::now());
                if has_room && (late || state.runs_low(limit)) {
                    return limit - state.open;
                }
                let half = has_room;
                state.wanted = Some(Wanted { limit, half });
                has_room
            };
            if has_room {
                let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
                // Woken or late: it looks again.
                let _ = timeout_at(until, woken).await;
            } else {
                woken.await;
            }
        }
    }

    /// Takes deliveries in, in their order.
    pub(super) fn push(&self, deliveries: impl Iterator<Item = Settlement>) {
        let mut state = self.lock();
        for delivery in deliveries {
            state.open += 1;
            self.place(&mut state, delivery);
        }
        self.wake(&mut state);
    }

    /// Waits for the next delivery; `None` when it is over. A runner that had one is done with it as soon as this is polled.
    pub(super) async fn next(&self, mut done: Option<Done>) -> Option<Settlement> {
        loop {
            let mut ready = pin!(self.ready.notified());
            {
                let mut state = self.lock();
                if let Some(done) = done.take() {
                    state.finish(1, done.key.as_slice());
                }
                let one = state.next();
                if one.is_none() && !state.closed {
                    state.waits(ready.as_mut());
                }
                self.wake(&mut state);
                if one.is_some() || state.closed {
                    return one;
                }
            }
            ready.await;
        }
    }

    /// Waits for a first delivery and takes those that are ready with it, up to `max`; with
    /// `within` it waits that long for more. Leaves `into` empty when it is over.
    pub(super) async fn next_many(
        &self,
        into: &mut Vec<Settlement>,
        max: usize,
        within: Option<Duration>,
    ) {
        let mut until = None;
        loop {
            let mut ready = pin!(self.ready.notified());
            let closed = {
                let mut state = self.lock();
                self.take(&mut state, into, max);
                let waits = into.is_empty() || (within.is_some() && into.len() < max);
                if waits && !state.closed {
                    state.waits(ready.as_mut());
                }
                self.wake(&mut state);
                state.closed
            };
            if closed || into.len() == max {
                return;
            }
            match within {
                _ if into.is_empty() => ready.await,
                None => return,
                Some(within) => {
                    let until = *until.get_or_insert_with(|| Instant::now() + within);
                    if timeout_at(until, ready).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// A runner is done with so many deliveries, of these keys (each named once): the next one of
    /// each key becomes ready.
    pub(super) fn done(&self, deliveries: usize, keys: &[Key]) {
        let mut state = self.lock();
        state.finish(deliveries, keys);
        self.wake(&mut state);
    }

    /// True once the worker stops.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// The key to name when the delivery is done: none without order by key.
    pub(super) fn key_of(&self, delivery: &Settlement) -> Option<Key> {
        delivery.received().key().filter(|_| self.ordered).cloned()
    }

    /// Nothing more comes in: runners end when what is in here is done.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_waiters();
    }

    /// Runners end at once, with what they have: all that is in here stays, to be taken out.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        (state.stopped, state.closed) = (true, true);
        self.ready.notify_waiters();
    }

    /// Takes out everything that no runner has.
    pub(super) fn take_waiting(&self) -> Vec<Settlement> {
        let mut state = self.lock();
        let mut waiting: Vec<_> = mem::take(&mut state.ready).into();
        for queue in state.busy.values_mut() {
            waiting.extend(mem::take(queue));
        }
        state.open -= waiting.len();
        waiting
    }

    /// Makes a delivery ready, or lets it wait behind its busy key.
    fn place(&self, state: &mut State, delivery: Settlement) {
        if let Some(key) = self.key_of(&delivery) {
            match state.busy.entry(key) {
                Entry::Occupied(mut queue) => return queue.get_mut().push_back(delivery),
                Entry::Vacant(entry) => {
                    entry.insert(VecDeque::new());
                }
            }
        }
        state.ready.push_back(delivery);
    }

    /// Moves up to `max` deliveries out; with order by key those behind a taken key go with it.
    fn take(&self, state: &mut State, into: &mut Vec<Settlement>, max: usize) {
        while into.len() < max {
            let Some(delivery) = state.next() else {
                return;
            };
            let key = self.key_of(&delivery);
            into.push(delivery);
            let Some(queue) = key.and_then(|key| state.busy.get_mut(&key)) else {
                continue;
            };
            let more = queue.len().min(max - into.len());
            into.extend(queue.drain(..more));
        }
    }

    /// Wakes one runner if one waits and something is ready; who takes it wakes the next one. So one wake-up is
    /// enough, however many deliveries came at once. And the intake, if it waits and there is room.
    fn wake(&self, state: &mut State) {
        if state.idle > 0 && !state.ready.is_empty() {
            state.idle -= 1;
            self.ready.notify_one();
        }
        if let Some(Wanted { limit, half }) = state.wanted
            && state.open < limit
            && (!half || state.runs_low(limit))
        {
            state.wanted = None;
            self.room.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// True if half of what may be open is ready, or less.
    fn runs_low(&self, limit: usize) -> bool {
        self.ready.len() <= limit / 2
    }

    fn next(&mut self) -> Option<Settlement> {
        match self.stopped {
            true => None,
            false => self.ready.pop_front(),
        }
    }

    /// A runner that found nothing waits from now on: it listens before it is counted, so that of two that are counted each is
    /// woken for itself.
    fn waits(&mut self, ready: Pin<&mut Notified<'_>>) {
        ready.enable();
        self.idle += 1;
    }

    /// So many deliveries are done, of these keys: the next one of each key becomes ready.
    fn finish(&mut self, deliveries: usize, keys: &[Key]) {
        self.open -= deliveries;
        for key in keys {
            let next = self.free(key);
            self.ready.extend(next);
        }
    }

    /// The next delivery of a key that was busy; the key is forgotten when there is none.
    fn free(&mut self, key: &Key) -> Option<Settlement> {
        let queue = self.busy.get_mut(key)?;
        let next = queue.pop_front();
        if next.is_none() {
            self.busy.remove(key);
        }
        next
    }
}

/// So long an intake that has some room waits for more of it.
const PATIENCE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::{Message, Received};

    fn deliveries(keys: &'static [&str]) -> impl Iterator<Item = Settlement> {
        keys.iter().map(|key| {
            let message = Message::new("").key(*key).build();
            Settlement::already_settled(Received::new(message, "q".into(), None))
        })
    }

    fn key(taken: Option<Option<Settlement>>) -> Option<String> {
        let settlement = taken??;
        let key = settlement.received().key().and_then(|key| key.as_str());
        key.map(str::to_owned)
    }

    #[tokio::test(start_paused = true)]
    async fn more_is_asked_for_when_half_is_left_and_then_for_all_that_fits() {
        let lanes = Lanes::new(false);
        assert_eq!(lanes.room(6).now_or_never(), Some(6));
        lanes.push(deliveries(&["a", "b", "c", "d", "e", "f"]));
        let mut done = None;
        let mut asking = Box::pin(lanes.room(6));
        for (ready, room) in [(5, None), (4, None), (3, Some(2))] {
            assert!(key(lanes.next(done.take()).now_or_never()).is_some());
            done = Some(Done { key: None });
            assert_eq!(asking.as_mut().now_or_never(), room, "{ready} are ready");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_intake_that_has_some_room_asks_for_more_before_long() {
        let lanes = Lanes::new(false);
        lanes.push(deliveries(&["a", "b", "c", "d", "e", "f"]));
        let mut asking = Box::pin(lanes.room(6));
        let full = tokio::time::timeout(100 * PATIENCE, asking.as_mut()).await;
        assert!(full.is_err(), "{full:?}");
        assert!(key(lanes.next(None).now_or_never()).is_some());
        assert!(key(lanes.next(Some(Done { key: None })).now_or_never()).is_some());
        let start = Instant::now();
        let room = tokio::time::timeout(2 * PATIENCE, asking).await;
        assert_eq!(room.ok(), Some(1));
        assert!(start.elapsed() >= PATIENCE);
    }

    #[test]
    fn an_intake_that_waits_is_woken_by_the_runner_that_makes_room() {
        let lanes = Lanes::new(true);
        lanes.push(deliveries(&["a", "a"]));
        let mut asking = Box::pin(lanes.room(2));
        assert!(asking.as_mut().now_or_never().is_none());
        assert_eq!(key(lanes.next(None).now_or_never()).as_deref(), Some("a"));
        // Nothing is ready, and both are open still: one with its runner, the other one behind it.
        assert!(asking.as_mut().now_or_never().is_none());
        let busy = Key::from("a");
        let done = Done { key: Some(busy) };
        let next = key(lanes.next(Some(done)).now_or_never());
        assert_eq!(next.as_deref(), Some("a"));
        assert_eq!(asking.now_or_never(), Some(1));
    }

    #[test]
    fn two_runners_that_are_about_to_wait_are_both_woken() {
        let lanes = Lanes::new(false);
        let (mut first, mut second) = (pin!(lanes.ready.notified()), pin!(lanes.ready.notified()));
        for waits in [first.as_mut(), second.as_mut()] {
            lanes.lock().waits(waits);
        }
        lanes.push(deliveries(&["a", "b"]));
        assert!(key(lanes.next(None).now_or_never()).is_some());
        assert!(first.now_or_never().is_some() && second.now_or_never().is_some());
    }

    #[test]
    fn each_runner_that_waits_is_woken_for_a_delivery_of_its_own() {
        let lanes = Lanes::new(false);
        let mut first = Box::pin(lanes.next(None));
        let mut second = Box::pin(lanes.next(None));
        let mut third = Box::pin(lanes.next(None));
        for waiting in [&mut first, &mut second, &mut third] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        // One of them never comes back, as at the end of a worker; its wake-up goes on to the next one.
        drop(first);
        lanes.push(deliveries(&["a", "b"]));
        assert_eq!(key(second.now_or_never()).as_deref(), Some("a"));
        assert_eq!(key(third.now_or_never()).as_deref(), Some("b"));
    }
}
