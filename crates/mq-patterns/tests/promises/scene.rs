//! What a case has at hand: a client, names of its own, workers that run beside it, and what their
//! handlers report.

use std::{sync::Arc, time::Duration};

use mq_core::{Broker, ConsumePlan, Consumer, ErrorKind, MessageId, Received, Run, Subscription};
use mq_testkit::{Check, Failure, Fixture};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

/// What the cases send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) number: u64,
    pub(crate) key: String,
}

/// What a case needs to know about a fixture beyond its broker.
pub(crate) trait Kind {
    /// How another process reaches the broker; `None` for the in-process one.
    fn elsewhere(&self) -> Option<String> {
        None
    }

    /// What becomes of a subscriber that is run with another filter than it was declared with.
    fn other_filter(&self) -> OtherFilter;

    /// Whether a topic cannot have the name of a queue whose dead-letter home is there.
    fn homes_mark_queues(&self) -> bool {
        false
    }
}

/// What becomes of a subscriber that is run with another filter than it was declared with.
pub(crate) enum OtherFilter {
    Refused,
    AsDeclared,
    AsRun,
}

/// What a case has at hand.
pub(crate) struct Scene<F: Fixture> {
    pub(crate) fixture: F,
    pub(crate) broker: F::Broker,
    prefix: String,
}

impl<F: Fixture> Scene<F> {
    pub(crate) async fn new(fixture: F, case: &str) -> Check<Self> {
        // The last part of a UUIDv7 is random, so that runs on one broker do not meet.
        let id = MessageId::unique().to_string();
        let run = id.rsplit('-').next().unwrap_or_default();
        Ok(Self {
            broker: fixture.connect().await?,
            fixture,
            prefix: format!("patterns.{run}.{case}"),
        })
    }

    /// A name that nobody else uses, legal on every broker, with dots.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{}.{what}", self.prefix)
    }

    /// Awaits what must come.
    pub(crate) async fn soon<T>(&self, what: &str, wait: impl Future<Output = T>) -> Check<T> {
        let patience = self.fixture.patience();
        match timeout(patience, wait).await {
            Ok(done) => Ok(done),
            Err(_) => Err(Failure::new(format!("{what}: not within {patience:?}"))),
        }
    }

    /// Passes if the wait does not end.
    pub(crate) async fn quiet<T>(&self, what: &str, wait: impl Future<Output = T>) -> Check {
        match timeout(self.fixture.quiet(), wait).await {
            Ok(_) => Err(Failure::new(format!("unexpected: {what}"))),
            Err(_) => Ok(()),
        }
    }

    /// The next so many things that handlers report.
    pub(crate) async fn reports<T>(
        &self,
        from: &mut mpsc::Receiver<T>,
        count: usize,
    ) -> Check<Vec<T>> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let what = format!("report {} of {count}", all.len() + 1);
            match self.soon(&what, from.recv()).await? {
                Some(report) => all.push(report),
                None => return Err(Failure::new(format!("{what}: all handlers are gone"))),
            }
        }
        Ok(all)
    }

    /// Takes the next message of a queue, and acknowledges it.
    pub(crate) async fn take(&self, queue: &str) -> Check<Received> {
        let queue = Subscription::queue(queue);
        let mut consumer = self.broker.consumer(&queue, ConsumePlan::new()).await?;
        let delivery = self.soon("a message", consumer.receive()).await??;
        let delivery = delivery.ok_or_else(|| Failure::new("the consumer ended"))?;
        let received = delivery.received().clone();
        delivery.ack()?;
        consumer.close().await?;
        Ok(received)
    }

    /// Takes the next dead letter of a subscriber, and acknowledges it.
    pub(crate) async fn dead(&self, source: &Subscription) -> Check<Received> {
        let home = source.dead_letter_home();
        let home = home.ok_or_else(|| Failure::new("no dead-letter home"))?;
        self.take(home.name()).await
    }

    /// Runs a worker beside the case.
    pub(crate) fn start(&self, run: Run) -> Running {
        let (stop, stopped) = oneshot::channel::<()>();
        let run = run.with_graceful_shutdown(async move {
            let _ = stopped.await;
        });
        Running {
            stop,
            task: tokio::spawn(run.into_future()),
        }
    }

    /// Stops a worker; it has to end without an error.
    pub(crate) async fn stop(&self, worker: Running) -> Check {
        let Running { stop, task } = worker;
        // One that has ended already says why.
        let _ = stop.send(());
        Ok(self.soon("the end of a worker", task).await???)
    }

    pub(crate) async fn close(&self) -> Check {
        Ok(self
            .soon("the end of the client", self.broker.close())
            .await??)
    }
}

/// A worker beside the case.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<mq_core::Result<()>>,
}

impl Running {
    /// Ends it in the middle of whatever it does, without a word to the broker.
    pub(crate) async fn abort(self) {
        self.task.abort();
        // Aborted or ended: it is over.
        let _ = self.task.await;
    }
}

/// Items numbered from 0, each with one of so many keys.
pub(crate) fn items(count: u64, keys: u64) -> Vec<Item> {
    let item = |number| Item {
        number,
        key: format!("key-{}", number % keys),
    };
    (0..count).map(item).collect()
}

pub(crate) fn numbers<'a>(items: impl IntoIterator<Item = &'a Item>) -> Vec<u64> {
    let mut numbers: Vec<u64> = items.into_iter().map(|item| item.number).collect();
    numbers.sort_unstable();
    numbers
}

#[track_caller]
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: &str) -> Check {
    if found == expected {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{what}: found {found:?}, expected {expected:?}"
    )))
}

/// Passes if it was refused with this kind of error, whose text names the thing and says what to do.
#[track_caller]
pub(crate) fn refused<T>(result: mq_core::Result<T>, kind: ErrorKind, name: &str) -> Check {
    let Err(error) = result else {
        return Err(Failure::new(format!("was not refused as {kind:?}")));
    };
    same(error.kind(), kind, "the kind of the refusal")?;
    let text = error.to_string();
    if text.contains(name) && text.contains("; ") {
        return Ok(());
    }
    Err(Failure::new(format!("names no {name}, or no help: {text}")))
}

/// A channel for what handlers report.
pub(crate) fn reports<T>() -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
    mpsc::channel(10_000)
}

/// A report is never waited for: it would hold up the worker.
pub(crate) fn report<T>(to: &mpsc::Sender<T>, what: T) -> Result<(), &'static str> {
    to.try_send(what).map_err(|_| "the case has ended")
}

/// The topic's name as [`Subscription::durable`] takes it.
pub(crate) fn durable(topic: &str, name: &str) -> Subscription {
    Subscription::durable(Arc::<str>::from(topic), name)
}

/// Longer than any case: for handlers that are stuck.
pub(crate) const FOREVER: Duration = Duration::from_secs(3600);
