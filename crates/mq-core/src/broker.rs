//! A broker: what a backend crate implements.

use std::future::Future;

use crate::{
    Capabilities, ConsumePlan, Consumer, Destination, Publisher, Result, Subscription, Unconfirmed,
    flow::Flow,
};

/// A connection to a broker, or the in-process one. A clone shares it.
///
/// Nothing but [`declare`](Broker::declare) creates anything durable.
pub trait Broker: Clone + Send + Sync + 'static {
    /// Its confirmed publisher.
    type Publisher: Publisher;
    /// Its publisher that waits for no answer.
    type Unconfirmed: Unconfirmed;
    /// Its consumer.
    type Consumer: Consumer;

    /// What this backend can do on this broker.
    fn capabilities(&self) -> Capabilities;

    /// The broker's product, with its version where the client library can learn it: `RabbitMQ`,
    /// `Apache Kafka 4.3`.
    fn product(&self) -> String;

    /// Where this client tells its flow events, for the steps that a worker takes; off unless the
    /// broker was built with a [`FlowSink`](crate::flow::FlowSink).
    fn flow(&self) -> Flow {
        Flow::default()
    }

    /// The confirmed publisher; every call shares one.
    fn publisher(&self) -> Self::Publisher;

    /// The publisher that waits for no answer; every call shares one.
    fn unconfirmed(&self) -> Self::Unconfirmed;

    /// Opens a consumer. When it returns, deliveries come.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) names the queue, topic, subscription or
    /// dead-letter home that is not there; what [`ConsumePlan::check`] refuses; and what keeps the
    /// broker from answering.
    ///
    /// # Cancel safety
    /// Dropped, nothing stays open.
    fn consumer(
        &self,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> impl Future<Output = Result<Self::Consumer>> + Send;

    /// Creates a queue, a topic or a durable subscription, with its dead-letter home, unless it is
    /// there.
    ///
    /// When it returns, a message that is confirmed for it is kept.
    ///
    /// # Errors
    /// [`InvalidName`](crate::ErrorKind::InvalidName);
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if it is there with other settings;
    /// [`Permission`](crate::ErrorKind::Permission); and what keeps the broker from answering.
    ///
    /// # Cancel safety
    /// Dropped, some parts may exist; calling it again completes them.
    fn declare(
        &self,
        what: impl Into<Declaration> + Send,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Checks that it is there with the settings that [`declare`](Self::declare) would give it.
    /// Changes nothing.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) or [`Mismatch`](crate::ErrorKind::Mismatch), each
    /// naming the part; and what keeps the broker from answering.
    ///
    /// # Cancel safety
    /// Safe.
    fn verify(
        &self,
        what: impl Into<Declaration> + Send,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Closes publishers and connections, after what was enqueued has its outcome.
    ///
    /// Close consumers first: those still open end with [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) if an outcome is missing at the deadline.
    ///
    /// # Cancel safety
    /// Dropped, call it again.
    fn close(&self) -> impl Future<Output = Result<()>> + Send;
}

/// Something that can be declared and verified.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::exhaustive_enums,
    reason = "every backend must act on every declaration; a new one must not fall through"
)]
pub enum Declaration {
    /// A queue or a topic.
    Destination(Destination),
    /// A subscription: of a topic, which must be there, or a queue.
    Subscription(Subscription),
}

impl From<Destination> for Declaration {
    fn from(destination: Destination) -> Self {
        Self::Destination(destination)
    }
}

impl From<&Destination> for Declaration {
    fn from(destination: &Destination) -> Self {
        Self::Destination(destination.clone())
    }
}

impl From<Subscription> for Declaration {
    fn from(subscription: Subscription) -> Self {
        Self::Subscription(subscription)
    }
}

impl From<&Subscription> for Declaration {
    fn from(subscription: &Subscription) -> Self {
        Self::Subscription(subscription.clone())
    }
}
