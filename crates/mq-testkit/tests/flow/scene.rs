//! What a case has at hand: a broker whose events are recorded, and what they have to be.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use mq_core::{
    Broker, ConsumePlan, Destination, Message, MessageBuilder, MessageId, Outcome, Publisher,
    Received, Subscription, Worker, flow::FlowKind as Kind,
};
use mq_testkit::{
    Check, Failure,
    flow::{FlowRecorder, FlowStep},
};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

pub(crate) struct Scene<B> {
    pub(crate) broker: B,
    recorder: Arc<FlowRecorder>,
    prefix: String,
}

impl<B: Broker> Scene<B> {
    pub(crate) fn new(broker: B, recorder: Arc<FlowRecorder>) -> Self {
        let id = MessageId::unique().to_string();
        let run = id.rsplit('-').next().unwrap_or_default();
        Self {
            broker,
            recorder,
            prefix: format!("flow.{run}"),
        }
    }

    /// A name that nobody else uses.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{}.{what}", self.prefix)
    }

    pub(crate) async fn queue(&self, what: &str) -> Check<Destination> {
        let queue = Destination::queue(self.name(what));
        self.soon(self.broker.declare(&queue)).await??;
        Ok(queue)
    }

    pub(crate) async fn publish(&self, to: &Destination, id: &str) -> Check {
        let publisher = self.broker.publisher();
        self.soon(publisher.publish(to, message(id))).await??;
        Ok(())
    }

    pub(crate) async fn consumer(&self, queue: &Destination) -> Check<B::Consumer> {
        let source = Subscription::queue(queue.name().clone());
        Ok(self
            .soon(self.broker.consumer(&source, ConsumePlan::new()))
            .await??)
    }

    /// Runs a worker beside the case.
    pub(crate) fn work(&self, queue: &Destination, decide: fn(&Received) -> Outcome) -> Running {
        self.work_with(queue, 1, decide)
    }

    pub(crate) fn work_with(
        &self,
        queue: &Destination,
        concurrency: usize,
        decide: fn(&Received) -> Outcome,
    ) -> Running {
        let (stop, stopped) = oneshot::channel::<()>();
        let run = Worker::new(&self.broker, Subscription::queue(queue.name().clone()))
            .concurrency(concurrency)
            .run(move |received: Received| async move { decide(&received) })
            .with_graceful_shutdown(async move {
                let _ = stopped.await;
            });
        let task = tokio::spawn(run.into_future());
        Running { stop, task }
    }

    pub(crate) async fn stop(&self, running: Running) -> Check {
        let _ = running.stop.send(());
        Ok(self.soon(running.task).await???)
    }

    /// Waits until so many events of a kind came.
    pub(crate) async fn reached(&self, kind: Kind, count: usize) -> Check {
        let reached = self.soon(self.recorder.reached(kind, count)).await;
        reached.map_err(|_| {
            let found = self.steps(|step| step.kind == kind).len();
            Failure::new(format!("{found} of {count} {kind:?} came in time"))
        })
    }

    pub(crate) fn steps(&self, take: impl Fn(&FlowStep) -> bool) -> Vec<FlowStep> {
        let steps = self.recorder.steps().into_iter();
        steps.filter(take).collect()
    }

    pub(crate) fn kinds_of(&self, id: &str) -> Vec<Kind> {
        let of_it = |step: &FlowStep| {
            step.id
                .as_ref()
                .is_some_and(|found| found.to_string() == id)
        };
        self.steps(of_it).iter().map(|step| step.kind).collect()
    }

    /// The events of a message are these, in this order.
    #[track_caller]
    pub(crate) fn message(&self, id: &str, expected: &[Kind]) -> Check {
        same(self.kinds_of(id), expected.to_vec())
    }

    /// Each publish has exactly one end, told behind it; each delivery at most one settlement, and
    /// none without a delivery before it.
    pub(crate) fn one_end_each(&self) -> Check {
        let mut open: HashMap<(MessageId, String), i64> = HashMap::new();
        let mut held: HashMap<MessageId, i64> = HashMap::new();
        for step in self.steps(|step| step.id.is_some()) {
            let id = step.id.clone().expect("filtered");
            let to = step.destination.as_ref().map(ToString::to_string);
            let change = match step.kind {
                Kind::Published => 1,
                Kind::Confirmed | Kind::Unroutable | Kind::Rejected | Kind::Unknown => -1,
                _ => 0,
            };
            if change != 0 {
                let count = open
                    .entry((id.clone(), to.unwrap_or_default()))
                    .or_default();
                *count += change;
                same((0..=1).contains(count), true)?;
            }
            let change = match step.kind {
                Kind::Delivered => 1,
                Kind::Acked | Kind::Requeued | Kind::Released => -1,
                _ => 0,
            };
            let count = held.entry(id).or_default();
            *count += change;
            same((0..=1).contains(count), true)?;
        }
        same(open.values().all(|count| *count == 0), true)?;
        same(self.recorder.left_out(), 0)
    }

    pub(crate) async fn soon<T>(&self, wait: impl Future<Output = T>) -> Check<T> {
        let late = |_| Failure::new(format!("not within {SOON:?}"));
        timeout(SOON, wait).await.map_err(late)
    }

    pub(crate) async fn close(&self) -> Check {
        Ok(self.soon(self.broker.close()).await??)
    }
}

/// A worker beside the case.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<mq_core::Result<()>>,
}

pub(crate) fn message(id: &str) -> MessageBuilder {
    Message::new("x").id(MessageId::new(id).expect("an id"))
}

pub(crate) fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("message-{number}"))
}

#[track_caller]
pub(crate) fn same<T: PartialEq + fmt::Debug>(found: T, expected: T) -> Check {
    match found == expected {
        true => Ok(()),
        false => Err(Failure::new(format!(
            "found {found:?}, expected {expected:?}"
        ))),
    }
}

const SOON: Duration = Duration::from_secs(40);
