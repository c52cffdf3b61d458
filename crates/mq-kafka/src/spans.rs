//! Spans in the words of Kafka, by OpenTelemetry's conventions for messaging (1.44).
//!
//! A record's key is left out, which the conventions would have: keys may be personal data.

use mq_core::{
    Destination, Message, Position, Subscription, SubscriptionKind,
    trace::{Handled, Sent, Spans},
};
use tracing::{
    Span, debug_span,
    field::{Empty, display},
};

/// The spans of one connection.
#[derive(Debug)]
pub(crate) struct KafkaSpans {
    client: String,
    /// Host and port, where the client was given one broker alone.
    server: Option<(String, u16)>,
}

impl KafkaSpans {
    pub(crate) fn new(client: String, servers: &str) -> Self {
        let only = servers
            .trim()
            .rsplit_once(':')
            .filter(|_| !servers.contains(','));
        let server = only.and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
        Self { client, server }
    }

    fn address(&self) -> Option<&str> {
        self.server.as_ref().map(|(host, _)| &**host)
    }

    fn port(&self) -> Option<u16> {
        self.server.as_ref().map(|(_, port)| *port)
    }
}

impl Spans for KafkaSpans {
    fn create(&self, to: &Destination, message: &Message) -> Span {
        debug_span!(
            target: "mq_kafka::create",
            "create",
            otel.name = %format_args!("create {}", to.name()),
            otel.kind = "producer",
            messaging.system = SYSTEM,
            messaging.operation.type = "create",
            messaging.operation.name = "create",
            messaging.destination.name = &**to.name(),
            messaging.kafka.message.tombstone = tombstone(Some(message)),
            messaging.client.id = self.client,
            messaging.message.id = %message.id(),
            messaging.message.conversation_id = message.correlation_id(),
            server.address = self.address(),
            server.port = self.port(),
        )
    }

    fn send(&self, to: &Destination, sent: Sent<'_>, carried: bool) -> Span {
        let message = sent.message();
        debug_span!(
            "send",
            otel.name = %format_args!("send {}", to.name()),
            otel.kind = if carried { "producer" } else { "client" },
            otel.status_code = Empty,
            messaging.system = SYSTEM,
            messaging.operation.type = "send",
            messaging.operation.name = "send",
            messaging.destination.name = &**to.name(),
            messaging.destination.partition.id = Empty,
            messaging.kafka.offset = Empty,
            messaging.kafka.message.tombstone = tombstone(message),
            messaging.client.id = self.client,
            messaging.message.id = message.map(|m| display(m.id())),
            messaging.message.conversation_id = message.and_then(Message::correlation_id),
            messaging.batch.message_count = sent.count(),
            server.address = self.address(),
            server.port = self.port(),
            error.type = Empty,
        )
    }

    fn receive(&self, source: &Subscription, messages: usize) -> Span {
        let topic = topic(source);
        debug_span!(
            "receive",
            otel.name = %format_args!("poll {topic}"),
            otel.kind = "client",
            messaging.system = SYSTEM,
            messaging.operation.type = "receive",
            messaging.operation.name = "poll",
            messaging.destination.name = topic,
            messaging.consumer.group.name = group(source),
            messaging.client.id = self.client,
            messaging.batch.message_count = messages,
            server.address = self.address(),
            server.port = self.port(),
        )
    }

    fn process(&self, source: &Subscription, handled: Handled<'_>) -> Span {
        let (topic, message) = (topic(source), handled.received());
        let at = message.and_then(|m| m.position());
        debug_span!(
            parent: None,
            "process",
            otel.name = %format_args!("process {topic}"),
            otel.kind = "consumer",
            otel.status_code = Empty,
            messaging.system = SYSTEM,
            messaging.operation.type = "process",
            messaging.operation.name = "process",
            messaging.destination.name = topic,
            messaging.destination.partition.id = at.map(|at| display(at.partition)),
            messaging.consumer.group.name = group(source),
            messaging.kafka.offset = at.map(|at| at.offset),
            messaging.kafka.message.tombstone = tombstone(message.map(|m| m.message())),
            messaging.client.id = self.client,
            messaging.message.id = message.map(|m| display(m.id())),
            messaging.message.conversation_id = message.and_then(|m| m.correlation_id()),
            messaging.batch.message_count = handled.count(),
            server.address = self.address(),
            server.port = self.port(),
            error.type = Empty,
        )
    }

    fn settle(
        &self,
        source: &Subscription,
        operation: &'static str,
        messages: Option<usize>,
    ) -> Span {
        let topic = topic(source);
        debug_span!(
            "settle",
            otel.name = %format_args!("{operation} {topic}"),
            otel.kind = "client",
            otel.status_code = Empty,
            messaging.system = SYSTEM,
            messaging.operation.type = "settle",
            messaging.operation.name = operation,
            messaging.destination.name = topic,
            messaging.consumer.group.name = group(source),
            messaging.client.id = self.client,
            messaging.batch.message_count = messages,
            server.address = self.address(),
            server.port = self.port(),
            error.type = Empty,
        )
    }

    fn stored(&self, span: &Span, at: Position) {
        span.record("messaging.destination.partition.id", display(at.partition));
        span.record("messaging.kafka.offset", at.offset);
    }
}

fn topic(source: &Subscription) -> &str {
    match source.kind() {
        SubscriptionKind::Queue { queue } => queue,
        SubscriptionKind::Durable { topic, .. } | SubscriptionKind::Ephemeral { topic } => topic,
    }
}

/// The group's id is the full name of a subscription that has one.
fn group(source: &Subscription) -> Option<&str> {
    let grouped = !matches!(source.kind(), SubscriptionKind::Ephemeral { .. });
    grouped.then(|| &**source.name())
}

/// Told only of a message that is one.
fn tombstone(message: Option<&Message>) -> Option<bool> {
    message.filter(|m| m.payload().is_none()).map(|_| true)
}

const SYSTEM: &str = "kafka";
