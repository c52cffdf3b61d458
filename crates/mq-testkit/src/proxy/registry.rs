//! The connections there are, the faults of those to come, and what all tasks of a proxy share.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    runtime::Handle,
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use super::{Direction, Fault, ProxyError, counters::Count, faults::Faults};
use crate::history::{Event, Recorder};

/// What all tasks of a proxy share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) count: Count,
    state: Mutex<State>,
    failure: Mutex<Option<Arc<ProxyError>>>,
    recorder: Mutex<Option<Arc<Recorder>>>,
}

#[derive(Default)]
struct State {
    /// Of connections to come.
    to_broker: Faults,
    to_client: Faults,
    connections: BTreeMap<u64, Arc<Line>>,
    /// The number that the next connection gets, and the next fault.
    next: u64,
    next_fault: u64,
    /// Faults that the history says are on.
    recorded: Vec<String>,
    tasks: JoinSet<()>,
    closed: bool,
}

/// The switches of one connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) to_broker: watch::Sender<Faults>,
    pub(super) to_client: watch::Sender<Faults>,
    pub(super) end: watch::Sender<Option<End>>,
}

/// How the proxy ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Reset(Direction),
    Regular,
}

/// One connection through a proxy, to set faults for it alone. It is no owner: the connection ends
/// by its two sides, by a fault, or with the proxy.
#[derive(Debug, Clone)]
pub struct Connection {
    line: Arc<Line>,
    shared: Arc<Shared>,
}

impl Connection {
    /// Its number, from 0 in the order in which the proxy accepted them.
    pub fn number(&self) -> u64 {
        self.line.number
    }

    /// Sets a fault for this connection, beside those of other kinds that are on.
    /// [`Fault::Refuse`] has no effect on it. It is not recorded in a history.
    pub fn set(&self, direction: Direction, fault: Fault) {
        let number = self.shared.state().fault_number();
        self.line.set(direction, fault, number);
    }

    /// Clears all its faults, those set for all connections included.
    pub fn clear(&self) {
        self.line.clear();
    }

    /// Ends it as [`Proxy::cut`](super::Proxy::cut) does.
    pub fn cut(&self) {
        self.line.end.send_replace(Some(End::Regular));
    }
}

impl Line {
    fn set(&self, direction: Direction, fault: Fault, number: u64) {
        if fault == Fault::Reset {
            self.end.send_replace(Some(End::Reset(direction)));
            return;
        }
        if direction.to_broker() {
            self.to_broker
                .send_modify(|faults| faults.set(fault, number));
        }
        if direction.to_client() {
            self.to_client
                .send_modify(|faults| faults.set(fault, number));
        }
    }

    fn clear(&self) {
        self.to_broker.send_modify(Faults::clear);
        self.to_client.send_modify(Faults::clear);
    }
}

impl Shared {
    pub(super) fn set(&self, direction: Direction, fault: Fault) {
        self.begins(direction, fault);
        self.change(Some((direction, fault)), false);
        if fault == Fault::Reset {
            self.heals(|name| *name == named(direction, fault));
        }
    }

    pub(super) fn replace(&self, direction: Direction, fault: Fault) {
        let before = self.state().recorded.len();
        self.begins(direction, fault);
        self.change(Some((direction, fault)), true);
        let mut at = 0;
        self.heals(|_| {
            at += 1;
            at <= before || fault == Fault::Reset
        });
    }

    pub(super) fn clear(&self) {
        self.change(None, true);
        self.heals(|_| true);
    }

    /// In one step for each direction of each connection, and all of them before others change it.
    fn change(&self, set: Option<(Direction, Fault)>, clear: bool) {
        let mut state = self.state();
        let number = state.fault_number();
        let change = |faults: &mut Faults, concerned: fn(Direction) -> bool| {
            if clear {
                faults.clear();
            }
            if let Some((direction, fault)) = set
                && concerned(direction)
            {
                faults.set(fault, number);
            }
        };
        change(&mut state.to_broker, Direction::to_broker);
        change(&mut state.to_client, Direction::to_client);
        for line in state.connections.values() {
            if let Some((direction, Fault::Reset)) = set {
                line.end.send_replace(Some(End::Reset(direction)));
            }
            line.to_broker
                .send_modify(|faults| change(faults, Direction::to_broker));
            line.to_client
                .send_modify(|faults| change(faults, Direction::to_client));
        }
    }

