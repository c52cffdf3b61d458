//! What a broker crate tells the suite about its broker.

use std::{future::Future, time::Duration};

use mq_core::{Broker, Result};

/// A broker that the conformance suite can reach.
pub trait Fixture: Send + Sync + 'static {
    /// The crate's broker.
    type Broker: Broker;

    /// Connects a client of its own, as another process would have it: closing or losing it must
    /// not touch the other clients.
    ///
    /// # Errors
    /// What keeps it from connecting; every case then fails with it.
    ///
    /// # Cancel safety
    /// Dropped, nothing stays connected.
    fn connect(&self) -> impl Future<Output = Result<Self::Broker>> + Send;

    /// How long a case waits for a delivery that must come. Default 20 s: longer than a broker
    /// needs to give what a lost consumer held to the next one.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// How long a case waits before it believes that nothing comes. Default 500 ms: longer than a
    /// delivery takes on a busy machine.
    fn quiet(&self) -> Duration {
        Duration::from_millis(500)
    }
}
