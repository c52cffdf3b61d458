//! The errors of this broker: one place decides what each answer means.

use mq_core::{Destination, Error, ErrorKind};

// guide: error
/// An answer that did not come: the message may be stored, so nobody may say that it failed.
pub(crate) fn unanswered(to: &Destination) -> Error {
    Error::new(ErrorKind::Unknown, "publish", "the answer is missing").with("destination", to)
}

/// A question that was not answered changed nothing that asking again would not repeat.
pub(crate) fn disconnected(operation: &'static str) -> Error {
    let text = "the connection was lost";
    Error::new(ErrorKind::Disconnected, operation, text).help("connect again")
}
// guide: end

pub(crate) fn late(operation: &'static str) -> Error {
    Error::new(ErrorKind::Timeout, operation, "no answer within 30 s")
}

pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation, "it was closed")
}

pub(crate) fn unroutable(to: &Destination) -> Error {
    let text = "no queue took the message";
    Error::new(ErrorKind::Unroutable, "publish", text)
        .with("destination", to)
        .help("declare the queue first")
}

pub(crate) fn not_found(operation: &'static str, what: &Destination) -> Error {
    Error::new(ErrorKind::NotFound, operation, "it is not there")
        .with("destination", what)
        .help("declare it first")
}

pub(crate) fn in_use(queue: &Destination) -> Error {
    let text = "a consumer reads it, or it holds messages";
    Error::new(ErrorKind::InUse, "delete", text).with("destination", queue)
}

pub(crate) fn unsupported(operation: &'static str, what: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, operation, what)
}
