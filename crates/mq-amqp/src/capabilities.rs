//! What this backend can do, and what RabbitMQ calls things.

use crate::connection::Product;
use mq_core::{
    Capabilities, Capability,
    flow::{FlowKind, Vocabulary},
};

/// That of every broker version from 4.0 on.
pub(crate) const CAPABILITIES: Capabilities = Capabilities::none()
    .and(Capability::DurableSubscriptions)
    .and(Capability::EphemeralSubscriptions)
    .and(Capability::MandatoryTopics)
    .and(Capability::Defer)
    .and(Capability::Priority)
    .and(Capability::RedeliveredFlag)
    .and(Capability::SettleEach)
    .and(Capability::SingleActiveConsumer)
    .and(Capability::WholeMessages)
    .and(Capability::SharedQueues)
    .and(Capability::KeptVerdicts)
    .and(Capability::KeyOrder)
    .and(Capability::FilledPrefetch);

/// With what this broker's version adds: before RabbitMQ 4.3 a quorum queue counts whatever comes back.
pub(crate) fn of(product: &Product) -> Capabilities {
    match product.is_rabbitmq(4, 3) {
        true => CAPABILITIES
            .and(Capability::UncountedRelease)
            .and(Capability::ExactAttempts),
        false => CAPABILITIES,
    }
}

/// The words of flow events.
pub(crate) const WORDS: Vocabulary = Vocabulary {
    broker: "RabbitMQ",
    queue: "queue",
    topic: "exchange",
    subscription: Some("queue"),
    step,
};

/// The methods of AMQP 0-9-1, and of its extension by publisher confirms.
fn step(kind: FlowKind) -> Option<&'static str> {
    Some(match kind {
        FlowKind::Published | FlowKind::HandedOver => "basic.publish",
        FlowKind::Confirmed => "confirm (basic.ack)",
        FlowKind::Unroutable => "basic.return",
        FlowKind::Rejected => "basic.nack",
        FlowKind::Opened => "basic.consume",
        FlowKind::Delivered => "basic.deliver",
        FlowKind::Acked => "basic.ack",
        FlowKind::Requeued => "basic.reject (requeue)",
        FlowKind::Released => "basic.nack (requeue)",
        FlowKind::Closed => "basic.cancel",
        _ => return None,
    })
}