    /// Draws the jitter of all connections anew, from this seed.
    pub(super) fn reseed(&self, seed: u64) {
        let mut state = self.state();
        state.to_broker.seed = seed;
        state.to_client.seed = seed;
        for line in state.connections.values() {
            line.to_broker.send_modify(|faults| faults.seed = seed);
            line.to_client.send_modify(|faults| faults.seed = seed);
        }
    }

    pub(super) fn cut(&self) {
        for line in self.state().connections.values() {
            line.end.send_replace(Some(End::Regular));
        }
    }

    /// A connection with the faults that are on, or `None` if it is to be refused.
    pub(super) fn open(&self) -> Option<Arc<Line>> {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        self.count.opened();
        if state.to_broker.refuse || state.to_client.refuse {
            self.count.acted();
            return None;
        }
        if state.connections.len() >= MOST_CONNECTIONS {
            return None;
        }
        let line = Arc::new(Line {
            number,
            to_broker: watch::Sender::new(state.to_broker),
            to_client: watch::Sender::new(state.to_client),
            end: watch::Sender::new(None),
        });
        state.connections.insert(number, Arc::clone(&line));
        Some(line)
    }

    pub(super) fn forget(&self, number: u64) {
        self.state().connections.remove(&number);
    }

    /// Runs a task that ends with the proxy at the latest.
    pub(super) fn spawn(
        &self,
        handle: &Handle,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        let mut state = self.state();
        // What has ended already takes no room.
        while state.tasks.try_join_next().is_some() {}
        (!state.closed).then(|| state.tasks.spawn_on(task, handle))
    }

    /// The tasks, to be ended; none begins after this.
    pub(super) fn close(&self) -> JoinSet<()> {
        let mut state = self.state();
        state.closed = true;
        std::mem::take(&mut state.tasks)
    }

    pub(super) fn connections(self: &Arc<Self>) -> Vec<Connection> {
        let state = self.state();
        let lines = state.connections.values();
        lines
            .map(|line| Connection {
                line: Arc::clone(line),
                shared: Arc::clone(self),
            })
            .collect()
    }

    pub(super) fn record_to(&self, recorder: Arc<Recorder>) {
        *lock(&self.recorder) = Some(recorder);
    }

    /// Keeps the first thing that went wrong.
    pub(super) fn failed(&self, error: ProxyError) {
        lock(&self.failure).get_or_insert_with(|| Arc::new(error));
    }

    pub(super) fn failure(&self) -> Option<Arc<ProxyError>> {
        lock(&self.failure).clone()
    }

    /// Said before the fault is on.
    fn begins(&self, direction: Direction, fault: Fault) {
        let recorder = lock(&self.recorder);
        if let Some(recorder) = &*recorder {
            let name = named(direction, fault);
            if let Err(error) = recorder.record(Event::fault(&name)) {
                self.failed(error.into());
            }
            self.state().recorded.push(name);
        }
    }

    /// Said after those are off.
    fn heals(&self, mut over: impl FnMut(&String) -> bool) {
        let recorder = lock(&self.recorder);
        if let Some(recorder) = &*recorder {
            let names: Vec<String> = self
                .state()
                .recorded
                .extract_if(.., |name| over(name))
                .collect();
            for name in names {
                if let Err(error) = recorder.record(Event::healed(&name)) {
                    self.failed(error.into());
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn fault_number(&mut self) -> u64 {
        self.next_fault += 1;
        self.next_fault
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("counters", &self.count.now())
            .finish_non_exhaustive()
    }
}

fn named(direction: Direction, fault: Fault) -> String {
    format!("{direction}: {fault}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const MOST_CONNECTIONS: usize = 4096;
