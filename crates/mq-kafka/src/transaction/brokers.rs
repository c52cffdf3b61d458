//! The brokers among which a transactional producer looks for its coordinator.

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use krafka::{
    KrafkaError,
    admin::{AdminClient, DescribeConsumerGroupsOptions, DescribeTopicsOptions, ListTopicsOptions},
    error::ErrorCode,
};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::error::is_passing;

/// An admin client that shares with the producer what is known of the cluster.
pub(crate) struct Brokers {
    admin: AdminClient,
    /// How long the end of a transaction waits for leaders, of which a broker says that there are none.
    leaderless: Duration,
    /// And for a broker that says anything.
    unreachable_after: Duration,
}

/// What the partitions of a transaction belong to.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) topics: BTreeSet<String>,
    pub(super) groups: BTreeSet<Arc<str>>,
}

impl Brokers {
    pub(crate) fn new(
        admin: AdminClient,
        transaction_timeout: Duration,
        unreachable_after: Duration,
    ) -> Self {
        Self {
            admin,
            // With half of the time before an abort, and a third for what is on its way, that is all of it.
            leaderless: transaction_timeout / 6,
            unreachable_after,
        }
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

    /// Makes the call that ends a transaction. While it takes too long it rests, as [`led`](Self::led) does:
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

    /// Waits until all of it has leaders. While no broker says anything there is nothing to be lost by that: none would take an end
    /// either. A broker that says so of itself when it has just started will soon say otherwise; where leaders stay away, the
    /// coordinator is to hear of the end before it makes one of its own, which fences.
    pub(super) async fn led(&self, touched: &Touched) {
        let since = Instant::now();
        let mut leaderless = None;
        while since.elapsed() < self.unreachable_after {
            match self.has_leaders(touched).await {
                Some(true) => return,
                Some(false) => {
                    let since = *leaderless.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.leaderless {
                        return;
                    }
                }
                None => leaderless = None,
            }
            self.look().await;
            sleep(PAUSE).await;
        }
    }

    /// `None` if no broker says so.
    async fn has_leaders(&self, touched: &Touched) -> Option<bool> {
        let topics = self.admin.describe_topics(
            &touched.topics,
            DescribeTopicsOptions::default().timeout(LOOK),
        );
        let topics = topics.await.map_or_else(said, |topics| {
            let all = topics.into_values().map(|found| match found {
                Ok(topic) => Some(topic.partitions.iter().all(|p| p.leader.is_some())),
                Err(KrafkaError::Broker {
                    code: ErrorCode::UnknownTopicOrPartition,
                    ..
                }) => Some(true),
                Err(error) => said(error),
            });
            all.fold(Some(true), both)
        });
        // Who has a group is asked of the broker's view of its partition's leader, as an end marker is.
        let groups = self.admin.describe_consumer_groups(
            &touched.groups,
            DescribeConsumerGroupsOptions::default().timeout(LOOK),
        );
        let groups = groups.await.map_or_else(said, |groups| {
            let all = groups.into_values().map(|found| match found {
                Ok(_) => Some(true),
                Err(error) => said(error),
            });
            all.fold(Some(true), both)
        });
        both(topics, groups)
    }

    async fn look(&self) {
        let options = ListTopicsOptions::default().timeout(LOOK);
        if let Err(error) = self.admin.list_topics(options).await {
            debug!(%error, "the cluster was not looked at");
        }
    }
}

/// What is not known of one is not known of both.
fn both(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    Some(one? && other?)
}

/// What an error says of leaders. One that stays says all that there is to know.
fn said(error: KrafkaError) -> Option<bool> {
    match error {
        KrafkaError::Broker { .. } => Some(!is_passing(&error)),
        _ => (!is_passing(&error)).then_some(true),
    }
}

/// A coordinator that is there answers long before.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a look at the cluster may take.
const LOOK: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use krafka::testing::{ApiKey, Control, FakeBroker};
    use tokio::time::sleep;

    use super::*;

    /// The client's own fake of a broker, with a topic of two partitions.
    async fn cluster() -> (FakeBroker, Brokers) {
        let fake = FakeBroker::start_in_memory(1);
        fake.create_topic("copies", 2);
        let kafka = fake.kafka().connect().await.unwrap();
        let brokers = Brokers::new(kafka.admin(), TIMEOUT, TIMEOUT * 2);
        (fake, brokers)
    }

    #[tokio::test(start_paused = true)]
    async fn the_cluster_is_looked_at_while_a_call_takes_too_long() {
        let (fake, brokers) = cluster().await;
        let before = fake.request_count(ApiKey::Metadata);
        brokers.looked_at(sleep(PATIENCE / 2)).await;
        assert_eq!(fake.request_count(ApiKey::Metadata), before);
        brokers.looked_at(sleep(PATIENCE * 7 / 2)).await;
        assert_eq!(fake.request_count(ApiKey::Metadata), before + 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_is_silent_holds_up_no_answer() {
        let (fake, brokers) = cluster().await;
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
        let (fake, brokers) = cluster().await;
        fake.set_leader("copies", 1, -1);
        let start = Instant::now();
        let elected = async {
            sleep(PATIENCE * 5).await;
            fake.set_leader("copies", 1, 0);
            sleep(TIMEOUT).await;
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
        let (fake, brokers) = cluster().await;
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
    async fn leaders_that_stay_away_are_waited_for_a_part_of_the_time_out() {
        let (fake, brokers) = cluster().await;
        fake.set_leader("copies", 0, -1);
        let start = Instant::now();
        brokers.led(&touched()).await;
        let waited = start.elapsed();
        assert!(waited >= TIMEOUT / 6 && waited < TIMEOUT / 3, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_is_waited_for_until_it_is_unreachable() {
        let (fake, brokers) = cluster().await;
        fake.crash(0);
        let start = Instant::now();
        let back = async {
            sleep(TIMEOUT).await;
            fake.restart(0);
        };
        let touched = touched();
        tokio::join!(brokers.led(&touched), back);
        let waited = start.elapsed();
        assert!(waited >= TIMEOUT && waited < TIMEOUT * 3 / 2, "{waited:?}");
        fake.crash(0);
        let start = Instant::now();
        brokers.led(&touched).await;
        let waited = start.elapsed();
        assert!(waited >= TIMEOUT * 2 && waited < TIMEOUT * 3, "{waited:?}");
    }

    const TIMEOUT: Duration = Duration::from_mins(1);
}
