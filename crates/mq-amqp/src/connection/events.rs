//! What happens to connections and consumers, told to whoever listens.

use std::{fmt, time::Duration};

use mq_core::{Error, Subscription};
use tokio::sync::broadcast;

/// Something that happened to a connection, a consumer or what was declared.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AmqpEvent {
    /// A connection was lost. It is connected again, as [`Recovery`](crate::Recovery) has it.
    Disconnected {
        /// Which of the two.
        role: AmqpRole,
        /// Why, as far as the client was told.
        why: Error,
    },
    /// An attempt to connect again failed.
    ConnectFailed {
        /// Which of the two.
        role: AmqpRole,
        /// Host and port that were tried.
        address: String,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// Why it failed.
        why: Error,
    },
    /// A lost connection is there again, and what this client declared with it.
    Reconnected {
        /// Which of the two.
        role: AmqpRole,
        /// Host and port.
        address: String,
        /// The number of the attempt, from 1.
        attempt: u32,
        /// How long it was away.
        outage: Duration,
    },
    /// A lost connection is given up: whoever waits for it, and whoever comes later, gets this error.
    GivenUp {
        /// Which of the two.
        role: AmqpRole,
        /// Why.
        why: Error,
    },
    /// An alarm of the broker keeps a connection from publishing. Acknowledgements go on: they have
    /// the other one.
    Blocked {
        /// Which of the two.
        role: AmqpRole,
        /// The broker's reason.
        reason: String,
    },
    /// The alarm is over.
    Unblocked {
        /// Which of the two.
        role: AmqpRole,
        /// How long it lasted.
        blocked: Duration,
    },
    /// The publishing channel was lost with publishes on their way.
    PublishesLost {
        /// Why.
        why: Error,
        /// Those that are sent again with their ids.
        resent: usize,
        /// Those that were reported as unknown.
        unknown: usize,
    },
    /// What this client declared could not be declared again.
    DeclareFailed {
        /// The queue, topic, subscription or topology.
        what: String,
        /// Why.
        why: Error,
    },
    /// A consumer was lost: with its connection, or its channel, or because the broker cancelled it.
    /// It is opened again; what was not settled is delivered again.
    ConsumerLost {
        /// What it consumed.
        subscription: Subscription,
        /// Why.
        why: Error,
    },
    /// A lost consumer is there again.
    ConsumerRestored {
        /// What it consumes.
        subscription: Subscription,
        /// The queue, which has a new name for an ephemeral subscription: what was published since
        /// the loss is not in it.
        queue: String,
        /// How long it was away.
        outage: Duration,
    },
    /// A lost consumer is given up; its `receive` ends with this error.
    ConsumerEnded {
        /// What it consumed.
        subscription: Subscription,
        /// Why.
        why: Error,
    },
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AmqpRole {
    /// Publishing, copies of dead letters among it.
    Publish,
    /// Consuming, acknowledging and declaring.
    Consume,
    /// One consumer without acknowledgements, which has a connection of its own.
    ConsumeWithoutAck,
}

/// The events of an [`Amqp`](crate::Amqp), from the moment it was made.
#[derive(Debug)]
pub struct AmqpEvents(broadcast::Receiver<AmqpEvent>);

/// Where events are told.
#[derive(Debug, Clone)]
pub(crate) struct Events(broadcast::Sender<AmqpEvent>);

impl AmqpEvents {
    /// Waits for the next event; `None` when the last clone of its `Amqp` is gone.
    ///
    /// The newest 256 events are kept: whoever listens more slowly misses older ones, which is
    /// logged.
    ///
    /// # Cancel safety
    /// Safe: no event is lost by it.
    pub async fn next(&mut self) -> Option<AmqpEvent> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "events were not listened to in time");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }

    pub(crate) fn listen(&self) -> AmqpEvents {
        AmqpEvents(self.0.subscribe())
    }

    /// Tells an event, and logs it.
    pub(crate) fn tell(&self, event: AmqpEvent) {
        event.log();
        // Nobody has to listen.
        let _ = self.0.send(event);
    }
}

impl AmqpEvent {
    fn log(&self) {
        use AmqpEvent as E;
        match self {
            E::Disconnected { role, why } => tracing::warn!(%role, %why, "a connection is lost"),
            E::ConnectFailed {
                role,
                address,
                attempt,
                why,
            } => tracing::info!(%role, address, attempt, %why, "connecting again failed"),
            E::Reconnected {
                role,
                address,
                attempt,
                outage,
            } => tracing::info!(%role, address, attempt, ?outage, "connected again"),
            E::GivenUp { role, why } => {
                tracing::error!(%role, %why, "a lost connection is given up");
            }
            E::Blocked { role, reason } => {
                tracing::warn!(%role, reason, "the broker blocks a connection");
            }
            E::Unblocked { role, blocked } => {
                tracing::info!(%role, ?blocked, "the broker unblocks a connection");
            }
            E::PublishesLost {
                why,
                resent,
                unknown,
            } => tracing::warn!(%why, resent, unknown, "the publishing channel is lost"),
            E::DeclareFailed { what, why } => {
                tracing::warn!(what, %why, "what was declared could not be declared again");
            }
            E::ConsumerLost { subscription, why } => {
                tracing::warn!(%subscription, %why, "a consumer is lost");
            }
            E::ConsumerRestored {
                subscription,
                queue,
                outage,
            } => tracing::info!(%subscription, queue, ?outage, "a consumer is there again"),
            E::ConsumerEnded { subscription, why } => {
                tracing::error!(%subscription, %why, "a lost consumer is given up");
            }
        }
    }
}

impl fmt::Display for AmqpRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
            Self::ConsumeWithoutAck => "consume without ack",
        })
    }
}

/// Events that wait for a listener.
const KEPT: usize = 256;
