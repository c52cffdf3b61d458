//! Handlers for batches: by size and time, failures named one by one.

use std::{
    fmt, future::Future, marker::PhantomData, panic::AssertUnwindSafe, sync::Arc, time::Duration,
};

use futures::{FutureExt, future::join_all};
use tracing::Instrument;

use super::runner::{Runner, Shared};
use crate::{
    Broker, Decision, Failure, FailureClass, Guarantee, Outcome, Received, Rejection, Settlement,
    Verdict, extract::State, handler::panic_failure, trace,
};

/// How large a batch gets, and how long it waits for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize {
    max: usize,
    within: Duration,
}

impl BatchSize {
    /// At most `max` messages (at least 1), handed over at the latest `within` after the first.
    ///
    /// The prefetch bounds a batch as well.
    pub fn new(max: usize, within: Duration) -> Self {
        Self {
            max: max.max(1),
            within,
        }
    }
}

/// What becomes of each message of a batch.
#[derive(Debug)]
#[must_use = "it has its effect when the handler returns it"]
pub struct BatchOutcome(Vec<Outcome>);

impl BatchOutcome {
    /// All of so many messages are done.
    pub fn acked(messages: usize) -> Self {
        Self((0..messages).map(|_| Outcome::ack()).collect())
    }

    /// Replaces the outcome of the message at an index.
    ///
    /// An index past the end fails the whole batch: the handler and its messages don't fit.
    pub fn set(mut self, index: usize, outcome: Outcome) -> Self {
        match self.0.get_mut(index) {
            Some(place) => *place = outcome,
            None => self.0.push(outcome),
        }
        self
    }

    /// The attempt at the message at an index failed.
    pub fn failed(self, index: usize, failure: impl Into<Failure>) -> Self {
        self.set(index, Outcome::retry(failure))
    }

    /// The message at an index goes to the dead-letter home.
    pub fn rejected(self, index: usize, why: impl Into<Rejection>) -> Self {
        self.set(index, Outcome::reject(why))
    }
}

/// What a batch handler may return: `()`, [`BatchOutcome`], or a `Result` of one of them whose
/// error is a failed attempt at every message of the batch.
#[diagnostic::on_unimplemented(
    message = "a batch handler cannot return `{Self}`",
    note = "return `()`, `BatchOutcome` or a `Result` of one of them"
)]
pub trait IntoBatchOutcome {
    /// The outcome of each of so many messages.
    fn into_batch_outcome(self, messages: usize) -> BatchOutcome;
}

impl IntoBatchOutcome for () {
    fn into_batch_outcome(self, messages: usize) -> BatchOutcome {
        BatchOutcome::acked(messages)
    }
}

impl IntoBatchOutcome for BatchOutcome {
    fn into_batch_outcome(self, messages: usize) -> BatchOutcome {
        if self.0.len() == messages {
            return self;
        }
        let text = format!(
            "the handler answered for {} of {messages} messages",
            self.0.len()
        );
        all_failed(messages, |_| Failure::from(text.clone()))
    }
}

impl<T: IntoBatchOutcome, E: Into<Failure>> IntoBatchOutcome for Result<T, E> {
    fn into_batch_outcome(self, messages: usize) -> BatchOutcome {
        match self {
            Ok(value) => value.into_batch_outcome(messages),
            Err(error) => {
                let failure = error.into();
                all_failed(messages, |_| failure.again())
            }
        }
    }
}

fn all_failed(messages: usize, failure: impl Fn(usize) -> Failure) -> BatchOutcome {
    BatchOutcome((0..messages).map(|i| Outcome::retry(failure(i))).collect())
}

/// An async function that takes a batch, and before it the worker's [`State`] if it wants.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no batch handler for a worker with state `{S}`",
    note = "a batch handler is an async function of `Vec<Received>`, or of `State<S>` and `Vec<Received>`"
)]
pub trait BatchHandler<Args, S>: Clone + Send + Sync + 'static {
    /// Calls it on a batch.
    fn call(
        &self,
        state: S,
        batch: Vec<Received>,
    ) -> impl Future<Output = BatchOutcome> + Send + 'static;
}

#[diagnostic::do_not_recommend]
impl<F, Fut, S> BatchHandler<(Vec<Received>,), S> for F
where
    F: Fn(Vec<Received>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output: IntoBatchOutcome> + Send + 'static,
{
    fn call(
        &self,
        _state: S,
        batch: Vec<Received>,
    ) -> impl Future<Output = BatchOutcome> + Send + 'static {
        let messages = batch.len();
        self(batch).map(move |value| value.into_batch_outcome(messages))
    }
}

