//! What this client can do: the least of all.

use mq_core::{Capabilities, Capability};

/// Positions, the order of keys, and nothing counted that was given back. A message is a key and a payload (no `WholeMessages`), one consumer reads a queue
/// (no `SharedQueues`), and an offset is all that is stored of its verdicts (no `KeptVerdicts`).
pub(super) const CAPABILITIES: Capabilities = Capabilities::none()
    .and(Capability::Positions)
    .and(Capability::UncountedRelease)
    .and(Capability::KeyOrder)
    .and(Capability::FilledPrefetch);
