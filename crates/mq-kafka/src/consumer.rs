//! Consuming: a member of a group (or a reader without one) whose own task polls all the time, so
//! that a slow handler never loses the membership.

mod assignment;
mod calls;
mod events;
mod identity;
mod intake;
mod listener;
mod log;
mod polls;
mod presence;
mod progress;
mod reader;
mod seat;
mod sharing;

use std::{fmt, iter, sync::Arc, time::Duration};

use futures::future::{join, join_all, try_join_all};
use krafka::consumer::{
    AutoOffsetReset, ConsumerBuilder, IsolationLevel, PartitionAssignmentStrategy,
};
use mq_core::{
    ConsumePlan, Consumer, Delivery, Destination, Error, ErrorKind, Result, Subscription,
    SubscriptionKind,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    capabilities::{CAPABILITIES, SHARED},
    config::{GroupProtocol, KafkaBuilder},
    connection::{Inner, handle},
    error::closed,
    settle::{Homes, Ledger, Taken, Window},
    topology::{self, Topic},
};
pub use assignment::Assignment;
pub(crate) use calls::SYNC;
pub(crate) use events::Events;
pub use events::{KafkaEvent, KafkaEvents};
#[cfg(test)]
pub(crate) use identity::tests::member;
use log::{Common, Log, LogReader};
pub(crate) use polls::Polls;
pub use progress::{ConsumerProgress, PartitionProgress};
pub use reader::KafkaReader;
pub(crate) use seat::SeatLog;
use sharing::ShareReader;

/// Consumes one subscription.
///
/// Its tasks poll, commit and copy in the background. Dropping it stops them; they commit and leave
/// the group as [`close`](Consumer::close) does, as long as the runtime lives.
///
/// # A topic that changes
/// Partitions that are added are read from their beginning. The group hears of them within some 5 s.
///
/// A topic that is deleted, or deleted and made again, ends its consumers with
/// [`Lost`](ErrorKind::Lost), within some 5 s. A group's place is kept by the topic's *name*: on
/// clusters that take commits without the topic's id (before 4.1, and those of
/// [`ExactlyOnce`](crate::ExactlyOnce) on all), what is settled between the making again and the
/// client's next fetch may be committed in the new topic, whose first records are then passed over.
/// So close the consumers before.
///
/// A topic that its user may no longer read ends them with [`Permission`](ErrorKind::Permission), where the broker says so.
pub struct KafkaConsumer {
    /// Of the source itself, unless it is shared, then of its retry topics.
    readers: Vec<LogReader>,
    /// Of the source, where it is read through a share group.
    shared: Option<ShareReader>,
    /// Which of them is asked first.
    turn: usize,
    window: Arc<Window>,
    source: Arc<str>,
    deadline: Duration,
    stop: CancellationToken,
    /// Dropped when the last transaction has ended, if there are any.
    transacted: Option<oneshot::Receiver<()>>,
}

impl KafkaConsumer {
    /// The partitions that this consumer has, now and later.
    pub fn assignment(&self) -> Assignment {
        match &self.shared {
            Some(shared) => shared.assigned.watch(),
            // There is always the source.
            None => self.readers[0].assigned.watch(),
        }
    }

    /// How far it is: lag and oldest message of each of its partitions, first those of its source,
    /// then those of its retry topics. It asks nobody, and waits for nothing. How far a share group
    /// is, the broker alone knows: of a queue that is read through one only its retry topics are told.
    pub fn progress(&self) -> ConsumerProgress {
        let ledgers = self.readers.iter().map(|reader| &*reader.ledger);
        progress_of(&self.source, ledgers)
    }

