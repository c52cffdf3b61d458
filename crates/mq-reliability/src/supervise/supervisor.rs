//! How a supervisor is put together.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use super::{
    Child, Event, GaveUp,
    pace::{Backoff, Intensity},
    run::Tree,
};

/// Keeps children running (OTP *supervisor*).
///
/// The strategy says who is started again with a child that failed; see the
/// [module](crate::supervise).
#[must_use = "a supervisor does nothing until it runs"]
pub struct Supervisor {
    pub(super) name: Arc<str>,
    pub(super) strategy: Strategy,
    pub(super) intensity: Intensity,
    pub(super) backoff: Backoff,
    pub(super) children: Vec<Child>,
    pub(super) sink: Option<Sink>,
}

pub(super) type Sink = Arc<dyn Fn(&Event) + Send + Sync>;

/// Who is started again with a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    OneForOne,
    OneForAll,
    RestForOne,
}

impl Supervisor {
    /// A child that failed is started again, and nobody else.
    pub fn one_for_one(name: impl Into<Arc<str>>) -> Self {
        Self::new(name.into(), Strategy::OneForOne)
    }

    /// With a child that failed all others are stopped, in reverse order, and all are started again.
    pub fn one_for_all(name: impl Into<Arc<str>>) -> Self {
        Self::new(name.into(), Strategy::OneForAll)
    }

    /// With a child that failed those added after it are stopped, in reverse order, and started
    /// again behind it.
    pub fn rest_for_one(name: impl Into<Arc<str>>) -> Self {
        Self::new(name.into(), Strategy::RestForOne)
    }

    fn new(name: Arc<str>, strategy: Strategy) -> Self {
        Self {
            name,
            strategy,
            intensity: Intensity::new(10, Duration::from_secs(60)),
            backoff: Backoff::default(),
            children: Vec::new(),
            sink: None,
        }
    }

    /// Sets how many restarts within a period are allowed, all children together; the next one is
    /// one too many, and the supervisor gives up. Default 10 within 60 s; a period is at least 1 s.
    ///
    /// A child that ran for a whole period counts as healthy: its backoff begins anew.
    pub fn intensity(mut self, restarts: usize, period: Duration) -> Self {
        self.intensity = Intensity::new(restarts, period);
        self
    }

    /// Sets the wait before a restart: a random time between half of a limit and all of it. The
    /// limit starts at `initial` (at least 1 ms) and doubles with each failure of that child in a
    /// row up to `max`. Default 100 ms and 10 s.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.backoff = Backoff::new(initial, max);
        self
    }

    /// Adds a child. Children are started in this order and stopped in reverse.
    pub fn child(mut self, child: Child) -> Self {
        self.children.push(child);
        self
    }

    /// Calls a function with each event of its children, in order, besides the events of `tracing`.
    /// Those of a supervisor among them go to that one's own function.
    ///
    /// It is called on the supervisor's task, so it must not block; send on a bounded channel with
    /// `try_send` where more is to be done.
    pub fn on_event(mut self, sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.sink = Some(Arc::new(sink));
        self
    }

    /// Runs until the signal, or until no child is left that would run again; pass
    /// [`pending()`](std::future::pending) for no signal. Needs a Tokio runtime.
    ///
    /// After the signal it stops the children in reverse order, each within its deadline, and
    /// returns when the last one has ended.
    ///
    /// # Errors
    /// A child could not be kept running. The others are stopped by then, in reverse order.
    ///
    /// # Cancel safety
    /// Dropped, all children are aborted at once, in no order: each is dropped where it waits.
    pub async fn run_until(self, stop: impl Future<Output = ()> + Send) -> Result<(), GaveUp> {
        Tree::new(self).run(stop).await
    }
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor")
            .field("name", &self.name)
            .field("strategy", &self.strategy)
            .field("intensity", &self.intensity)
            .field("backoff", &self.backoff)
            .field("children", &self.children)
            .finish_non_exhaustive()
    }
}
