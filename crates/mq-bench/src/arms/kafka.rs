//! Kafka: idempotent producing with the answer of all in-sync replicas, and consuming with commits.

pub(crate) mod krafka;
#[cfg(feature = "mq-bridge")]
pub(crate) mod mq_bridge;
pub(crate) mod ours;
#[cfg(feature = "rdkafka")]
pub(crate) mod rdkafka;
#[cfg(feature = "ruststream")]
pub(crate) mod ruststream;

use std::time::{SystemTime, UNIX_EPOCH};

/// Records without an outcome.
const WINDOW: usize = 10_000;
const BATCH_BYTES: usize = 1024 * 1024;
/// How often offsets are committed, in milliseconds.
const COMMIT_MS: u64 = 250;

/// A group that nobody had before.
fn fresh_group() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos());
    format!("bench-{}-{nanos}", std::process::id())
}
