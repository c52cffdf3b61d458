//! The values of `error.type`: few, and fixed.
//!
//! *send* has the kind of the error; *process* the class of the failure, or the reason of the
//! rejection that it became.

use tracing::Span;

use crate::{Decision, ErrorKind, FailureClass};

/// Marks a span as failed.
pub(super) fn failed(span: &Span, kind: &'static str) {
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
}

/// Notes on a *process* span what its handler decided, if that is a failure.
pub(crate) fn processed(span: &Span, decision: &Decision) {
    if span.is_disabled() {
        return;
    }
    match decision {
        Decision::Ack | Decision::Defer(_) => {}
        Decision::Retry(failure) => failed(span, of_class(failure.class())),
        Decision::Reject(rejection) => failed(span, rejection.reason().as_str()),
    }
}

pub(super) fn of_error(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Config => "config",
        ErrorKind::InvalidName => "invalid_name",
        ErrorKind::InvalidMessage => "invalid_message",
        ErrorKind::TooLarge => "too_large",
        ErrorKind::Codec => "codec",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Connect => "connect",
        ErrorKind::Auth => "auth",
        ErrorKind::Permission => "permission",
        ErrorKind::NotFound => "not_found",
        ErrorKind::Mismatch => "mismatch",
        ErrorKind::InUse => "in_use",
        ErrorKind::Rejected => "rejected",
        ErrorKind::Unroutable => "unroutable",
        ErrorKind::Unknown => "unknown",
        ErrorKind::Timeout => "timeout",
        ErrorKind::Disconnected => "disconnected",
        ErrorKind::Lost => "lost",
        ErrorKind::Closed => "closed",
        ErrorKind::Stale => "stale",
        ErrorKind::Broker => "broker",
        ErrorKind::Bug => "bug",
    }
}

fn of_class(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Unclassified => "unclassified",
        FailureClass::Transient => "transient",
        FailureClass::Permanent => "permanent",
        FailureClass::Infrastructure => "infrastructure",
    }
}
