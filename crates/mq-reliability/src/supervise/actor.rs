//! What a user writes: an actor, and what can become of a message to one.

use std::{error::Error as StdError, fmt, future::Future, sync::Arc};

use mq_core::BoxError;

use super::ChildError;

/// A state that one message at a time works on (OTP *GenServer*).
///
/// An error or a panic ends it: the next message finds a fresh one. What is no reason to throw the
/// state away, such as a refused payment, belongs in the reply.
pub trait Actor: Send + 'static {
    /// What it takes; an enum if there are several kinds.
    type Message: Send + 'static;
    /// What it answers to a [`call`](super::Actors::call).
    type Reply: Send + 'static;

    /// Handles one message. The next one waits until this returns.
    ///
    /// # Errors
    /// This state cannot be worked on any further.
    ///
    /// # Cancel safety
    /// It is dropped where it waits only if its [`Actors`](super::Actors) are dropped, or stopped
    /// and not done within the deadline.
    fn handle(
        &mut self,
        message: Self::Message,
    ) -> impl Future<Output = Result<Self::Reply, BoxError>> + Send;
}

/// Why a message to an actor has no reply.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ActorError {
    /// Its mailbox had no room, at once or within the deadline. It was not handled.
    MailboxFull,
    /// There are as many actors as may be, and none is idle. It was not handled.
    TooManyActors,
    /// No answer within the deadline. It may be handled still.
    NoAnswer,
    /// The actor panicked over it, with this message. It may be handled in part.
    Panicked(Arc<str>),
    /// The actor failed over it. It may be handled in part.
    Failed(ChildError),
    /// The actor failed more often than its restarts allow, and this message was behind. It was
    /// not handled.
    GaveUp,
    /// The actors are stopped, or were before it was this message's turn; if they were stopped by
    /// force, it may be handled in part.
    Stopped,
}

impl fmt::Display for ActorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MailboxFull => f.write_str("the actor's mailbox is full"),
            Self::TooManyActors => f.write_str("there are too many actors, and none is idle"),
            Self::NoAnswer => f.write_str("the actor did not answer in time"),
            Self::Panicked(message) => write!(f, "the actor panicked: {message}"),
            Self::Failed(_) => f.write_str("the actor failed"),
            Self::GaveUp => f.write_str("the actor failed too often, with this message behind"),
            Self::Stopped => f.write_str("the actors are stopped"),
        }
    }
}

impl StdError for ActorError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Failed(error) => Some(&**error),
            _ => None,
        }
    }
}
