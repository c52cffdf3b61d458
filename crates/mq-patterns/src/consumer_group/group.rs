//! One group of a topic.

use std::{fmt, sync::Arc};

use mq_core::{
    Broker, Datatype, Destination, Filter, MessageBuilder, Outcomes, Publisher, Receipt, Result,
    Subscription, Worker,
    codec::{Codec, JsonCodec},
};
use serde::Serialize;

/// One group of a topic with messages of the type `T`, on a broker, written by the codec `C`. A
/// clone shares it.
///
/// Nothing is created until [`declare`](Self::declare).
pub struct ConsumerGroup<T, B, C = JsonCodec> {
    broker: B,
    topic: Destination,
    group: Subscription,
    values: Datatype<T, C>,
}

impl<T, B: Broker> ConsumerGroup<T, B> {
    /// The group of this name of a topic, with messages as JSON.
    pub fn new(broker: &B, topic: impl Into<Arc<str>>, group: impl Into<Arc<str>>) -> Self {
        let topic = topic.into();
        Self {
            broker: broker.clone(),
            topic: Destination::topic(Arc::clone(&topic)),
            group: Subscription::durable(topic, group),
            values: Datatype::new(),
        }
    }
}

impl<T, B: Broker, C: Codec> ConsumerGroup<T, B, C> {
    /// Takes only the messages that the filter takes (EIP *Selective Consumer*).
    ///
    /// It belongs to the group: all members have the same one.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.group = self.group.filter(filter);
        self
    }

    /// Writes the messages by another codec.
    #[must_use]
    pub fn codec<C2: Codec>(self) -> ConsumerGroup<T, B, C2> {
        ConsumerGroup {
            broker: self.broker,
            topic: self.topic,
            group: self.group,
            values: self.values.codec(),
        }
    }

    /// Sets what each message has besides its payload: the ordering key, headers, id
    /// (EIP *Envelope Wrapper*).
    #[must_use]
    pub fn envelope(
        mut self,
        envelope: impl Fn(&T, MessageBuilder) -> MessageBuilder + Send + Sync + 'static,
    ) -> Self {
        self.values = self.values.envelope(envelope);
        self
    }

    /// Where the messages go.
    pub fn destination(&self) -> &Destination {
        &self.topic
    }

    /// Creates the topic, then the group with its dead-letter home, unless they are there. Every
    /// message that is confirmed after this has returned is kept for the group.
    ///
    /// # Errors
    /// As [`Broker::declare`].
    ///
    /// # Cancel safety
    /// Dropped, some parts may exist; calling it again completes them.
    pub async fn declare(&self) -> Result<()> {
        self.broker.declare(&self.topic).await?;
        self.broker.declare(&self.group).await
    }

    /// A member of the group, which handles `concurrency` messages at a time, those of one ordering
    /// key one after the other.
    ///
    /// Run, it ends with [`NotFound`](mq_core::ErrorKind::NotFound) if the group was not declared.
    pub fn member(&self, concurrency: usize) -> Worker<B> {
        Worker::new(&self.broker, self.group.clone())
            .concurrency(concurrency)
            .ordered_by_key()
    }
}

impl<T: Serialize, B: Broker, C: Codec> ConsumerGroup<T, B, C> {
    /// Publishes a message and waits until the broker has stored it for every group.
    ///
    /// # Errors
    /// [`Codec`](mq_core::ErrorKind::Codec) if the value cannot be written, else as
    /// [`Publisher::publish`]: [`possibly_delivered`](mq_core::Error::possibly_delivered) tells whether
    /// some groups may have it, so that publishing it again can make a second one.
    ///
    /// # Cancel safety
    /// Dropped, the message may or may not be stored.
    pub async fn publish(&self, value: &T) -> Result<Receipt> {
        let message = self.values.message(value)?;
        self.broker.publisher().publish(&self.topic, message).await
    }

    /// Publishes many messages, pipelined, and waits for all outcomes, in the order of the messages.
    ///
    /// A message that fails does not keep the others from being stored.
    ///
    /// # Cancel safety
    /// Dropped, each of the messages may or may not be stored.
    pub async fn publish_all(&self, values: &[T]) -> Outcomes {
        let to = |_: &T| self.topic.clone();
        let publisher = self.broker.publisher();
        self.values.publish_all(&publisher, values, to).await
    }
}

impl<T, B: Clone, C> Clone for ConsumerGroup<T, B, C> {
    fn clone(&self) -> Self {
        Self {
            broker: self.broker.clone(),
            topic: self.topic.clone(),
            group: self.group.clone(),
            values: self.values.clone(),
        }
    }
}

impl<T, B, C> fmt::Debug for ConsumerGroup<T, B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerGroup")
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}
