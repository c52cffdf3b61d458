//! How far a consumer is, as numbers to watch.

use std::{sync::Arc, time::Duration};

/// How far a consumer is; from [`KafkaConsumer::progress`](crate::KafkaConsumer::progress) and
/// [`Kafka::progress`](crate::Kafka::progress).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerProgress {
    /// The subscription's full name, which is its group's.
    pub subscription: Arc<str>,
    /// The partitions that the consumer has now, in ascending order: those of its source first, then
    /// those of each of its retry topics.
    pub partitions: Vec<PartitionProgress>,
}

impl ConsumerProgress {
    /// The lag of all its partitions; those whose end is not known yet count as none.
    pub fn lag(&self) -> u64 {
        self.partitions.iter().filter_map(|p| p.lag).sum()
    }

    /// The age of its oldest unhandled message among those it has at hand.
    pub fn oldest(&self) -> Option<Duration> {
        self.partitions.iter().filter_map(|p| p.oldest).max()
    }
}

/// How far one partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionProgress {
    /// Its topic: that of the subscription, or a retry topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// What the broker has: where the group would go on now.
    pub committed: u64,
    /// Below it everything is settled; the next commit is of this offset.
    pub done_below: u64,
    /// The offset after the last message that was read.
    pub next: u64,
    /// Where the log ends: the last stable offset for a consumer that reads only what is committed
    /// (the default), else the high watermark. It is up to 5 s old; `None` until it was looked at
    /// for the first time.
    pub end: Option<u64>,
    /// Offsets from `end` to the high watermark, which a consumer that reads only what is committed cannot read yet: a transaction
    /// before them is open. As old as `end`. If it does not go down for longer than a transaction may last, that transaction hangs
    /// ([`KafkaEvent::TransactionOpen`](crate::KafkaEvent::TransactionOpen)).
    pub unstable: Option<u64>,
    /// Offsets from `done_below` to `end`: an upper bound of the messages that are not handled yet.
    /// In topics that are compacted or written in transactions some offsets are no messages.
    pub lag: Option<u64>,
    /// How many messages were read, and not passed by `done_below`.
    pub open: usize,
    /// How long ago, by its own time, the first message of the log was published that was read and is
    /// not settled. `None` if there is none.
    pub oldest: Option<Duration>,
}
