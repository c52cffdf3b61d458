//! A link to the in-process broker that can be frozen and cut.

use std::sync::Arc;

use mq_core::{Error, ErrorKind, Result};
use mq_testkit::Link;
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Frozen,
    Cut,
}

/// The client's end of its link.
#[derive(Debug, Clone)]
pub(super) struct Line(Arc<watch::Sender<State>>);

impl Line {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::channel(State::Open).0))
    }

    pub(super) fn is_open(&self) -> bool {
        *self.0.borrow() == State::Open
    }

    /// What every operation asks first.
    pub(super) fn check(&self) -> Result<()> {
        match *self.0.borrow() {
            State::Cut => Err(Error::new(ErrorKind::Disconnected, "link", "it is cut")),
            _ => Ok(()),
        }
    }

    /// Waits until nothing passes.
    pub(super) async fn held(&self) {
        self.until(|state| state != State::Open).await;
    }

    /// Waits until it is cut.
    pub(super) async fn lost(&self) {
        self.until(|state| state == State::Cut).await;
    }

    async fn until(&self, is: impl Fn(State) -> bool) {
        let mut state = self.0.subscribe();
        state.wait_for(|state| is(*state)).await.expect("a sender");
    }
}

impl Link for Line {
    fn freeze(&self) {
        self.0.send_replace(State::Frozen);
    }

    fn cut(&self) {
        self.0.send_replace(State::Cut);
    }
}
