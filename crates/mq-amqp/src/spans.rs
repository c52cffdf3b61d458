//! Spans in the words of RabbitMQ, by OpenTelemetry's conventions for messaging (1.44).

use std::fmt;

use mq_core::{
    Destination, Message, Subscription, SubscriptionKind,
    trace::{Handled, Sent, Spans},
};
use tracing::{Span, debug_span, field::Empty};

/// The spans of one connection.
#[derive(Debug)]
pub(crate) struct AmqpSpans {
    client: String,
    host: String,
    port: u16,
}

impl AmqpSpans {
    pub(crate) fn new(client: String, host: String, port: u16) -> Self {
        Self { client, host, port }
    }
}

impl Spans for AmqpSpans {
    fn create(&self, to: &Destination, message: &Message) -> Span {
        debug_span!(
            target: "mq_amqp::create",
            "create",
            otel.name = %format_args!("create {}", to.name()),
            otel.kind = "producer",
            messaging.system = SYSTEM,
            messaging.operation.type = "create",
            messaging.operation.name = "create",
            messaging.destination.name = %Target(to),
            messaging.destination.template = template(to),
            messaging.rabbitmq.destination.routing_key = routing_key(to),
            messaging.client.id = self.client,
            messaging.message.id = %message.id(),
            messaging.message.conversation_id = message.correlation_id(),
            server.address = self.host,
            server.port = self.port,
        )
    }

    fn send(&self, to: &Destination, sent: Sent<'_>, carried: bool) -> Span {
        debug_span!(
            "send",
            otel.name = %format_args!("publish {}", to.name()),
            otel.kind = if carried { "producer" } else { "client" },
            otel.status_code = Empty,
            messaging.system = SYSTEM,
            messaging.operation.type = "send",
            messaging.operation.name = "publish",
            messaging.destination.name = %Target(to),
            messaging.destination.template = template(to),
            messaging.rabbitmq.destination.routing_key = routing_key(to),
            messaging.client.id = self.client,
            messaging.message.id = sent.message().map(|m| display(m.id())),
            messaging.message.conversation_id = sent.message().and_then(Message::correlation_id),
            messaging.batch.message_count = sent.count(),
            server.address = self.host,
            server.port = self.port,
            error.type = Empty,
        )
    }

    fn receive(&self, source: &Subscription, messages: usize) -> Span {
        let (source, none) = (Source::of(source), None);
        debug_span!(
            "receive",
            otel.name = %format_args!("consume {}", source.short()),
            otel.kind = "client",
            messaging.system = SYSTEM,
            messaging.operation.type = "receive",
            messaging.operation.name = "consume",
            messaging.destination.name = %source.with(none),
            messaging.destination.template = source.template(none),
            messaging.destination.temporary = source.temporary(),
            messaging.destination.anonymous = source.temporary(),
            messaging.client.id = self.client,
            messaging.batch.message_count = messages,
            server.address = self.host,
            server.port = self.port,
        )
    }

    fn process(&self, source: &Subscription, handled: Handled<'_>) -> Span {
        let (source, message) = (Source::of(source), handled.received());
        let key = message.and_then(|m| m.routing_key());
        debug_span!(
            parent: None,
            "process",
            otel.name = %format_args!("process {}", source.short()),
            otel.kind = "consumer",
            otel.status_code = Empty,
            messaging.system = SYSTEM,
            messaging.operation.type = "process",
            messaging.operation.name = "process",
            messaging.destination.name = %source.with(key),
            messaging.destination.template = source.template(key),
            messaging.destination.temporary = source.temporary(),
            messaging.destination.anonymous = source.temporary(),
            messaging.rabbitmq.destination.routing_key = key.or(source.own_key()),
            messaging.rabbitmq.message.delivery_tag = handled.tag(),
            messaging.client.id = self.client,
            messaging.message.id = message.map(|m| display(m.id())),
            messaging.message.conversation_id = message.and_then(|m| m.correlation_id()),
            messaging.batch.message_count = handled.count(),
            server.address = self.host,
            server.port = self.port,
            error.type = Empty,
        )
    }

    fn settle(
        &self,
        source: &Subscription,
        operation: &'static str,
        messages: Option<usize>,
    ) -> Span {
        let (source, none) = (Source::of(source), None);
        debug_span!(
            "settle",
            otel.name = %format_args!("{operation} {}", source.short()),
            otel.kind = "client",
            otel.status_code = Empty,
            messaging.system = SYSTEM,
            messaging.operation.type = "settle",
            messaging.operation.name = operation,
            messaging.destination.name = %source.with(none),
            messaging.destination.template = source.template(none),
            messaging.destination.temporary = source.temporary(),
            messaging.destination.anonymous = source.temporary(),
            messaging.client.id = self.client,
            messaging.batch.message_count = messages,
            server.address = self.host,
            server.port = self.port,
            error.type = Empty,
        )
    }
}

