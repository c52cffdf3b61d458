//! The command line of `cargo xtask`.

use std::path::PathBuf;

use crate::brokers::Wish;

xflags::xflags! {
    /// Builds, checks and tests the workspace.
    cmd xtask {
        /// Every check that a change must pass, in the order of CI.
        cmd ci {}

        /// Every test: unit, integration, documentation, and those with brokers where containers can run.
        cmd test {
            /// Fail where a broker is missing (also when CI=true).
            optional --require-brokers
            /// Leave the brokers running at the end.
            optional --keep
            /// Use this RabbitMQ instead of a container.
            optional --rabbitmq url: String
            /// Use this Kafka instead of a container (host:port, several with commas).
            optional --kafka servers: String
            /// The RabbitMQ image's version, such as 4.3.
            optional --rabbitmq-version version: String
            /// The Kafka image's version, such as 4.3.1.
            optional --kafka-version version: String
        }

        /// Starts the brokers, runs the broker tests and the examples on each, prints the table of results.
        cmd e2e {
            /// Run instead the tests that kill nodes of clusters of three, one cluster at a time.
            optional --cluster
            /// Run instead the conformance suite ten times at once on each broker.
            optional --stress
            /// Write the tables of results into the README and the guides, instead of comparing them.
            optional --update
            /// Leave the brokers running at the end.
            optional --keep
            /// Use this RabbitMQ instead of a container.
            optional --rabbitmq url: String
            /// Use this Kafka instead of a container (host:port, several with commas).
            optional --kafka servers: String
            /// The RabbitMQ image's version, such as 4.3.
            optional --rabbitmq-version version: String
            /// The Kafka image's version, such as 4.3.1.
            optional --kafka-version version: String
        }

        /// Runs each example in memory and on the brokers that are running, and compares what it prints.
        cmd examples {
            /// The RabbitMQ to use; else MQ_RABBITMQ_URL, else the one that `e2e --keep` left.
            optional --rabbitmq url: String
            /// The Kafka to use; else MQ_KAFKA_SERVERS, else the one that `e2e --keep` left.
            optional --kafka servers: String
            /// The word that must come back in the output, with the example's name behind it, instead of a
            /// random one.
            optional --token word: String
        }

        /// Kills, stops and cuts off processes and a broker of its own under load, and has the history checked.
        cmd chaos {
            /// rabbitmq or kafka.
            required --broker name: String
            /// crash, pause, restart, network, mixed, drains, alarms or lives. Default mixed.
            optional --scenario name: String
            /// How long there is load. Default 2, unless faults or messages are given.
            optional --minutes minutes: u64
            /// How many faults there are at least; kills that strike nothing are made again.
            optional --faults faults: u64
            /// How many messages are sent at least.
            optional --messages messages: u64
            /// Three nodes instead of one; a kill strikes the leader.
            optional --cluster
            /// Of a Kafka group: classic or consumer. Default classic.
            optional --protocol name: String
            /// The RabbitMQ image's version, such as 4.0.
            optional --rabbitmq-version version: String
            /// The Kafka image's version, such as 3.9.2.
            optional --kafka-version version: String
            /// Producers send again, with the same id, what is unknown.
            optional --resend
            /// The seed of the schedule; with that of an earlier report its schedule comes again.
            optional --seed seed: u64
            /// Messages a second, of all producers together. Default 400, with alarms 3000.
            optional --rate rate: u64
        }

        /// Copies from Kafka to Kafka in transactions, while copiers and broker are killed, copiers become zombies and
        /// transactions are aborted on purpose.
        cmd exactly-once {
            /// How many originals there are. Default 200000.
            optional --records records: u64
            /// How often a copier is killed. Default 30.
            optional --copier-kills kills: u64
            /// How often the broker is killed. Default 10.
            optional --broker-kills kills: u64
            /// How many copiers stand still for longer than their transaction may take. Default 5.
            optional --zombies zombies: u64
            /// How many transactions are aborted on purpose. Default 20.
            optional --aborts aborts: u64
            /// Decides on the order of the faults.
            optional --seed seed: u64
        }

        /// Measures our crates beside bare clients and peers, and writes a report into docs/benchmarks.
        cmd bench {
            /// memory, amqp or kafka. Default: one after the other.
            optional broker: String
            /// Only rows whose name contains this.
            optional --row text: String
            /// How often each arm runs, beside its first run, which does not count. Default 15.
            optional --blocks blocks: usize
            /// How long a run lasts. Default 3.
            optional --seconds seconds: f64
            /// How many messages a run has, instead of as many as last so long.
            optional --messages messages: u64
            /// The seed of the order of the arms; that of an earlier report gives its order again.
            optional --seed seed: u64
            /// The broker on core 0, the clients on core 1.
            optional --pinned
            /// Against a null broker, which costs next to nothing, instead of a real one.
            optional --null
            /// Against this broker, which runs already, instead of a container.
            optional --address address: String
            /// Where the report is written. Default docs/benchmarks.
            optional --into folder: PathBuf
            /// Without the peers, which are many to build; rdkafka also needs cmake and a C compiler.
            optional --without-peers
        }

        /// Checks the rules that no compiler knows; prints file sizes and counts of public items.
        cmd tidy {}

        /// Checks each crate without features and with each single feature.
        cmd features {}

        /// Rehearses docs.rs from the packaged crates, warnings denied.
        cmd docs {}

        /// Compiles each crate's README program in a project that has only the packaged crate.
        cmd alone {}

        /// Prints the folder with the certificates of the TLS listeners in `compose/`, and makes it if need be.
        cmd certificates {}
    }
}

