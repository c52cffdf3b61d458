//! Hears when the group waits for this member to join again, under the classic protocol.
//!
//! krafka 0.28 hears of it by its heartbeat, joins beside the poll, and goes on with heartbeats on the
//! connection on which that join waits. The broker answers such a heartbeat when the join is over, as
//! one of the past, and the client takes its membership for lost: what it had comes again, and the
//! group stands still until the session of the member's former id is over.
//!
//! After a join that the *poll* began, the client starts its heartbeats anew and drops what the former
//! ones said; only a poll between the two answers that end a join would still hear of it. So
//! heartbeats are as rare as the session allows, the group is asked here more often, and a poll keeps
//! away from the end of a join.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
    time::Duration,
};

use krafka::{admin::DescribeConsumerGroupsOptions, consumer::Consumer};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::connection::Inner;

/// The last call of the group.
pub(super) struct Calls {
    group: Arc<str>,
    /// Its connections carry no fetch, behind which a question would wait.
    inner: Arc<Inner>,
    every: Duration,
    /// The generation that is to be left.
    called: Noted,
}

/// A generation of the group, for whoever takes it first.
pub(super) struct Noted(AtomicI32);

impl Noted {
    pub(super) fn none() -> Self {
        Self(AtomicI32::new(NOT))
    }

    pub(super) fn note(&self, generation: Option<i32>) {
        self.0.store(generation.unwrap_or(NOT), Relaxed);
    }

    pub(super) fn take(&self) -> Option<i32> {
        Some(self.0.swap(NOT, Relaxed)).filter(|generation| *generation != NOT)
    }
}

impl Calls {
    pub(super) fn new(group: Arc<str>, inner: Arc<Inner>) -> Self {
        Self {
            group,
            every: (inner.config.session_timeout / 10).clamp(OFTEN, SELDOM),
            inner,
            called: Noted::none(),
        }
    }

    /// Asks the broker from time to time whether the group waits for its members.
    pub(super) async fn listen(&self, consumer: &Consumer) {
        let mut pause = self.every;
        loop {
            sleep(pause).await;
            if let Some(members) = self.ask(consumer).await {
                // Each answer tells of all members, and each member asks.
                let members = u32::try_from(members).unwrap_or(u32::MAX);
                pause = self.every.max(PER_MEMBER.saturating_mul(members));
            }
        }
    }

    /// Tells how many members there are, if it was told.
    async fn ask(&self, consumer: &Consumer) -> Option<usize> {
        // Before the question: a join that ends meanwhile is an answer to the call.
        let generation = generation(consumer).await?;
        let options = DescribeConsumerGroupsOptions::default();
        let admin = &self.inner.admin;
        let described = admin.describe_consumer_groups([&*self.group], options);
        let described = timeout(ANSWER, described).await;
        match described.map(|answer| answer.map(|mut groups| groups.remove(&*self.group))) {
            Ok(Ok(Some(Ok(group)))) => {
                if group.state == "PreparingRebalance" {
                    self.called.note(Some(generation));
                }
                Some(group.members.len())
            }
            // Then the next heartbeat tells.
            other => {
                debug!(group = %self.group, ?other, "the group was not described");
                None
            }
        }
    }

    /// Once after each call that the member has not followed yet: the generation that is to be left.
    /// Between two polls.
    pub(super) async fn take(&self, consumer: &Consumer) -> Option<i32> {
        let called = self.called.take()?;
        (generation(consumer).await == Some(called)).then_some(called)
    }
}

/// A join that is on its way since a poll began it.
pub(super) struct Join {
    /// The generation that it leaves.
    left: i32,
    since: Instant,
}

impl Join {
    pub(super) fn leaving(left: i32) -> Self {
        Self {
            left,
            since: Instant::now(),
        }
    }

    /// Right before a poll, which is to keep away from the time between the two answers: waits where
    /// the first one is there. True if the join may still be on its way.
    pub(super) async fn is_open(&self, consumer: &Consumer) -> bool {
        let open = generation(consumer).await == Some(self.left);
        if !open {
            sleep(SYNC).await;
        }
        open
    }

    /// Waits for its end, and no longer than a poll waits: one that failed is seen by the next poll
    /// alone. True if it may still be on its way.
    pub(super) async fn goes_on(&self, consumer: &Consumer) -> bool {
        let answered = async {
            while generation(consumer).await == Some(self.left) {
                sleep(LOOK).await;
            }
        };
        match timeout(POLL, answered).await {
            Ok(()) => {
                sleep(SYNC).await;
                false
            }
            Err(_) => self.since.elapsed() < LONG,
        }
    }
}

/// The generation that the member is in; a join on its way does not change it before its first answer.
pub(super) async fn generation(consumer: &Consumer) -> Option<i32> {
    let member = consumer.group_metadata().await?;
    member.is_fenceable().then(|| member.generation_id())
}

const OFTEN: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_millis(500);
/// With it a large group asks a hundred times a second in all.
const PER_MEMBER: Duration = Duration::from_millis(10);
/// A broker that hangs is not waited for: another one may be asked the next time. A late answer does
/// no harm.
const ANSWER: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(10);
/// How long one poll waits for records.
pub(super) const POLL: Duration = Duration::from_millis(250);
/// After that it is taken for one that never began.
const LONG: Duration = Duration::from_secs(60);
/// From the first answer of a join, by which the generation is known, to the second one, which is the
/// assignment: it waits for the member that shares out the partitions.
pub(crate) const SYNC: Duration = Duration::from_millis(200);
/// No generation.
const NOT: i32 = -1;
