//! One topic of a consumer, the source itself or one of its retry topics: a member of a group, or
//! what reads without one; a ledger, and the tasks of both.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use mq_core::{
    ConsumePlan, Delivery, Error, ErrorKind, Filter, Result, Subscription, flow::FlowKind, stale,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    CONSUME,
    assignment::Assigned,
    calls::Calls,
    identity::Identity,
    intake::Intake,
    listener::{Joined, Listener},
    settings,
};
use crate::{
    config::GroupProtocol,
    connection::Inner,
    error::{self, Stage, closed},
    publisher::KafkaPublisher,
    settle::{Committer, Group, Homes, Ledger, Origin, Taken, Window, copy_moved},
    topology::Tier,
};

/// What is read.
pub(super) struct Log {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: [u8; 16],
    pub(super) partitions: usize,
    /// `None` for an ephemeral subscription.
    pub(super) group: Option<Arc<str>>,
    pub(super) filter: Filter,
    /// How long a record waits in it at most, if it is a retry topic.
    pub(super) tier: Option<Duration>,
}

/// What the logs of a consumer have in common.
pub(super) struct Common<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) subscription: &'a Subscription,
    pub(super) plan: &'a ConsumePlan,
    pub(super) window: &'a Arc<Window>,
    pub(super) homes: &'a Homes,
    /// Ends the reading of every log.
    pub(super) stop: &'a CancellationToken,
}

/// Reads one topic.
pub(super) struct LogReader {
    pub(super) ledger: Arc<Ledger>,
    pub(super) assigned: Arc<Assigned>,
    pub(super) group: Arc<Group>,
    /// Ends the tasks that commit and copy outside of transactions.
    pub(super) plain: CancellationToken,
    /// Ends all tasks that serve the intake.
    pub(super) tasks: CancellationToken,
    /// Where its records lie.
    pub(super) origin: Origin,
    source: Arc<str>,
    joined: watch::Receiver<Joined>,
    /// The intake's last word.
    stopped: Option<oneshot::Receiver<Result<()>>>,
}

impl Log {
    /// The retry topic as a queue of its own. What waits there has passed the filter already.
    pub(super) fn of_tier(tier: &Tier) -> Self {
        Self {
            topic: Arc::clone(&tier.topic),
            topic_id: tier.id,
            partitions: tier.partitions,
            group: Some(Arc::clone(&tier.topic)),
            filter: Filter::All,
            tier: Some(tier.longest()),
        }
    }
}

impl LogReader {
    /// Starts to read through this handle. Its tasks end with the consumer.
    pub(super) async fn start(
        common: &Common<'_>,
        kafka: &krafka::Kafka,
        log: Log,
    ) -> Result<Self> {
        let (inner, config) = (common.inner, &common.inner.config);
        let source = Arc::clone(common.subscription.name());
        let read = match log.tier {
            Some(_) => Subscription::queue(Arc::clone(&log.topic)),
            None => common.subscription.clone(),
        };
        let ledger = Ledger::new(
            (common.subscription.clone(), read),
            Arc::clone(common.window),
            config.commit_after,
            common.plan.deferred,
            common.homes.clone(),
            inner.watch.clone(),
        );
        let admin = Arc::new(kafka.admin().default_api_timeout(config.request_timeout()));
        let builder = match &log.group {
            Some(group) => kafka.consumer(&**group),
            None => kafka.consumer_without_group(),
        };
        let grouped = log.group.is_some();
        let group_id = log.group.unwrap_or_else(|| Arc::clone(&source));
        let assigned = Arc::new(Assigned::new());
        let (listener, joined) = Listener::new(
            Arc::clone(&ledger),
            Arc::clone(&assigned),
            Arc::clone(&admin),
            Arc::clone(&group_id),
            Arc::clone(&log.topic),
            inner.events.clone(),
            config.drain,
        );
        let consumer = settings(builder, config, grouped, common.plan)
            .rebalance_listener(Arc::clone(&listener))
            .build()
            .await
            .map_err(|e| error::map(CONSUME, Stage::Before, e))?;
        let group = Arc::new(Group::new(
            Arc::new(consumer),
            Arc::clone(&group_id),
            (Arc::clone(&log.topic), log.topic_id),
            grouped,
            config.request_timeout(),
        ));
        listener.bind(&group);
        let (done, stopped) = oneshot::channel();
        let classic = config.group_protocol != GroupProtocol::Consumer;
        let instance = config.instance_id.as_ref().filter(|_| grouped && classic);
        let identity = instance.map(|name| Identity::new(Arc::clone(&group_id), Arc::clone(name)));
        let static_classic = identity.is_some();
        let called = (grouped && classic).then(|| Arc::clone(&group_id));
        let calls = called.map(|group| Calls::new(group, Arc::clone(inner)));
        let intake = Intake {
            group: Arc::clone(&group),
            identity,
            calls,
            listener,
            ledger: Arc::clone(&ledger),
            assigned: Arc::clone(&assigned),
            admin,
            source: Arc::clone(&source),
            filter: log.filter,
            tier: log.tier,
            topic_id: log.topic_id,
            partitions: log.partitions,
            read_committed: common.plan.read_committed,
            events: inner.events.clone(),
            stalled_after: config.stalled_after,
            closing: inner.closing.clone(),
            stop: common.stop.clone(),
            unreachable_after: config.unreachable_after,
            publish_timeout: config.publish_timeout,
            back: AtomicBool::new(false),
            grown: AtomicBool::new(false),
        };
        ledger.tell_consumer(FlowKind::Opened);
        intake.start(grouped).await?;
        // These end after the intake, which needs them to the last, or when transactions take their
        // place.
        let tasks = CancellationToken::new();
        let plain = tasks.child_token();
        let committer = Committer {
            group: Arc::clone(&group),
            ledger: Arc::clone(&ledger),
            stop: plain.clone(),
            events: inner.events.clone(),
            static_classic,
            every: config.commit_every,
            unreachable_after: config.unreachable_after,
        };
        tokio::spawn(committer.run());
        let origin = Origin {
            topic: log.topic,
            is_copy: log.tier.is_some(),
        };
        if !common.homes.is_empty() {
            let publisher = KafkaPublisher::new(Arc::clone(inner));
            let copying = copy_moved(
                Arc::clone(&ledger),
                publisher,
                origin.clone(),
                plain.clone(),
            );
            tokio::spawn(copying);
        }
        let serving = tasks.clone().drop_guard();
        tokio::spawn(async move {
            let _tasks = serving;
            // The consumer may be gone; then nobody asks.
            let _ = done.send(intake.run().await);
        });
        Ok(Self {
            ledger,
            assigned,
            group,
            plain,
            tasks,
            origin,
            source,
            joined,
            stopped: Some(stopped),
        })
    }

