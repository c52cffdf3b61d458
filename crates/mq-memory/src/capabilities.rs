//! What each shape can do.

use mq_core::{Capabilities, Capability as Can};

/// The shape of queues.
pub(crate) const QUEUES: Capabilities = Capabilities::none()
    .and(Can::DurableSubscriptions)
    .and(Can::EphemeralSubscriptions)
    .and(Can::MandatoryTopics)
    .and(Can::Defer)
    .and(Can::Priority)
    .and(Can::RedeliveredFlag)
    .and(Can::SettleEach)
    .and(Can::SingleActiveConsumer);

/// The shape of a log.
pub(crate) const LOG: Capabilities = Capabilities::none()
    .and(Can::DurableSubscriptions)
    .and(Can::EphemeralSubscriptions)
    .and(Can::Defer)
    .and(Can::RepeatedHeaders)
    .and(Can::Positions)
    .and(Can::Partitions);
