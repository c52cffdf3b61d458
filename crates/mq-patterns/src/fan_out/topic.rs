//! A topic with events of one type.

use std::{fmt, sync::Arc};

use mq_core::{
    Broker, Datatype, Destination, MessageBuilder, Outcomes, Publisher, Receipt, Result,
    Subscription,
    codec::{Codec, JsonCodec},
};
use serde::Serialize;

use super::{Listener, Subscriber};

/// A topic with events of the type `T`, on a broker, written by the codec `C`. A clone shares it.
///
/// Nothing is created until [`declare`](Self::declare) and
/// [`Subscriber::declare`].
pub struct FanOut<T, B, C = JsonCodec> {
    broker: B,
    topic: Destination,
    events: Datatype<T, C>,
}

impl<T, B: Broker> FanOut<T, B> {
    /// The topic of this name, with events as JSON.
    pub fn new(broker: &B, topic: impl Into<Arc<str>>) -> Self {
        Self {
            broker: broker.clone(),
            topic: Destination::topic(topic),
            events: Datatype::new(),
        }
    }
}

impl<T, B: Broker, C: Codec> FanOut<T, B, C> {
    /// Writes the events, and reads those of listeners, by another codec.
    #[must_use]
    pub fn codec<C2: Codec>(self) -> FanOut<T, B, C2> {
        FanOut {
            broker: self.broker,
            topic: self.topic,
            events: self.events.codec(),
        }
    }

    /// Sets what each event's message has besides its payload: ordering key, headers, id
    /// (EIP *Envelope Wrapper*).
    #[must_use]
    pub fn envelope(
        mut self,
        envelope: impl Fn(&T, MessageBuilder) -> MessageBuilder + Send + Sync + 'static,
    ) -> Self {
        self.events = self.events.envelope(envelope);
        self
    }

    /// Where the events go.
    pub fn destination(&self) -> &Destination {
        &self.topic
    }

    /// Creates the topic, unless it is there.
    ///
    /// # Errors
    /// As [`Broker::declare`].
    ///
    /// # Cancel safety
    /// Dropped, some parts may exist; calling it again completes them.
    pub async fn declare(&self) -> Result<()> {
        self.broker.declare(&self.topic).await
    }

    /// The subscriber of this name: to be declared, and worked for.
    pub fn subscriber(&self, name: impl Into<Arc<str>>) -> Subscriber<B> {
        let subscription = Subscription::durable(Arc::clone(self.topic.name()), name);
        Subscriber::new(&self.broker, subscription)
    }

    /// Opens a listener: it gets every event that is published after this has returned, and
    /// nothing is kept for it once it is gone.
    ///
    /// For a handler with concurrency and layers instead, run a [`Worker`](mq_core::Worker) on
    /// [`Subscription::ephemeral`]; it asks where rejected events go
    /// ([`dead_letters`](mq_core::Worker::dead_letters)), since a listener has no home for them.
    ///
    /// # Errors
    /// [`NotFound`](mq_core::ErrorKind::NotFound) if the topic is not there, and as
    /// [`Broker::consumer`].
    ///
    /// # Cancel safety
    /// Dropped, nothing stays open.
    pub async fn listener(&self) -> Result<Listener<T, B::Consumer, C>> {
        Listener::open(&self.broker, self.topic.name()).await
    }
}

impl<T: Serialize, B: Broker, C: Codec> FanOut<T, B, C> {
    /// Publishes an event and waits until the broker has stored it for every subscriber.
    ///
    /// An event that nobody subscribes to is confirmed too.
    ///
    /// # Errors
    /// [`Codec`](mq_core::ErrorKind::Codec) if the event cannot be written, else as
    /// [`Publisher::publish`]: [`possibly_delivered`](mq_core::Error::possibly_delivered) tells whether
    /// some subscribers may have it, so that publishing it again can make a second one.
    ///
    /// # Cancel safety
    /// Dropped, the event may or may not be stored.
    pub async fn publish(&self, event: &T) -> Result<Receipt> {
        let message = self.events.message(event)?;
        self.broker.publisher().publish(&self.topic, message).await
    }

    /// Publishes many events, pipelined, and waits for all outcomes, in the order of the events.
    ///
    /// An event that fails does not keep the others from being stored.
    ///
    /// # Cancel safety
    /// Dropped, each of the events may or may not be stored.
    pub async fn publish_all(&self, events: &[T]) -> Outcomes {
        let to = |_: &T| self.topic.clone();
        let publisher = self.broker.publisher();
        self.events.publish_all(&publisher, events, to).await
    }
}

impl<T, B: Clone, C> Clone for FanOut<T, B, C> {
    fn clone(&self) -> Self {
        Self {
            broker: self.broker.clone(),
            topic: self.topic.clone(),
            events: self.events.clone(),
        }
    }
}

impl<T, B, C> fmt::Debug for FanOut<T, B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FanOut")
            .field("topic", &self.topic.name())
            .finish_non_exhaustive()
    }
}
