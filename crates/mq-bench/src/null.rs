//! Null brokers: they take and give messages as fast as a socket can, and keep none, so that what is measured is the
//! client alone. Each is served by a process of its own, a thread for each connection.
//!
//! They answer what the clients of this package ask, and are no brokers otherwise: whatever name is asked for is there, and
//! what is published is gone. Only its count is kept, and that of what was acknowledged, so that it can be looked at whether
//! the work was done. Where a client asks for more, its connection ends, and what it asked for is written to
//! standard error.

mod amqp;
mod kafka;

use std::{
    io::{self, Write as _},
    net::TcpListener,
};

use crate::Result;

/// What a null broker has for its consumers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deliveries {
    /// How many messages each queue or topic has; `u64::MAX` for no end.
    pub(crate) count: u64,
    /// Bytes of a payload, at least 8: its number from 0, as in [`payload`](crate::arm::payload), and filling.
    pub(crate) size: usize,
}

type Serve = fn(TcpListener, Deliveries) -> io::Result<()>;

/// Serves for ever at a port of the system's choice. The address is the one line that is printed.
pub(crate) fn serve(broker: &str, count: u64, size: usize) -> Result {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let deliveries = Deliveries { count, size };
    let (address, serve): (String, Serve) = match broker {
        "amqp" => (format!("amqp://guest:guest@{address}/%2f"), amqp::serve),
        "kafka" => (address.to_string(), kafka::serve),
        _ => return Err(format!("{broker:?} is none of amqp, kafka").into()),
    };
    println!("{address}");
    // Whoever started this reads it through a pipe.
    io::stdout().flush()?;
    Ok(serve(listener, deliveries)?)
}
