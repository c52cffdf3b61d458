//! Hears when the group waits for this member to join again, under the classic protocol.
//!
//! krafka 0.28 hears of it by its heartbeat, joins beside the poll, and goes on with heartbeats on the
//! connection on which that join waits. The broker answers such a heartbeat when the join is over, as
//! one of the past, and the client takes its membership for lost: what it had comes again, and the
//! group stands still until the session of the member's former id is over.
//!
//! After a join that the *poll* began, the client starts its heartbeats anew and drops what the former
//! ones said; only a poll between the two answers that end a join would still hear of it. So
//! heartbeats are as rare as the session allows, the group is asked here more often, and there is no
//! poll while a join is on its way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
    time::Duration,
};

use krafka::{
    admin::{AdminClient, DescribeConsumerGroupsOptions},
    consumer::Consumer,
};
use tokio::time::{sleep, timeout};
use tracing::debug;

/// The last call of the group.
pub(super) struct Calls {
    group: Arc<str>,
    /// How often it is asked.
    pub(super) every: Duration,
    /// The generation that is to be left.
    called: AtomicI32,
}

impl Calls {
    pub(super) fn new(group: Arc<str>, session: Duration) -> Self {
        Self {
            group,
            every: (session / 10).min(Duration::from_millis(500)),
            called: AtomicI32::new(NOT),
        }
    }

    /// Asks the broker whether the group waits for its members.
    pub(super) async fn ask(&self, consumer: &Consumer, admin: &AdminClient) {
        // Before the question: a join that ends meanwhile is an answer to the call.
        let Some(generation) = generation(consumer).await else {
            return;
        };
        let options = DescribeConsumerGroupsOptions::default();
        let described = admin.describe_consumer_groups([&*self.group], options);
        let waits = match described
            .await
            .map(|mut groups| groups.remove(&*self.group))
        {
            Ok(Some(Ok(group))) => group.state == "PreparingRebalance",
            // Then the next heartbeat tells.
            other => {
                debug!(group = %self.group, ?other, "the group was not described");
                false
            }
        };
        if waits {
            self.called.store(generation, Relaxed);
        }
    }

    /// True once after each call that the member has not followed yet. Between two polls.
    pub(super) async fn take(&self, consumer: &Consumer) -> bool {
        let called = self.called.swap(NOT, Relaxed);
        called != NOT && generation(consumer).await == Some(called)
    }
}

/// Waits until the join that a poll began has ended, for a while: one that failed leaves no trace here.
pub(super) async fn until_joined(consumer: &Consumer, before: Option<i32>) {
    let changed = async {
        while generation(consumer).await == before {
            sleep(LOOK).await;
        }
    };
    if timeout(LONG, changed).await.is_ok() {
        sleep(SYNC).await;
    }
}

/// The generation that the member is in; a join on its way does not change it.
pub(super) async fn generation(consumer: &Consumer) -> Option<i32> {
    let member = consumer.group_metadata().await?;
    member.is_fenceable().then(|| member.generation_id())
}

const LOOK: Duration = Duration::from_millis(10);
/// After that a poll looks whether the join has failed.
const LONG: Duration = Duration::from_secs(5);
/// From the first answer of a join, by which the generation is known, to the second one, which is the
/// assignment: it waits for the member that shares out the partitions.
const SYNC: Duration = Duration::from_millis(200);
/// No generation.
const NOT: i32 = -1;
