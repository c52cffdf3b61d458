//! What a broker crate tells the suite about its broker.

use std::{fmt, future::Future, time::Duration};

use mq_core::{Broker, Destination, Error, ErrorKind, Result};

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

    /// A client, and a queue of this name of which a single active consumer can be asked. Asked again
    /// it gives another client of the same queue. Default: a queue that is declared as any other;
    /// where that takes a setting of the queue, it is made with it here.
    ///
    /// # Errors
    /// What keeps it from being made.
    ///
    /// # Cancel safety
    /// Dropped, the queue may be there.
    fn single_active_queue(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<(Self::Broker, Destination)>> + Send {
        async move {
            let client = self.connect().await?;
            let queue = Destination::queue(name);
            client.declare(&queue).await?;
            Ok((client, queue))
        }
    }

    /// Which faults this fixture can make. Default none: the cases that need one are then counted
    /// as *not declared*.
    fn hooks(&self) -> &'static [Hook] {
        &[]
    }

    /// For [`Hook::Link`]: connects a client as [`connect`](Self::connect) does, through a link that
    /// the suite can cut. The client has deadlines well below [`patience`](Self::patience).
    ///
    /// # Errors
    /// What keeps it from connecting; [`Unsupported`](ErrorKind::Unsupported) unless written.
    ///
    /// # Cancel safety
    /// Dropped, nothing stays connected.
    fn connect_by_link(
        &self,
    ) -> impl Future<Output = Result<(Self::Broker, Box<dyn Link>)>> + Send {
        async { Err(Hook::Link.missing()) }
    }

    /// For [`Hook::RefusingQueue`]: a client, and a queue of this name that is there and refuses
    /// what a case publishes to it, which has no ordering key: because it is full, or by a rule.
    ///
    /// # Errors
    /// What keeps it from being made; [`Unsupported`](ErrorKind::Unsupported) unless written.
    ///
    /// # Cancel safety
    /// Dropped, the queue may be there.
    fn refusing_queue(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<(Self::Broker, Destination)>> + Send {
        let _ = name;
        async { Err(Hook::RefusingQueue.missing()) }
    }
}

/// A fault that a fixture can make on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Hook {
    /// [`Fixture::connect_by_link`].
    Link,
    /// [`Fixture::refusing_queue`].
    RefusingQueue,
}

impl Hook {
    fn missing(self) -> Error {
        Error::new(
            ErrorKind::Unsupported,
            "fixture",
            "the fixture names this hook and does not have its method",
        )
        .with("hook", self)
    }
}

impl fmt::Display for Hook {
    /// The kebab-case name, as in test records.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "link",
            Self::RefusingQueue => "refusing-queue",
        })
    }
}

/// The link between one client and its broker. Dropped, the client may lose the broker.
pub trait Link: Send + Sync {
    /// Nothing passes any more, in either direction, and nobody is told. Returns at once.
    fn freeze(&self);

    /// Ends every connection of the client and refuses new ones, for good. Returns at once.
    fn cut(&self);
}
