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
    tracer: Tracer,
}

impl Sending {
    /// No span.
    pub fn none() -> Self {
        Self {
            span: Span::none(),
            tracer: Tracer::default(),
        }
    }

    pub(super) fn new(span: Span, tracer: &Tracer) -> Self {
        // Nothing of one that nobody wants has to be kept.
        let tracer = match span.is_disabled() {
            true => Tracer::default(),
            false => tracer.clone(),
        };
        Self { span, tracer }
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
        if !self.is_on() {
            return;
        }
        match outcome {
            Ok(receipt) => {
                if let Some(at) = receipt.position() {
                    self.tracer.stored(&self.span, at);
                }
            }
            Err(error) => words::failed(&self.span, words::of_error(error.kind())),
        }
    }
}

impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sending").field(&self.span).finish()
    }
}
