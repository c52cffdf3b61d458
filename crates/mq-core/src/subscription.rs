//! What a consumer reads: a queue, or a view of a topic.

use std::{fmt, sync::Arc};

use crate::{Destination, filter::Filter};

/// What a consumer reads: a queue, or a durable or ephemeral view of a topic.
///
/// * A **queue**'s consumers compete: each message goes to one of them.
/// * A **durable** subscription keeps its place while nobody reads; its members compete
///   (EIP *Durable Subscriber*). Declaring it fixes where it starts before `declare` returns.
/// * An **ephemeral** one lives with its consumer and starts at the end of the topic.
#[derive(Clone, PartialEq)]
pub struct Subscription {
    kind: SubscriptionKind,
    name: Arc<str>,
    filter: Filter,
}

/// The kinds of [`Subscription`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(
    clippy::exhaustive_enums,
    reason = "a further kind would break the meaning of every backend, so it must not compile"
)]
pub enum SubscriptionKind {
    /// A queue.
    Queue {
        /// The queue's name.
        queue: Arc<str>,
    },
    /// A named, durable view of a topic.
    Durable {
        /// The topic's name.
        topic: Arc<str>,
        /// The subscription's own name.
        name: Arc<str>,
    },
    /// A view that lives with its consumer.
    Ephemeral {
        /// The topic's name.
        topic: Arc<str>,
    },
}

impl Subscription {
    /// The messages of a queue, shared with its other consumers.
    pub fn queue(name: impl Into<Arc<str>>) -> Self {
        let queue: Arc<str> = name.into();
        let name = Arc::clone(&queue);
        Self {
            kind: SubscriptionKind::Queue { queue },
            name,
            filter: Filter::All,
        }
    }

    /// The durable subscription `name` of a topic.
    pub fn durable(topic: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        let (topic, name) = (topic.into(), name.into());
        let full = format!("{name}@{topic}").into();
        Self {
            kind: SubscriptionKind::Durable { topic, name },
            name: full,
            filter: Filter::All,
        }
    }

    /// What is published to a topic while the consumer lives.
    pub fn ephemeral(topic: impl Into<Arc<str>>) -> Self {
        let topic: Arc<str> = topic.into();
        let name = Arc::clone(&topic);
        Self {
            kind: SubscriptionKind::Ephemeral { topic },
            name,
            filter: Filter::All,
        }
    }

    /// Takes only the messages of a topic that the filter takes (EIP *Selective Consumer*).
    ///
    /// A queue has no filter: one set on it is refused when the consumer is opened.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// What kind of subscription this is.
    pub fn kind(&self) -> &SubscriptionKind {
        &self.kind
    }

    /// The filter.
    pub fn filter_by(&self) -> &Filter {
        &self.filter
    }

    /// The full name: `orders` for a queue, `billing@events` for the durable subscription
    /// `billing` of `events`, the topic's name for an ephemeral one.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The queue that takes the dead letters unless the caller names another one.
    ///
    /// `orders.dead` for the queue `orders`; `events.billing.dead` for the subscription `billing`
    /// of `events` (the same name on every broker, so without the `@` that Kafka does not allow).
    /// An ephemeral subscription has none: nobody would look there once its consumer is gone.
    pub fn dead_letter_home(&self) -> Option<Destination> {
        match &self.kind {
            SubscriptionKind::Queue { queue } => {
                Destination::queue(Arc::clone(queue)).dead_letter_home()
            }
            SubscriptionKind::Durable { topic, name } => {
                Destination::queue(format!("{topic}.{name}")).dead_letter_home()
            }
            SubscriptionKind::Ephemeral { .. } => None,
        }
    }
}

impl fmt::Display for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            SubscriptionKind::Queue { queue } => write!(f, "queue {queue}"),
            SubscriptionKind::Durable { .. } => write!(f, "subscription {}", self.name),
            SubscriptionKind::Ephemeral { topic } => write!(f, "ephemeral subscription of {topic}"),
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.filter {
            Filter::All => fmt::Display::fmt(self, f),
            filter => write!(f, "{self} filter {filter:?}"),
        }
    }
}
