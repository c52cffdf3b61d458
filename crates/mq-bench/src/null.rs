//! Null brokers: they take and give messages as fast as a socket can, and keep none, so that what is measured is the
//! client alone. Each is served by a process of its own, a thread for each connection.
//!
//! They answer what the clients of this package ask, and are no brokers otherwise: whatever name is asked for is there, and
//! what is published is gone. Where a client asks for more, its connection ends, and what it asked for is written to
//! standard error.

mod amqp;
mod kafka;

pub(crate) use self::{amqp::serve_amqp, kafka::serve_kafka};

/// What a null broker has for its consumers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deliveries {
    /// How many messages each queue or topic has; `u64::MAX` for no end.
    pub(crate) count: u64,
    /// Bytes of a payload, at least 8: its number from 0, as in [`payload`](crate::arm::payload), and filling.
    pub(crate) size: usize,
}
