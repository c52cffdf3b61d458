//! A broker: what a backend crate implements.

use std::future::Future;

use crate::{
    Capabilities, ConsumePlan, Consumer, Destination, Publisher, Result, Subscription, Unconfirmed,
    flow::Flow, trace::Tracer,
};

/// A connection to a broker, or the in-process one. A clone shares it.
///
/// Nothing but [`declare`](Broker::declare) creates anything durable, and nothing but
/// [`delete`](Broker::delete) removes it.
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

    /// What this client's spans are made with, for those that a worker makes; the default makes
    /// none.
    fn tracer(&self) -> Tracer {
        Tracer::default()
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
    /// [`NotFound`](crate::ErrorKind::NotFound) or [`Mismatch`](crate::ErrorKind::Mismatch) names
    /// every part that is missing or different, see [`Error::parts`](crate::Error::parts); and what
    /// keeps the broker from answering.
    ///
    /// # Cancel safety
    /// Safe.
    fn verify(
        &self,
        what: impl Into<Declaration> + Send,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Deletes what [`declare`](Self::declare) of the same thing created. When it returns it is gone;
    /// what is not there is no error.
    ///
    /// What somebody may still need is not deleted, unless the [`Deletion`] says so:
    ///
    /// - A queue or durable subscription is refused while it holds messages, except with
    ///   [`with_messages`](Deletion::with_messages), and in any case while a consumer reads it.
    /// - A topic is refused while it has subscriptions.
    /// - A dead-letter home goes with its queue if it is empty and unread. Else it stays: whoever
    ///   wants its dead letters gone names the home itself.
    ///
    /// Looking and deleting are two steps on some brokers: what is confirmed for the queue between
    /// them goes with it. Stop its publishers first.
    ///
    /// # Errors
    /// [`InUse`](crate::ErrorKind::InUse) says what is still there;
    /// [`InvalidName`](crate::ErrorKind::InvalidName);
    /// [`Permission`](crate::ErrorKind::Permission); and what keeps the broker from answering.
    ///
    /// # Cancel safety
    /// Dropped, some parts may be gone; calling it again removes the rest.
    fn delete(&self, what: impl Into<Deletion> + Send) -> impl Future<Output = Result<()>> + Send;

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

/// Something that can be declared, verified and deleted.
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

/// What [`Broker::delete`] deletes. Whatever can be declared turns into the careful one.
///
/// ```
/// use mq_core::{Broker, Deletion, Destination, ErrorKind, Message, Publisher, Result};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let broker = mq_memory::Memory::new();
/// let orders = Destination::queue("orders");
/// broker.declare(&orders).await?;
/// broker.publisher().publish(&orders, Message::new("7")).await?;
///
/// let refused = broker.delete(&orders).await.expect_err("it holds a message");
/// assert_eq!(refused.kind(), ErrorKind::InUse);
/// broker.delete(Deletion::of(&orders).with_messages()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "nothing is deleted before it is given to `Broker::delete`"]
pub struct Deletion {
    what: Declaration,
    with_messages: bool,
}

impl Deletion {
    /// Of what holds no messages.
    pub fn of(what: impl Into<Declaration>) -> Self {
        Self {
            what: what.into(),
            with_messages: false,
        }
    }

    /// Deletes the queue or subscription with the messages that it holds; they are lost. Its
    /// dead-letter home still stays if it holds any.
    pub fn with_messages(mut self) -> Self {
        self.with_messages = true;
        self
    }

    /// What is deleted.
    pub fn what(&self) -> &Declaration {
        &self.what
    }

    /// True if its messages are deleted with it.
    pub fn takes_messages(&self) -> bool {
        self.with_messages
    }
}

impl<T: Into<Declaration>> From<T> for Deletion {
    fn from(what: T) -> Self {
        Self::of(what)
    }
}
