//! What happens to the consumers of a connection, for whoever watches over them.

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast::{self, error::RecvError};

/// What happened to a consumer; from [`KafkaEvents`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KafkaEvent {
    /// It has these partitions too.
    #[non_exhaustive]
    Assigned {
        /// The subscription's full name.
        subscription: Arc<str>,
        /// What was added, in ascending order.
        partitions: Vec<u32>,
    },
    /// It gave these partitions up, after its last commit.
    #[non_exhaustive]
    Revoked {
        /// The subscription's full name.
        subscription: Arc<str>,
        /// What it gave up, in ascending order.
        partitions: Vec<u32>,
    },
    /// The group gave these partitions to others, or took the membership away: what was not
    /// committed comes again. The consumer joins again by itself.
    #[non_exhaustive]
    Lost {
        /// The subscription's full name.
        subscription: Arc<str>,
        /// What it lost, in ascending order.
        partitions: Vec<u32>,
    },
    /// A message waits for its handler, or is with it, for longer than
    /// [`stalled_after`](crate::KafkaBuilder::stalled_after), and holds up the commits of its
    /// partition.
    #[non_exhaustive]
    Stalled {
        /// The subscription's full name.
        subscription: Arc<str>,
        /// The message's partition.
        partition: u32,
        /// The message's offset.
        offset: u64,
        /// How long it has been so.
        time: Duration,
    },
    /// A transaction has been open for longer than [`stalled_after`](crate::KafkaBuilder::stalled_after), and keeps what lies behind
    /// its first record from every reader of what is committed. If its producer is gone and its time-out is over, it hangs: the
    /// broker will not end it, and `kafka-transactions.sh find-hanging` and `abort` do.
    #[non_exhaustive]
    TransactionOpen {
        /// The subscription's full name.
        subscription: Arc<str>,
        /// The partition.
        partition: u32,
        /// The last stable offset: where the transaction's first record is.
        offset: u64,
        /// How long it has been seen so.
        time: Duration,
    },
    /// The locks of these records ended, or went with their partition, before a verdict on them
    /// reached the broker: they come again, and settling them is stale. Told by consumers of share
    /// groups alone.
    #[non_exhaustive]
    LockLost {
        /// The subscription's full name.
        subscription: Arc<str>,
        /// The records' partition.
        partition: u32,
        /// Their offsets.
        offsets: Vec<u64>,
    },
    /// For longer than [`stalled_after`](crate::KafkaBuilder::stalled_after) the queue has had messages
    /// that are not settled, and the broker gave none of them to this consumer, which holds none: other
    /// consumers hold them all, a transaction keeps them back, or the share group stands still. Told by
    /// consumers of share groups alone; where the broker tells no lag (before Kafka 4.3) only as long as
    /// nothing was settled yet.
    #[non_exhaustive]
    Starved {
        /// The subscription's full name.
        subscription: Arc<str>,
        /// How many messages are not settled, by the broker's count.
        lag: u64,
        /// How long it has been so.
        time: Duration,
    },
    /// Another consumer has the same [`instance_id`](crate::KafkaBuilder::instance_id); this one
    /// ends with an error.
    #[non_exhaustive]
    Fenced {
        /// The subscription's full name.
        subscription: Arc<str>,
    },
    /// The topic has another number of partitions than before: messages of one key may lie in two
    /// of them now, so that their order holds within the older and within the newer only.
    #[non_exhaustive]
    PartitionsChanged {
        /// The subscription's full name.
        subscription: Arc<str>,
        /// How many there were.
        before: usize,
        /// How many there are.
        now: usize,
    },
    /// So many events came that this many older ones were dropped before they were read.
    Missed(u64),
}

/// Tells what happens to the consumers of a connection from when it was made; from
/// [`Kafka::events`](crate::Kafka::events).
///
/// It holds the last 256 events that were not read.
#[derive(Debug)]
pub struct KafkaEvents(broadcast::Receiver<KafkaEvent>);

impl KafkaEvents {
    /// Waits for the next event; `None` once the connection is gone and every event was told.
    ///
    /// # Cancel safety
    /// Dropped, the next call tells what this one would have told.
    pub async fn next(&mut self) -> Option<KafkaEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(KafkaEvent::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Where consumers tell their events.
#[derive(Debug, Clone)]
pub(crate) struct Events(broadcast::Sender<KafkaEvent>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(HELD))
    }

    pub(crate) fn watch(&self) -> KafkaEvents {
        KafkaEvents(self.0.subscribe())
    }

    pub(crate) fn tell(&self, event: KafkaEvent) {
        // Nobody may be listening.
        let _ = self.0.send(event);
    }

    /// Tells of partitions, if there are any.
    pub(super) fn tell_partitions(
        &self,
        event: fn(Arc<str>, Vec<u32>) -> KafkaEvent,
        subscription: &Arc<str>,
        partitions: &[i32],
    ) {
        let numbers = partitions.iter().filter_map(|p| u32::try_from(*p).ok());
        let mut partitions: Vec<u32> = numbers.collect();
        if !partitions.is_empty() {
            partitions.sort_unstable();
            self.tell(event(Arc::clone(subscription), partitions));
        }
    }
}

pub(super) fn assigned(subscription: Arc<str>, partitions: Vec<u32>) -> KafkaEvent {
    KafkaEvent::Assigned {
        subscription,
        partitions,
    }
}

pub(super) fn revoked(subscription: Arc<str>, partitions: Vec<u32>) -> KafkaEvent {
    KafkaEvent::Revoked {
        subscription,
        partitions,
    }
}

pub(super) fn lost(subscription: Arc<str>, partitions: Vec<u32>) -> KafkaEvent {
    KafkaEvent::Lost {
        subscription,
        partitions,
    }
}

const HELD: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_in_order_what_was_dropped_and_that_nothing_comes() {
        let events = Events::new();
        let mut watch = events.watch();
        let name: Arc<str> = "orders".into();
        for partition in 0..300 {
            events.tell_partitions(assigned, &name, &[partition]);
        }
        events.tell_partitions(revoked, &name, &[]);
        drop(events);
        assert_eq!(watch.next().await, Some(KafkaEvent::Missed(300 - 256)));
        let first = watch.next().await;
        let expected = assigned(Arc::clone(&name), vec![44]);
        assert_eq!(first, Some(expected));
        let mut rest = 0;
        while watch.next().await.is_some() {
            rest += 1;
        }
        assert_eq!(rest, 255);
    }
}
