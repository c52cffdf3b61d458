//! Commits the watermarks: by count, by time, when asked, and before a partition is given up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use krafka::{
    KrafkaError,
    admin::TopicPartition,
    consumer::{Consumer, OffsetAndMetadata},
};
use mq_core::{Error, ErrorKind, Result};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::ledger::Ledger;
use crate::{
    consumer::{Events, KafkaEvent},
    error::{self, Stage, is_fenced, is_passing},
};

/// The group member that commits for a ledger.
pub(crate) struct Group {
    pub(crate) consumer: Arc<Consumer>,
    pub(crate) topic: Arc<str>,
    /// False for an ephemeral subscription: it has no group, and nothing to commit.
    pub(crate) commits: bool,
    /// How long one commit may take.
    pub(crate) deadline: Duration,
    /// Held from the look at the ledger until the answer: a commit that left later could rewind
    /// the next owner of a partition.
    gate: Mutex<()>,
}

impl Group {
    pub(crate) fn new(
        consumer: Arc<Consumer>,
        topic: Arc<str>,
        commits: bool,
        deadline: Duration,
    ) -> Self {
        Self {
            consumer,
            topic,
            commits,
            deadline,
            gate: Mutex::new(()),
        }
    }

    /// Commits what has changed, of all partitions or of these.
    pub(crate) async fn commit(
        &self,
        ledger: &Ledger,
        only: Option<&[i32]>,
    ) -> Result<(), KrafkaError> {
        let _gate = self.gate.lock().await;
        if !ledger.commits_by_itself() {
            return Ok(());
        }
        let snapshot = ledger.snapshot(only);
        let changed: Vec<_> = snapshot
            .places
            .iter()
            .filter(|place| self.commits && place.changed)
            .map(|place| {
                let at = TopicPartition::new(&*self.topic, place.partition);
                let offset = OffsetAndMetadata::with_metadata(place.offset, &*place.metadata);
                (at, offset)
            })
            .collect();
        if !changed.is_empty() {
            let span = ledger.commit_span();
            let answer = self.consumer.commit_offsets(changed);
            // A commit that is dropped may still be applied, which is the same as applied.
            let answer = match tokio::time::timeout(self.deadline, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(KrafkaError::timeout("offset commit")),
            };
            ledger.commit_answered(&span, answer.as_ref().err());
            answer?;
        }
        ledger.committed(snapshot);
        Ok(())
    }
}

/// Commits on its own clock until it is stopped or a commit is refused for good.
pub(crate) struct Committer {
    pub(crate) group: Arc<Group>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) stop: CancellationToken,
    pub(crate) events: Events,
    /// How long a verdict may wait for its commit.
    pub(crate) every: Duration,
    /// For how long commits may fail before the consumer ends.
    pub(crate) unreachable_after: Duration,
}

impl Committer {
    pub(crate) async fn run(self) {
        let mut failing: Option<Instant> = None;
        let mut tick = tokio::time::interval(self.every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = tick.tick() => {}
                () = self.ledger.due.notified() => {
                    // While commits fail the clock alone decides, not the load.
                    if failing.is_some() || !self.ledger.wants_flush() {
                        continue;
                    }
                }
            }
            match self.group.commit(&self.ledger, None).await {
                Ok(()) => failing = None,
                Err(error) => {
                    debug!(group = %self.group.topic, %error, "commit failed");
                    self.ledger.refused();
                    let since = *failing.get_or_insert_with(Instant::now);
                    if is_fenced(&error) {
                        let subscription = Arc::clone(self.ledger.source_name());
                        self.events.tell(KafkaEvent::Fenced { subscription });
                    }
                    if !is_passing(&error) {
                        let error = error::map("commit", Stage::Before, error);
                        return self
                            .ledger
                            .end(Some(error.with("topic", &self.group.topic)));
                    }
                    if since.elapsed() >= self.unreachable_after {
                        return self.ledger.end(Some(self.gone(error)));
                    }
                }
            }
        }
    }

    fn gone(&self, error: KrafkaError) -> Error {
        Error::new(
            ErrorKind::Disconnected,
            "commit",
            "the group's coordinator has not taken a commit for too long",
        )
        .with("topic", &self.group.topic)
        .caused_by(error)
    }
}
