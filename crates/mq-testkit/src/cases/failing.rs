//! Work that fails: it goes on, and what always fails reaches its ceiling.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use mq_core::{Failure as Failed, Received, Worker, headers};
use tokio::{sync::Notify, time::timeout};

use super::case::list;
use crate::{
    Check, Failure, Fixture,
    checks::{each_once, number, numbers},
    failure::ensure_eq,
    scene::Scene,
};

list![
    work_goes_on_after_failures needs FilledPrefetch,
    poison_reaches_its_ceiling_and_holds_up_no_other needs WholeMessages,
];

/// Watermill's *continue after errors*: every message fails twice.
async fn work_goes_on_after_failures<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 60).await?;
    let mut reader = scene.open(&queue.from).await?;
    for attempt in 1..=2 {
        let failing = reader.take(60).await?;
        for delivery in failing {
            ensure_eq!(delivery.attempt(), attempt, "attempt before the failure");
            // Put down without a verdict, as a handler that fails does.
            drop(delivery);
        }
    }
    let received = reader.ack(60).await?;
    each_once(&numbers(&received)?, 0..60)?;
    for one in received {
        ensure_eq!(one.attempt(), 3, "attempt after two failures");
    }
    reader.nothing().await?;
    reader.close().await?;
    scene.is_empty(&queue).await
}

async fn poison_reaches_its_ceiling_and_holds_up_no_other<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 50).await?;
    let (handled, attempts) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(AtomicUsize::new(0)),
    );
    let done = Arc::new(Notify::new());
    let (seen, tried, enough) = (handled.clone(), attempts.clone(), done.clone());
    let handler = move |received: Received| {
        let (seen, tried, enough) = (seen.clone(), tried.clone(), enough.clone());
        async move {
            let number =
                number(received.message()).map_err(|f| Failed::permanent(f.to_string()))?;
            let good = number % 10 != 3;
            if good {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.push(number);
                if seen.len() == 45 {
                    enough.notify_one();
                }
                return Ok(());
            }
            tried.fetch_add(1, Ordering::Relaxed);
            Err(Failed::transient("it never works"))
        }
    };
    let stop = Arc::new(Notify::new());
    let stopped = stop.clone();
    let worker = Worker::new(&scene.broker, queue.from.clone())
        .concurrency(4)
        .max_attempts(3)
        .run(handler)
        .with_graceful_shutdown(async move { stopped.notified().await });
    let worker = tokio::spawn(async move { worker.await });
    timeout(scene.patience(), done.notified())
        .await
        .map_err(|_| Failure::new("the good messages were held up"))?;
    let mut dead = scene.open(&queue.dead().from).await?;
    let letters = dead.ack(5).await?;
    stop.notify_one();
    timeout(scene.patience(), worker).await???;
    for letter in &letters {
        ensure_eq!(number(letter)? % 10, 3, "last digit of a dead letter");
        let made = letter.headers().text(headers::DEAD_ATTEMPTS);
        ensure_eq!(made, Some("3"), "attempts of a dead letter");
    }
    dead.nothing().await?;
    dead.close().await?;
    ensure_eq!(attempts.load(Ordering::Relaxed), 15, "attempts in all");
    let handled = handled
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let among_good = |n: u64| n - n / 10 - u64::from(n % 10 > 3);
    each_once(
        &handled.into_iter().map(among_good).collect::<Vec<_>>(),
        0..45,
    )?;
    scene.is_empty(&queue).await
}
