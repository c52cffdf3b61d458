//! A named subscriber with its filter.

use std::fmt;

use mq_core::{Broker, Result, Subscription, Worker};

/// A subscriber of a [`Routing`](super::Routing) with its filter (EIP *Durable Subscriber*, *Selective Consumer*). A clone is the same one.
///
/// Nothing is created until [`declare`](Self::declare).
#[derive(Clone)]
pub struct Subscriber<B> {
    broker: B,
    subscription: Subscription,
}

impl<B: Broker> Subscriber<B> {
    pub(super) fn new(broker: &B, subscription: Subscription) -> Self {
        Self {
            broker: broker.clone(),
            subscription,
        }
    }

    /// Creates its durable subscription with its filter and its dead-letter home, unless it is there. Every event
    /// that is confirmed, and that the filter takes, after this has returned is kept for it.
    ///
    /// A subscription that nobody reads any more goes on to collect events: delete it on the
    /// broker.
    ///
    /// # Errors
    /// [`NotFound`](mq_core::ErrorKind::NotFound) if the topic is not there,
    /// [`Config`](mq_core::ErrorKind::Config) for a filter that the broker cannot keep, and else as
    /// [`Broker::declare`].
    ///
    /// # Cancel safety
    /// Dropped, some parts may exist; calling it again completes them.
    pub fn declare(&self) -> impl Future<Output = Result<()>> + Send + 'static + use<B> {
        // Of its own, so that several subscribers are declared at a time without being kept.
        let Self {
            broker,
            subscription,
        } = self.clone();
        async move { broker.declare(subscription).await }
    }

    /// A worker that handles its events, sharing them with every other worker of its name
    /// (EIP *Competing Consumers*).
    ///
    /// Run, it ends with [`NotFound`](mq_core::ErrorKind::NotFound) if the subscriber was not
    /// declared.
    pub fn worker(&self) -> Worker<B> {
        Worker::new(&self.broker, self.subscription.clone())
    }

    /// What it reads, for a consumer of one's own; its home is
    /// [`dead_letter_home`](Subscription::dead_letter_home).
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }
}

impl<B> fmt::Debug for Subscriber<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("subscription", &self.subscription)
            .finish_non_exhaustive()
    }
}
