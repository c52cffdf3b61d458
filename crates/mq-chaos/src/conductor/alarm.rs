//! Alarms of RabbitMQ: it runs out of memory, or of disk, and lets nobody publish.

use std::time::{Duration, Instant};

use mq_chaos::containers::now;
use serde::Serialize;
use tokio::time::{interval, sleep};

use super::{Run, faults::Made};
use crate::{
    Result,
    broker::WINDOW,
    in_flight,
    process::Role,
    samples,
    schedule::{Fault, Step},
};

/// What the producers did under an alarm.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Alarm {
    /// From the alarm to each producer's knowing that it is blocked, in milliseconds.
    pub(crate) blocked_ms: Vec<f64>,
    /// Producers that did not get to know it.
    pub(crate) not_blocked: usize,
    /// The most that a producer's memory grew by, in KiB.
    pub(crate) growth_kib: u64,
    /// Producers whose window was full all the time, so that they published as fast as they were let.
    pub(crate) full: usize,
}

impl Run {
    /// Raises an alarm, and takes it back when the step is over.
    pub(super) async fn alarm(&mut self, step: Step) -> Result<Made> {
        // What the consumers go on with meanwhile.
        let start = Instant::now();
        while self.observer.left().await.unwrap_or(0) < BACKLOG && start.elapsed() < FOR_BACKLOG {
            sleep(Duration::from_millis(200)).await;
        }
        let (raise, end) = match step.fault {
            Fault::MemoryAlarm => (
                "vm_memory_monitor:set_vm_memory_high_watermark(0.0000001)",
                "vm_memory_monitor:set_vm_memory_high_watermark(0.6)",
            ),
            _ => (
                "rabbit_disk_monitor:set_disk_free_limit(\"1000TB\")",
                "rabbit_disk_monitor:set_disk_free_limit(\"50MB\")",
            ),
        };
        let files = self.crew.files(None);
        let before = self.memory();
        // The broker says when it is raised: the command takes a second to get there, and the broker one to look at its disk.
        let raised = format!("{raise}, erlang:system_time(microsecond).");
        let raised = self.evaluate(&raised).await?;
        let raised: u64 = raised.trim().parse()?;
        let mut alarm = Alarm::default();
        let start = Instant::now();
        let mut ticks = interval(LOOK);
        let mut told = vec![None; before.len()];
        let mut full = vec![true; before.len()];
        while start.elapsed() < step.lasts {
            ticks.tick().await;
            let producers = self.crew.members().iter();
            let producers = producers.filter(|member| member.role == Role::Producer);
            for (at, member) in producers.enumerate() {
                let Some(status) = member.now().status else {
                    continue;
                };
                if status.blocked_at > 0 {
                    told[at].get_or_insert(status.blocked_at);
                    // Before, the window fills; later, publishes end by their time-out and others take their place.
                    let judged = now() > status.blocked_at + FILLING && start.elapsed() < TIME_OUT;
                    let open = status.sent - status.answered.min(status.sent);
                    full[at] &= !judged || open >= WINDOW as u64 - 1;
                }
            }
            let grown = self.memory().into_iter().zip(&before);
            let grown = grown.map(|(now, before)| now.saturating_sub(*before)).max();
            alarm.growth_kib = alarm.growth_kib.max(grown.unwrap_or(0));
        }
        let in_flight = in_flight::at(&files, raised, now())?;
        self.evaluate(&format!("{end}.")).await?;
        let late = |at: u64| at.saturating_sub(raised) as f64 / 1e3;
        alarm.blocked_ms = told.iter().flatten().map(|at| late(*at)).collect();
        alarm.not_blocked = told.iter().filter(|at| at.is_none()).count();
        alarm.full = full.iter().filter(|full| **full).count();
        self.publishes_again().await?;
        Ok(Made {
            in_flight,
            alarm: Some(alarm),
            ..Made::default()
        })
    }

    /// KiB of each producer.
    fn memory(&self) -> Vec<u64> {
        let members = self.crew.members().iter();
        let producers = members.filter(|member| member.role == Role::Producer);
        let memory = producers.map(|member| {
            let sample = member.now().pid.and_then(samples::sample);
            sample.map_or(0, |sample| sample.rss_kib)
        });
        memory.collect()
    }

    /// Waits until every producer has one more outcome.
    async fn publishes_again(&mut self) -> Result {
        self.crew.ready(super::faults::READY).await?;
        for member in self.crew.members() {
            if member.role == Role::Producer {
                let free = |now: &crate::crew::Now| {
                    now.status
                        .as_ref()
                        .is_some_and(|status| status.blocked_at == 0)
                };
                member.until("let publish again", AGAIN, free).await?;
            }
        }
        Ok(())
    }

    async fn evaluate(&self, expression: &str) -> Result<String> {
        let ask = ["rabbitmqctl", "--quiet", "eval", expression];
        Ok(self.site.nodes[0].exec(&ask).await?)
    }
}

/// Messages that are there when an alarm comes.
const BACKLOG: u64 = 2_000;
const FOR_BACKLOG: Duration = Duration::from_secs(60);
/// Microseconds that a window takes to be full, at the latest.
const FILLING: u64 = 2_000_000;
/// A moment before that of the publishes that were on their way when the alarm came.
const TIME_OUT: Duration = Duration::from_secs(28);
const LOOK: Duration = Duration::from_millis(100);
const AGAIN: Duration = Duration::from_secs(30);
