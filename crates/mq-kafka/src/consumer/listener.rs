//! What happens when the group gives or takes partitions. It runs inside the poll.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use krafka::{
    KrafkaError,
    admin::{AdminClient, TopicPartition},
    consumer::ConsumerRebalanceListener,
};
use mq_core::Result;
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tracing::debug;

use crate::{
    error::{self, Stage},
    settle::{Group, Ledger},
    topology::committed,
};

/// Brings the ledger up to date with the assignment.
pub(super) struct Listener {
    ledger: Arc<Ledger>,
    admin: Arc<AdminClient>,
    group_id: Arc<str>,
    topic: Arc<str>,
    /// Weak: the group's consumer owns this listener.
    group: OnceLock<Weak<Group>>,
    joined: Mutex<Option<oneshot::Sender<()>>>,
}

impl Listener {
    /// A listener, and what tells of the first assignment.
    pub(super) fn new(
        ledger: Arc<Ledger>,
        admin: Arc<AdminClient>,
        group_id: Arc<str>,
        topic: Arc<str>,
    ) -> (Arc<Self>, oneshot::Receiver<()>) {
        let (joined, first) = oneshot::channel();
        let listener = Arc::new(Self {
            ledger,
            admin,
            group_id,
            topic,
            group: OnceLock::new(),
            joined: Mutex::new(Some(joined)),
        });
        (listener, first)
    }

    /// Tells it which consumer it belongs to, before the first poll.
    pub(super) fn bind(&self, group: &Arc<Group>) {
        // Only the first call counts, and there is only one.
        let _ = self.group.set(Arc::downgrade(group));
    }

    fn group(&self) -> Option<Arc<Group>> {
        self.group.get()?.upgrade()
    }

    /// Reads where the group stands, and starts there. A partition without a place was added after
    /// the group began, or belongs to a queue: it is read from its beginning.
    async fn start(&self, group: &Group, partitions: &[i32]) -> Result<()> {
        let (id, topic) = (&*self.group_id, &*self.topic);
        let places = committed(&self.admin, "consume", id, topic, Some(partitions)).await?;
        let failed = |e: KrafkaError| error::map("consume", Stage::Before, e).with("topic", topic);
        for partition in partitions {
            let place = places.get(partition).cloned().unwrap_or_default();
            let offset = match place.offset {
                Some(offset) => offset,
                None => {
                    let range = group.consumer.fetch_watermarks(topic, *partition).await;
                    range.map_err(failed)?.0
                }
            };
            let seek = group.consumer.seek(topic, *partition, offset).await;
            seek.map_err(failed)?;
            self.ledger.assign(*partition, offset, &place.metadata);
        }
        Ok(())
    }
}

impl ConsumerRebalanceListener for Listener {
    async fn on_partitions_assigned(&self, partitions: &[TopicPartition]) {
        let partitions = numbers(partitions);
        debug!(group = %self.group_id, ?partitions, "partitions assigned");
        if let Some(group) = self.group()
            && !partitions.is_empty()
        {
            let mut result = self.start(&group, &partitions).await;
            for _ in 0..START_TRIES {
                match &result {
                    Err(error) if error.is_retryable() => {
                        sleep(START_BACKOFF).await;
                        result = self.start(&group, &partitions).await;
                    }
                    _ => break,
                }
            }
            if let Err(error) = result {
                self.ledger.end(Some(error.with("group", &self.group_id)));
            }
        }
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(joined) = joined {
            // Nobody waits any more if opening was given up.
            let _ = joined.send(());
        }
    }

    /// The partitions are still ours here: what is with handlers gets a moment to end, the
    /// watermark is committed, and whatever comes later is stale.
    async fn on_partitions_revoked(&self, partitions: &[TopicPartition]) {
        let partitions = numbers(partitions);
        debug!(group = %self.group_id, ?partitions, "partitions revoked");
        self.ledger.drain(&partitions);
        let drained = async {
            loop {
                let mut progress = std::pin::pin!(self.ledger.progress.notified());
                progress.as_mut().enable();
                if self.ledger.is_drained(&partitions) {
                    return;
                }
                progress.await;
            }
        };
        // Past this the records come again elsewhere, which at least once allows.
        let _ = timeout(DRAIN, drained).await;
        if let Some(group) = self.group()
            && let Err(error) = group.commit(&self.ledger, Some(&partitions)).await
        {
            debug!(group = %self.group_id, %error, "commit before revocation failed");
        }
        self.ledger.remove(&partitions);
    }

    /// They belong to somebody else already: no commit.
    async fn on_partitions_lost(&self, partitions: &[TopicPartition]) {
        let partitions = numbers(partitions);
        debug!(group = %self.group_id, ?partitions, "partitions lost");
        self.ledger.remove(&partitions);
    }
}

fn numbers(partitions: &[TopicPartition]) -> Vec<i32> {
    partitions.iter().map(|p| p.partition).collect()
}

/// How long handlers may take to end what they have of a revoked partition. The whole group waits.
const DRAIN: Duration = Duration::from_secs(5);
const START_TRIES: usize = 5;
const START_BACKOFF: Duration = Duration::from_millis(200);
