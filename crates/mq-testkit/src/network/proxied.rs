//! What a broker crate tells the network matrix about its broker.

use std::future::Future;

use mq_core::Broker;

use crate::proxy::{Proxy, ProxyError};

/// A broker that clients can reach through a proxy.
pub trait Proxied: Send + Sync + 'static {
    /// The crate's broker.
    type Broker: Broker;

    /// A proxy in front of the broker.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    ///
    /// # Cancel safety
    /// Dropped, no proxy runs.
    fn proxy(&self) -> impl Future<Output = Result<Proxy, ProxyError>> + Send;

    /// Connects a client of its own through this proxy. All its waits are to end within 30 s, so set
    /// its time-outs, and with them when it takes a silent broker for lost.
    ///
    /// # Errors
    /// What keeps it from connecting.
    ///
    /// # Cancel safety
    /// Dropped, nothing stays connected.
    fn connect(&self, proxy: &Proxy) -> impl Future<Output = mq_core::Result<Self::Broker>> + Send;

    /// How many tasks each client and each consumer may leave for a while after its end: timers of a
    /// client library, which hold no socket. Default 0.
    fn timers_left(&self) -> usize {
        0
    }
}
