//! What the tests that kill brokers share: a cluster of a run, and stories that the checker judges.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

pub mod cluster;
pub mod story;

use std::{
    env, process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use mq_core::Error;
use mq_testkit::{Check, Failure};
use tokio::time::{Instant, sleep};

/// A name that no other run uses.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_micros());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{now}-{count}", process::id())
}

/// What `cargo xtask e2e` tells by this variable.
pub fn told(variable: &str) -> Check<String> {
    env::var(variable).map_err(|_| Failure::new(format!("{variable} is not set")))
}

/// Tries until it works or [`PATIENCE`] is over: a broker that was killed takes its time.
pub async fn patiently<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> Check<T>
where
    F: Future<Output = Result<T, Error>>,
{
    let start = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if start.elapsed() > PATIENCE => {
                let seconds = PATIENCE.as_secs();
                return Err(Failure::new(format!(
                    "{what}: not within {seconds} s: {error}"
                )));
            }
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Ends a wait that should not be one.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> Check<T> {
    let late = |_| Failure::new(format!("{what}: not within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, wait).await.map_err(late)
}

/// How long a broker may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
