//! One runner: takes a delivery, calls the service, settles; and the rules for failed attempts.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use tokio::sync::Notify;
use tower_service::Service;
use tracing::Instrument;

use super::lanes::{Done, Lanes};
use crate::{
    BoxError, Broker, Decision, Error, ErrorKind, FailureClass, Guarantee, Outcome, Reason,
    Received, Rejection, RetryAdvice, Settlement, Subscription, Verdict,
    flow::Flow,
    handler::{panicked, ready_call},
    trace::{self, Tracer},
};

/// What the runners of one worker share.
#[derive(Debug)]
pub(super) struct Shared<G, Session> {
    pub(super) lanes: Lanes,
    pub(super) guarantee: G,
    pub(super) session: Session,
    pub(super) max_attempts: u32,
    pub(super) ordered: bool,
    /// What ends the worker lets no runner begin with another message: a later one of the same key would overtake.
    pub(super) stops_at_once: bool,
    pub(super) subscription: Subscription,
    pub(super) flow: Flow,
    pub(super) tracer: Tracer,
    pub(super) fault: Fault,
}

/// The error that ends a worker, from whichever runner met it first.
#[derive(Debug, Default)]
pub(super) struct Fault {
    error: Mutex<Option<Error>>,
    set: Notify,
}

/// A kind of runner: one message a call, or many.
pub(super) trait Runner<B: Broker, G: Guarantee<B>>: Send + 'static {
    /// The future of one more runner.
    fn start(
        &self,
        shared: Arc<Shared<G, G::Session>>,
    ) -> impl Future<Output = ()> + Send + 'static;
}

/// Handles one message at a time.
#[derive(Debug)]
pub(super) struct SingleRunner<T> {
    service: T,
}

impl<T> SingleRunner<T> {
    pub(super) fn new(service: T) -> Self {
        Self { service }
    }
}

impl<B, G, T> Runner<B, G> for SingleRunner<T>
where
    B: Broker,
    G: Guarantee<B>,
    T: Service<Received, Response = Outcome, Error: Into<BoxError> + Send, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    fn start(
        &self,
        shared: Arc<Shared<G, G::Session>>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let fresh = self.service.clone();
        async move {
            let mut service = fresh.clone();
            let mut done = None;
            while let Some(settlement) = shared.lanes.next(done.take()).await {
                let key = shared.lanes.key_of(&settlement);
                let mut held = Some(settlement);
                while let Some(settlement) = held.take() {
                    let (source, received) = (&shared.subscription, settlement.received());
                    let span = shared.tracer.process(source, received, settlement.tag());
                    // What the outcome publishes belongs to it too. Pinned where it is made: it is large, and is not to be moved.
                    let whole = async {
                        let outcome = shared
                            .attempts(&mut service, &fresh, settlement.received())
                            .await;
                        trace::processed(&span, outcome.decision());
                        shared.finish::<B>(settlement, outcome).await
                    };
                    held = pin!(whole.instrument(span.clone())).await;
                }
                done = Some(Done { key });
            }
        }
    }
}

impl<G, Session> Shared<G, Session> {
    /// Calls the service; with order by key again in place until it is done or the ceiling.
    async fn attempts<T>(&self, service: &mut T, fresh: &T, received: &Received) -> Outcome
    where
        T: Service<Received, Response = Outcome, Error: Into<BoxError>> + Clone,
    {
        if let Some(over) = self.used_up(received) {
            return over;
        }
        let mut again = None;
        loop {
            let received = again.as_ref().unwrap_or(received);
            let call = AssertUnwindSafe(ready_call(service, received.clone()));
            let outcome = match call.catch_unwind().await {
                Ok(outcome) => outcome,
                Err(panic) => {
                    // A layer panicked: what it left of itself is not used again.
                    *service = fresh.clone();
                    panicked(panic)
                }
            };
            self.flow
                .handled(&self.subscription, received, outcome.decision());
            let outcome = self.ceiling(outcome, received.attempt());
            let failed = match outcome.decision() {
                Decision::Retry(failure) => failure.class() != FailureClass::Infrastructure,
                _ => false,
            };
            if !self.ordered || !failed {
                // A copy of it tells the attempts that were made here.
                let copied = matches!(outcome.decision(), Decision::Defer(_) | Decision::Reject(_));
                return match outcome.attempt() {
                    None if copied && again.is_some() => outcome.after_attempt(received.attempt()),
                    _ => outcome,
                };
            }
            // Requeueing would let later messages of the key overtake this one.
            again = Some(received.clone().with_attempt(received.attempt() + 1));
        }
    }

