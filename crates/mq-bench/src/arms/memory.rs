//! In one process: publish, handle, acknowledge.

#[cfg(feature = "mq-bridge")]
pub(crate) mod mq_bridge;
pub(crate) mod ours;
#[cfg(feature = "ruststream")]
pub(crate) mod ruststream;
pub(crate) mod tokio_mpsc;

/// Messages between the two ends.
const ROOM: usize = 1024;
/// Batches between the two ends, where they go so: the default of mq-bridge.
const ROOM_IN_BATCHES: usize = 100;
