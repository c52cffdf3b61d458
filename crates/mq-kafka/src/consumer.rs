//! Consuming: a member of a group (or a reader without one) whose own task polls all the time, so
//! that a slow handler never loses the membership.

mod assignment;
mod intake;
mod listener;

use std::{
    fmt, iter,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use krafka::consumer::{
    AutoOffsetReset, ConsumerBuilder, GroupProtocol, IsolationLevel, PartitionAssignmentStrategy,
};
use mq_core::{
    ConsumePlan, Consumer, Delivery, Destination, Error, ErrorKind, Result, Subscription,
    SubscriptionKind, flow::FlowKind,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    capabilities::CAPABILITIES,
    config::KafkaBuilder,
    connection::{Inner, handle},
    error::{self, Stage, closed},
    publisher::KafkaPublisher,
    settle::{Committer, Group, Ledger, Taken, copy_rejected},
    topology::{self, Topic},
};
use assignment::Assigned;
pub use assignment::Assignment;
use intake::Intake;
use listener::{Joined, Listener};

/// Consumes one subscription.
///
/// Its tasks poll, commit and copy in the background. Dropping it stops them; they commit and leave
/// the group as [`close`](Consumer::close) does, as long as the runtime lives.
pub struct KafkaConsumer {
    ledger: Arc<Ledger>,
    assigned: Arc<Assigned>,
    source: Arc<str>,
    deadline: Duration,
    stop: CancellationToken,
    /// The intake's last word.
    stopped: Option<oneshot::Receiver<Result<()>>>,
}

impl KafkaConsumer {
    /// The partitions that this consumer has, now and later.
    pub fn assignment(&self) -> Assignment {
        self.assigned.watch()
    }

    pub(crate) async fn open(
        inner: Arc<Inner>,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<Self> {
        plan.check(subscription, CAPABILITIES)?;
        if inner.closing.is_cancelled() {
            return Err(closed(CONSUME));
        }
        let home = plan.dead_letter_home(subscription);
        let (topic, found) = find_all(&inner, subscription, home.as_ref()).await?;
        for name in iter::once(&*topic).chain(home.as_ref().map(|home| &**home.name())) {
            if let Some(known) = inner.topics.known(&inner, CONSUME, name).await? {
                inner.topics.check(&inner, CONSUME, name, known).await?;
            }
        }
        if let Some(home) = &home {
            // The first dead letter may come much later: it looks again whether its home is there.
            inner.topics.forget(home.name());
        }
        let config = &inner.config;
        let source = Arc::clone(subscription.name());
        let ledger = Ledger::new(
            subscription.clone(),
            plan.prefetch.into(),
            home.clone(),
            config.flow.clone(),
        );
        let kafka = handle(config).await?;
        let admin = Arc::new(kafka.admin().default_api_timeout(config.request_timeout()));
        let grouped = !matches!(subscription.kind(), SubscriptionKind::Ephemeral { .. });
        let builder = match grouped {
            true => kafka.consumer(&*source),
            false => kafka.consumer_without_group(),
        };
        let assigned = Arc::new(Assigned::new());
        let (listener, joined) = Listener::new(
            Arc::clone(&ledger),
            Arc::clone(&assigned),
            Arc::clone(&admin),
            Arc::clone(&source),
            Arc::clone(&topic),
        );
        let consumer = settings(builder, config, inner.protocol.setting(), &plan)
            .rebalance_listener(Arc::clone(&listener))
            .build()
            .await
            .map_err(|e| error::map(CONSUME, Stage::Before, e))?;
        let group = Arc::new(Group::new(
            Arc::new(consumer),
            Arc::clone(&topic),
            grouped,
            config.request_timeout(),
        ));
        listener.bind(&group);
        let stop = inner.closing.child_token();
        // If this future is dropped or fails from here on, the tasks end.
        let guard = stop.clone().drop_guard();
        let (done, stopped) = oneshot::channel();
        let intake = Intake {
            group: Arc::clone(&group),
            ledger: Arc::clone(&ledger),
            assigned: Arc::clone(&assigned),
            admin,
            source: Arc::clone(&source),
            filter: subscription.filter_by().clone(),
            topic_id: found.id,
            closing: inner.closing.clone(),
            stop: stop.clone(),
            unreachable_after: config.unreachable_after,
            publish_timeout: config.publish_timeout,
            back: AtomicBool::new(false),
        };
        ledger.tell_consumer(FlowKind::Opened);
        intake.start(grouped).await?;
        // These two end after the intake, which needs them to the last.
        let tasks = CancellationToken::new();
        let committer = Committer {
            group,
            ledger: Arc::clone(&ledger),
            stop: tasks.clone(),
            unreachable_after: config.unreachable_after,
        };
        tokio::spawn(committer.run());
        if let Some(home) = home {
            let publisher = KafkaPublisher::new(Arc::clone(&inner));
            tokio::spawn(copy_rejected(
                Arc::clone(&ledger),
                publisher,
                home,
                tasks.clone(),
            ));
        }
        tokio::spawn(async move {
            let _tasks = tasks.drop_guard();
            // The consumer may be gone; then nobody asks.
            let _ = done.send(intake.run().await);
        });
        if grouped {
            join(&ledger, joined, config.session_timeout, &source).await?;
        }
        Ok(Self {
            ledger,
            assigned,
            source,
            deadline: config.publish_timeout + config.request_timeout(),
            stop: guard.disarm(),
            stopped: Some(stopped),
        })
    }
}

/// The topic behind a subscription; fails if that, a start or the dead-letter home is missing.
async fn find_all(
    inner: &Inner,
    subscription: &Subscription,
    home: Option<&Destination>,
) -> Result<(Arc<str>, Topic)> {
    let (part, topic) = match subscription.kind() {
        SubscriptionKind::Queue { queue } => ("queue", queue),
        SubscriptionKind::Durable { topic, name } => {
            topology::topic_name(CONSUME, name)?;
            ("topic", topic)
        }
        SubscriptionKind::Ephemeral { topic } => ("topic", topic),
    };
    let found = topology::find(inner, CONSUME, part, topic).await?;
    if let Some(home) = home {
        topology::find(inner, CONSUME, "dead-letter home", home.name()).await?;
    }
    if matches!(subscription.kind(), SubscriptionKind::Durable { .. }) {
        topology::started(inner, CONSUME, subscription, topic).await?;
    }
    Ok((Arc::clone(topic), found))
}

/// Every setting that decides about loss or duplicates, whatever the client's default is.
fn settings(
    builder: ConsumerBuilder,
    config: &KafkaBuilder,
    protocol: GroupProtocol,
    plan: &ConsumePlan,
) -> ConsumerBuilder {
    builder
        .enable_auto_commit(false)
        .auto_offset_reset(AutoOffsetReset::None)
        .isolation_level(if plan.read_committed {
            IsolationLevel::ReadCommitted
        } else {
            IsolationLevel::ReadUncommitted
        })
        .group_protocol(protocol)
        // The next three are for the classic protocol; the other one leaves them to the broker.
        .partition_assignment_strategies([PartitionAssignmentStrategy::CooperativeSticky])
        .session_timeout(config.session_timeout)
        .heartbeat_interval((config.session_timeout / 5).min(Duration::from_secs(1)))
        .max_poll_records(2000)
        .max_buffered_records(10_000)
        .fetch_max_bytes(16 * 1024 * 1024)
        .metrics_push(false)
}

/// Waits until the member has partitions, or it is plain that there are none for it.
async fn join(
    ledger: &Ledger,
    mut joined: watch::Receiver<Joined>,
    session: Duration,
    source: &Arc<str>,
) -> Result<()> {
    let late = |_| {
        Error::new(
            ErrorKind::Timeout,
            CONSUME,
            "the group did not take this member in time",
        )
        .with("subscription", source)
    };
    // A member that was killed holds up the group until its session ends.
    let member = joined.wait_for(|joined| *joined > Joined::No);
    let member = timeout(session * 2 + Duration::from_secs(30), member);
    let over = |_| ledger.failure().unwrap_or_else(|| closed(CONSUME));
    member.await.map_err(late)?.map_err(over)?;
    // With fewer partitions than members it stands by.
    let assigned = joined.wait_for(|joined| *joined == Joined::Assigned);
    match timeout(STAND_BY, assigned).await {
        Ok(Err(gone)) => Err(over(gone)),
        Ok(Ok(_)) | Err(_) => ledger.failure().map_or(Ok(()), Err),
    }
}

impl Consumer for KafkaConsumer {
    async fn receive_many(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        loop {
            match self.ledger.take(into, max) {
                Taken::Some(taken) => return Ok(taken),
                Taken::Ended(Some(error)) => return Err(error),
                Taken::Ended(None) => return Ok(0),
                Taken::Nothing => self.ledger.deliverable.notified().await,
            }
        }
    }

    async fn settled(&mut self) -> Result<()> {
        let settled = async {
            loop {
                let mut progress = std::pin::pin!(self.ledger.progress.notified());
                progress.as_mut().enable();
                if !self.ledger.is_copying() || self.ledger.has_ended() {
                    break;
                }
                progress.await;
            }
            let awaited = self.ledger.request_flush();
            loop {
                let mut progress = std::pin::pin!(self.ledger.progress.notified());
                progress.as_mut().enable();
                if self.ledger.take_lost() {
                    return Err(mq_core::stale(&self.source));
                }
                if self.ledger.is_confirmed(&awaited) {
                    return Ok(());
                }
                if let Some(error) = self.ledger.failure() {
                    return Err(error);
                }
                progress.await;
            }
        };
        timeout(self.deadline, settled).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                "settle",
                "the broker has not taken every verdict in time",
            )
            .with("source", &self.source))
        })
    }

    async fn close(mut self) -> Result<()> {
        self.stop.cancel();
        match self.stopped.take() {
            // The intake bounds each of its steps.
            Some(stopped) => stopped.await.unwrap_or_else(|_| Err(closed("close"))),
            None => Ok(()),
        }
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for KafkaConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConsumer")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

const CONSUME: &str = "consume";
/// How long others may take to give up partitions for a new member: they hear of it at their next
/// heartbeat, then end what they have at hand, which the new member hears of at its own.
const STAND_BY: Duration = Duration::from_secs(15);
