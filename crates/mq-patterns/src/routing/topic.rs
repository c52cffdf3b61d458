//! A topic whose events have a routing key.

use std::{fmt, sync::Arc};

use mq_core::{
    Broker, Capability, Datatype, Destination, Error, ErrorKind, Filter, MessageBuilder, Outcomes,
    Publisher, Receipt, Result, Subscription,
    codec::{Codec, JsonCodec},
};
use serde::Serialize;

use super::Subscriber;

/// A topic with events of the type `T`, on a broker, written by the codec `C`, each with a routing
/// key. A clone shares it.
///
/// Nothing is created until [`declare`](Self::declare) and
/// [`Subscriber::declare`].
pub struct Routing<T, B, C = JsonCodec> {
    broker: B,
    topic: Destination,
    route: Option<Route<T>>,
    events: Datatype<T, C>,
}

type Route<T> = Arc<dyn Fn(&T) -> String + Send + Sync>;

impl<T, B: Broker> Routing<T, B> {
    /// The topic of this name, with events as JSON and without routing keys.
    pub fn new(broker: &B, topic: impl Into<Arc<str>>) -> Self {
        Self {
            broker: broker.clone(),
            topic: Destination::topic(topic),
            route: None,
            events: Datatype::new(),
        }
    }
}

impl<T, B: Broker, C: Codec> Routing<T, B, C> {
    /// Sets the routing key of each event: words separated by dots, such as `eu.order.paid`
    /// (EIP *Content-Based Router*, with the content named by the publisher).
    ///
    /// Without it an event has the empty key, which is enough for filters by header.
    #[must_use]
    pub fn route(mut self, route: impl Fn(&T) -> String + Send + Sync + 'static) -> Self {
        self.route = Some(Arc::new(route));
        self
    }

    /// Asks that somebody takes each event: one that no subscriber's filter takes is
    /// [`Unroutable`](ErrorKind::Unroutable), and stored nowhere.
    ///
    /// It needs a broker that knows who takes what when an event is published
    /// ([`Capability::MandatoryTopics`]); on any other, declaring and publishing are
    /// [`Unsupported`](ErrorKind::Unsupported).
    #[must_use]
    pub fn mandatory(mut self) -> Self {
        self.topic = self.topic.mandatory();
        self
    }

    /// Writes the events by another codec.
    #[must_use]
    pub fn codec<C2: Codec>(self) -> Routing<T, B, C2> {
        Routing {
            broker: self.broker,
            topic: self.topic,
            route: self.route,
            events: self.events.codec(),
        }
    }

    /// Sets what each event's message has besides its payload: ordering key, id, and the headers
    /// that filters look at (EIP *Envelope Wrapper*).
    #[must_use]
    pub fn envelope(
        mut self,
        envelope: impl Fn(&T, MessageBuilder) -> MessageBuilder + Send + Sync + 'static,
    ) -> Self {
        self.events = self.events.envelope(envelope);
        self
    }

    /// Where an event goes, with its routing key.
    pub fn destination(&self, event: &T) -> Destination {
        let topic = self.topic.clone();
        match &self.route {
            Some(route) => topic.routing_key(route(event)),
            None => topic,
        }
    }

    /// Creates the topic, unless it is there.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where [`mandatory`](Self::mandatory) asks for what
    /// the broker cannot do, and as [`Broker::declare`].
    ///
    /// # Cancel safety
    /// Dropped, some parts may exist; calling it again completes them.
    pub async fn declare(&self) -> Result<()> {
        let needed = Capability::MandatoryTopics;
        if self.topic.is_mandatory() && !self.broker.capabilities().has(needed) {
            let text = "this broker cannot tell an event that nobody takes";
            return Err(Error::new(ErrorKind::Unsupported, "declare", text)
                .with("capability", needed)
                .with("topic", self.topic.name())
                .help("leave `mandatory` out: the event is then kept in the topic"));
        }
        self.broker.declare(&self.topic).await
    }

    /// The subscriber of this name with its filter: to be declared, and worked for.
    ///
    /// A subscriber keeps its filter: see the page's table for what another one does.
    pub fn subscriber(&self, name: impl Into<Arc<str>>, filter: Filter) -> Subscriber<B> {
        let subscription =
            Subscription::durable(Arc::clone(self.topic.name()), name).filter(filter);
        Subscriber::new(&self.broker, subscription)
    }
}

impl<T: Serialize, B: Broker, C: Codec> Routing<T, B, C> {
    /// Publishes an event and waits until the broker has stored it for every subscriber whose
    /// filter takes it.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec) if the event cannot be written, else as
    /// [`Publisher::publish`]: [`possibly_delivered`](Error::possibly_delivered) tells whether
    /// some subscribers may have it, so that publishing it again can make a second one.
    ///
    /// # Cancel safety
    /// Dropped, the event may or may not be stored.
    pub async fn publish(&self, event: &T) -> Result<Receipt> {
        let message = self.events.message(event)?;
        let to = self.destination(event);
        self.broker.publisher().publish(&to, message).await
    }

    /// Publishes many events, pipelined, and waits for all outcomes, in the order of the events.
    ///
    /// An event that fails does not keep the others from being stored.
    ///
    /// # Cancel safety
    /// Dropped, each of the events may or may not be stored.
    pub async fn publish_all(&self, events: &[T]) -> Outcomes {
        let to = |event: &T| self.destination(event);
        let publisher = self.broker.publisher();
        self.events.publish_all(&publisher, events, to).await
    }
}

impl<T, B: Clone, C> Clone for Routing<T, B, C> {
    fn clone(&self) -> Self {
        Self {
            broker: self.broker.clone(),
            topic: self.topic.clone(),
            route: self.route.clone(),
            events: self.events.clone(),
        }
    }
}

impl<T, B, C> fmt::Debug for Routing<T, B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routing")
            .field("topic", &self.topic.name())
            .field("mandatory", &self.topic.is_mandatory())
            .finish_non_exhaustive()
    }
}
