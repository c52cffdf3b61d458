//! A copier: a worker under the guarantee, which tells its transactions line by line, and aborts one at SIGUSR1.

use std::{io::Write, time::Duration};

use mq_core::{Message, Outcome, Received, Subscription, Worker};
use mq_kafka::ExactlyOnce;
use tokio::signal::unix::{SignalKind, signal};

use super::{FROM, PART, SOURCE, TRANSACTION_TIMEOUT, connect, target};
use crate::{
    Result,
    process::{end_with_the_conductor, patiently, terminated},
};

/// Copies until SIGTERM, an error, or the end of the conductor.
pub(crate) fn start(address: &str, id: &str) -> Result<bool> {
    end_with_the_conductor()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(copy(address, id))?;
    Ok(true)
}

async fn copy(address: &str, id: &str) -> Result {
    let stop = terminated()?;
    let mut aborts = signal(SignalKind::user_defined1())?;
    let kafka = patiently(|| connect(address, id)).await?;
    let guarantee = ExactlyOnce::new(id)
        .transaction_timeout(TRANSACTION_TIMEOUT)
        .require_tv2();
    let telling = tokio::spawn({
        let guarantee = guarantee.clone();
        async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = aborts.recv() => guarantee.abort(),
                }
                let transactions = guarantee.transactions();
                println!("{} {}", transactions.committed, transactions.aborted);
                // A conductor that is gone is noticed elsewhere.
                let _ = std::io::stdout().flush();
            }
        }
    });
    let worker = Worker::new(&kafka, Subscription::queue(SOURCE))
        .guarantee(guarantee)
        .concurrency(4)
        .prefetch(200);
    let worked = worker.run(handle).with_graceful_shutdown(stop).await;
    telling.abort();
    Ok(worked?)
}

async fn handle(received: Received) -> Outcome {
    let Some(at) = received.position() else {
        return Outcome::reject("it has no position");
    };
    // Handlers of a partition end in another order than they begin.
    tokio::time::sleep(Duration::from_micros(500 + at.offset % 7 * 500)).await;
    let mut outcome = Outcome::ack();
    for part in ["a", "b"] {
        let key = received.key().and_then(|key| key.as_str());
        let key = format!("{}-{part}", key.unwrap_or_default());
        let copy = Message::new(received.payload().cloned().unwrap_or_default())
            .key(key)
            .header(FROM, format!("{}:{}", at.partition, at.offset))
            .header(PART, part);
        outcome = outcome.publish(&target(), copy);
    }
    outcome
}
