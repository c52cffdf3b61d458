//! The service that calls its inner one again.

use std::{
    fmt,
    future::{Future, poll_fn},
    hash::{BuildHasher, RandomState},
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::SystemTime,
};

use mq_core::{BoxError, Decision, FailureClass, Outcome, Reason, Received, Rejection};
use tokio::time::sleep;
use tower_service::Service;

use super::{Policy, policy::Next};

/// Calls the inner service until it succeeds, fails for good, or the attempts of this round are over:
/// then the message is deferred, or rejected at the policy's ceiling.
///
/// The attempt number that the inner service sees goes up with each call. An error of the inner
/// service, such as that of a timeout layer, is a failed attempt; one of its `poll_ready` is not:
/// by tower's contract such a service is never called again, so the error is handed on.
#[derive(Debug, Clone)]
pub struct RetryService<S> {
    inner: S,
    policy: Policy,
}

impl<S> RetryService<S> {
    pub(super) fn new(inner: S, policy: Policy) -> Self {
        Self { inner, policy }
    }
}

impl<S> Service<Received> for RetryService<S>
where
    S: Service<Received, Response = Outcome, Error: Into<BoxError>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Outcome;
    type Error = S::Error;
    type Future = RetryFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, received: Received) -> Self::Future {
        // The clone may not be ready: the one that is goes into the future.
        let fresh = self.inner.clone();
        let ready = mem::replace(&mut self.inner, fresh);
        RetryFuture(Box::pin(attempts(ready, self.policy.clone(), received)))
    }
}

/// The outcome after the last attempt.
///
/// Dropped, the attempt that is under way is dropped, and nothing more is attempted.
pub struct RetryFuture<E>(Pin<Box<dyn Future<Output = Result<Outcome, E>> + Send>>);

impl<E> Future for RetryFuture<E> {
    type Output = Result<Outcome, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<E> fmt::Debug for RetryFuture<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RetryFuture")
    }
}

async fn attempts<S>(
    mut service: S,
    policy: Policy,
    mut received: Received,
) -> Result<Outcome, S::Error>
where
    S: Service<Received, Response = Outcome, Error: Into<BoxError>>,
{
    let mut first_failure = None;
    loop {
        let outcome = match service.call(received.clone()).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::retry(error.into()),
        };
        let attempt = received.attempt();
        let failure = match outcome.decision() {
            Decision::Retry(failure) => failure,
            // The attempts made here are behind its copy.
            Decision::Defer(_) | Decision::Reject(_) => return Ok(outcome.after_attempt(attempt)),
            Decision::Ack => return Ok(outcome),
        };
        let next = match failure.class() {
            // Not the message's fault: the worker hands it back, and ends if that cannot pass.
            FailureClass::Infrastructure => return Ok(outcome),
            FailureClass::Permanent => Err(Reason::Permanent),
            _ => Ok(policy.next(attempt, random())),
        };
        let first_failure = *first_failure.get_or_insert_with(SystemTime::now);
        let reject = |reason| {
            let rejection = Rejection::from_error(reason, failure.error())
                .attempts(attempt)
                .first_failure(first_failure);
            Ok(Outcome::reject(rejection))
        };
        let wait = match next {
            Ok(Next::Again(wait)) => wait,
            Ok(Next::Later(delay)) => return Ok(Outcome::defer(delay).after_attempt(attempt)),
            Ok(Next::Never) => return reject(Reason::Exhausted),
            Err(reason) => return reject(reason),
        };
        if !wait.is_zero() {
            sleep(wait).await;
        }
        received = received.with_attempt(attempt + 1);
        poll_fn(|cx| service.poll_ready(cx)).await?;
    }
}

/// A number spread over the whole range. Jitter needs no more than the standard library's hasher,
/// which has other keys each time.
fn random() -> u64 {
    RandomState::new().hash_one(())
}
