//! Whether the topic of a consumer is there and may be read, asked from time to time: the client's
//! polls are silent about a cluster that is gone and about a topic that was deleted.

use std::time::Duration;

use krafka::{
    KrafkaError,
    admin::{AdminClient, DescribeTopicsOptions, TopicDescription},
    error::ErrorCode,
};
use mq_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::CONSUME;
use crate::error::{self, Stage};

/// What the cluster said of a topic so far.
pub(super) struct Presence<'a> {
    admin: &'a AdminClient,
    topic: &'a str,
    /// Of the topic that was there when the consumer was opened.
    topic_id: [u8; 16],
    unreachable_after: Duration,
    answered: Instant,
}

impl<'a> Presence<'a> {
    pub(super) fn new(
        admin: &'a AdminClient,
        topic: &'a str,
        topic_id: [u8; 16],
        unreachable_after: Duration,
    ) -> Self {
        Self {
            admin,
            topic,
            topic_id,
            unreachable_after,
            answered: Instant::now(),
        }
    }

    /// What is known of the topic now; `None` if nobody says, for less than `unreachable_after`.
    ///
    /// # Errors
    /// What ends its consumer: the topic is gone or may not be read, or no broker has answered for
    /// too long.
    pub(super) async fn ask(&mut self) -> Result<Option<TopicDescription>> {
        let topic = self.topic;
        let ended = |kind, text| Err(Error::new(kind, CONSUME, text).with("topic", topic));
        let options = DescribeTopicsOptions::default();
        let answer = self.admin.describe_topics([topic], options).await;
        match answer.map(|mut topics| topics.remove(topic)) {
            Ok(Some(Ok(found))) if found.topic_id == self.topic_id => {
                self.answered = Instant::now();
                match may_read(found.authorized_operations) {
                    true => Ok(Some(found)),
                    false => {
                        let code = ErrorCode::TopicAuthorizationFailed;
                        Err(self
                            .denied(KrafkaError::broker(code, "the right to read is not there")))
                    }
                }
            }
            Ok(Some(
                Ok(_)
                | Err(KrafkaError::Broker {
                    code: ErrorCode::UnknownTopicOrPartition,
                    ..
                }),
            )) => ended(
                ErrorKind::Lost,
                "the topic was deleted, or deleted and made again",
            ),
            Ok(Some(Err(
                error @ KrafkaError::Broker {
                    code: ErrorCode::TopicAuthorizationFailed,
                    ..
                },
            ))) => Err(self.denied(error)),
            _ if self.answered.elapsed() >= self.unreachable_after => ended(
                ErrorKind::Disconnected,
                "no broker has answered for too long",
            ),
            _ => Ok(None),
        }
    }

    fn denied(&self, error: KrafkaError) -> Error {
        error::map(CONSUME, Stage::Before, error).with("topic", self.topic)
    }
}

/// False if the broker names what this user may do with a topic, and to read is not among it. Who is told of a topic may
/// describe it: a broker that does not name even that names nothing.
fn may_read(operations: Option<i32>) -> bool {
    operations.is_none_or(|bits| bits & DESCRIBE == 0 || bits & READ != 0)
}

/// Kafka sets the bit of an operation's code (KIP-430).
const READ: i32 = 1 << 3;
const DESCRIBE: i32 = 1 << 8;

#[cfg(test)]
mod tests {
    use krafka::testing::{ApiKey, Control, FakeBroker};
    use tokio::time::sleep;

    use super::*;

    /// The client's own fake of a broker with one topic, and what asks it.
    async fn asking() -> (FakeBroker, AdminClient, [u8; 16]) {
        let fake = FakeBroker::start_in_memory(1);
        fake.create_topic("orders", 1);
        let admin = fake.kafka().connect().await.unwrap().admin();
        let id = fake.topic_id("orders").unwrap();
        (fake, admin, id)
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_that_was_deleted_or_made_again_is_lost() {
        let (fake, admin, id) = asking().await;
        let mut presence = Presence::new(&admin, "orders", id, LONG);
        let found = presence.ask().await.unwrap().expect("it is there");
        assert_eq!(found.partitions.len(), 1);
        fake.delete_topic("orders");
        let error = presence.ask().await.expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::Lost);
        fake.create_topic("orders", 1);
        let mut presence = Presence::new(&admin, "orders", [7; 16], LONG);
        let error = presence.ask().await.expect_err("it is another one");
        assert_eq!(error.kind(), ErrorKind::Lost);
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_that_may_not_be_seen_is_told_at_once() {
        let (fake, admin, id) = asking().await;
        let mut presence = Presence::new(&admin, "orders", id, LONG);
        fake.on(ApiKey::Metadata, |_| {
            Control::Error(ErrorCode::TopicAuthorizationFailed)
        });
        let error = presence.ask().await.expect_err("it may not be seen");
        assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_once_it_has_lasted() {
        let (fake, admin, id) = asking().await;
        let mut presence = Presence::new(&admin, "orders", id, LONG);
        fake.crash(0);
        assert!(presence.ask().await.unwrap().is_none(), "it may pass");
        fake.restart(0);
        assert!(presence.ask().await.unwrap().is_some());
        fake.crash(0);
        sleep(LONG).await;
        let error = presence.ask().await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Disconnected);
    }

    #[test]
    fn to_describe_a_topic_is_not_to_read_it() {
        let write = 1 << 4;
        assert!(!may_read(Some(DESCRIBE | write)));
        assert!(may_read(Some(DESCRIBE | READ)));
        assert!(may_read(Some(0)), "one that names nothing");
        assert!(may_read(None), "an older broker does not say");
    }

    const LONG: Duration = Duration::from_mins(10);
}
