//! The span of a publish until its outcome is known.

use std::fmt;

use tracing::Span;

use super::{Tracer, words};
use crate::{Receipt, Result};

/// The *send* span of a message or a batch, until the outcome is known. Made by [`Tracer`].
///
/// Dropped, or with the last clone of a batch, the span ends.
#[derive(Clone)]
pub struct Sending {
    span: Span,
    /// Where a single message was stored is told to it.
    tracer: Tracer,
}

impl Sending {
    /// No span.
    pub fn none() -> Self {
        Self::many(Span::none())
    }

    /// The span of one message.
    pub(super) fn one(span: Span, tracer: &Tracer) -> Self {
        match span.is_disabled() {
            true => Self::many(span),
            false => Self {
                span,
                tracer: tracer.clone(),
            },
        }
    }

    /// The span of a batch, whose messages are stored at many places; or one that nobody wants.
    pub(super) fn many(span: Span) -> Self {
        Self {
            span,
            tracer: Tracer::default(),
        }
    }

    /// True if somebody wants the span.
    #[inline]
    pub fn is_on(&self) -> bool {
        !self.span.is_disabled()
    }

    /// The span itself.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// The outcome of its message, or of one of its batch: an error is the span's `error.type`.
    pub fn end(&self, outcome: &Result<Receipt>) {
        if let Ok(receipt) = outcome
            && let Some(at) = receipt.position()
        {
            self.tracer.stored(&self.span, at);
        }
        self.failed(outcome);
    }

    /// The message did not even leave, if this is an error.
    pub fn failed<T>(&self, result: &Result<T>) {
        failed(&self.span, result);
    }
}

/// Notes on a span what failed, if this is an error: its kind is the `error.type`.
pub fn failed<T>(span: &Span, result: &Result<T>) {
    if let Err(error) = result {
        words::failed(span, words::of_error(error.kind()));
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sending").field(&self.span).finish()
    }
}
