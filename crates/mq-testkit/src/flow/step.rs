//! One recorded step: a flow event that can be kept.

use std::time::SystemTime;

use mq_core::{
    Decision, Destination, MessageId, Position, Subscription,
    flow::{FlowEvent, FlowKind, Vocabulary},
};

/// A flow event that was recorded. Its fields are those of [`FlowEvent`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FlowStep {
    /// What happened.
    pub kind: FlowKind,
    /// When, by the clock of this process.
    pub time: SystemTime,
    /// The name that the program gave its client.
    pub client: String,
    /// What the broker calls it.
    pub words: &'static Vocabulary,
    /// The message's id.
    pub id: Option<MessageId>,
    /// Where it is published, or its new home.
    pub destination: Option<Destination>,
    /// The subscription of a delivery or consumer.
    pub source: Option<Subscription>,
    /// The number of the attempt, from 1.
    pub attempt: Option<u32>,
    /// Where in a log.
    pub position: Option<Position>,
    /// The broker's number of a delivery.
    pub delivery: Option<u64>,
    /// What the handler decided: `ack`, `retry`, `defer` or `reject`.
    pub decision: Option<&'static str>,
}

impl FlowStep {
    /// The event, kept.
    pub(super) fn of(event: &FlowEvent<'_>) -> Self {
        Self {
            kind: event.kind,
            time: event.time,
            client: event.client.to_owned(),
            words: event.words,
            id: event.id.cloned(),
            destination: event.destination.cloned(),
            source: event.source.cloned(),
            attempt: event.attempt,
            position: event.position,
            delivery: event.delivery,
            decision: event.decision.map(|decision| match decision {
                Decision::Ack => "ack",
                Decision::Retry(_) => "retry",
                Decision::Defer(_) => "defer",
                Decision::Reject(_) => "reject",
            }),
        }
    }
}
