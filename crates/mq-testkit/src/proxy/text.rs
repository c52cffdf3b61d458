//! Faults, directions and scripts as text, both ways.

use std::{fmt, str::FromStr, time::Duration};

use super::{Direction, Fault, ProxyError, Script, Step};

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ToBroker => "to broker",
            Self::ToClient => "to client",
            Self::Both => "both ways",
        })
    }
}

impl FromStr for Direction {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        [Self::ToBroker, Self::ToClient, Self::Both]
            .into_iter()
            .find(|direction| direction.to_string() == text)
            .ok_or_else(|| bad(text, "direction", "both ways"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latency { mean, jitter } => {
                write!(f, "latency {} ±{}", Millis(*mean), Millis(*jitter))
            }
            Self::Bandwidth { bytes_per_second } => write!(f, "bandwidth {bytes_per_second} B/s"),
            Self::BlackHole => f.write_str("black hole"),
            Self::Slices { bytes } => write!(f, "slices of {bytes} B"),
            Self::CutAfter { bytes } => write!(f, "cut after {bytes} B"),
            Self::SlowClose { delay } => write!(f, "slow close {}", Millis(*delay)),
            Self::Reset => f.write_str("reset"),
            Self::Refuse => f.write_str("refuse"),
        }
    }
}

impl FromStr for Fault {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let fault = if let Some(rest) = text.strip_prefix("latency ") {
            let (mean, jitter) = rest.split_once(" ±").unwrap_or((rest, "0ms"));
            millis(mean)
                .zip(millis(jitter))
                .map(|(mean, jitter)| Self::Latency { mean, jitter })
        } else if let Some(rest) = text.strip_prefix("bandwidth ") {
            number(rest, " B/s").map(|bytes_per_second| Self::Bandwidth { bytes_per_second })
        } else if let Some(rest) = text.strip_prefix("slices of ") {
            number(rest, " B").map(|bytes| Self::Slices { bytes })
        } else if let Some(rest) = text.strip_prefix("cut after ") {
            number(rest, " B").map(|bytes| Self::CutAfter { bytes })
        } else if let Some(rest) = text.strip_prefix("slow close ") {
            millis(rest).map(|delay| Self::SlowClose { delay })
        } else {
            [Self::BlackHole, Self::Reset, Self::Refuse]
                .into_iter()
                .find(|fault| fault.to_string() == text)
        };
        fault.ok_or_else(|| bad(text, "fault", "latency 200ms ±100ms"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lasts = Millis(self.lasts);
        match &self.fault {
            Some((direction, fault)) => write!(f, "{lasts} {direction}: {fault}"),
            None => write!(f, "{lasts} quiet"),
        }
    }
}

impl FromStr for Step {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let wrong = || bad(text, "step", "1500ms both ways: black hole");
        let (lasts, what) = text.split_once(' ').ok_or_else(wrong)?;
        let lasts = millis(lasts).ok_or_else(wrong)?;
        let fault = match what.split_once(": ") {
            Some((direction, fault)) => Some((direction.parse()?, fault.parse()?)),
            None if what == "quiet" => None,
            None => return Err(wrong()),
        };
        Ok(Self { lasts, fault })
    }
}

/// The seed, then a line for each step.
impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}", self.seed())?;
        self.steps()
            .iter()
            .try_for_each(|step| write!(f, "\n{step}"))
    }
}

impl FromStr for Script {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let seed = first
            .strip_prefix("seed ")
            .and_then(|seed| seed.parse().ok());
        let seed = seed.ok_or_else(|| bad(first, "first line of a script", "seed 42"))?;
        let steps = lines.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self::of(seed, steps))
    }
}

struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

fn millis(text: &str) -> Option<Duration> {
    number(text, "ms").map(Duration::from_millis)
}

fn number(text: &str, unit: &str) -> Option<u64> {
    text.strip_suffix(unit)?.parse().ok()
}

fn bad(text: &str, what: &'static str, like: &'static str) -> ProxyError {
    let text = text.chars().take(SHOWN).collect();
    ProxyError::Parse { text, what, like }
}

const SHOWN: usize = 100;
