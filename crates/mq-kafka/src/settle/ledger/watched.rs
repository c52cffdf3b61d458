//! What can be seen of a ledger from outside: how far it is, and what stands still.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mq_core::SubscriptionKind;
use tokio::time::Instant;

use super::Ledger;
use crate::consumer::PartitionProgress;

/// A record that holds up its partition's commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stalled {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    /// How long it waits for a handler, or is with one.
    pub(crate) time: Duration,
}

impl Ledger {
    /// Seconds since the consumer was opened: 32 bits of them last for 136 years.
    pub(super) fn now(&self) -> u32 {
        self.second(Instant::now())
    }

    /// The same of any instant.
    pub(super) fn second(&self, at: Instant) -> u32 {
        let since = at.saturating_duration_since(self.began);
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
    }

    /// The name of the subscription.
    pub(crate) fn source_name(&self) -> &Arc<str> {
        self.source.name()
    }

    /// The topic that is read.
    fn topic(&self) -> &Arc<str> {
        match self.log.kind() {
            SubscriptionKind::Queue { queue } => queue,
            SubscriptionKind::Durable { topic, .. } | SubscriptionKind::Ephemeral { topic } => {
                topic
            }
        }
    }

    /// Where the logs of these partitions end.
    pub(crate) fn saw_ends(&self, ends: impl IntoIterator<Item = (i32, i64)>) {
        let state = &mut *self.lock();
        for (partition, end) in ends {
            if let Some(entry) = state.partitions.get_mut(&partition) {
                entry.end = Some(end);
            }
        }
    }

    /// How far each partition is, in ascending order.
    pub(crate) fn progress_of_partitions(&self) -> Vec<PartitionProgress> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let state = self.lock();
        let mut all: Vec<PartitionProgress> = state
            .partitions
            .iter()
            .map(|(partition, entry)| {
                let (low, next) = (entry.tracker.low_water(), entry.tracker.next());
                // The end is some seconds old; what was read since lay behind it.
                let end = entry.end.map(|end| end.max(next));
                let oldest = entry.tracker.oldest().map(|oldest| {
                    // Another clock than ours may be ahead of it.
                    now.saturating_sub(Duration::from_millis(unsigned(oldest.time)))
                });
                PartitionProgress {
                    topic: Arc::clone(self.topic()),
                    partition: u32::try_from(*partition).unwrap_or_default(),
                    committed: unsigned(entry.committed.0),
                    done_below: unsigned(low),
                    next: unsigned(next),
                    end: end.map(unsigned),
                    lag: end.map(|end| unsigned(end - low)),
                    open: entry.tracker.len(),
                    oldest,
                }
            })
            .collect();
        all.sort_unstable_by_key(|progress| progress.partition);
        all
    }

    /// The lowest unfinished record of each partition, where it has waited for longer than this, or
    /// been with its handler; each once.
    pub(crate) fn newly_stalled(&self, after: Duration) -> Vec<Stalled> {
        let now = self.now();
        let state = &mut *self.lock();
        let mut stalled = Vec::new();
        for (partition, entry) in &mut state.partitions {
            let Some(oldest) = entry.tracker.oldest() else {
                continue;
            };
            let time = Duration::from_secs(now.saturating_sub(oldest.since).into());
            if time > after && entry.told != Some(oldest.offset) {
                entry.told = Some(oldest.offset);
                stalled.push(Stalled {
                    partition: u32::try_from(*partition).unwrap_or_default(),
                    offset: unsigned(oldest.offset),
                    time,
                });
            }
        }
        stalled
    }
}

/// Offsets and times of Kafka are never negative where they are known.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
