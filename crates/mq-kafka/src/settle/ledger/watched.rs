//! What can be seen of a ledger from outside: how far it is, and what stands still.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use mq_core::SubscriptionKind;
use tokio::time::Instant;

use super::{super::book::Held, Ledger};
use crate::consumer::PartitionProgress;

/// What a partition waits for: a record that holds up its commits, or the first one of a transaction that holds up its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stalled {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    /// For how long.
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

    /// Where these partitions end for their reader, and their high watermarks.
    pub(crate) fn saw_ends(&self, ends: impl IntoIterator<Item = (i32, (i64, i64))>) {
        let now = self.now();
        let state = &mut *self.lock();
        for (partition, (end, high)) in ends {
            let Some(entry) = state.partitions.get_mut(&partition) else {
                continue;
            };
            // The same one as before, if the end did not move.
            let before = entry.held.filter(|_| entry.end == Some(end));
            entry.end = Some(end);
            entry.held = (high > end).then(|| Held {
                unstable: high - end,
                since: before.map_or(now, |held| held.since),
                told: before.is_some_and(|held| held.told),
            });
        }
    }

    /// Where transactions have been open for longer than this; each once.
    pub(crate) fn newly_held(&self, after: Duration) -> Vec<Stalled> {
        let now = self.now();
        let state = &mut *self.lock();
        let mut all = Vec::new();
        for (partition, entry) in &mut state.partitions {
            let (Some(end), Some(held)) = (entry.end, &mut entry.held) else {
                continue;
            };
            let time = Duration::from_secs(now.saturating_sub(held.since).into());
            if time > after && !std::mem::replace(&mut held.told, true) {
                all.push(Stalled {
                    partition: u32::try_from(*partition).unwrap_or_default(),
                    offset: unsigned(end),
                    time,
                });
            }
        }
        all
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
                    unstable: end.map(|_| entry.held.map_or(0, |held| unsigned(held.unstable))),
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
