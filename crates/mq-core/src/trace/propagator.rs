//! The hook that carries trace context through headers.

use std::fmt;

use tracing::Span;

use crate::Headers;

/// Writes the trace context of a span into headers, and reads it from there.
///
/// The headers are those of [W3C Trace Context](https://www.w3.org/TR/trace-context/) and
/// [Baggage](https://www.w3.org/TR/baggage/): `traceparent`, `tracestate`, `baggage`, lower case and
/// plain text on every broker, so that any peer reads them. It is called on the path of messages, so
/// it must not block, and must not panic.
pub trait Propagator: Send + Sync + 'static {
    /// Writes the span's context into the headers of a message that has none.
    ///
    /// The span is the one that sends or creates the message; where that has no context, since it is
    /// filtered out, the current span of the caller is tried, which may be none. Where a span has no
    /// context, nothing is written.
    fn inject(&self, span: &Span, headers: &mut Headers);

    /// Makes the context in these headers the span's parent. Called before the span is entered or
    /// its context is asked for, and never without a `traceparent`.
    fn parent(&self, span: &Span, headers: &Headers);

    /// Adds a link from the span to the context in these headers. Never called without a
    /// `traceparent`; for a batch once for each message.
    fn link(&self, span: &Span, headers: &Headers);
}

impl fmt::Debug for dyn Propagator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Propagator")
    }
}
