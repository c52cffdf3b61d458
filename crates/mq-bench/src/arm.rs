//! An arm: one way to do the work of a row, run in a process of its own.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Relaxed},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::Result;

/// What an arm is told.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// Of the broker; empty for rows in memory.
    pub(crate) address: String,
    /// The queue, or the topic, that is made for this run.
    pub(crate) queue: String,
    /// A name that no other run has: of the group that reads a topic.
    pub(crate) group: String,
    pub(crate) messages: u64,
    /// Bytes of a payload; at least 8.
    pub(crate) size: usize,
}

impl Order {
    /// The topic that copies of this run's topic go to, where the row is one that copies.
    pub(crate) fn copies(&self) -> String {
        format!("{}-copies", self.group)
    }
}

/// A way to do the work. It calls [`Clock::start`] when it is connected and [`Clock::stop`] when all is done: each publish
/// confirmed, or each message taken and settled at the broker.
pub(crate) type Run = for<'a> fn(&'a Order, &'a mut Clock) -> BoxFuture<'a, Result>;

/// What is measured between start and stop.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    begun: Option<(Instant, Duration, u64)>,
    measured: Option<Measured>,
}

/// What one run took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) messages: u64,
    pub(crate) seconds: f64,
    /// User and system time of this process.
    pub(crate) cpu_seconds: f64,
    /// Context switches of this process.
    pub(crate) switches: u64,
    /// The most memory that this process ever had, in KiB.
    pub(crate) peak_kib: u64,
}

impl Clock {
    pub(crate) fn start(&mut self) {
        self.begun = Some((Instant::now(), cpu(), switches()));
    }

    pub(crate) fn stop(&mut self, messages: u64) {
        let Some((begun, cpu_before, switches_before)) = self.begun else {
            return;
        };
        self.measured = Some(Measured {
            messages,
            seconds: begun.elapsed().as_secs_f64(),
            cpu_seconds: cpu().saturating_sub(cpu_before).as_secs_f64(),
            // Those of a thread that has ended are gone from the count.
            switches: switches().saturating_sub(switches_before),
            peak_kib: status("VmHWM:"),
        });
    }

    /// What was measured; nothing if the work did not come to its end.
    pub(crate) fn measured(&self) -> Option<Measured> {
        self.measured
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Of all threads, those that have ended among them only as far as the system still counts them.
fn switches() -> u64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return 0;
    };
    let of = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        line(&text, "voluntary_ctxt_switches:") + line(&text, "nonvoluntary_ctxt_switches:")
    };
    threads.flatten().map(of).sum()
}

fn status(name: &str) -> u64 {
    line(
        &std::fs::read_to_string("/proc/self/status").unwrap_or_default(),
        name,
    )
}

fn line(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The payload of a message: its number, and then filling.
pub(crate) fn payload(number: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0xA5; size.max(8)];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// An id as long as those of ours.
pub(crate) fn id(number: u64) -> String {
    format!("00000000-0000-7000-8000-{number:012}")
}

/// Counts what was received, and adds up the numbers, so that no arm skips its work.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    sum: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, payload: &[u8]) {
        self.count += 1;
        if let Some(bytes) = payload.first_chunk::<8>() {
            self.sum = self.sum.wrapping_add(u64::from_be_bytes(*bytes));
        }
    }

    /// An error unless each of the messages 0 to `messages` was received once.
    pub(crate) fn check(&self, messages: u64) -> Result {
        let sum = (0..messages).fold(0_u64, u64::wrapping_add);
        if (self.count, self.sum) == (messages, sum) {
            Ok(())
        } else {
            Err(format!("{self:?} is not what {messages} messages are").into())
        }
    }
}

/// The same for handlers that run beside each other: the first message and the last one are told of. Where a message may come
/// again it counts once.
#[derive(Debug)]
pub(crate) struct SharedTally {
    messages: u64,
    /// A bit for each message.
    seen: Vec<AtomicU64>,
    count: AtomicU64,
    begun: Notify,
    done: Notify,
}

impl SharedTally {
    /// For the messages 0 to `messages`.
    pub(crate) fn new(messages: u64) -> Self {
        Self {
            messages,
            seen: (0..=messages / 64).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            begun: Notify::new(),
            done: Notify::new(),
        }
    }

    /// Counts one that has not come before; the last one wakes who waits for [`SharedTally::all`].
    pub(crate) fn add(&self, payload: &[u8]) {
        let number = payload.first_chunk::<8>().map(|b| u64::from_be_bytes(*b));
        // What is none of them has no bit.
        let Some(number) = number.filter(|number| *number < self.messages) else {
            return;
        };
        let (word, bit) = (number / 64, 1 << (number % 64));
        let before = self.seen[word as usize].fetch_or(bit, Relaxed);
        if before & bit != 0 {
            return;
        }
        let before = self.count.fetch_add(1, AcqRel);
        if before == 0 {
            self.begun.notify_one();
        }
        if before + 1 == self.messages {
            self.done.notify_one();
        }
    }

    /// Waits for the first message.
    pub(crate) async fn first(&self) {
        self.begun.notified().await;
    }

    /// Waits until each of them has come.
    pub(crate) async fn all(&self) {
        self.done.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_tally_finds_what_is_missing_or_there_twice() {
        let of = |numbers: &[u64]| {
            let mut tally = Tally::default();
            for number in numbers {
                tally.add(&payload(*number, 16));
            }
            tally
        };
        assert!(of(&[2, 0, 1]).check(3).is_ok());
        assert!(of(&[0, 1]).check(3).is_err());
        assert!(of(&[0, 1, 1]).check(3).is_err());
    }

    #[tokio::test]
    async fn a_shared_tally_counts_each_message_once() {
        let tally = SharedTally::new(66);
        (0..65).for_each(|number| tally.add(&payload(number, 16)));
        // One that came before, and two that are none of them.
        for number in [64, 66, u64::MAX] {
            tally.add(&payload(number, 16));
        }
        tally.add(b"short");
        tally.first().await;
        assert!(tally.all().now_or_never().is_none());
        tally.add(&payload(65, 16));
        tally.all().await;
    }

    #[test]
    fn time_and_work_between_start_and_stop_are_measured() {
        let mut clock = Clock::default();
        assert!(clock.measured().is_none());
        clock.start();
        let mut sum = 0_u64;
        while clock
            .begun
            .is_some_and(|(begun, ..)| begun.elapsed() < Duration::from_millis(50))
        {
            sum = std::hint::black_box(sum + 1);
        }
        clock.stop(sum);
        let measured = clock.measured().expect("it was stopped");
        assert!(
            measured.seconds >= 0.05 && measured.cpu_seconds > 0.01,
            "{measured:?}"
        );
        assert_eq!(measured.messages, sum);
    }
}