    /// Waits until the member has partitions, or it is plain that there are none for it.
    pub(super) async fn join(&mut self, session: Duration) -> Result<()> {
        let source = Arc::clone(&self.source);
        let late = |_| {
            Error::new(
                ErrorKind::Timeout,
                CONSUME,
                "the group did not take this member in time",
            )
            .with("subscription", source)
        };
        // A member that was killed holds up the group until its session ends.
        let long = session * 2 + Duration::from_secs(30);
        let member = self.reached(Joined::Empty);
        timeout(long, member).await.map_err(late)??;
        // With fewer partitions than members it stands by.
        match timeout(STAND_BY, self.reached(Joined::Assigned)).await {
            Ok(reached) => reached,
            Err(_) => self.ledger.failure().map_or(Ok(()), Err),
        }
    }

    /// Waits until the member got so far, or is at its end.
    async fn reached(&mut self, step: Joined) -> Result<()> {
        let ledger = &self.ledger;
        let over = || ledger.failure().unwrap_or_else(|| closed(CONSUME));
        tokio::select! {
            joined = self.joined.wait_for(|joined| *joined >= step) => joined.map(drop).map_err(|_| over()),
            () = ledger.until(Ledger::has_ended) => Err(over()),
        }
    }

    /// Hands out what is at hand.
    pub(super) fn take(&self, into: &mut Vec<Delivery>, max: usize) -> Taken {
        let taken = self.ledger.take(into, max);
        if let Taken::Some(taken) = taken {
            self.ledger.handed_out(&into[into.len() - taken..]);
        }
        taken
    }

    /// Waits until the broker has every verdict that was given.
    pub(super) async fn settled(&self) -> Result<()> {
        let ledger = &self.ledger;
        loop {
            let mut progress = std::pin::pin!(ledger.progress.notified());
            progress.as_mut().enable();
            if !ledger.is_copying() || ledger.has_ended() {
                break;
            }
            progress.await;
        }
        let awaited = ledger.request_flush();
        loop {
            let mut progress = std::pin::pin!(ledger.progress.notified());
            progress.as_mut().enable();
            if ledger.take_lost() {
                return Err(stale(&self.source));
            }
            if ledger.is_confirmed(&awaited) {
                return Ok(());
            }
            if let Some(error) = ledger.failure() {
                return Err(error);
            }
            progress.await;
        }
    }

    /// Waits until it has closed down, once it was told to stop.
    pub(super) async fn stopped(&mut self) -> Result<()> {
        match self.stopped.take() {
            // The intake bounds each of its steps.
            Some(stopped) => stopped.await.unwrap_or_else(|_| Err(closed("close"))),
            None => Ok(()),
        }
    }
}

/// How long others may take to give up partitions for a new member: they hear of it at their next
/// heartbeat, then end what they have at hand, which the new member hears of at its own.
const STAND_BY: Duration = Duration::from_secs(15);
