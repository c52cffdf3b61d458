//! What a supervisor starts, and how it treats its end.

use std::{
    error::Error as StdError,
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use mq_core::{BoxError, Error, ErrorKind};

use super::{Stop, Supervisor};

pub(super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

type Start = dyn Fn(Stop) -> BoxFuture<Result<(), BoxError>> + Send + Sync;

/// Says whether an error is fatal.
type Judge = dyn Fn(&(dyn StdError + 'static)) -> bool + Send + Sync;

/// A name and a function that makes the child anew for each start.
///
/// The function gets the [`Stop`] of that run, and returns anything that can be awaited: the future
/// of an async function, or a worker's [`Run`](mq_core::Run). It runs in a task of its own. The
/// child is *permanent* unless [`transient`](Self::transient) or [`temporary`](Self::temporary)
/// says otherwise.
#[must_use = "a child does nothing until its supervisor runs"]
pub struct Child {
    pub(super) name: Arc<str>,
    pub(super) start: Arc<Start>,
    pub(super) restart: Restart,
    pub(super) stop_within: Option<Duration>,
    pub(super) fatal: Arc<Judge>,
}

/// What becomes of a child that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    Permanent,
    Transient,
    Temporary,
}

impl Child {
    /// A permanent child: started again however it ended.
    ///
    /// The name is for events, logs and errors; nothing looks a child up by it.
    pub fn new<F, Fut>(name: impl Into<Arc<str>>, start: F) -> Self
    where
        F: Fn(Stop) -> Fut + Send + Sync + 'static,
        Fut: IntoFuture<Output: IntoExit, IntoFuture: Send + 'static>,
    {
        Self {
            name: name.into(),
            start: Arc::new(move |stop| {
                let run = start(stop).into_future();
                Box::pin(async { run.await.into_exit() })
            }),
            restart: Restart::Permanent,
            stop_within: Some(STOP_WITHIN),
            fatal: Arc::new(is_fatal),
        }
    }

    /// A supervisor as a child, made anew for each start. It has no deadline of its own to stop,
    /// since all of its children have one.
    pub fn supervisor<F>(name: impl Into<Arc<str>>, supervisor: F) -> Self
    where
        F: Fn() -> Supervisor + Send + Sync + 'static,
    {
        let mut child = Self::new(name, move |stop| supervisor().run_until(stop));
        child.stop_within = None;
        child
    }

    /// Started again only if it failed: an error or a panic. One that ends normally is done.
    pub fn transient(mut self) -> Self {
        self.restart = Restart::Transient;
        self
    }

    /// Never started again, and its end means nothing to the others.
    pub fn temporary(mut self) -> Self {
        self.restart = Restart::Temporary;
        self
    }

    /// Sets how long the child may go on after its stop signal. Default 40 s, which is more than a
    /// worker gives its handlers. Then it is aborted: dropped where it waits.
    pub fn stop_within(mut self, deadline: Duration) -> Self {
        self.stop_within = Some(deadline);
        self
    }

    /// Sets for which errors a restart cannot help: the supervisor gives up at once.
    ///
    /// By default an error is fatal if a [`mq_core::Error`] of kind `Config`, `InvalidName`,
    /// `Unsupported`, `Auth` or `Permission` is among its causes. As the error of a supervisor that
    /// gave up has the child's error as its cause, such an error ends every level up to the
    /// outermost.
    pub fn fatal_if<P>(mut self, fatal: P) -> Self
    where
        P: Fn(&(dyn StdError + 'static)) -> bool + Send + Sync + 'static,
    {
        self.fatal = Arc::new(fatal);
        self
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.name)
            .field("restart", &self.restart)
            .field("stop_within", &self.stop_within)
            .finish_non_exhaustive()
    }
}

/// What a child may end with: `()`, or a `Result` whose error is a failure.
#[diagnostic::on_unimplemented(
    message = "a supervised child cannot end with `{Self}`",
    note = "end it with `()` or with a `Result<(), E>` whose error converts into a `BoxError`"
)]
pub trait IntoExit {
    /// The end as the supervisor sees it.
    ///
    /// # Errors
    /// The child has failed.
    fn into_exit(self) -> Result<(), BoxError>;
}

impl IntoExit for () {
    fn into_exit(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> IntoExit for Result<(), E> {
    fn into_exit(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// Only what no restart of this program can change. What has to be declared first, or comes from
/// a connection that is gone, may be otherwise at the next start.
fn is_fatal(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<Error>() {
            return matches!(
                error.kind(),
                ErrorKind::Config
                    | ErrorKind::InvalidName
                    | ErrorKind::Unsupported
                    | ErrorKind::Auth
                    | ErrorKind::Permission
            );
        }
        next = error.source();
    }
    false
}

/// A worker gives its handlers 30 s by default, then closes its consumer.
const STOP_WITHIN: Duration = Duration::from_secs(40);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_wrong_password_is_fatal_and_an_outage_is_not() {
        let error = |kind| Error::new(kind, "connect", "no");
        assert!(is_fatal(&error(ErrorKind::Auth)));
        assert!(is_fatal(&error(ErrorKind::Config)));
        for kind in [ErrorKind::Connect, ErrorKind::Lost, ErrorKind::NotFound] {
            assert!(!is_fatal(&error(kind)), "{kind:?}");
        }
        assert!(!is_fatal(&io::Error::other("what is that")));
    }

    #[test]
    fn the_outermost_error_of_the_project_decides() {
        let lost = Error::new(ErrorKind::Lost, "consume", "gone").caused_by(Error::new(
            ErrorKind::Permission,
            "declare",
            "no",
        ));
        assert!(!is_fatal(&lost));
    }
}
