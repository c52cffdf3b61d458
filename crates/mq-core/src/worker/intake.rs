//! The consuming loop: opens the consumer, feeds the lanes, and shuts down in order.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use tokio::task::{JoinError, JoinSet};

use super::{
    lanes::Lanes,
    runner::{Fault, Runner, Shared},
};
use crate::{
    Acknowledge, Broker, ConsumePlan, Consumer, Delivery, Error, ErrorKind, Guarantee, Result,
    Settlement, Subscription, Verdict,
};

/// What a worker is made of, apart from its handler.
#[derive(Debug)]
pub(super) struct Parts<B, G> {
    pub(super) broker: B,
    pub(super) subscription: Subscription,
    pub(super) guarantee: G,
    pub(super) plan: ConsumePlan,
    pub(super) concurrency: usize,
    pub(super) ordered: bool,
    pub(super) deadline: Duration,
}

/// Runs a worker from its checks to its close.
pub(super) async fn drive<B, G, R>(
    parts: Parts<B, G>,
    runner: R,
    stop: impl Future<Output = ()> + Send,
) -> Result<()>
where
    B: Broker,
    G: Guarantee<B>,
    R: Runner<B, G>,
{
    let plan = parts.finished_plan()?;
    let mut consumer = parts
        .broker
        .consumer(&parts.subscription, plan.clone())
        .await?;
    let session = parts.guarantee.start(&parts.broker, &mut consumer).await?;
    let shared = Arc::new(Shared {
        lanes: Lanes::new(parts.ordered),
        guarantee: parts.guarantee,
        session,
        max_attempts: plan.max_attempts,
        ordered: parts.ordered,
        // What is acknowledged already is handled in any case: it has no way back.
        stops_at_once: parts.ordered && plan.acknowledge != Acknowledge::BeforeHandling,
        subscription: parts.subscription.clone(),
        flow: parts.broker.flow(),
        tracer: parts.broker.tracer(),
        fault: Fault::default(),
    });
    // Dropping the set aborts the runners, so dropping this future leaves no task behind.
    let mut runners = JoinSet::new();
    for _ in 0..parts.concurrency {
        runners.spawn(runner.start(Arc::clone(&shared)));
    }
    tracing::debug!(subscription = %parts.subscription, "the worker has started");

    let before = plan.acknowledge == Acknowledge::BeforeHandling;
    let mut intake = Intake {
        consumer: &mut consumer,
        lanes: &shared.lanes,
        limit: usize::from(plan.prefetch),
        acknowledge_first: before,
    };
    let mut stop = pin!(stop);
    let mut batch = Vec::new();
    let fed = loop {
        // What is interrupted here is the waiting alone, never a batch that is on its way in.
        tokio::select! {
            biased;
            () = &mut stop => break Ok(()),
            error = shared.fault.wait() => break Err(error),
            Some(ended) = runners.join_next() => break Err(broken(ended)),
            received = intake.receive(&mut batch) => match received {
                Ok(0) => break Ok(()),
                Ok(_) => if let Err(error) = intake.take(&mut batch).await { break Err(error) },
                Err(error) => break Err(error),
            },
        }
    };

    // A consumer that failed while it handed over has left here what it had handed over by then.
    for delivery in batch {
        delivery.into_settlement().finish_logged(Verdict::Release);
    }
    if !before {
        // Not attempted yet, so not held against them. What is acknowledged already has no way
        // back and is handled instead.
        for settlement in shared.lanes.take_waiting() {
            settlement.finish_logged(Verdict::Release);
        }
    }
    shared.lanes.close();
    let finished = async { while runners.join_next().await.is_some() {} };
    if tokio::time::timeout(parts.deadline, finished)
        .await
        .is_err()
    {
        tracing::warn!(
            subscription = %parts.subscription,
            "handlers were dropped at the shutdown deadline; their messages go back"
        );
        // One that blocks its thread cannot be dropped; it is left to itself.
        if tokio::time::timeout(ABORT, runners.shutdown())
            .await
            .is_err()
        {
            tracing::error!(
                subscription = %parts.subscription,
                "a handler blocks its thread, and was left behind at the shutdown deadline"
            );
        }
    }
    let closed = match consumer.close().await {
        // Messages that come again are no failure of the worker: a group that shared out its partitions anew may have cost
        // verdicts hours ago.
        Err(error) if error.kind() == ErrorKind::Stale => {
            tracing::warn!(
                subscription = %parts.subscription, %error,
                "some settlements did not reach the broker; their messages come again"
            );
            Ok(())
        }
        closed => closed,
    };
    // The first error is the cause; those after it are what it led to.
    fed.and(shared.fault.take().map_or(Ok(()), Err)).and(closed)
}

/// How long handlers that are dropped may take to go.
const ABORT: Duration = Duration::from_secs(1);

/// The way from the consumer into the lanes.
struct Intake<'a, C> {
    consumer: &'a mut C,
    lanes: &'a Lanes,
    limit: usize,
    acknowledge_first: bool,
}

impl<C: Consumer> Intake<'_, C> {
    /// Waits for room, then for deliveries. Can be dropped at any time.
    async fn receive(&mut self, batch: &mut Vec<Delivery>) -> Result<usize> {
        let room = self.lanes.room(self.limit).await;
        self.consumer.receive_many(batch, room).await
    }

    /// Moves a batch into the lanes, and leaves it empty. Must run to its end.
    async fn take(&mut self, batch: &mut Vec<Delivery>) -> Result<()> {
        if self.acknowledge_first {
            let acknowledged = acknowledge(self.consumer, batch).await?;
            self.lanes.push(acknowledged.into_iter());
        } else {
            self.lanes
                .push(batch.drain(..).map(Delivery::into_settlement));
        }
        Ok(())
    }
}

/// A runner that ended by itself: a guarantee or a layer's clone panicked outside of a call.
fn broken(ended: std::result::Result<(), JoinError>) -> Error {
    let error = Error::new(ErrorKind::Bug, "worker", "a runner ended before its worker");
    match ended {
        Ok(()) => error,
        Err(join) => error.caused_by(join),
    }
}

/// Acknowledges a batch and waits until the broker has it.
///
/// What it may not have is not handled: it is delivered again, or lost.
async fn acknowledge<C: Consumer>(
    consumer: &mut C,
    batch: &mut Vec<Delivery>,
) -> Result<Vec<Settlement>> {
    let mut acknowledged = Vec::with_capacity(batch.len());
    for delivery in batch.drain(..) {
        let (received, settlement) = delivery.into_parts();
        if settlement.ack().is_ok() {
            acknowledged.push(Settlement::already_settled(received));
        }
    }
    match consumer.settled().await {
        Ok(()) => Ok(acknowledged),
        Err(error) if error.kind() == ErrorKind::Stale => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
