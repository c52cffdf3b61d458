//! A worker ready to run: awaited, or stopped by a signal.

use std::{fmt, future::Future, future::IntoFuture, pin::Pin, time::Duration};

use crate::Result;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A worker that runs when it is awaited, until its signal, its consumer's end or an error.
///
/// # Errors
/// Awaiting it ends with what keeps the worker from being built (no home for dead letters, a
/// missing queue, a capability the broker lacks), or with the error that ended the consumer.
///
/// # Cancel safety
/// Dropped, handlers are dropped where they are, and what is not settled goes back to the broker.
#[must_use = "a worker does nothing until it is awaited"]
pub struct Run {
    start: Box<dyn FnOnce(BoxFuture<()>) -> BoxFuture<Result<()>> + Send>,
    stop: BoxFuture<()>,
    deadline: Duration,
}

impl Run {
    pub(super) fn new<F>(
        deadline: Duration,
        start: impl FnOnce(BoxFuture<()>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self {
            start: Box::new(|stop| Box::pin(start(stop))),
            stop: Box::pin(std::future::pending()),
            deadline,
        }
    }

    /// Stops when the signal resolves: the intake ends, handlers that run finish within the
    /// worker's shutdown deadline and their messages are settled, the rest goes back to the broker.
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.stop = Box::pin(signal);
        self
    }
}

impl IntoFuture for Run {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<Result<()>>;

    fn into_future(self) -> Self::IntoFuture {
        (self.start)(self.stop)
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("shutdown_deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
