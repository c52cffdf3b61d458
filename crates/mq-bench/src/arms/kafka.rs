//! Kafka: idempotent producing with the answer of all in-sync replicas, and consuming with commits.

pub(crate) mod krafka;
#[cfg(feature = "mq-bridge")]
pub(crate) mod mq_bridge;
pub(crate) mod ours;
#[cfg(feature = "rdkafka")]
pub(crate) mod rdkafka;
#[cfg(feature = "ruststream")]
pub(crate) mod ruststream;

/// Records without an outcome.
const WINDOW: usize = 10_000;
const BATCH_BYTES: usize = 1024 * 1024;
/// How often offsets are committed, in milliseconds.
const COMMIT_MS: u64 = 250;
/// The same for those that copy.
const COPY_COMMIT_MS: u64 = 100;
