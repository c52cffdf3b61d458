//! The sink that keeps what it is told, within a bound.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mq_core::flow::{FlowEvent, FlowKind, FlowSink};
use tokio::sync::Notify;

use super::{Drawing, FlowStep};

/// Keeps flow events, up to a limit, and counts those beyond it.
///
/// One recorder may be given to many brokers: their events are in one sequence. A step is kept under
/// a short lock; an id, a key and a name have at most some hundred bytes each, so that the limit
/// bounds the memory.
pub struct FlowRecorder {
    limit: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    steps: Vec<FlowStep>,
    left_out: u64,
}

impl FlowRecorder {
    /// A recorder of at most 10,000 events.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(10_000)
    }

    /// A recorder of at most so many events; the first ones are kept.
    #[must_use]
    pub fn with_limit(events: usize) -> Self {
        Self {
            limit: events,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The steps so far, in the order they were told.
    pub fn steps(&self) -> Vec<FlowStep> {
        self.lock().steps.clone()
    }

    /// How many events came beyond the limit.
    pub fn left_out(&self) -> u64 {
        self.lock().left_out
    }

    /// Forgets everything, so that the next step is the first one.
    pub fn clear(&self) {
        *self.lock() = State::default();
    }

    /// Waits until so many events of a kind are recorded. It has no deadline of its own.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn reached(&self, kind: FlowKind, count: usize) {
        loop {
            let changed = self.changed.notified();
            if self.count(kind) >= count {
                return;
            }
            changed.await;
        }
    }

    fn count(&self, kind: FlowKind) -> usize {
        let of_it = |step: &&FlowStep| step.kind == kind;
        self.lock().steps.iter().filter(of_it).count()
    }

    /// What is recorded, to be drawn.
    pub fn drawing(&self) -> Drawing {
        let state = self.lock();
        Drawing::new(state.steps.clone(), state.left_out)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A list of steps is whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for FlowRecorder {
    fn default() -> Self {
        Self::new()
    }
}

impl FlowSink for FlowRecorder {
    fn record(&self, event: &FlowEvent<'_>) {
        let mut state = self.lock();
        if state.steps.len() < self.limit {
            state.steps.push(FlowStep::of(event));
        } else {
            state.left_out += 1;
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

impl fmt::Debug for FlowRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("FlowRecorder")
            .field("limit", &self.limit)
            .field("steps", &state.steps.len())
            .field("left_out", &state.left_out)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mq_core::{Destination, Message};

    use super::*;
    use crate::flow::line::tests::flow;

    #[tokio::test]
    async fn keeps_the_first_events_and_counts_the_others() {
        let recorder = Arc::new(FlowRecorder::with_limit(3));
        let flow = flow("a", &recorder);
        let to = Destination::queue("q");
        for _ in 0..5 {
            let publish = flow.publish(&Message::new("x").build(), &to);
            publish.expect("there is a sink").begin();
        }
        recorder.reached(FlowKind::Published, 3).await;
        assert_eq!((recorder.steps().len(), recorder.left_out()), (3, 2));
        assert!(recorder.drawing().diagram().contains("2 more steps"));
        recorder.clear();
        assert_eq!((recorder.steps().len(), recorder.left_out()), (0, 0));
    }
}
