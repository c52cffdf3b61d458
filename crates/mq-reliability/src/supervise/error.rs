//! Why a supervisor ended.

use std::{error::Error as StdError, fmt, sync::Arc};

use mq_core::BoxError;

/// The error of a child, shared between events and the error of its supervisor.
pub type ChildError = Arc<dyn StdError + Send + Sync>;

/// A supervisor stopped its children because one of them could not be kept running.
///
/// Its [`source`](StdError::source) is what that child ended with last, if it failed.
#[derive(Debug, Clone)]
pub struct GaveUp {
    pub(super) supervisor: Arc<str>,
    pub(super) child: Arc<str>,
    pub(super) cause: Cause,
    pub(super) error: Option<ChildError>,
}

/// Why a supervisor gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Its children needed more restarts within the period than its intensity allows.
    TooManyRestarts,
    /// The child's error is one that no restart can help.
    Fatal,
    /// The child blocks its thread, and did not end when it was aborted. A second one beside it
    /// would be one too many.
    Stuck,
}

impl GaveUp {
    /// The supervisor that gave up.
    pub fn supervisor(&self) -> &str {
        &self.supervisor
    }

    /// The child over which it gave up.
    pub fn child(&self) -> &str {
        &self.child
    }

    /// Why.
    pub fn cause(&self) -> Cause {
        self.cause
    }
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            supervisor, child, ..
        } = self;
        write!(f, "supervisor {supervisor} gave up over child {child}: ")?;
        f.write_str(match self.cause {
            Cause::TooManyRestarts => "more restarts than its intensity allows",
            Cause::Fatal => "its error is one that no restart can help",
            Cause::Stuck => "it blocks its thread and did not end when it was aborted",
        })
    }
}

impl StdError for GaveUp {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.as_deref().map(|error| error as _)
    }
}

/// A panic as an error: in the cause of a [`GaveUp`].
#[derive(Debug)]
pub(super) struct Panicked(pub(super) Arc<str>);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it panicked: {}", self.0)
    }
}

impl StdError for Panicked {}

/// The text of a panic.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> Arc<str> {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("(a panic without a text)").into()
}

pub(super) fn shared(error: BoxError) -> ChildError {
    Arc::from(error)
}
