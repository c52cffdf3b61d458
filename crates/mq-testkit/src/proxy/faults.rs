//! The faults that are on for one direction of one connection.

use std::time::Duration;

use super::Fault;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// What the jitter is drawn from.
    pub(super) seed: u64,
    pub(super) latency: Option<(Duration, Duration)>,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) black_hole: bool,
    pub(super) slice: Option<usize>,
    pub(super) cut_after: Option<CutAfter>,
    pub(super) slow_close: Option<Duration>,
    pub(super) refuse: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CutAfter {
    pub(super) bytes: u64,
    /// Tells one from the next of as many bytes, which counts anew.
    pub(super) number: u64,
}

impl Faults {
    /// `number` is one that no other fault has. A reset changes nothing here: it is done once.
    pub(super) fn set(&mut self, fault: Fault, number: u64) {
        match fault {
            Fault::Latency { mean, jitter } => self.latency = Some((mean, jitter.min(mean))),
            Fault::Bandwidth { bytes_per_second } => {
                self.bytes_per_second = Some(bytes_per_second.max(1));
            }
            Fault::BlackHole => self.black_hole = true,
            Fault::Slices { bytes } => {
                self.slice = Some(usize::try_from(bytes.max(1)).unwrap_or(usize::MAX));
            }
            Fault::CutAfter { bytes } => self.cut_after = Some(CutAfter { bytes, number }),
            Fault::SlowClose { delay } => self.slow_close = Some(delay),
            Fault::Refuse => self.refuse = true,
            Fault::Reset => {}
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self {
            seed: self.seed,
            ..Self::default()
        };
    }
}
