//! What this backend can do, and what Kafka calls things.

use mq_core::{
    Capabilities, Capability,
    flow::{FlowKind, Vocabulary},
};

/// Where queues are read through consumer groups: the same for every broker that this crate speaks to.
///
/// No `Priority` (Kafka has none), no
/// `RedeliveredFlag` (a log does not know who read it), no `MandatoryTopics` (nor who will), no
/// `SingleActiveConsumer` (a group shares out partitions).
pub(crate) const CAPABILITIES: Capabilities = Capabilities::none()
    .and(Capability::DurableSubscriptions)
    .and(Capability::EphemeralSubscriptions)
    .and(Capability::Defer)
    .and(Capability::DeferInPlace)
    .and(Capability::RepeatedHeaders)
    .and(Capability::Positions)
    .and(Capability::Partitions)
    .and(Capability::UncountedRelease)
    .and(Capability::WholeMessages)
    .and(Capability::SharedQueues)
    .and(Capability::KeptVerdicts)
    .and(Capability::KeyOrder)
    .and(Capability::ExactAttempts)
    .and(Capability::FilledPrefetch);

/// Where queues are read through share groups.
///
/// No `Partitions`, `KeyOrder` nor `DeferInPlace` (a record goes to whoever is free), no
/// `ExactAttempts` (the broker counts what a member had, whatever became of it), no `FilledPrefetch`
/// (the client asks for more once all that a member has is settled).
pub(crate) const SHARED: Capabilities = Capabilities::none()
    .and(Capability::DurableSubscriptions)
    .and(Capability::EphemeralSubscriptions)
    .and(Capability::Defer)
    .and(Capability::RepeatedHeaders)
    .and(Capability::Positions)
    .and(Capability::SettleEach)
    .and(Capability::UncountedRelease)
    .and(Capability::WholeMessages)
    .and(Capability::SharedQueues)
    .and(Capability::KeptVerdicts);

/// The words of flow events.
pub(crate) const WORDS: Vocabulary = Vocabulary {
    broker: "Kafka",
    queue: "topic",
    topic: "topic",
    subscription: None,
    step,
};

/// Kafka's requests, as far as a step is one. A verdict stays here: the broker hears of it by the
/// commit of an offset.
fn step(kind: FlowKind) -> Option<&'static str> {
    Some(match kind {
        FlowKind::Published => "produce (acks=all)",
        FlowKind::HandedOver => "produce (acks=0)",
        FlowKind::Confirmed => "stored",
        FlowKind::Unroutable => "no such topic",
        FlowKind::Rejected => "refused",
        FlowKind::Opened => "subscribe",
        FlowKind::Delivered => "fetch",
        FlowKind::Committed => "commit offset",
        FlowKind::Assigned => "assigned",
        FlowKind::Revoked => "revoked",
        FlowKind::Lost => "lost",
        FlowKind::Closed => "leave",
        _ => return None,
    })
}
