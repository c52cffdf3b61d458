//! Spans in neutral words, for a broker that has no conventions of its own.

use std::sync::Arc;

use tracing::{
    Span, debug_span,
    field::{Empty, display},
};

use super::{Handled, Sent, Spans};
use crate::{Destination, Message, Subscription, SubscriptionKind};

/// Spans with the attributes that all messaging systems share.
#[derive(Debug, Clone)]
pub struct PlainSpans {
    system: &'static str,
    client: Arc<str>,
}

impl PlainSpans {
    /// Spans of a client of this name, on a system of this name (`messaging.system`).
    pub fn new(system: &'static str, client: impl Into<Arc<str>>) -> Self {
        Self {
            system,
            client: client.into(),
        }
    }
}

impl Spans for PlainSpans {
    fn create(&self, to: &Destination, message: &Message) -> Span {
        debug_span!(
            target: "mq_core::create",
            "create",
            otel.name = %format_args!("create {}", to.name()),
            otel.kind = "producer",
            messaging.system = self.system,
            messaging.operation.type = "create",
            messaging.operation.name = "create",
            messaging.destination.name = &**to.name(),
            messaging.client.id = &*self.client,
            messaging.message.id = %message.id(),
            messaging.message.conversation_id = message.correlation_id(),
        )
    }

    fn send(&self, to: &Destination, sent: Sent<'_>, carried: bool) -> Span {
        debug_span!(
            target: "mq_core",
            "send",
            otel.name = %format_args!("send {}", to.name()),
            otel.kind = if carried { "producer" } else { "client" },
            otel.status_code = Empty,
            messaging.system = self.system,
            messaging.operation.type = "send",
            messaging.operation.name = "send",
            messaging.destination.name = &**to.name(),
            messaging.destination.partition.id = Empty,
            messaging.client.id = &*self.client,
            messaging.message.id = sent.message().map(|m| display(m.id())),
            messaging.message.conversation_id = sent.message().and_then(Message::correlation_id),
            messaging.batch.message_count = sent.count(),
            error.type = Empty,
        )
    }

    fn receive(&self, source: &Subscription, messages: usize) -> Span {
        let (name, temporary) = of_source(source);
        debug_span!(
            target: "mq_core",
            "receive",
            otel.name = %format_args!("receive {name}"),
            otel.kind = "client",
            messaging.system = self.system,
            messaging.operation.type = "receive",
            messaging.operation.name = "receive",
            messaging.destination.name = name,
            messaging.destination.temporary = temporary,
            messaging.client.id = &*self.client,
            messaging.batch.message_count = messages,
        )
    }

    fn process(&self, source: &Subscription, handled: Handled<'_>) -> Span {
        let (name, temporary) = of_source(source);
        let message = handled.received();
        debug_span!(
            target: "mq_core",
            parent: None,
            "process",
            otel.name = %format_args!("process {name}"),
            otel.kind = "consumer",
            otel.status_code = Empty,
            messaging.system = self.system,
            messaging.operation.type = "process",
            messaging.operation.name = "process",
            messaging.destination.name = name,
            messaging.destination.temporary = temporary,
            messaging.destination.partition.id =
                message.and_then(|m| m.position()).map(|at| display(at.partition)),
            messaging.client.id = &*self.client,
            messaging.message.id = message.map(|m| display(m.id())),
            messaging.message.conversation_id = message.and_then(|m| m.correlation_id()),
            messaging.batch.message_count = handled.count(),
            error.type = Empty,
        )
    }

    fn settle(
        &self,
        source: &Subscription,
        operation: &'static str,
        messages: Option<usize>,
    ) -> Span {
        let (name, temporary) = of_source(source);
        debug_span!(
            target: "mq_core",
            "settle",
            otel.name = %format_args!("{operation} {name}"),
            otel.kind = "client",
            messaging.system = self.system,
            messaging.operation.type = "settle",
            messaging.operation.name = operation,
            messaging.destination.name = name,
            messaging.destination.temporary = temporary,
            messaging.client.id = &*self.client,
            messaging.batch.message_count = messages,
        )
    }

    fn stored(&self, span: &Span, at: crate::Position) {
        span.record("messaging.destination.partition.id", display(at.partition));
    }
}

/// The name of what is read, and whether it ends with its consumer.
fn of_source(source: &Subscription) -> (&str, Option<bool>) {
    let temporary = matches!(source.kind(), SubscriptionKind::Ephemeral { .. });
    (source.name(), temporary.then_some(true))
}
