//! The brokers among which a transactional producer looks for its coordinator.

use std::{pin::pin, time::Duration};

use krafka::admin::{AdminClient, ListTopicsOptions};
use tokio::time::timeout;
use tracing::debug;

/// An admin client that shares with the producer what is known of the cluster.
pub(crate) struct Brokers(AdminClient);

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
            let options = ListTopicsOptions::default().timeout(LOOK);
            tokio::select! {
                answer = &mut call => return answer,
                looked = self.0.list_topics(options) => {
                    if let Err(error) = looked {
                        debug!(%error, "the cluster was not looked at");
                    }
                }
            }
        }
    }
}

/// A coordinator that is there answers long before.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a look at the cluster may take.
const LOOK: Duration = Duration::from_secs(5);

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
}