    pub(crate) async fn open(
        inner: Arc<Inner>,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<Self> {
        let shares = inner.config.group_protocol == GroupProtocol::Share;
        plan.check(subscription, if shares { SHARED } else { CAPABILITIES })?;
        let shares = shares && matches!(subscription.kind(), SubscriptionKind::Queue { .. });
        if inner.closing.is_cancelled() {
            return Err(closed(CONSUME));
        }
        let dead = plan.dead_letter_home(subscription);
        let (topic, found) = find_all(&inner, subscription, dead.as_ref()).await?;
        let config = &inner.config;
        let kafka = handle(config).await?;
        let admin = kafka.admin().default_api_timeout(config.request_timeout());
        let tiers = topology::find_tiers(&inner, &admin, subscription, &plan).await?;
        let homes = Homes { dead, tiers };
        let dead = homes.dead.iter().map(|home| &**home.name());
        let retry = homes.tiers.iter().map(|tier| &*tier.topic);
        for name in iter::once(&*topic).chain(dead).chain(retry) {
            if let Some(known) = inner.topics.known(&inner, CONSUME, name).await? {
                inner.topics.check(&inner, CONSUME, name, known).await?;
            }
        }
        if let Some(home) = &homes.dead {
            // The first dead letter may come much later: it looks again whether its home is there.
            inner.topics.forget(home.name());
        }
        let grouped = !matches!(subscription.kind(), SubscriptionKind::Ephemeral { .. });
        let window = Window::new(plan.prefetch.into());
        let stop = inner.closing.child_token();
        // If this future is dropped or fails from here on, the tasks end.
        let guard = stop.clone().drop_guard();
        let common = Common {
            inner: &inner,
            subscription,
            plan: &plan,
            window: &window,
            homes: &homes,
            stop: &stop,
        };
        let mut readers = Vec::new();
        let mut shared = None;
        if shares {
            shared = Some(ShareReader::start(&common, topic, found).await?);
        } else {
            let source = Log {
                topic,
                topic_id: found.id,
                partitions: found.partitions,
                group: grouped.then(|| Arc::clone(subscription.name())),
                filter: subscription.filter_by().clone(),
                tier: None,
            };
            readers.push(LogReader::start(&common, &kafka, source).await?);
        }
        // A handle for each, so that the long poll of one never stands before another's.
        readers.extend(
            try_join_all(homes.tiers.iter().map(|tier| async {
                let kafka = handle(config).await?;
                LogReader::start(&common, &kafka, Log::of_tier(tier)).await
            }))
            .await?,
        );
        if grouped && !shares {
            readers[0].join(config.session_timeout).await?;
        }
        inner.watch_over(readers.iter().map(|reader| &reader.ledger));
        Ok(Self {
            readers,
            shared,
            turn: 0,
            window,
            source: Arc::clone(subscription.name()),
            deadline: config.publish_timeout + config.request_timeout(),
            stop: guard.disarm(),
            transacted: None,
        })
    }

    /// Takes what is at hand, of each reader in turn.
    fn take(&mut self, into: &mut Vec<Delivery>, max: usize) -> Taken {
        let shared = usize::from(self.shared.is_some());
        let count = self.readers.len() + shared;
        self.turn = (self.turn + 1) % count;
        let mut taken = 0;
        for at in 0..count {
            let at = (self.turn + at) % count;
            let found = match (&self.shared, at) {
                (Some(source), 0) => source.take(into, max - taken),
                _ => self.readers[at - shared].take(into, max - taken),
            };
            match found {
                Taken::Some(more) => taken += more,
                Taken::Nothing => {}
                // What was taken before is handed out first; it ends at the next call.
                ended @ Taken::Ended(_) if taken == 0 => return ended,
                Taken::Ended(_) => break,
            }
        }
        match taken {
            0 => Taken::Nothing,
            n => Taken::Some(n),
        }
    }

    /// When the next one is due of those that wait.
    fn next_due(&self) -> Option<Instant> {
        let due = self.readers.iter().map(|reader| reader.ledger.next_due());
        due.flatten().min()
    }
}

/// How far a consumer is that has these ledgers.
pub(crate) fn progress_of<'a>(
    source: &Arc<str>,
    ledgers: impl IntoIterator<Item = &'a Ledger>,
) -> ConsumerProgress {
    let partitions = ledgers.into_iter().flat_map(Ledger::progress_of_partitions);
    ConsumerProgress {
        subscription: Arc::clone(source),
        partitions: partitions.collect(),
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
    grouped: bool,
    plan: &ConsumePlan,
) -> ConsumerBuilder {
    let builder = match &config.instance_id {
        Some(id) if grouped => builder.group_instance_id(&**id),
        _ => builder,
    };
    builder
        .enable_auto_commit(false)
        .auto_offset_reset(AutoOffsetReset::None)
        .isolation_level(if plan.read_committed {
            IsolationLevel::ReadCommitted
        } else {
            IsolationLevel::ReadUncommitted
        })
        .group_protocol(config.group_protocol.setting())
        // The next three are for the classic protocol; the other one leaves them to the broker.
        .partition_assignment_strategies([PartitionAssignmentStrategy::CooperativeSticky])
        .session_timeout(config.session_timeout)
        // Rare, since each during a join costs the membership: `calls` says why.
        .heartbeat_interval(config.session_timeout / 3)
        .max_poll_records(2000)
        .max_buffered_records(20_000)
        .fetch_max_bytes(FETCH_BYTES)
        // The client waits for each answer before it asks again: with the usual 1 MiB it waits more than it works.
        .max_partition_fetch_bytes(2 * 1024 * 1024)
        .metrics_push(false)
}

impl Consumer for KafkaConsumer {
    async fn receive_many(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        loop {
            match self.take(into, max) {
                Taken::Some(taken) => return Ok(taken),
                Taken::Ended(Some(error)) => return Err(error),
                Taken::Ended(None) => return Ok(0),
                Taken::Nothing => {}
            }
            let deliverable = self.window.deliverable.notified();
            match self.next_due() {
                None => deliverable.await,
                Some(due) => {
                    tokio::select! {
                        () = deliverable => {}
                        () = sleep_until(due) => {}
                    }
                }
            }
        }
    }

    async fn settled(&mut self) -> Result<()> {
        let settled = async {
            if let Some(shared) = &self.shared {
                shared.settled().await?;
            }
            try_join_all(self.readers.iter().map(LogReader::settled)).await
        };
        match timeout(self.deadline, settled).await {
            Ok(settled) => settled.map(drop),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "settle",
                "the broker has not taken every verdict in time",
            )
            .with("source", &self.source)),
        }
    }

    async fn close(mut self) -> Result<()> {
        self.stop.cancel();
        let closing = self.readers.iter_mut().map(LogReader::stopped);
        let shared = async {
            match &mut self.shared {
                Some(shared) => shared.stopped().await,
                None => Ok(()),
            }
        };
        let (shared, closed) = join(shared, join_all(closing)).await;
        if let Some(transacted) = self.transacted.take() {
            // An error: nothing was ever sent, it ends by being dropped.
            let _ = timeout(self.deadline, transacted).await;
        }
        closed.into_iter().chain([shared]).collect()
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
/// What one answer of a broker may bring. It has to come whole within the timeout of a request, 10 s, so this is also how slow a link
/// may be.
const FETCH_BYTES: i32 = 8 * 1024 * 1024;
