//! Which fault strikes which side at which moment.

use std::{sync::Arc, time::Duration};

use super::{Proxied, consuming, publishing, stage::Stage};
use crate::{
    Check,
    proxy::{Direction, Fault},
    trial::{self, Planned},
};

/// One case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    /// `<side>: <toxic>, <moment>`.
    pub(super) name: &'static str,
    side: Side,
    pub(super) toxic: Toxic,
    pub(super) moment: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Publisher,
    Consumer,
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
use Side::{Consumer, Publisher};
use Toxic::{Bandwidth, BlackHole, Cut, HalfOpen, Latency, Reset, Slices, SlowClose};

/// Each fault for each side, each moment four times.
const CELLS: [Cell; 16] = [
    cell(
        "publisher: latency, mid-frame",
        Publisher,
        Latency,
        MidFrame,
    ),
    cell(
        "publisher: bandwidth, handshake",
        Publisher,
        Bandwidth,
        Handshake,
    ),
    cell(
        "publisher: black hole, mid-commit",
        Publisher,
        BlackHole,
        MidCommit,
    ),
    cell("publisher: half-open, idle", Publisher, HalfOpen, Idle),
    cell("publisher: reset, mid-frame", Publisher, Reset, MidFrame),
    cell("publisher: slow close, idle", Publisher, SlowClose, Idle),
    cell(
        "publisher: one-byte slices, handshake",
        Publisher,
        Slices,
        Handshake,
    ),
    cell(
        "publisher: cut after N bytes, mid-frame",
        Publisher,
        Cut,
        MidFrame,
    ),
    cell("consumer: latency, idle", Consumer, Latency, Idle),
    cell(
        "consumer: bandwidth, mid-commit",
        Consumer,
        Bandwidth,
        MidCommit,
    ),
    cell(
        "consumer: black hole, handshake",
        Consumer,
        BlackHole,
        Handshake,
    ),
    cell(
        "consumer: half-open, mid-commit",
        Consumer,
        HalfOpen,
        MidCommit,
    ),
    cell("consumer: reset, handshake", Consumer, Reset, Handshake),
    cell(
        "consumer: slow close, mid-commit",
        Consumer,
        SlowClose,
        MidCommit,
    ),
    cell(
        "consumer: one-byte slices, mid-frame",
        Consumer,
        Slices,
        MidFrame,
    ),
    cell("consumer: cut after N bytes, idle", Consumer, Cut, Idle),
];

const fn cell(name: &'static str, side: Side, toxic: Toxic, moment: Moment) -> Cell {
    Cell {
        name,
        side,
        toxic,
        moment,
    }
}

impl Cell {
    /// The fault, and for which direction.
    pub(super) fn fault(&self) -> (Direction, Fault) {
        let (data, answers) = match self.side {
            Publisher => (Direction::ToBroker, Direction::ToClient),
            Consumer => (Direction::ToClient, Direction::ToBroker),
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
            Cut => (data, Fault::CutAfter { bytes: 1000 }),
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
        }
    }
}

/// The cases for a suite.
pub(crate) fn planned<F: Proxied>(
    fixture: impl Fn(String) -> F + Send + Sync + 'static,
) -> impl Iterator<Item = Planned> {
    let fixture = Arc::new(fixture);
    CELLS.into_iter().map(move |cell| {
        let fixture = Arc::clone(&fixture);
        Planned {
            name: cell.name,
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
    use super::*;

    #[test]
    fn each_fault_strikes_each_side_once_and_each_moment_has_its_cases() {
        for one in &CELLS {
            let same = |other: &&Cell| other.side == one.side && other.toxic == one.toxic;
            assert_eq!(CELLS.iter().filter(same).count(), 1, "{}", one.name);
            let name = format!("{:?}: {:?}, {:?}", one.side, one.toxic, one.moment).to_lowercase();
            let plain = one
                .name
                .replace([' ', '-'], "")
                .replace("onebyteslices", "slices");
            let plain = plain.replace("cutafterNbytes", "cut");
            assert_eq!(plain, name.replace(' ', ""));
        }
        for moment in [Idle, Handshake, MidFrame, MidCommit] {
            assert_eq!(CELLS.iter().filter(|cell| cell.moment == moment).count(), 4);
        }
    }
}
