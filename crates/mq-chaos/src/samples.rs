//! Memory and file descriptors of the processes, as the system counts them.

use std::{collections::BTreeMap, fs, time::Duration};

use serde::Serialize;

/// One look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sample {
    pub(crate) rss_kib: u64,
    pub(crate) fds: u64,
}

/// The first look at a process once it had settled, and the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Drift {
    pub(crate) seconds: u64,
    pub(crate) first: Sample,
    pub(crate) last: Sample,
    #[serde(skip)]
    since: Duration,
}

/// The lives of all processes.
#[derive(Debug, Default)]
pub(crate) struct Samples(BTreeMap<(String, u32), Drift>);

impl Samples {
    /// Takes a look at a process that is this old.
    pub(crate) fn look(&mut self, name: &str, pid: u32, age: Duration) {
        let Some(sample) = sample(pid).filter(|_| age >= SETTLED) else {
            return;
        };
        let fresh = Drift {
            seconds: 0,
            first: sample,
            last: sample,
            since: age,
        };
        let drift = self.0.entry((name.to_owned(), pid)).or_insert(fresh);
        drift.last = sample;
        drift.seconds = age.saturating_sub(drift.since).as_secs();
    }

    /// For each name the life that was longest.
    pub(crate) fn longest(&self) -> BTreeMap<String, Drift> {
        let mut longest: BTreeMap<String, Drift> = BTreeMap::new();
        for ((name, _), drift) in &self.0 {
            let kept = longest.entry(name.clone()).or_insert(*drift);
            if drift.seconds > kept.seconds {
                *kept = *drift;
            }
        }
        longest
    }
}

/// What the system says of a process, if it is there.
pub(crate) fn sample(pid: u32) -> Option<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(Sample {
        rss_kib: rss.trim().strip_suffix("kB")?.trim().parse().ok()?,
        fds: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64,
    })
}

/// Before this age a process is still making its connections.
const SETTLED: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_first_and_last_look_of_the_longest_life() {
        let own = std::process::id();
        let mut samples = Samples::default();
        samples.look("p", own, Duration::from_secs(1));
        assert!(samples.longest().is_empty());
        samples.look("p", own, Duration::from_secs(2));
        let open = fs::File::open("/proc/self/status").unwrap();
        samples.look("p", own, Duration::from_secs(9));
        drop(open);
        let drift = samples.longest()["p"];
        assert_eq!(drift.seconds, 7);
        assert!(drift.first.rss_kib > 0 && drift.last.fds > 0);
    }
}
