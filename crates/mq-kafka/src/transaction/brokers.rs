//! The brokers among which a transactional producer looks for its coordinator.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use krafka::{
    KrafkaError,
    admin::{
        AdminClient, DescribeConsumerGroupsOptions, DescribeTopicsOptions, ListTopicsOptions,
        TopicDescription,
    },
    error::ErrorCode,
};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::error::is_passing;

/// An admin client that shares with the producer what is known of the cluster.
pub(crate) struct Brokers(AdminClient);

/// What the partitions of a transaction belong to.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) topics: BTreeSet<String>,
    pub(super) groups: BTreeSet<Arc<str>>,
}

impl Brokers {
    pub(crate) fn new(admin: AdminClient) -> Self {
        Self(admin)
    }

    /// Makes a call to a coordinator, and has the cluster looked at again while it takes too long.
    ///
    /// krafka 0.28 looks for a coordinator among the brokers that it knows of, however often that fails. A broker that has just
    /// started tells of none, itself neither, so that a producer that asked it then would know of none for minutes.
    pub(crate) async fn looked_at<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        loop {
            if let Ok(answer) = timeout(PATIENCE, &mut call).await {
                return answer;
            }
            tokio::select! {
                answer = &mut call => return answer,
                _ = self.look() => {}
            }
        }
    }

    /// Makes the call that ends a transaction. While it takes too long it rests, until all that the transaction touches has leaders:
    /// Kafka 4 takes a partition that has none for one that was deleted, and writes no end marker there, so that its readers wait
    /// for ever (`getPartitionLeaderEndpoint` in its sources, and seen on 4.3.1). A broker that starts again is such a moment.
    pub(super) async fn ends<T>(&self, touched: &Touched, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        loop {
            if let Ok(answer) = timeout(PATIENCE, &mut call).await {
                return answer;
            }
            self.led(touched).await;
        }
    }

    /// Waits until all of it has leaders. One that has none for longer than the coordinator keeps a transaction open is waited for no
    /// more: by then the coordinator has ended it.
    pub(super) async fn led(&self, touched: &Touched) {
        let since = Instant::now();
        while !self.has_leaders(touched).await && since.elapsed() < LEADERLESS {
            sleep(PAUSE).await;
        }
    }

    async fn has_leaders(&self, touched: &Touched) -> bool {
        if !self.look().await {
            return false;
        }
        let topics = self.0.describe_topics(
            &touched.topics,
            DescribeTopicsOptions::default().timeout(LOOK),
        );
        let Ok(topics) = topics.await else {
            return false;
        };
        // Who has a group is asked of the broker's view of its partition's leader, as an end marker is.
        let groups = self.0.describe_consumer_groups(
            &touched.groups,
            DescribeConsumerGroupsOptions::default().timeout(LOOK),
        );
        let Ok(groups) = groups.await else {
            return false;
        };
        let is_answered = |error: &KrafkaError| !is_passing(error);
        topics.into_values().all(is_led)
            && groups
                .into_values()
                .all(|found| found.as_ref().err().is_none_or(is_answered))
    }

    /// False if the cluster could not be looked at.
    async fn look(&self) -> bool {
        let options = ListTopicsOptions::default().timeout(LOOK);
        let looked = self.0.list_topics(options).await;
        if let Err(error) = &looked {
            debug!(%error, "the cluster was not looked at");
        }
        looked.is_ok()
    }
}

/// True of a topic that is gone or may not be seen, too: nothing more is to be known.
fn is_led(found: Result<TopicDescription, KrafkaError>) -> bool {
    match found {
        Ok(topic) => topic.partitions.iter().all(|p| p.leader.is_some()),
        Err(KrafkaError::Broker {
            code: ErrorCode::UnknownTopicOrPartition,
            ..
        }) => true,
        Err(error) => !is_passing(&error),
    }
}

/// A coordinator that is there answers long before.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a look at the cluster may take.
const LOOK: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
const LEADERLESS: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use krafka::testing::{ApiKey, Control, FakeBroker};
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_cluster_is_looked_at_while_a_call_takes_too_long() {
        let fake = FakeBroker::start_in_memory(1);
        let kafka = fake.kafka().connect().await.unwrap();
        let brokers = Brokers::new(kafka.admin());
        let before = fake.request_count(ApiKey::Metadata);
        brokers.looked_at(sleep(PATIENCE / 2)).await;
        assert_eq!(fake.request_count(ApiKey::Metadata), before);
        brokers.looked_at(sleep(PATIENCE * 7 / 2)).await;
        assert_eq!(fake.request_count(ApiKey::Metadata), before + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_is_silent_holds_up_no_answer() {
        let fake = FakeBroker::start_in_memory(1);
        let kafka = fake.kafka().connect().await.unwrap();
        let brokers = Brokers::new(kafka.admin());
        fake.on(ApiKey::Metadata, |_| Control::Silence);
        let start = tokio::time::Instant::now();
        let answer = brokers.looked_at(async {
            sleep(PATIENCE * 3 / 2).await;
            7
        });
        assert_eq!(answer.await, 7);
        assert_eq!(start.elapsed(), PATIENCE * 3 / 2);
    }

    fn touched() -> Touched {
        Touched {
            topics: BTreeSet::from(["copies".to_owned(), "gone".to_owned()]),
            groups: BTreeSet::from(["orders".into()]),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_takes_long_goes_on_once_all_partitions_have_leaders() {
        let fake = FakeBroker::start_in_memory(1);
        fake.create_topic("copies", 2);
        let kafka = fake.kafka().connect().await.unwrap();
        let brokers = Brokers::new(kafka.admin());
        fake.set_leader("copies", 1, -1);
        let start = Instant::now();
        let elected = async {
            sleep(PATIENCE * 5).await;
            fake.set_leader("copies", 1, 0);
            sleep(LEADERLESS).await;
        };
        // It would be made after two seconds.
        let end = async {
            sleep(PATIENCE * 2).await;
            start.elapsed()
        };
        let touched = touched();
        let ended = tokio::select! {
            ended = brokers.ends(&touched, end) => ended,
            () = elected => panic!("it never went on"),
        };
        assert!(ended >= PATIENCE * 5, "{ended:?}");
        // One that is quick asks nobody.
        let before = fake.request_count(ApiKey::Metadata);
        brokers.ends(&touched, sleep(PATIENCE / 2)).await;
        assert_eq!(fake.request_count(ApiKey::Metadata), before);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_without_a_coordinator_is_waited_for() {
        let fake = FakeBroker::start_in_memory(1);
        fake.create_topic("copies", 1);
        let kafka = fake.kafka().connect().await.unwrap();
        let brokers = Brokers::new(kafka.admin());
        let (away, start) = (PATIENCE * 5, Instant::now());
        fake.on(ApiKey::FindCoordinator, move |_| {
            match start.elapsed() < away {
                true => Control::Error(ErrorCode::CoordinatorNotAvailable),
                false => Control::Pass,
            }
        });
        brokers.led(&touched()).await;
        assert!(start.elapsed() >= away, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn partitions_that_stay_without_a_leader_are_not_waited_for_for_ever() {
        let fake = FakeBroker::start_in_memory(1);
        fake.create_topic("copies", 1);
        let kafka = fake.kafka().connect().await.unwrap();
        let brokers = Brokers::new(kafka.admin());
        fake.set_leader("copies", 0, -1);
        let start = Instant::now();
        brokers.led(&touched()).await;
        assert!(start.elapsed() >= LEADERLESS && start.elapsed() < LEADERLESS * 2);
    }
}
