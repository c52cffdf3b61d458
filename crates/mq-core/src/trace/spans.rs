//! What a backend makes its spans with.

use tracing::Span;

use crate::{Destination, Message, Position, Received, Subscription};

/// The spans of one client of a broker: their names and attributes in the broker's words.
///
/// A backend implements it with `tracing::debug_span!`, whose call sites lie in its own crate: names
/// of attributes are fixed where a span is made, and some are one broker's alone. What is expensive
/// belongs into the macro's values, which are made only for a span that somebody wants. Every span
/// of *send* and *process* declares `error.type` and `otel.status_code` as empty.
pub trait Spans: Send + Sync + 'static {
    /// One message of a batch is made: a producer span.
    fn create(&self, to: &Destination, message: &Message) -> Span;

    /// A message or a batch leaves: a producer span if the messages carry its context, else a
    /// client span.
    fn send(&self, to: &Destination, sent: Sent<'_>, carried: bool) -> Span;

    /// Messages are handed out by a consumer: a client span.
    fn receive(&self, source: &Subscription, messages: usize) -> Span;

    /// A worker handles a message or a batch: a consumer span without a parent.
    fn process(&self, source: &Subscription, handled: Handled<'_>) -> Span;

    /// Verdicts go to the broker by an operation of its own, such as `ack` or `commit`, about so
    /// many messages where that is known: a client span.
    fn settle(
        &self,
        source: &Subscription,
        operation: &'static str,
        messages: Option<usize>,
    ) -> Span;

    /// The message of a *send* span was stored at this place.
    fn stored(&self, span: &Span, at: Position) {
        let _ = (span, at);
    }
}

/// What a *send* span is about.
#[derive(Debug, Clone, Copy)]
#[allow(
    clippy::exhaustive_enums,
    reason = "a span is of one message or of many"
)]
pub enum Sent<'a> {
    /// One message.
    One(&'a Message),
    /// A batch of so many.
    Many(usize),
}

/// What a *process* span is about.
#[derive(Debug, Clone, Copy)]
#[allow(
    clippy::exhaustive_enums,
    reason = "a span is of one message or of many"
)]
pub enum Handled<'a> {
    /// One message, with the backend's tag of its delivery (0 if it was settled before).
    One(&'a Received, u64),
    /// A batch of so many.
    Many(usize),
}

impl<'a> Sent<'a> {
    /// The message, if it is one.
    pub fn message(self) -> Option<&'a Message> {
        match self {
            Self::One(message) => Some(message),
            Self::Many(_) => None,
        }
    }

    /// The number of messages of a batch.
    pub fn count(self) -> Option<usize> {
        match self {
            Self::One(_) => None,
            Self::Many(count) => Some(count),
        }
    }
}

impl<'a> Handled<'a> {
    /// The message, if it is one.
    pub fn received(self) -> Option<&'a Received> {
        match self {
            Self::One(received, _) => Some(received),
            Self::Many(_) => None,
        }
    }

    /// The backend's tag of the delivery, if it is one that is still to be settled.
    pub fn tag(self) -> Option<u64> {
        match self {
            Self::One(_, tag) if tag > 0 => Some(tag),
            _ => None,
        }
    }

    /// The number of messages of a batch.
    pub fn count(self) -> Option<usize> {
        match self {
            Self::One(..) => None,
            Self::Many(count) => Some(count),
        }
    }
}
