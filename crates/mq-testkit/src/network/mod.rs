//! The network matrix: what a broker crate's clients do when the network between them and the broker
//! fails, on one connection after the other, through a [`Proxy`](crate::proxy::Proxy).
//!
//! Eight faults for a publisher and for a consumer, each at one of four moments: while the client is
//! *idle*, during its *handshake*, *mid-frame* (a part of a large message has passed) and *mid-commit*
//! (the broker's confirm, or the client's acknowledgement, is on its way). A broker crate runs it by
//! [`Suite::network`](crate::Suite::network).
//!
//! A case holds if
//! * the fault acted: a case in which it did not is a failure;
//! * every future ended within 30 s, as a result or a typed error;
//! * a client went on by itself through latency, a narrow network and slices. After the others it may
//!   end with an error; the case then makes a new one, as a service that is restarted would;
//! * when the fault is over and all is drained, the [`checker`](crate::checker) finds nothing against
//!   *at least once*;
//! * no task and no socket of a client is left after its `close`.

mod consuming;
mod matrix;
mod proxied;
mod publishing;
mod sockets;
mod stage;

pub(crate) use matrix::planned;
pub use proxied::Proxied;
