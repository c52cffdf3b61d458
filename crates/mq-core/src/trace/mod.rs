//! Spans by the conventions of OpenTelemetry, and trace context that travels in headers.
//!
//! Every backend makes `tracing` spans for what happens to its messages: *create* and *send* where
//! they are published, *receive* where a consumer hands them out, *process* around a worker's
//! handler, *settle* where verdicts go to the broker. Names, kinds and attributes are those of
//! OpenTelemetry's semantic conventions for messaging (1.44, status Development), in the words of
//! the broker. All of them have level `DEBUG` and the target of the backend's crate (*create* has
//! one of its own below it, such as `mq_amqp::create`). Filtered out, each costs the look at its
//! call site.
//!
//! | span | kind | made | ends |
//! |---|---|---|---|
//! | create | producer | for each message of a batch, if there is a [`Propagator`] | at once |
//! | send | producer if its context is injected, else client | for a message or a batch | with the outcome, or when its handle is dropped |
//! | receive | client | when a batch is handed out; none for what is only buffered | at once |
//! | process | consumer | by a worker, around the handler, what it publishes and the settlement's mark | with that |
//! | settle | client | for what a flush or a commit sends, not for each message | when that is written, or answered where the broker answers |
//!
//! Without a [`Propagator`] spans know nothing of other processes. With one, given to the builder of
//! a broker, the context of a message's *create* or *send* span is written into its headers, unless
//! the message has one already; *process* of a single message continues that trace, and every span
//! of a consumer links to the messages it is about. What the handler publishes is below its
//! *process* span. Copies for a retry, a delay or a dead letter keep the context of their original.
//!
//! This crate does not depend on OpenTelemetry. A [`Propagator`] over `tracing-opentelemetry` has
//! about forty lines: `mq-testkit/tests/tracing/w3c.rs` is one, and the cases beside it hold what is
//! said here, on every broker.

mod plain;
mod propagator;
mod sending;
mod spans;
mod tracer;
mod words;

pub use plain::PlainSpans;
pub use propagator::Propagator;
pub use sending::{Sending, failed};
pub use spans::{Handled, Sent, Spans};
pub use tracer::Tracer;
pub(crate) use words::processed;
