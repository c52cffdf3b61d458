//! What a supervisor tells about its children.

use std::{fmt, sync::Arc, time::Duration};

use super::ChildError;

/// One thing that happened to one child.
///
/// Each [`Started`](What::Started) is followed by exactly one of `Ended`, `Failed`, `Panicked`,
/// `Stopped` and `Aborted`, unless the supervisor itself is dropped.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// The name of the supervisor.
    pub supervisor: Arc<str>,
    /// The name of the child.
    pub child: Arc<str>,
    /// What happened.
    pub what: What,
}

/// What happened to a child.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum What {
    /// Its task was started. Whether it gets on, a later event tells.
    Started,
    /// It ended normally, without having been asked to.
    Ended,
    /// It ended with an error, asked or not.
    Failed(ChildError),
    /// It panicked with this message, asked or not.
    Panicked(Arc<str>),
    /// It is due to start after this time; with it the others that its strategy names.
    Restarting(Duration),
    /// The supervisor gives up over it: it stops the others and ends with an error.
    GaveUp,
    /// It ended normally after its stop signal.
    Stopped,
    /// It did not stop within its deadline and was dropped.
    Aborted,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.supervisor, self.child, self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Ended => f.write_str("ended"),
            Self::Failed(error) => write!(f, "failed: {}", mq_core::rejection::chain(&**error)),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::Restarting(wait) => write!(f, "starts again in {wait:?}"),
            Self::GaveUp => f.write_str("cannot be kept running: giving up"),
            Self::Stopped => f.write_str("stopped"),
            Self::Aborted => f.write_str("was aborted at its deadline"),
        }
    }
}