impl From<Test> for Wish {
    fn from(flags: Test) -> Self {
        Self {
            rabbitmq: flags.rabbitmq,
            kafka: flags.kafka,
            rabbitmq_version: flags.rabbitmq_version,
            kafka_version: flags.kafka_version,
            keep: flags.keep,
            required: flags.require_brokers,
        }
    }
}

impl From<E2e> for Wish {
    fn from(flags: E2e) -> Self {
        Self {
            rabbitmq: flags.rabbitmq,
            kafka: flags.kafka,
            rabbitmq_version: flags.rabbitmq_version,
            kafka_version: flags.kafka_version,
            keep: flags.keep,
            required: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> xflags::Result<Xtask> {
        Xtask::from_vec(args.iter().map(Into::into).collect())
    }

    #[test]
    fn e2e_takes_running_brokers_and_always_requires_them() {
        let parsed = parse(&[
            "e2e",
            "--rabbitmq",
            "amqp://h:1",
            "--kafka",
            "h:2,h:3",
            "--keep",
            "--update",
        ])
        .unwrap();
        let XtaskCmd::E2e(flags) = parsed.subcommand else {
            panic!("not e2e: {parsed:?}")
        };
        assert!(flags.update);
        let wish = Wish::from(flags);
        assert_eq!(wish.rabbitmq.as_deref(), Some("amqp://h:1"));
        assert_eq!(wish.kafka.as_deref(), Some("h:2,h:3"));
        assert!(wish.keep && wish.required);
    }

    #[test]
    fn test_requires_brokers_only_where_asked() {
        for (args, required) in [
            (&["test"][..], false),
            (&["test", "--require-brokers"][..], true),
        ] {
            let parsed = parse(args).unwrap();
            let XtaskCmd::Test(flags) = parsed.subcommand else {
                panic!("not test: {parsed:?}")
            };
            assert_eq!(Wish::from(flags).required, required);
        }
    }

    #[test]
    fn bench_measures_one_broker_or_all() {
        for (args, broker) in [
            (&["bench"][..], None),
            (
                &["bench", "amqp", "--null", "--seconds", "0.5"][..],
                Some("amqp"),
            ),
        ] {
            let parsed = parse(args).unwrap();
            let XtaskCmd::Bench(flags) = parsed.subcommand else {
                panic!("not bench: {parsed:?}")
            };
            assert_eq!(flags.broker.as_deref(), broker);
            assert_eq!(flags.seconds, broker.map(|_| 0.5));
        }
    }

    #[test]
    fn an_unknown_command_or_option_is_refused() {
        assert!(parse(&["everything"]).is_err());
        assert!(parse(&["tidy", "--keep"]).is_err());
    }
}
