//! The outcomes of a batch: each is told by itself, and who waits is woken once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use futures::task::AtomicWaker;
use mq_core::{Receipt, Result};

use super::writer::{Reply, abandoned};

/// The outcomes of a batch: one completion for all.
pub(super) struct Batch(Arc<BatchState>);

pub(super) struct BatchReply {
    state: Option<Arc<BatchState>>,
    at: usize,
}

struct BatchState {
    outcomes: Mutex<(Vec<Option<Result<Receipt>>>, usize)>,
    task: AtomicWaker,
}

impl Batch {
    pub(super) fn new(messages: usize) -> Self {
        let outcomes = Mutex::new((vec![None; messages], messages));
        Self(Arc::new(BatchState {
            outcomes,
            task: AtomicWaker::new(),
        }))
    }

    pub(super) fn reply(&self, at: usize) -> Reply {
        Reply::Batch(BatchReply {
            state: Some(Arc::clone(&self.0)),
            at,
        })
    }

    pub(super) async fn outcomes(self) -> Vec<Result<Receipt>> {
        std::future::poll_fn(|cx| {
            self.0.task.register(cx.waker());
            let mut outcomes = self
                .0
                .outcomes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if outcomes.1 > 0 {
                return Poll::Pending;
            }
            let told = std::mem::take(&mut outcomes.0).into_iter();
            Poll::Ready(
                told.map(|one| one.unwrap_or_else(|| Err(abandoned())))
                    .collect(),
            )
        })
        .await
    }
}

impl BatchReply {
    pub(super) fn tell(mut self, outcome: Result<Receipt>) {
        if let Some(state) = self.state.take() {
            state.set(self.at, outcome);
        }
    }
}

impl Drop for BatchReply {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            state.set(self.at, Err(abandoned()));
        }
    }
}

impl BatchState {
    fn set(&self, at: usize, outcome: Result<Receipt>) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = outcomes.0.get_mut(at) {
            *one = Some(outcome);
        }
        outcomes.1 -= 1;
        if outcomes.1 == 0 {
            self.task.wake();
        }
    }
}
