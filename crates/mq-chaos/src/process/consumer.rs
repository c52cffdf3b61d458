//! A consumer: a worker whose handler takes a few milliseconds and records its effect.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use mq_core::{Broker, Received, State, Worker};
use mq_testkit::history::{Event, HistoryError, Tag};

use super::{Pace, Stage};
use crate::{
    Result,
    broker::{CONSUMERS, Kind, OPEN, ORDERS},
};

/// Consumes until `stop`, then finishes what is at work.
pub(super) async fn run<B: Broker>(
    broker: B,
    stage: &Arc<Stage>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result {
    let kind = stage.order.kind;
    let worker = Worker::new(&broker, kind.subscription())
        .concurrency(OPEN / CONSUMERS)
        .prefetch((OPEN / CONSUMERS) as u16)
        // A message is delivered again at each crash of who holds it: that is no fault of the message.
        .max_attempts(MAX_ATTEMPTS)
        .shutdown_deadline(DEADLINE)
        .state(Arc::clone(stage));
    let worker = match kind {
        Kind::RabbitMq => worker,
        Kind::Kafka => worker.ordered_by_key(),
    };
    worker.run(handle).with_graceful_shutdown(stop).await?;
    broker.close().await?;
    Ok(())
}

async fn handle(State(stage): State<Arc<Stage>>, received: Received) {
    if let Err(error) = effect(&stage, &received).await {
        // A history with a gap proves nothing.
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

async fn effect(stage: &Stage, received: &Received) -> Result<(), HistoryError> {
    stage.counters.delivered.fetch_add(1, Relaxed);
    // Corrupt bytes are recorded too, and done with.
    if let Ok(tag) = stage.recorder.received(ORDERS, received)? {
        let (seed, pace) = (stage.order.seed, stage.order.pace);
        tokio::time::sleep(work(seed, pace, &tag)).await;
        stage
            .recorder
            .record(Event::effect(received.source(), &tag))?;
    }
    stage.counters.finished.fetch_add(1, Relaxed);
    Ok(())
}

/// How long the handler takes, by the seed, the pace and the message.
fn work(seed: u64, pace: Pace, tag: &Tag) -> Duration {
    let mut hasher = DefaultHasher::new();
    (seed, tag).hash(&mut hasher);
    let drawn = hasher.finish();
    let brisk = Duration::from_millis(5 + drawn % 26);
    match pace {
        Pace::Brisk => brisk,
        Pace::Slow => brisk * 10,
        Pace::Outlive if (drawn >> 32).is_multiple_of(100) => DEADLINE + Duration::from_secs(3),
        Pace::Outlive => brisk,
    }
}

/// How long handlers may go on after SIGTERM.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
/// As many as RabbitMQ counts before it takes a message away itself.
const MAX_ATTEMPTS: u32 = 20;
