//! What this backend can do.

use mq_core::{Capabilities, Capability};

/// The same for every broker version from 4.0 on; `defer` comes with the delay cascade.
pub(crate) const CAPABILITIES: Capabilities = Capabilities::none()
    .and(Capability::DurableSubscriptions)
    .and(Capability::EphemeralSubscriptions)
    .and(Capability::MandatoryTopics)
    .and(Capability::Priority)
    .and(Capability::RedeliveredFlag)
    .and(Capability::SettleEach);
