//! The errors of this broker: the kinds that a real one would answer with.

use mq_core::{Destination, Error, ErrorKind, Subscription};

pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Closed,
        operation,
        "the in-process broker or its publisher is closed",
    )
}

pub(crate) fn unroutable(to: &Destination) -> Error {
    Error::new(
        ErrorKind::Unroutable,
        "publish",
        "no queue took the message",
    )
    .with("destination", to)
    .help("declare the queue, or a subscription that takes the message, before publishing")
}

pub(crate) fn no_topic(operation: &'static str, topic: &str) -> Error {
    Error::new(ErrorKind::NotFound, operation, "the topic does not exist")
        .with("topic", topic)
        .help("declare it first")
}

pub(crate) fn full(to: &Destination) -> Error {
    Error::new(
        ErrorKind::Rejected,
        "publish",
        "a queue or partition holds all it may hold",
    )
    .with("destination", to)
    .help("consume from it, or raise max_messages of the broker")
}

pub(crate) fn too_large(to: &Destination, bytes: usize, limit: usize) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        "publish",
        "the message is over the size limit",
    )
    .with("destination", to)
    .with("bytes", bytes)
    .with("limit", limit)
}

pub(crate) fn invalid_message(to: &Destination, why: &'static str, header: &str) -> Error {
    Error::new(ErrorKind::InvalidMessage, "publish", why)
        .with("destination", to)
        .with("header", header.escape_debug())
}

pub(crate) fn no_queue(operation: &'static str, queue: &str) -> Error {
    Error::new(ErrorKind::NotFound, operation, "the queue does not exist")
        .with("queue", queue)
        .help("declare it first")
}

pub(crate) fn no_home(home: &Destination, subscription: &Subscription) -> Error {
    Error::new(
        ErrorKind::NotFound,
        "consume",
        "the dead-letter home does not exist",
    )
    .with("home", home)
    .with("subscription", subscription)
    .help("declare the subscription, which creates it, or name another one in the plan")
}

pub(crate) fn no_subscription(operation: &'static str, subscription: &Subscription) -> Error {
    Error::new(
        ErrorKind::NotFound,
        operation,
        "the durable subscription does not exist",
    )
    .with("subscription", subscription.name())
    .help("declare it first: that fixes where it starts")
}

pub(crate) fn other_filter(operation: &'static str, subscription: &Subscription) -> Error {
    Error::new(
        ErrorKind::Mismatch,
        operation,
        "the subscription is there with another filter",
    )
    .with("subscription", subscription.name())
}

pub(crate) fn other_kind(operation: &'static str, name: &str) -> Error {
    Error::new(
        ErrorKind::Mismatch,
        operation,
        "a queue and a topic of one name are the same log: choose another name for one of them",
    )
    .with("name", name)
}

/// Why something is not deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Consumers,
    Messages,
    Subscriptions,
}

pub(crate) fn in_use(what: impl std::fmt::Display, kept: Kept) -> Error {
    let (text, help) = match kept {
        Kept::Consumers => ("a consumer reads it", "close its consumers first"),
        Kept::Messages => (
            "it holds messages",
            "consume them, or say `with_messages` to lose them",
        ),
        Kept::Subscriptions => ("it has subscriptions", "delete them first"),
    };
    Error::new(ErrorKind::InUse, "delete", text)
        .with("what", what)
        .help(help)
}

pub(crate) fn no_dead_letters(source: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "reject",
        "the consumer has no dead-letter home; the message is given back",
    )
    .with("source", source)
    .help("name a dead-letter home in the consume plan")
}
