//! The signal that asks a child to stop.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Resolves when its child shall stop.
///
/// It is a future, so it can be given to
/// [`with_graceful_shutdown`](mq_core::Run::with_graceful_shutdown) as it is, and `&mut stop` can
/// stand in a `select!` of a loop: once resolved it stays so. Clones resolve together.
pub struct Stop {
    token: CancellationToken,
    // Boxed, so that a `Stop` can be awaited by reference.
    requested: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stop {
    pub(super) fn new(token: CancellationToken) -> Self {
        let requested = Box::pin(token.clone().cancelled_owned());
        Self { token, requested }
    }

    /// True once the child shall stop, for code that computes without waiting.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }
}

impl Future for Stop {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.token.is_cancelled() {
            return Poll::Ready(());
        }
        self.requested.as_mut().poll(cx)
    }
}

impl Clone for Stop {
    fn clone(&self) -> Self {
        Self::new(self.token.clone())
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop")
            .field("requested", &self.is_requested())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stays_resolved_and_so_do_its_clones() {
        let token = CancellationToken::new();
        let mut stop = Stop::new(token.clone());
        assert!(!stop.is_requested());
        let early = tokio::time::timeout(std::time::Duration::from_millis(5), &mut stop).await;
        assert!(early.is_err());
        let clone = stop.clone();
        token.cancel();
        (&mut stop).await;
        (&mut stop).await;
        clone.await;
        assert!(stop.is_requested());
    }
}
