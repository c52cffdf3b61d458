//! What passed through a proxy, and how often a fault acted.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// What passed through a proxy so far, and how often a fault acted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections there are.
    pub open: u64,
    /// Connections there were in all, those refused included.
    pub total: u64,
    /// Connections that were reset before anything passed: by [`Fault::Refuse`](super::Fault::Refuse),
    /// because the server could not be reached, or because there were 4,096 already.
    pub refused: u64,
    /// Connections that the proxy itself ended: [`Fault::Reset`](super::Fault::Reset),
    /// [`Fault::CutAfter`](super::Fault::CutAfter), [`Proxy::cut`](super::Proxy::cut).
    pub cut: u64,
    /// Bytes passed on to the server.
    pub to_broker: u64,
    /// Bytes passed on to clients.
    pub to_client: u64,
    /// How often a fault did something to a connection: a chunk delayed by latency or bandwidth, a
    /// piece cut off as a slice, bytes or an end that came to wait at a black hole (once for each
    /// connection and direction), an end delayed, a connection ended or refused. So a test can tell
    /// that its fault was not in vain.
    pub acted: u64,
}

#[derive(Debug, Default)]
pub(super) struct Count {
    open: AtomicU64,
    total: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    to_broker: AtomicU64,
    to_client: AtomicU64,
    acted: AtomicU64,
    changed: Notify,
}

impl Count {
    pub(super) fn now(&self) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        Counters {
            open: of(&self.open),
            total: of(&self.total),
            refused: of(&self.refused),
            cut: of(&self.cut),
            to_broker: of(&self.to_broker),
            to_client: of(&self.to_client),
            acted: of(&self.acted),
        }
    }

    pub(super) async fn until(&self, mut wanted: impl FnMut(Counters) -> bool) -> Counters {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = self.now();
            if wanted(now) {
                return now;
            }
            changed.await;
        }
    }

    pub(super) fn opened(&self) {
        self.total.fetch_add(1, Ordering::AcqRel);
        self.add(&self.open, 1);
    }

    pub(super) fn ended(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(super) fn refused(&self) {
        self.add(&self.refused, 1);
    }

    pub(super) fn cut(&self) {
        self.cut.fetch_add(1, Ordering::AcqRel);
        self.acted();
    }

    pub(super) fn acted(&self) {
        self.add(&self.acted, 1);
    }

    pub(super) fn passed(&self, to_broker: bool, bytes: usize) {
        let counter = if to_broker {
            &self.to_broker
        } else {
            &self.to_client
        };
        self.add(counter, u64::try_from(bytes).unwrap_or(0));
    }

    fn add(&self, counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::AcqRel);
        self.changed.notify_waiters();
    }
}