/// `exchange:routing_key`, or the one of them that is there.
struct Target<'a>(&'a Destination);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())?;
        match topic_key(self.0) {
            Some(key) => write!(f, ":{key}"),
            None => Ok(()),
        }
    }
}

/// Routing keys may be many, so the name of a span has the exchange alone.
fn template(to: &Destination) -> Option<&str> {
    topic_key(to).map(|_| &**to.name())
}

/// The key on the wire: a queue is published to by its name.
fn routing_key(to: &Destination) -> Option<&str> {
    if to.is_queue() {
        Some(to.name())
    } else {
        topic_key(to)
    }
}

fn topic_key(to: &Destination) -> Option<&str> {
    to.key().filter(|key| !to.is_queue() && !key.is_empty())
}

/// What a consumer reads.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    exchange: Option<&'a str>,
    /// `None` for the queue that the broker named: its name is no other's again.
    queue: Option<&'a str>,
}

impl<'a> Source<'a> {
    fn of(source: &'a Subscription) -> Self {
        match source.kind() {
            SubscriptionKind::Queue { queue } => Self {
                exchange: None,
                queue: Some(queue),
            },
            SubscriptionKind::Durable { topic, .. } => Self {
                exchange: Some(topic),
                queue: Some(source.name()),
            },
            SubscriptionKind::Ephemeral { topic } => Self {
                exchange: Some(topic),
                queue: None,
            },
        }
    }

    /// What the names of spans have: the queue, or the exchange of one without a name.
    fn short(self) -> &'a str {
        self.queue.or(self.exchange).unwrap_or_default()
    }

    /// `exchange:routing_key:queue` without what is not there.
    fn with(self, key: Option<&'a str>) -> impl fmt::Display {
        Path([self.exchange, key, self.queue])
    }

    fn template(self, key: Option<&str>) -> Option<&'a str> {
        let more = self.exchange.is_some() && (self.queue.is_some() || key.is_some());
        more.then(|| self.short())
    }

    fn temporary(self) -> Option<bool> {
        self.queue.is_none().then_some(true)
    }

    /// The key by which a message comes to a queue that is no subscription.
    fn own_key(self) -> Option<&'a str> {
        self.queue.filter(|_| self.exchange.is_none())
    }
}

struct Path<'a>([Option<&'a str>; 3]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [exchange, key, queue] = self.0;
        let queue = queue.filter(|queue| key != Some(queue));
        let mut separator = "";
        for part in [exchange, key, queue].into_iter().flatten() {
            write!(f, "{separator}{part}")?;
            separator = ":";
        }
        Ok(())
    }
}

const SYSTEM: &str = "rabbitmq";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_exchange_and_key_or_the_one_that_is_there() {
        let name = |to: &Destination| Target(to).to_string();
        let queue = Destination::queue("orders");
        let plain = Destination::topic("events");
        let keyed = Destination::topic("events").routing_key("eu.paid");
        assert_eq!(name(&queue), "orders");
        assert_eq!(name(&plain), "events");
        assert_eq!(name(&keyed), "events:eu.paid");
        assert_eq!(routing_key(&queue), Some("orders"));
        assert_eq!(
            (routing_key(&plain), routing_key(&keyed)),
            (None, Some("eu.paid"))
        );
        assert_eq!((template(&queue), template(&keyed)), (None, Some("events")));
    }

    #[test]
    fn a_source_is_exchange_key_and_queue_without_repeating_one() {
        let name = |source: &Subscription, key| Source::of(source).with(key).to_string();
        let (queue, mail) = (
            Subscription::queue("orders"),
            Subscription::durable("events", "mail"),
        );
        let ephemeral = Subscription::ephemeral("events");
        assert_eq!(name(&queue, None), "orders");
        assert_eq!(name(&queue, Some("orders")), "orders");
        assert_eq!(name(&mail, Some("eu.paid")), "events:eu.paid:mail@events");
        assert_eq!(name(&mail, None), "events:mail@events");
        assert_eq!(name(&ephemeral, Some("eu.paid")), "events:eu.paid");
        assert_eq!(Source::of(&mail).template(None), Some("mail@events"));
        assert_eq!(Source::of(&queue).template(None), None);
        assert_eq!(Source::of(&ephemeral).short(), "events");
    }
}
