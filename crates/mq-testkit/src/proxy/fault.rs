//! A fault, and for which direction it is.

use std::time::Duration;

/// Which way of a connection a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Direction {
    /// What the client sends.
    ToBroker,
    /// What the client is to receive.
    ToClient,
    /// Both ways.
    Both,
}

/// What goes wrong.
///
/// Printed and read as text: `latency 200ms ±100ms`, `bandwidth 65536 B/s`, `black hole`,
/// `slices of 1 B`, `cut after 1000 B`, `slow close 500ms`, `reset`, `refuse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Each chunk that is read waits for `mean`, plus or minus up to `jitter`, evenly drawn. Order is
    /// kept.
    Latency {
        /// The middle of the delays.
        mean: Duration,
        /// How far from it they go; more than `mean` counts as `mean`.
        jitter: Duration,
    },
    /// No more bytes a second than this pass on each connection; 0 counts as 1.
    Bandwidth {
        /// Bytes a second.
        bytes_per_second: u64,
    },
    /// Nothing passes, not even an end, and nobody is told. What is sent meanwhile waits, and passes
    /// when the fault is cleared, as with packets that are sent again. In one direction: half open.
    BlackHole,
    /// Bytes are passed on in writes of at most this many; 0 counts as 1.
    Slices {
        /// Bytes a write.
        bytes: u64,
    },
    /// So many more bytes pass in this direction of each connection, then the proxy ends it, both
    /// ways. They all arrive: the end is a regular one.
    CutAfter {
        /// Bytes, counted from when the fault was set or, later, the connection came.
        bytes: u64,
    },
    /// The end of this direction is passed on so much later.
    SlowClose {
        /// How much.
        delay: Duration,
    },
    /// The connections there are end at once. The side that a [`Direction`] points to gets a reset
    /// (RST), the other a regular end. Later connections are not affected.
    Reset,
    /// New connections are accepted by the system and reset at once; those there are go on. The
    /// direction is of no importance.
    Refuse,
}

impl Direction {
    pub(super) fn to_broker(self) -> bool {
        self != Self::ToClient
    }

    pub(super) fn to_client(self) -> bool {
        self != Self::ToBroker
    }
}
