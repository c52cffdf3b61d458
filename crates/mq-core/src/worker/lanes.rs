//! Who is next: a ready queue shared by the runners, and a queue of its own for each busy key.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

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
    /// Wakes the intake: something was done.
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Settlement>,
    /// One entry for each busy key, with its waiting deliveries.
    busy: HashMap<Key, VecDeque<Settlement>>,
    /// Deliveries in here or with a runner.
    open: usize,
    closed: bool,
}

impl Lanes {
    pub(super) fn new(ordered: bool) -> Self {
        let state = Mutex::new(State::default());
        Self {
            state,
            ordered,
            ready: Notify::new(),
            done: Notify::new(),
        }
    }

    /// Waits until fewer than `limit` deliveries are open; returns how many more fit.
    pub(super) async fn room(&self, limit: usize) -> usize {
        loop {
            // Registered before the look, so that a completion in between is not missed.
            let done = self.done.notified();
            let open = self.lock().open;
            if open < limit {
                return limit - open;
            }
            done.await;
        }
    }

    /// Takes deliveries in, in their order.
    pub(super) fn push(&self, deliveries: impl Iterator<Item = Settlement>) {
        let mut state = self.lock();
        for delivery in deliveries {
            state.open += 1;
            self.place(&mut state, delivery);
        }
        self.wake(&state);
    }

    /// Waits for the next delivery; `None` when it is over.
    pub(super) async fn next(&self) -> Option<Settlement> {
        let mut one = Vec::with_capacity(1);
        self.next_many(&mut one, 1, None).await;
        one.pop()
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
            let ready = self.ready.notified();
            let closed = {
                let mut state = self.lock();
                self.take(&mut state, into, max);
                self.wake(&state);
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
                    if tokio::time::timeout_at(until, ready).await.is_err() {
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
        state.open -= deliveries;
        for key in keys {
            let next = free(&mut state, key);
            state.ready.extend(next);
        }
        self.wake(&state);
        drop(state);
        self.done.notify_one();
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
            let Some(delivery) = state.ready.pop_front() else {
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

    /// Wakes one runner if something is ready; who takes it wakes the next one. So one wake-up is
    /// enough, however many deliveries came at once.
    fn wake(&self, state: &State) {
        if !state.ready.is_empty() {
            self.ready.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next delivery of a key that was busy; the key is forgotten when there is none.
fn free(state: &mut State, key: &Key) -> Option<Settlement> {
    let queue = state.busy.get_mut(key)?;
    let next = queue.pop_front();
    if next.is_none() {
        state.busy.remove(key);
    }
    next
}
