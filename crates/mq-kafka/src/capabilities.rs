//! What this backend can do.

use mq_core::{Capabilities, Capability};

/// The same for every broker that this crate speaks to.
///
/// No `Defer` (retry topics are not there yet), no `Priority` (Kafka has none), no
/// `RedeliveredFlag` (a log does not know who read it), no `MandatoryTopics` (nor who will), no
/// `SingleActiveConsumer` (a group shares out partitions).
pub(crate) const CAPABILITIES: Capabilities = Capabilities::none()
    .and(Capability::DurableSubscriptions)
    .and(Capability::EphemeralSubscriptions)
    .and(Capability::RepeatedHeaders)
    .and(Capability::Positions)
    .and(Capability::Partitions);
