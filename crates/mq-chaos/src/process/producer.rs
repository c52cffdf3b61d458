//! A producer: a steady rate of tagged messages, as many on their way as the window lets.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use mq_core::{Broker, Destination, Error, ErrorKind, Message, Publisher};
use mq_testkit::history::{Event, HistoryError, Tag};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::Stage;
use crate::{
    Result,
    broker::{ORDERS, WINDOW},
    schedule::Dice,
};

/// Publishes until `stop`, or until its connection is over. What was sent by then has its outcome recorded.
pub(super) async fn run<B: Broker>(
    broker: B,
    stage: &Arc<Stage>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result {
    let mut answers = JoinSet::new();
    let ended = tokio::select! {
        ended = publish(&broker, stage, &mut answers) => Some(ended?),
        () = stop => None,
    };
    while let Some(answer) = answers.join_next().await {
        answer??;
    }
    if let Some(error) = ended {
        return Err(error.into());
    }
    broker.close().await?;
    Ok(())
}

/// Publishes until the publisher is over, and returns why.
async fn publish<B: Broker>(
    broker: &B,
    stage: &Arc<Stage>,
    answers: &mut JoinSet<Result<(), HistoryError>>,
) -> Result<Error> {
    let publisher = broker.publisher();
    let to = stage.order.kind.destination();
    let tags = stage.recorder.tags();
    let window = Arc::new(Semaphore::new(WINDOW));
    let mut dice = Dice::new(stage.order.seed);
    // In bursts: so several messages are on their way at a time, also where the broker is fast.
    let burst = u64::from(stage.order.rate.max(1)) * BURST.as_millis() as u64;
    let mut owed = 0;
    let mut ticks = interval(BURST);
    // What was not sent while the window was full is not made up for: the load would be another one.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        owed += burst;
        while owed >= 1000 {
            owed -= 1000;
            let permit = Arc::clone(&window).acquire_owned().await?;
            let key = format!("{}-{}", stage.order.name, dice.below(KEYS));
            let tag = tags.next(&key);
            stage.recorder.record(Event::send(&tag))?;
            stage.counters.sent.fetch_add(1, Relaxed);
            let message = Message::from(Message::new(tag.to_payload(SIZE)).key(tag.key()));
            let again = stage
                .order
                .resend
                .then(|| (publisher.clone(), message.clone()));
            match publisher.enqueue(&to, message).await {
                Ok(pending) => {
                    let (stage, to) = (Arc::clone(stage), to.clone());
                    answers.spawn(async move {
                        let outcome = pending.await;
                        stage
                            .recorder
                            .record(Event::outcome(&tag, ORDERS, &outcome))?;
                        if let (true, Some((publisher, message))) = (is_unknown(&outcome), again) {
                            resend(&stage, &publisher, &to, &tag, message).await?;
                        }
                        stage.counters.answered.fetch_add(1, Relaxed);
                        drop(permit);
                        Ok(())
                    });
                }
                Err(error) => {
                    let outcome = Err(error.clone());
                    stage
                        .recorder
                        .record(Event::outcome(&tag, ORDERS, &outcome))?;
                    stage.counters.answered.fetch_add(1, Relaxed);
                    if is_over(&error) {
                        return Ok(error);
                    }
                }
            }
        }
        stage.counters.tell();
        while let Some(answer) = answers.try_join_next() {
            answer??;
        }
    }
}

/// Sends a message again, the same with the same id, until its outcome is known or the publisher is over.
async fn resend(
    stage: &Stage,
    publisher: &impl Publisher,
    to: &Destination,
    tag: &Tag,
    message: Message,
) -> Result<(), HistoryError> {
    loop {
        stage.recorder.record(Event::send(tag))?;
        let outcome = match publisher.enqueue(to, message.clone()).await {
            Ok(pending) => pending.await,
            Err(error) => Err(error),
        };
        stage
            .recorder
            .record(Event::outcome(tag, ORDERS, &outcome))?;
        if !is_unknown(&outcome) {
            return Ok(());
        }
    }
}

fn is_unknown<T>(outcome: &mq_core::Result<T>) -> bool {
    matches!(outcome, Err(error) if error.kind() == ErrorKind::Unknown)
}

/// True unless the error is about this one message.
fn is_over(error: &Error) -> bool {
    use ErrorKind as Kind;
    !matches!(
        error.kind(),
        Kind::Timeout | Kind::Rejected | Kind::Unroutable | Kind::Unknown
    )
}

const BURST: Duration = Duration::from_millis(50);
/// Keys of one producer.
const KEYS: u64 = 300;
/// Bytes of a payload.
const SIZE: usize = 200;
