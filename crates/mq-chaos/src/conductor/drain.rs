//! The end: the producers stop, the consumers take what is left, and the broker says that it is empty.

use std::time::{Duration, Instant};

use mq_testkit::history::Event;
use tokio::time::sleep;

use super::Run;
use crate::{Result, process::Role};

impl Run {
    /// Stops the producers, waits until nothing is left, stops the consumers. False if something is left at the deadline.
    pub(super) async fn drain(&mut self) -> Result<bool> {
        self.retire(Role::Producer).await;
        let start = Instant::now();
        let mut left = Ok(u64::MAX);
        while start.elapsed() < DEADLINE {
            left = self.observer.left().await;
            if matches!(left, Ok(0)) && self.crew.open(None) == 0 {
                // What a consumer still holds shows only when it is gone.
                self.retire(Role::Consumer).await;
                left = self.observer.left().await;
                if matches!(left, Ok(0)) {
                    self.record(Event::drained())?;
                    return Ok(true);
                }
                self.crew.start(Role::Consumer);
                self.crew.ready(STOP).await?;
            }
            sleep(Duration::from_millis(300)).await;
        }
        self.retire(Role::Consumer).await;
        let seconds = DEADLINE.as_secs();
        self.problems.push(match left {
            Ok(left) => {
                format!("stuck: {left} messages are left {seconds} s after the producers ended")
            }
            Err(error) => {
                format!("stuck: the broker did not say within {seconds} s what is left: {error}")
            }
        });
        Ok(false)
    }

    async fn retire(&mut self, role: Role) {
        if let Err(error) = self.crew.retire(role, STOP).await {
            self.problems.push(error.to_string());
        }
    }
}

/// Long enough for what waits after a fault, a session of a group included.
const DEADLINE: Duration = Duration::from_secs(120);
/// A publish ends within 30 s, and so does a worker.
const STOP: Duration = Duration::from_secs(60);
