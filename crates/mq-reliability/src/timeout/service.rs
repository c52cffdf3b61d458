//! The service that drops a call of its inner one at the limit.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use mq_core::{Error, ErrorKind, Failure, Outcome, Received};
use tower_service::Service;

/// Calls the inner service, and drops the call at the limit: that attempt has failed.
///
/// Errors of the inner service are handed on.
#[derive(Debug, Clone)]
pub struct TimeoutService<S> {
    inner: S,
    limit: Duration,
}

impl<S> TimeoutService<S> {
    pub(super) fn new(inner: S, limit: Duration) -> Self {
        Self { inner, limit }
    }
}

impl<S> Service<Received> for TimeoutService<S>
where
    S: Service<Received, Response = Outcome>,
    S::Future: Send + 'static,
{
    type Response = Outcome;
    type Error = S::Error;
    type Future = TimeoutFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, received: Received) -> Self::Future {
        let limit = self.limit;
        let call = self.inner.call(received);
        TimeoutFuture(Box::pin(async move {
            match tokio::time::timeout(limit, call).await {
                Ok(outcome) => outcome,
                Err(_) => Ok(Outcome::retry(Failure::transient(late(limit)))),
            }
        }))
    }
}

fn late(limit: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        "handle",
        "the handler did not end in time",
    )
    .with("seconds", limit.as_secs_f32())
    .help("see what it waits for, or raise the limit of the timeout layer")
}

/// The outcome of a call, or of its timeout.
///
/// Dropped, the call is dropped.
pub struct TimeoutFuture<E>(Pin<Box<dyn Future<Output = Result<Outcome, E>> + Send>>);

impl<E> Future for TimeoutFuture<E> {
    type Output = Result<Outcome, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<E> fmt::Debug for TimeoutFuture<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TimeoutFuture")
    }
}
