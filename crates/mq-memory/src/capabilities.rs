//! What each shape can do, and what things are called here.

use mq_core::{
    Capabilities, Capability as Can,
    flow::{FlowKind, Vocabulary},
};

/// The shape of queues.
pub(crate) const QUEUES: Capabilities = Capabilities::none()
    .and(Can::DurableSubscriptions)
    .and(Can::EphemeralSubscriptions)
    .and(Can::MandatoryTopics)
    .and(Can::Defer)
    .and(Can::Priority)
    .and(Can::RedeliveredFlag)
    .and(Can::SettleEach)
    .and(Can::SingleActiveConsumer)
    .and(Can::UncountedRelease)
    .and(Can::WholeMessages)
    .and(Can::SharedQueues)
    .and(Can::KeptVerdicts)
    .and(Can::KeyOrder)
    .and(Can::ExactAttempts)
    .and(Can::FilledPrefetch);

/// The shape of a log.
pub(crate) const LOG: Capabilities = Capabilities::none()
    .and(Can::DurableSubscriptions)
    .and(Can::EphemeralSubscriptions)
    .and(Can::Defer)
    .and(Can::RepeatedHeaders)
    .and(Can::Positions)
    .and(Can::Partitions)
    .and(Can::UncountedRelease)
    .and(Can::WholeMessages)
    .and(Can::SharedQueues)
    .and(Can::KeptVerdicts)
    .and(Can::KeyOrder)
    .and(Can::ExactAttempts)
    .and(Can::FilledPrefetch);

/// The words of flow events.
pub(crate) const WORDS: Vocabulary = Vocabulary {
    broker: "in-process",
    queue: "queue",
    topic: "topic",
    subscription: Some("subscription"),
    step,
};

fn step(kind: FlowKind) -> Option<&'static str> {
    Some(match kind {
        FlowKind::Published => "publish",
        FlowKind::HandedOver => "hand over",
        FlowKind::Confirmed => "confirm",
        FlowKind::Unroutable => "unroutable",
        FlowKind::Rejected => "reject",
        FlowKind::Opened => "consume",
        FlowKind::Delivered => "deliver",
        FlowKind::Acked => "ack",
        FlowKind::Requeued => "requeue",
        FlowKind::Released => "release",
        FlowKind::Deferred => "defer",
        FlowKind::Closed => "close",
        _ => return None,
    })
}
