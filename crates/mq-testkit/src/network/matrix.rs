//! Which fault strikes which side at which moment.

use std::{sync::Arc, time::Duration};

use super::{Proxied, consuming, declaring, publishing, stage::Stage};
use crate::{
    Check,
    proxy::{Direction, Fault},
    trial::{self, Planned},
};

/// One case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    side: Side,
    pub(super) toxic: Toxic,
    pub(super) moment: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Publisher,
    Consumer,
    Admin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Toxic {
    Latency,
    Bandwidth,
    BlackHole,
    HalfOpen,
    Reset,
    SlowClose,
    Slices,
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    Idle,
    Handshake,
    MidFrame,
    MidCommit,
}

use Moment::{Handshake, Idle, MidCommit, MidFrame};
use Side::{Admin, Consumer, Publisher};
use Toxic::{Bandwidth, BlackHole, Cut, HalfOpen, Latency, Reset, Slices, SlowClose};

/// The words of a case's name: `<side>: <toxic>, <moment>`.
const SIDES: [(Side, &str); 3] = [
    (Publisher, "publisher"),
    (Consumer, "consumer"),
    (Admin, "admin"),
];
const TOXICS: [(Toxic, &str); 8] = [
    (Latency, "latency"),
    (Bandwidth, "bandwidth"),
    (BlackHole, "black hole"),
    (HalfOpen, "half-open"),
    (Reset, "reset"),
    (SlowClose, "slow close"),
    (Slices, "one-byte slices"),
    (Cut, "cut after N bytes"),
];
const MOMENTS: [(Moment, &str); 4] = [
    (Idle, "idle"),
    (Handshake, "handshake"),
    (MidFrame, "mid-frame"),
    (MidCommit, "mid-commit"),
];

/// Every case with its name.
fn cells() -> impl Iterator<Item = (String, Cell)> {
    SIDES.into_iter().flat_map(|(side, who)| {
        TOXICS.into_iter().flat_map(move |(toxic, what)| {
            MOMENTS.into_iter().map(move |(moment, when)| {
                let cell = Cell {
                    side,
                    toxic,
                    moment,
                };
                (format!("{who}: {what}, {when}"), cell)
            })
        })
    })
}

impl Cell {
    /// The fault, and for which direction.
    pub(super) fn fault(&self) -> (Direction, Fault) {
        let (data, answers) = match self.side {
            Publisher | Admin => (Direction::ToBroker, Direction::ToClient),
            Consumer => (Direction::ToClient, Direction::ToBroker),
        };
        // Where it has to end for the moment to be struck: in the first frames of a handshake, in an
        // answer that waits, and in requests that are short.
        let (cut, bytes) = match (self.moment, self.side) {
            (MidCommit, _) => (answers, 10),
            (Handshake, _) => (data, 100),
            (_, Admin) => (data, 20),
            _ => (data, 1000),
        };
        match self.toxic {
            Latency => {
                let (mean, jitter) = (Duration::from_millis(200), Duration::from_millis(100));
                (Direction::Both, Fault::Latency { mean, jitter })
            }
            Bandwidth => (Direction::Both, NARROW),
            BlackHole => (Direction::Both, Fault::BlackHole),
            HalfOpen => (answers, Fault::BlackHole),
            Reset => (Direction::Both, Fault::Reset),
            SlowClose => (
                Direction::Both,
                Fault::SlowClose {
                    delay: Duration::from_secs(2),
                },
            ),
            Slices => (Direction::Both, Fault::Slices { bytes: 1 }),
            Cut => (cut, Fault::CutAfter { bytes }),
        }
    }

    /// Whether a client has to go on by itself.
    pub(super) fn survivable(&self) -> bool {
        matches!(self.toxic, Latency | Bandwidth | Slices)
    }

    async fn run<F: Proxied>(self, fixture: Arc<F>) -> Check {
        let stage = Stage::new(fixture, self).await?;
        match self.side {
            Publisher => publishing::run(stage).await,
            Consumer => consuming::run(stage).await,
            Admin => declaring::run(stage).await,
        }
    }
}

/// The cases for a suite.
pub(crate) fn planned<F: Proxied>(
    fixture: impl Fn(String) -> F + Send + Sync + 'static,
) -> impl Iterator<Item = Planned> {
    let fixture = Arc::new(fixture);
    cells().map(move |(name, cell)| {
        let fixture = Arc::clone(&fixture);
        Planned {
            name: name.into(),
            group: "",
            needs: String::new(),
            shows: None,
            body: Box::new(move |address, deadline| {
                trial::end_of(deadline, cell.run(Arc::new(fixture(address))))
            }),
        }
    })
}

/// 64 KB a second: what is large takes long enough to be struck on its way.
pub(super) const NARROW: Fault = Fault::Bandwidth {
    bytes_per_second: 65_536,
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_fault_strikes_each_side_at_each_moment() {
        let names: BTreeSet<String> = cells().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 96);
        for name in [
            "publisher: latency, idle",
            "consumer: one-byte slices, mid-frame",
            "admin: cut after N bytes, mid-commit",
        ] {
            assert!(names.contains(name), "{name}");
        }
        for (name, cell) in cells() {
            let plain = |text: &str| text.replace(['-', ' ', ':', ','], "").to_lowercase();
            let debug = format!("{:?}{:?}{:?}", cell.side, cell.toxic, cell.moment);
            let name = name.replace("one-byte ", "").replace(" after N bytes", "");
            assert_eq!(plain(&name), plain(&debug));
        }
    }
}
