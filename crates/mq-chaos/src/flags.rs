//! The command line of `mq-chaos`.

use std::path::PathBuf;

use crate::{
    broker::{Kind, Protocol},
    conductor::Plan,
    exactly_once,
    process::{Order, Pace},
    schedule::Scenario,
    site::Ground,
};

xflags::xflags! {
    /// Faults under load, and a checked history.
    cmd mq-chaos {
        /// Starts a broker, producers and consumers, makes faults by a schedule, drains, checks, reports.
        cmd run {
            /// rabbitmq or kafka
            required --broker name: String
            /// crash, pause, restart, network, mixed, drains, alarms or lives
            optional --scenario name: String
            /// How long there is load. Default 2, unless faults or messages are given
            optional --minutes minutes: u64
            /// How many faults there are at least; kills that strike nothing are made again
            optional --faults faults: usize
            /// How many messages are sent at least
            optional --messages messages: u64
            /// Three nodes instead of one; a kill strikes the leader
            optional --cluster
            /// Of a Kafka group: classic or consumer. Default classic
            optional --protocol name: String
            /// The version of RabbitMQ's image
            optional --rabbitmq-version version: String
            /// The version of Kafka's image
            optional --kafka-version version: String
            /// Producers send again what is unknown
            optional --resend
            /// The seed of the schedule. Default: a new one, which is printed
            optional --seed seed: u64
            /// Messages a second, of all producers together. Default 400, with alarms 3000
            optional --rate rate: u32
            /// Where the folder of the run is made. Default target/chaos
            optional --into folder: PathBuf
        }

        /// Copies from Kafka to Kafka in transactions, while copiers and broker are killed.
        cmd exactly-once {
            /// How many originals there are. Default 200000
            optional --records records: usize
            /// How often a copier is killed. Default 30
            optional --copier-kills kills: usize
            /// How often the broker is killed. Default 10
            optional --broker-kills kills: usize
            /// How many copiers stand still for longer than their transaction may take. Default 5
            optional --zombies zombies: usize
            /// How many transactions are aborted on purpose. Default 20
            optional --aborts aborts: usize
            /// Decides on the order of the faults. Default: a new one, which is printed
            optional --seed seed: u64
            /// Where the folder of the run is made. Default target/chaos
            optional --into folder: PathBuf
        }

        /// A copier; started by `exactly-once`.
        cmd copier {
            required --address address: String
            required --id id: String
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
            optional --protocol name: String
            optional --resend
        }

        /// A consumer; started by `run`.
        cmd consumer {
            required --broker name: String
            required --address address: String
            required --history folder: PathBuf
            required --run name: String
            required --name name: String
            required --seed seed: u64
            optional --protocol name: String
            /// Some handlers take longer than a shutdown may
            optional --outlive
            /// All handlers take ten times as long
            optional --slow
        }
    }
}

impl TryFrom<Run> for Plan {
    type Error = String;

    fn try_from(flags: Run) -> Result<Self, String> {
        let kind: Kind = flags.broker.parse()?;
        let scenario: Scenario = flags.scenario.as_deref().unwrap_or("mixed").parse()?;
        let version = match (kind, flags.rabbitmq_version, flags.kafka_version) {
            (Kind::RabbitMq, version, None) | (Kind::Kafka, None, version) => version,
            _ => return Err(format!("that version is not one of {kind}")),
        };
        if flags.cluster && scenario.needs_proxy() {
            let word = scenario.word();
            return Err(format!(
                "the faults of {word} are made in front of one node"
            ));
        }
        if kind == Kind::Kafka && scenario == Scenario::Alarms {
            return Err("Kafka has no alarms".to_owned());
        }
        if scenario == Scenario::Lives && flags.faults.is_some() {
            return Err("lives is one fault that lasts: give minutes".to_owned());
        }
        let rate = match scenario {
            Scenario::Alarms => 3000,
            _ => 400,
        };
        let open = flags.faults.is_none() && flags.messages.is_none();
        Ok(Self {
            ground: Ground {
                kind,
                cluster: flags.cluster,
                version,
            },
            scenario,
            minutes: flags
                .minutes
                .or(open.then_some(2))
                .map(|minutes| minutes.max(1)),
            faults: flags.faults,
            messages: flags.messages,
            seed: flags.seed.unwrap_or_else(fresh_seed),
            rate: flags.rate.unwrap_or(rate).max(1),
            protocol: protocol(kind, flags.protocol)?,
            resend: flags.resend,
            into: flags.into.unwrap_or_else(|| "target/chaos".into()),
        })
    }
}

impl From<ExactlyOnce> for exactly_once::Plan {
    fn from(flags: ExactlyOnce) -> Self {
        Self {
            records: flags.records.unwrap_or(200_000).max(1),
            copier_kills: flags.copier_kills.unwrap_or(30),
            broker_kills: flags.broker_kills.unwrap_or(10),
            zombies: flags.zombies.unwrap_or(5),
            aborts: flags.aborts.unwrap_or(20),
            seed: flags.seed.unwrap_or_else(fresh_seed),
            into: flags.into.unwrap_or_else(|| "target/chaos".into()),
        }
    }
}

impl TryFrom<Producer> for Order {
    type Error = String;

    fn try_from(flags: Producer) -> Result<Self, String> {
        let kind = flags.broker.parse()?;
        Ok(Self {
            kind,
            address: flags.address,
            history: flags.history,
            run: flags.run,
            name: flags.name,
            seed: flags.seed,
            rate: flags.rate,
            protocol: protocol(kind, flags.protocol)?,
            resend: flags.resend,
            pace: Pace::Brisk,
        })
    }
}

impl TryFrom<Consumer> for Order {
    type Error = String;

    fn try_from(flags: Consumer) -> Result<Self, String> {
        let kind = flags.broker.parse()?;
        Ok(Self {
            kind,
            address: flags.address,
            history: flags.history,
            run: flags.run,
            name: flags.name,
            seed: flags.seed,
            rate: 0,
            protocol: protocol(kind, flags.protocol)?,
            resend: false,
            pace: match (flags.outlive, flags.slow) {
                (true, _) => Pace::Outlive,
                (_, true) => Pace::Slow,
                _ => Pace::Brisk,
            },
        })
    }
}

fn protocol(kind: Kind, word: Option<String>) -> Result<Option<Protocol>, String> {
    match (kind, word) {
        (Kind::RabbitMq, Some(_)) => Err("RabbitMQ has no protocols of groups".to_owned()),
        (_, word) => word.map(|word| word.parse()).transpose(),
    }
}

/// Short enough to be typed again.
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| u64::from(now.subsec_nanos()) % 1_000_000)
}
