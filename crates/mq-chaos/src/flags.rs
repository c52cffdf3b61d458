//! The command line of `mq-chaos`.

use std::path::PathBuf;

use crate::{conductor::Plan, process::Order};

xflags::xflags! {
    /// Faults under load, and a checked history.
    cmd mq-chaos {
        /// Starts a broker, producers and consumers, makes faults by a schedule, drains, checks, reports.
        cmd run {
            /// rabbitmq or kafka
            required --broker name: String
            /// crash, pause, restart, network or mixed
            optional --scenario name: String
            /// How long there is load. Default 2
            optional --minutes minutes: u64
            /// The seed of the schedule. Default: a new one, which is printed
            optional --seed seed: u64
            /// Messages a second, of all producers together. Default 400
            optional --rate rate: u32
            /// Where the folder of the run is made. Default target/chaos
            optional --into folder: PathBuf
        }

        /// A producer; started by `run`.
        cmd producer {
            required --broker name: String
            required --address address: String
            required --history folder: PathBuf
            required --run name: String
            required --name name: String
            required --seed seed: u64
            required --rate rate: u32
        }

        /// A consumer; started by `run`.
        cmd consumer {
            required --broker name: String
            required --address address: String
            required --history folder: PathBuf
            required --run name: String
            required --name name: String
            required --seed seed: u64
        }
    }
}

impl TryFrom<Run> for Plan {
    type Error = String;

    fn try_from(flags: Run) -> Result<Self, String> {
        Ok(Self {
            kind: flags.broker.parse()?,
            scenario: flags.scenario.as_deref().unwrap_or("mixed").parse()?,
            minutes: flags.minutes.unwrap_or(2).max(1),
            seed: flags.seed.unwrap_or_else(fresh_seed),
            rate: flags.rate.unwrap_or(400).max(1),
            into: flags.into.unwrap_or_else(|| "target/chaos".into()),
        })
    }
}

impl TryFrom<Producer> for Order {
    type Error = String;

    fn try_from(flags: Producer) -> Result<Self, String> {
        Ok(Self {
            kind: flags.broker.parse()?,
            address: flags.address,
            history: flags.history,
            run: flags.run,
            name: flags.name,
            seed: flags.seed,
            rate: flags.rate,
        })
    }
}

impl TryFrom<Consumer> for Order {
    type Error = String;

    fn try_from(flags: Consumer) -> Result<Self, String> {
        Ok(Self {
            kind: flags.broker.parse()?,
            address: flags.address,
            history: flags.history,
            run: flags.run,
            name: flags.name,
            seed: flags.seed,
            rate: 0,
        })
    }
}

/// Short enough to be typed again.
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| u64::from(now.subsec_nanos()) % 1_000_000)
}