    /// The outcome of a message that was delivered too often without ever being settled: it may be
    /// what crashed those who had it.
    pub(super) fn used_up(&self, received: &Received) -> Option<Outcome> {
        let made = received.attempt() - 1;
        // Where the broker counts what was fetched alone, most of these may never have been with a handler.
        (received.attempt_is_exact() && made >= self.max_attempts).then(|| {
            let text = format!("{made} attempts ended without an outcome");
            Outcome::reject(Rejection::new(Reason::Exhausted, text).attempts(made))
        })
    }

    /// A failed attempt becomes a rejection where no further attempt is due.
    pub(super) fn ceiling(&self, outcome: Outcome, attempt: u32) -> Outcome {
        let Decision::Retry(failure) = outcome.decision() else {
            return outcome;
        };
        let reason = match failure.class() {
            FailureClass::Permanent => Reason::Permanent,
            FailureClass::Infrastructure => return outcome,
            _ if attempt >= self.max_attempts => Reason::Exhausted,
            _ => return outcome,
        };
        Outcome::reject(Rejection::from_error(reason, failure.error()).attempts(attempt))
    }

    /// Publishes and settles. Gives the settlement back if the message is to be attempted again in
    /// place.
    pub(super) async fn finish<B>(
        &self,
        settlement: Settlement,
        outcome: Outcome,
    ) -> Option<Settlement>
    where
        B: Broker,
        G: Guarantee<B, Session = Session>,
    {
        if let Decision::Retry(failure) = outcome.decision()
            && failure.class() == FailureClass::Infrastructure
        {
            let error = failure.as_error();
            let ends = error.retry() == RetryAdvice::Never;
            return self.hand_back(settlement, error, ends).await;
        }
        let settlement = match outcome.attempt() {
            Some(attempt) => settlement.after_attempt(attempt),
            None => settlement,
        };
        let undone = self
            .guarantee
            .settle(&self.session, settlement, outcome)
            .await
            .err()?;
        let (settlement, error) = undone.into_parts();
        // A client that has given up may get through the next time.
        if ends_the_worker(error.kind()) || error.retry() != RetryAdvice::Never {
            let ends = ends_the_worker(error.kind());
            return self.hand_back(settlement, error, ends).await;
        }
        // What the handler wants published can never be published as it is.
        let rejection = Rejection::from_error(Reason::Permanent, &error.into());
        settlement.finish_logged(Verdict::Reject(Box::new(rejection)));
        None
    }

    /// Nothing is wrong with the message: it goes back uncounted, after a pause that keeps an outage
    /// from becoming a hot loop, or at once with the worker's end. With order by key it stays, so
    /// that later messages of its key don't overtake it.
    async fn hand_back(
        &self,
        settlement: Settlement,
        error: Error,
        ends: bool,
    ) -> Option<Settlement> {
        let id = settlement.received().id().clone();
        tracing::warn!(%id, %error, ends, "the message is handed back: it is not at fault");
        if ends {
            // First why, since a runner that ends without a reason is one too.
            self.fault.set(error);
            if self.stops_at_once {
                self.lanes.stop();
            }
        } else {
            tokio::time::sleep(PAUSE).await;
            // Once the worker stops, nothing of its key is behind it any more.
            if self.ordered && !self.lanes.is_closed() {
                return Some(settlement);
            }
        }
        settlement.finish_logged(Verdict::Release);
        None
    }
}

/// How long a message is held when what its handler stands on has failed.
const PAUSE: Duration = Duration::from_secs(1);

impl Fault {
    /// Ends the worker with this error; the first one counts.
    pub(super) fn set(&self, error: Error) {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.set.notify_one();
    }

    /// Waits for the error that ends the worker.
    pub(super) async fn wait(&self) -> Error {
        loop {
            let set = self.set.notified();
            if let Some(error) = self.take() {
                return error;
            }
            set.await;
        }
    }

    pub(super) fn take(&self) -> Option<Error> {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// Errors after which no message of this worker can be handled.
fn ends_the_worker(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Closed
            | ErrorKind::Disconnected
            | ErrorKind::Connect
            | ErrorKind::Lost
            | ErrorKind::Auth
            | ErrorKind::Permission
            | ErrorKind::Bug
    )
}
