//! The network matrix: what a broker crate's clients do when the network between them and the broker
//! fails, on one connection after the other, through a [`Proxy`](crate::proxy::Proxy).
//!
//! Eight faults, for a *publisher*, for a *consumer* and for an *admin* who declares, at each of four
//! moments: while the client is *idle*, during its *handshake*, *mid-frame* (a part of a message or
//! request has passed) and *mid-commit* (the broker's confirm or answer, or the client's
//! acknowledgement, is on its way): 96 cases. A broker crate runs them by
//! [`Suite::network`](crate::Suite::network), many at a time, since most of a case is waiting.
//!
//! A case holds if
//! * the fault acted: a case in which it did not is a failure;
//! * every future ended within 30 s, as a result or a typed error;
//! * a client went on by itself through latency, a narrow network and slices. Through the others it
//!   may wait until the network is back, and then has to go on, or end with an error; the case then
//!   makes a new one, as a service that is restarted would;
//! * the same client works afterwards, or says by a typed error that it is over; what was declared
//!   according to an answer is there;
//! * when the fault is over and all is drained, the [`checker`](crate::checker) finds nothing against
//!   *at least once*;
//! * no task and no socket of a client is left after its `close`.

mod consuming;
mod declaring;
mod matrix;
mod proxied;
mod publishing;
mod sockets;
mod stage;

pub(crate) use matrix::planned;
pub use proxied::Proxied;
