//! What a client declared, to be declared again when it may be gone.

use std::fmt;

use mq_core::{Declaration, Destination, Result, Subscription, SubscriptionKind};

use super::{Topology, declare, declare_topology};
use crate::connection::Link;

/// Something that this client declared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Declared {
    One(Declaration),
    Topology(Box<Topology>),
}

impl Declared {
    pub(crate) async fn declare(&self, link: &Link) -> Result<()> {
        match self {
            Self::One(what) => declare(link, what.clone()).await,
            Self::Topology(topology) => declare_topology(link, topology).await,
        }
    }

    /// True if the queue of this subscription is among it.
    pub(crate) fn makes(&self, subscription: &Subscription) -> bool {
        match self {
            Self::One(Declaration::Subscription(own)) => own == subscription,
            Self::One(Declaration::Destination(own)) => match subscription.kind() {
                SubscriptionKind::Queue { queue } => *own == Destination::queue(&**queue),
                _ => false,
            },
            Self::Topology(topology) => topology.has_queue(subscription.name()),
        }
    }
}

impl From<Declaration> for Declared {
    fn from(what: Declaration) -> Self {
        Self::One(what)
    }
}

impl From<Topology> for Declared {
    fn from(topology: Topology) -> Self {
        Self::Topology(Box::new(topology))
    }
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(Declaration::Destination(to)) => to.fmt(f),
            Self::One(Declaration::Subscription(from)) => from.fmt(f),
            Self::Topology(topology) => topology.fmt(f),
        }
    }
}
