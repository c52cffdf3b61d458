//! Commits the watermarks: by count, by time, when asked, and before a partition is given up.

use std::{
    pin::pin,
    sync::{self, Arc, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use krafka::{
    KrafkaError,
    admin::TopicPartition,
    consumer::{Consumer, OffsetAndMetadata},
    error::ErrorCode,
};
use mq_core::{Error, ErrorKind, Result};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::ledger::Ledger;
use crate::{
    consumer::{Events, KafkaEvent, Polls, SYNC},
    error::{self, Stage, is_fenced, is_passing},
};

/// The group member that commits for a ledger.
pub(crate) struct Group {
    pub(crate) consumer: Arc<Consumer>,
    pub(crate) name: Arc<str>,
    pub(crate) topic: Arc<str>,
    /// Of the topic that the consumer was opened on.
    topic_id: [u8; 16],
    /// False for an ephemeral subscription: it has no group, and nothing to commit.
    pub(crate) commits: bool,
    /// How long one commit may take.
    pub(crate) deadline: Duration,
    pub(crate) polls: Polls,
    /// Held from the look at the ledger until the answer: a commit that left later could rewind
    /// the next owner of a partition.
    gate: Mutex<()>,
    /// The member id that the ledger's partitions were given to.
    owner: sync::Mutex<Option<String>>,
}

impl Group {
    pub(crate) fn new(
        consumer: Arc<Consumer>,
        name: Arc<str>,
        (topic, topic_id): (Arc<str>, [u8; 16]),
        commits: bool,
        deadline: Duration,
    ) -> Self {
        Self {
            consumer,
            name,
            topic,
            topic_id,
            commits,
            deadline,
            polls: Polls::new(deadline),
            gate: Mutex::new(()),
            owner: sync::Mutex::default(),
        }
    }

    /// The partitions are given to the member by the id that it has now.
    pub(crate) async fn owns(&self) {
        if let Some(member) = self.consumer.group_metadata().await {
            let mut owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
            *owner = Some(member.member_id().to_owned());
        }
    }

    /// True if the member has another id than the one that its partitions were given to: others may have had them meanwhile. krafka
    /// 0.28 does not tell them as lost where it is a join that the broker answers so.
    pub(crate) async fn is_another(&self) -> bool {
        let Some(member) = self.consumer.group_metadata().await else {
            return false;
        };
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        owner.as_ref().is_some_and(|id| id != member.member_id())
    }

    /// True if the topic of this name is known to be another one by now. The client hears of it by its first fetch from the new one,
    /// whose records it would number on from the old ones; it is not asked to look where it would have to wait for a broker.
    pub(crate) fn is_of_another_topic(&self) -> bool {
        let known = self.consumer.fetch_metadata(Some(&self.topic));
        let known = known.now_or_never().and_then(Result::ok);
        let mut topics = known.into_iter().flat_map(|found| found.topics);
        // An id of zeros is none.
        topics.any(|topic| topic.topic_id != [0; 16] && topic.topic_id != self.topic_id)
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
            if self.is_of_another_topic() {
                // A group's place is kept by the name: the new topic's first records would be passed over.
                return Err(KrafkaError::broker(
                    ErrorCode::UnknownTopicId,
                    "the topic was deleted and made again",
                ));
            }
            if self.is_another().await {
                // The broker would take it: it looks at who commits, not at what that has. Between this look and the client's own
                // there is no time for another join.
                return Err(KrafkaError::broker(
                    ErrorCode::UnknownMemberId,
                    "the partitions were given to a member that is no more",
                ));
            }
            let span = ledger.commit_span();
            let answer = self.consumer.commit_offsets(changed);
            // A commit that is dropped may still be applied, which is the same as applied.
            let answer = match timeout(self.deadline, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(KrafkaError::timeout("offset commit")),
            };
            ledger.commit_answered(&span, answer.as_ref().err());
            answer?;
        }
        ledger.committed(snapshot);
        Ok(())
    }

    /// The last commit of a consumer that closes: tried again within its deadline. While the group rebalances it takes nothing of a
    /// member that has not joined again, which a poll does. What such a poll reads was handed to nobody, so no watermark passes it.
    pub(crate) async fn commit_last(&self, ledger: &Ledger) -> Result<(), KrafkaError> {
        let start = Instant::now();
        loop {
            // First, since the stop may have come in the middle of a join: a commit of the generation before would have the client
            // take its partitions for lost.
            self.consumer.pause(&self.topic, &ledger.partitions()).await;
            let mut polled = self.polls.poll(&self.consumer, AGAIN).await;
            if let Err(KrafkaError::Wakeup) = polled {
                // The one that told of the stop.
                polled = self.polls.poll(&self.consumer, AGAIN).await;
            }
            if let Err(error) = polled {
                debug!(group = %self.topic, %error, "poll before the last commit failed");
                sleep(AGAIN).await;
            }
            match self.commit(ledger, None).await {
                Err(error) if is_passing(&error) && start.elapsed() < self.deadline => {
                    debug!(group = %self.topic, %error, "the last commit is tried again");
                    // A poll between the two answers that end a join could cost the membership.
                    sleep(SYNC).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Commits on its own clock until it is stopped or a commit is refused for good.
pub(crate) struct Committer {
    pub(crate) group: Arc<Group>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) stop: CancellationToken,
    pub(crate) events: Events,
    /// A static member under the classic protocol: whether it is fenced is found out by its polls.
    pub(crate) static_classic: bool,
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
            match self.commit().await {
                Ok(()) => failing = None,
                Err(error) => {
                    debug!(group = %self.group.topic, %error, "commit failed");
                    self.ledger.refused();
                    let since = *failing.get_or_insert_with(Instant::now);
                    let of_poll = self.static_classic && is_fenced(&error);
                    if is_fenced(&error) && !of_poll {
                        let subscription = Arc::clone(self.ledger.source_name());
                        self.events.tell(KafkaEvent::Fenced { subscription });
                    }
                    if !is_passing(&error) && !of_poll {
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

    /// A commit waits behind its member's join, which can last for as long as another member does not come to it.
    async fn commit(&self) -> Result<(), KrafkaError> {
        let mut commit = pin!(self.group.commit(&self.ledger, None));
        if let Ok(answer) = timeout(LATE, &mut commit).await {
            return answer;
        }
        debug!(group = %self.group.topic, "a commit waits; nothing is handed out until it is answered");
        self.ledger.refused();
        commit.await
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

/// A commit that has not been answered for so long waits for something.
const LATE: Duration = Duration::from_secs(1);
/// Between two tries of a last commit.
const AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use krafka::{
        consumer::AutoOffsetReset,
        testing::{ApiKey, Control, FakeBroker},
    };

    use super::{
        super::ledger::tests::{acknowledged, ledger, work},
        *,
    };

    /// A member of a group at the client's own fake of a broker, and three acknowledged records.
    async fn member(fake: &FakeBroker) -> (Group, Arc<Ledger>) {
        fake.create_topic("orders", 1);
        let kafka = fake.kafka().connect().await.unwrap();
        let consumer = kafka
            .consumer("orders")
            .enable_auto_commit(false)
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .build()
            .await
            .unwrap();
        consumer.subscribe(["orders"]).await.unwrap();
        while consumer.assignment().await.is_empty() {
            consumer.poll(AGAIN).await.unwrap();
        }
        let found = consumer.fetch_metadata(Some("orders")).await.unwrap();
        let topic = ("orders".into(), found.topics[0].topic_id);
        let group = Group::new(Arc::new(consumer), "orders".into(), topic, true, DEADLINE);
        (group, acknowledged(3))
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_commit_outlasts_a_rebalance() {
        let fake = FakeBroker::start_in_memory(1);
        let (group, ledger) = member(&fake).await;
        // For longer than the client itself tries again.
        let start = Instant::now();
        fake.on(ApiKey::OffsetCommit, move |_| {
            match start.elapsed() < DEADLINE / 2 {
                true => Control::Error(ErrorCode::RebalanceInProgress),
                false => Control::Pass,
            }
        });
        group.commit_last(&ledger).await.unwrap();
        assert_eq!(fake.committed_offset("orders", "orders", 0), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_commit_ends_by_its_deadline() {
        let fake = FakeBroker::start_in_memory(1);
        let (group, ledger) = member(&fake).await;
        fake.on(ApiKey::OffsetCommit, |_| {
            Control::Error(ErrorCode::RebalanceInProgress)
        });
        let start = Instant::now();
        let error = group.commit_last(&ledger).await.unwrap_err();
        assert!(is_passing(&error), "{error}");
        assert!((DEADLINE..2 * DEADLINE).contains(&start.elapsed()));
        assert_eq!(fake.committed_offset("orders", "orders", 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_good_is_not_tried_again() {
        let fake = FakeBroker::start_in_memory(1);
        let (group, ledger) = member(&fake).await;
        fake.on(ApiKey::OffsetCommit, |_| {
            Control::Error(ErrorCode::GroupAuthorizationFailed)
        });
        group.commit_last(&ledger).await.unwrap_err();
        assert_eq!(fake.request_count(ApiKey::OffsetCommit), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_says_nothing_does_not_hold_up_the_close() {
        let fake = FakeBroker::start_in_memory(1);
        let (group, ledger) = member(&fake).await;
        fake.on(ApiKey::OffsetCommit, |_| Control::Silence);
        let start = Instant::now();
        group.commit_last(&ledger).await.unwrap_err();
        assert!(start.elapsed() <= 2 * DEADLINE, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_handed_out_while_a_commit_waits() {
        let fake = FakeBroker::start_in_memory(1);
        let (group, _) = member(&fake).await;
        let ledger = ledger(10);
        let mut taken = Vec::new();
        ledger.take(&mut taken, 3);
        for delivery in taken.drain(..) {
            delivery.ack().unwrap();
        }
        fake.on_once(ApiKey::OffsetCommit, |_| Control::Delay(3 * LATE));
        let stop = CancellationToken::new();
        let committer = Committer {
            group: Arc::new(group),
            ledger: Arc::clone(&ledger),
            stop: stop.clone(),
            events: Events::new(),
            static_classic: false,
            every: AGAIN,
            unreachable_after: DEADLINE,
        };
        let committing = tokio::spawn(committer.run());
        sleep(LATE / 2).await;
        ledger.take(&mut taken, 1);
        assert_eq!(taken.len(), 1, "it may be answered any time");
        sleep(LATE).await;
        assert_eq!(work(&ledger), 0);
        sleep(4 * LATE).await;
        assert_eq!(fake.committed_offset("orders", "orders", 0), Some(3));
        assert_eq!(work(&ledger), 6);
        stop.cancel();
        committing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_id_had_is_not_committed() {
        let fake = FakeBroker::start_in_memory(1);
        let (group, ledger) = member(&fake).await;
        group.owns().await;
        // The broker forgot the member, which is another one since.
        fake.on_once(ApiKey::Heartbeat, |_| {
            Control::Error(ErrorCode::UnknownMemberId)
        });
        while !group.is_another().await {
            group.consumer.poll(AGAIN).await.unwrap();
        }
        let error = group.commit(&ledger, None).await.unwrap_err();
        assert!(is_passing(&error), "{error}");
        assert_eq!(fake.committed_offset("orders", "orders", 0), None);
        group.owns().await;
        group.commit(&ledger, None).await.unwrap();
        assert_eq!(fake.committed_offset("orders", "orders", 0), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_topic_of_the_name_had_is_not_committed() {
        let fake = FakeBroker::start_in_memory(1);
        let (mut group, ledger) = member(&fake).await;
        let now = std::mem::replace(&mut group.topic_id, [7; 16]);
        group.commit(&ledger, None).await.unwrap_err();
        assert_eq!(fake.committed_offset("orders", "orders", 0), None);
        group.topic_id = now;
        group.commit(&ledger, None).await.unwrap();
        assert_eq!(fake.committed_offset("orders", "orders", 0), Some(3));
    }

    const DEADLINE: Duration = Duration::from_secs(10);
}
