//! Consuming: one consumer reads all partitions of a queue, from the offsets that its group stored.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use mq_core::{
    ConsumePlan, Consumer, DeadLetters, Delivery, Error, ErrorKind, Result, Subscription,
    SubscriptionKind, stale,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    capabilities::CAPABILITIES,
    connection::Inner,
    error::{self, unsupported},
    intake::{Intake, commit},
    thread::ClientThread,
};
use crate::{
    error::closed,
    metrics::Watch,
    settle::{Homes, Ledger, Taken, Window},
};

/// Consumes one queue, all of its partitions.
///
/// Its task fetches and commits in the background. Dropping it stops the task, which commits as
/// [`close`](Consumer::close) does, as long as the runtime lives.
///
/// The broker stores an offset for each partition and nothing beside it: what lies below the lowest
/// message that is not done. So [`settled`](Consumer::settled) waits until nothing unsettled lies below
/// an acknowledged message, and [`close`](Consumer::close) is [`Stale`](ErrorKind::Stale) if something
/// does: the acknowledged message will be delivered again.
pub struct LegacyConsumer {
    ledger: Arc<Ledger>,
    window: Arc<Window>,
    deadline: Duration,
    stop: CancellationToken,
    stopped: Option<oneshot::Receiver<Result<()>>>,
}

impl LegacyConsumer {
    pub(super) async fn open(
        inner: &Arc<Inner>,
        subscription: &Subscription,
        plan: &ConsumePlan,
    ) -> Result<Self> {
        let queue = check(inner, subscription, plan)?;
        if inner.closing.is_cancelled() {
            return Err(closed(CONSUME));
        }
        let Some(partitions) = inner.partitions(CONSUME, queue).await? else {
            return Err(
                Error::new(ErrorKind::NotFound, CONSUME, "the queue is not there")
                    .with("queue", queue)
                    .help("create it first; this client cannot"),
            );
        };
        let stop = inner.closing.child_token();
        let reading = inner.take(queue, &stop).await?;
        let mut thread = ClientThread::new(&inner.threads);
        let starts = starts(inner, &mut thread, queue).await?;
        if starts.len() != partitions {
            return Err(Error::new(
                ErrorKind::Connect,
                CONSUME,
                "a partition has no leader, so it is not known where it begins",
            )
            .with("queue", queue));
        }
        let window = Window::new(plan.prefetch.into());
        let ledger = Ledger::new(
            (subscription.clone(), subscription.clone()),
            Arc::clone(&window),
            COMMIT_AFTER,
            plan.deferred,
            Homes::default(),
            Watch::default(),
        );
        for (partition, offset) in &starts {
            ledger.assign(*partition, *offset, "");
        }
        let (done, stopped) = oneshot::channel();
        let intake = Intake {
            inner: Arc::clone(inner),
            ledger: Arc::clone(&ledger),
            thread,
            queue: Arc::clone(queue),
            committed: starts,
            renewed: Instant::now(),
            stop: stop.clone(),
        };
        tokio::spawn(async move {
            let ended = intake.run().await;
            drop(reading);
            // The consumer may be gone; then nobody asks.
            let _ = done.send(ended);
        });
        Ok(Self {
            ledger,
            window,
            deadline: inner.config.request_timeout * 3,
            stop,
            stopped: Some(stopped),
        })
    }
}

/// Refuses what this client cannot keep.
fn check<'a>(
    inner: &Inner,
    subscription: &'a Subscription,
    plan: &ConsumePlan,
) -> Result<&'a Arc<str>> {
    plan.check(subscription, CAPABILITIES)?;
    let SubscriptionKind::Queue { queue } = subscription.kind() else {
        return Err(unsupported(CONSUME, "the legacy client reads queues alone"));
    };
    let refuse = |text, help| {
        let error = Error::new(ErrorKind::Unsupported, CONSUME, text);
        Err(error.with("queue", queue).help(help))
    };
    if plan.read_committed && !inner.config.read_uncommitted {
        return refuse(
            "the legacy client cannot tell records of aborted transactions from others",
            "if nobody writes to the queue in transactions, say so by LegacyBuilder::read_uncommitted",
        );
    }
    if plan.dead_letters != DeadLetters::None && plan.dead_letter_home(subscription).is_some() {
        return refuse(
            "a dead letter of the legacy client could not say why it is one, so there are none",
            "open the consumer with DeadLetters::None: rejecting a message is then refused",
        );
    }
    Ok(queue)
}

/// Where each partition is read from: its stored offset, or its beginning.
async fn starts(
    inner: &Inner,
    thread: &mut ClientThread,
    queue: &Arc<str>,
) -> Result<BTreeMap<i32, i64>> {
    let name = Arc::clone(queue);
    // The first group of a cluster makes it create the topic of offsets.
    let deadline = inner.config.request_timeout * 2;
    let asked = thread.call(deadline, move |client| {
        let stored = client.fetch_group_topic_offset(&name, &name)?;
        let mut found = client.fetch_offsets(&[&*name], kafka::client::FetchOffset::Earliest)?;
        let begin = found.remove(&*name).unwrap_or_default();
        let stored: BTreeMap<i32, i64> = stored
            .into_iter()
            .filter(|place| place.offset >= 0)
            .map(|place| (place.partition, place.offset))
            .collect();
        let starts = begin.into_iter().map(|place| {
            let offset = stored.get(&place.partition).copied();
            (place.partition, offset.unwrap_or(place.offset))
        });
        Ok((starts.collect(), stored))
    });
    let found = asked.await;
    let (starts, stored): (BTreeMap<i32, i64>, BTreeMap<i32, i64>) =
        found.map_err(|failed| error::map(CONSUME, failed).with("queue", queue))?;
    // The same again, which a group that has members refuses: they have the partitions.
    commit(inner, thread, queue, stored.into_iter().collect())
        .await
        .map_err(|failed| error::map(CONSUME, failed).with("queue", queue))?;
    Ok(starts)
}

impl Consumer for LegacyConsumer {
    async fn receive_many(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        loop {
            match self.ledger.take(into, max) {
                Taken::Some(taken) => return Ok(taken),
                Taken::Ended(Some(error)) => return Err(error),
                Taken::Ended(None) => return Ok(0),
                Taken::Nothing => {}
            }
            let deliverable = self.window.deliverable.notified();
            match self.ledger.next_due() {
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
        match timeout(self.deadline, settled(&self.ledger)).await {
            Ok(settled) => settled,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "settle",
                "the broker has not taken every verdict in time; it cannot have one above a message \
                 that is not settled",
            )
            .with("source", self.ledger.source_name())),
        }
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

async fn settled(ledger: &Ledger) -> Result<()> {
    let awaited = ledger.request_flush();
    loop {
        let mut progress = std::pin::pin!(ledger.progress.notified());
        progress.as_mut().enable();
        if ledger.take_lost() {
            return Err(stale(ledger.source_name()));
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

impl Drop for LegacyConsumer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for LegacyConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyConsumer")
            .field("source", self.ledger.source_name())
            .finish_non_exhaustive()
    }
}

pub(super) const CONSUME: &str = "consume";
/// Verdicts after which a commit does not wait for the clock.
const COMMIT_AFTER: u64 = 5000;