#[diagnostic::do_not_recommend]
impl<F, Fut, S> BatchHandler<(State<S>, Vec<Received>), S> for F
where
    F: Fn(State<S>, Vec<Received>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output: IntoBatchOutcome> + Send + 'static,
{
    fn call(
        &self,
        state: S,
        batch: Vec<Received>,
    ) -> impl Future<Output = BatchOutcome> + Send + 'static {
        let messages = batch.len();
        self(State(state), batch).map(move |value| value.into_batch_outcome(messages))
    }
}

/// Handles many messages at a time.
pub(super) struct BatchRunner<H, Args, S> {
    size: BatchSize,
    handler: H,
    state: S,
    args: PhantomData<fn() -> Args>,
}

impl<H, Args, S> BatchRunner<H, Args, S> {
    pub(super) fn new(size: BatchSize, handler: H, state: S) -> Self {
        Self {
            size,
            handler,
            state,
            args: PhantomData,
        }
    }
}

impl<H, Args, S> fmt::Debug for BatchRunner<H, Args, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRunner")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl<B, G, H, Args, S> Runner<B, G> for BatchRunner<H, Args, S>
where
    B: Broker,
    G: Guarantee<B, Scope = ()>,
    H: BatchHandler<Args, S>,
    Args: 'static,
    S: Clone + Send + Sync + 'static,
{
    fn start(
        &self,
        shared: Arc<Shared<G, G::Session>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (size, handler, state) = (self.size, self.handler.clone(), self.state.clone());
        async move {
            let mut batch = Vec::with_capacity(size.max);
            loop {
                shared
                    .lanes
                    .next_many(&mut batch, size.max, Some(size.within))
                    .await;
                if batch.is_empty() {
                    return;
                }
                let all = batch.len();
                let mut keys: Vec<_> = batch
                    .iter()
                    .filter_map(|s| shared.lanes.key_of(s))
                    .collect();
                keys.sort_unstable();
                keys.dedup();
                // Those that crashed their process too often are not given to the handler.
                let (mut taken, mut messages) = (Vec::with_capacity(all), Vec::with_capacity(all));
                for settlement in batch.drain(..) {
                    match shared.used_up(settlement.received()) {
                        Some(over) => finish::<B, G>(&shared, settlement, over).await,
                        None => {
                            messages.push(settlement.received().clone());
                            taken.push(settlement);
                        }
                    }
                }
                if !taken.is_empty() {
                    let source = &shared.subscription;
                    let span = shared.tracer.process_batch(source, &messages);
                    let whole = async {
                        let outcome = call(&handler, state.clone(), messages).await;
                        // What an outage hands back waits together: one after the other would take a pause for each.
                        let mut waiting = Vec::new();
                        for (settlement, outcome) in taken.into_iter().zip(outcome.0) {
                            let received = settlement.received();
                            shared.flow.handled(source, received, outcome.decision());
                            let outcome = shared.ceiling(outcome, received.attempt());
                            trace::processed(&span, outcome.decision());
                            let outage = is_outage(&outcome);
                            let finish = finish::<B, G>(&shared, settlement, outcome);
                            match outage {
                                true => waiting.push(finish),
                                // Outputs are published in the order of their batch.
                                false => finish.await,
                            }
                        }
                        join_all(waiting).await;
                    };
                    whole.instrument(span.clone()).await;
                }
                shared.lanes.done(all, &keys);
            }
        }
    }
}

/// True of a message that is handed back after a pause.
fn is_outage(outcome: &Outcome) -> bool {
    matches!(outcome.decision(), Decision::Retry(failure) if failure.class() == FailureClass::Infrastructure)
}

/// Settles one message of a batch, which is never attempted again in place: its batch is over.
async fn finish<B: Broker, G: Guarantee<B>>(
    shared: &Shared<G, G::Session>,
    settlement: Settlement,
    outcome: Outcome,
) {
    if let Some(again) = shared.finish::<B>(settlement, outcome).await {
        again.finish_logged(Verdict::Release);
    }
}

/// The outcome of one batch; a panic is a failed attempt at each of its messages.
async fn call<H: BatchHandler<Args, S>, Args, S>(
    handler: &H,
    state: S,
    batch: Vec<Received>,
) -> BatchOutcome {
    let messages = batch.len();
    let call = async { handler.call(state, batch).await };
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(outcome) => outcome,
        Err(panic) => Err::<(), _>(panic_failure(&*panic)).into_batch_outcome(messages),
    }
}
