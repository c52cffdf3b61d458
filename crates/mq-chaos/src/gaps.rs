//! How long nothing was done: between effects, and around each fault.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::Result;

/// When the effects of a run were, and how often it sent.
#[derive(Debug)]
pub(crate) struct Effects {
    times: Vec<u64>,
    sends: u64,
}

/// Half of them, 99 of 100, and all of them are at most so long, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Effects {
    /// Reads the files of a history.
    pub(crate) fn read(history: &Path) -> Result<Self> {
        let (mut times, mut sends) = (Vec::new(), 0);
        for entry in std::fs::read_dir(history)? {
            let path = entry?.path();
            if path
                .extension()
                .is_none_or(|extension| extension != "jsonl")
            {
                continue;
            }
            for line in BufReader::new(File::open(path)?).split(b'\n') {
                match serde_json::from_slice::<Line<'_>>(&line?) {
                    Ok(event) if event.op == "effect" => times.push(event.at),
                    Ok(event) if event.op == "send" => sends += 1,
                    _ => {}
                }
            }
        }
        Ok(Self::new(times, sends))
    }

    fn new(mut times: Vec<u64>, sends: u64) -> Self {
        times.sort_unstable();
        Self { times, sends }
    }

    /// Attempts to send, those of the same message included.
    pub(crate) fn sends(&self) -> u64 {
        self.sends
    }

    /// How many effects there were from one time to another.
    pub(crate) fn between(&self, from: u64, to: u64) -> usize {
        let before = |time: u64| self.times.partition_point(|at| *at < time);
        before(to).saturating_sub(before(from))
    }

    /// The gaps between one effect and the next.
    pub(crate) fn spread(&self) -> Spread {
        let gaps = self.times.windows(2).map(|pair| pair[1] - pair[0]);
        Spread::of(gaps.collect())
    }

    /// The longest gap, in microseconds, that touches a stretch of time.
    pub(crate) fn longest(&self, from: u64, to: u64) -> u64 {
        let before = self
            .times
            .partition_point(|at| *at < from)
            .saturating_sub(1);
        let touching = self.times[before..].windows(2);
        let touching = touching.take_while(|pair| pair[0] <= to);
        touching.map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }
}

impl Spread {
    /// Of microseconds.
    pub(crate) fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let at = |share: f64| {
            let last = micros.len().checked_sub(1)?;
            let index = (share * last as f64).ceil() as usize;
            Some(micros[index.min(last)] as f64 / 1e3)
        };
        Self {
            p50: at(0.5).unwrap_or(0.0),
            p99: at(0.99).unwrap_or(0.0),
            max: at(1.0).unwrap_or(0.0),
        }
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    at: u64,
    op: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_gap_around_a_fault() {
        let effects = Effects::new(vec![1_000, 2_000, 9_000, 3_000, 10_000], 6);
        assert_eq!(effects.between(2_000, 9_000), 2);
        assert_eq!(effects.longest(3_500, 4_000), 6_000);
        assert_eq!(effects.longest(2_500, 4_000), 6_000);
        assert_eq!(effects.longest(1_000, 1_500), 1_000);
        assert_eq!(effects.longest(9_500, 99_000), 1_000);
        assert_eq!(Effects::new(vec![], 0).longest(0, 1), 0);
    }

    #[test]
    fn a_spread_is_in_milliseconds() {
        let spread = Spread::of((1..=100).map(|n| n * 1_000).collect());
        assert_eq!((spread.p50, spread.p99, spread.max), (51.0, 100.0, 100.0));
        assert_eq!(Spread::of(vec![]), Spread::default());
    }
}
