//! What this broker can do beside what every broker must.

use mq_core::{Capabilities, Capability as Can};

// guide: capabilities
pub(crate) const CAPABILITIES: Capabilities = Capabilities::none()
    .and(Can::RedeliveredFlag)
    .and(Can::RepeatedHeaders)
    .and(Can::SettleEach)
    .and(Can::UncountedRelease)
    .and(Can::WholeMessages)
    .and(Can::SharedQueues)
    .and(Can::KeptVerdicts)
    .and(Can::KeyOrder)
    .and(Can::ExactAttempts)
    .and(Can::FilledPrefetch);
// guide: end
