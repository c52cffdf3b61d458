//! The conformance suite on a running Kafka, named by `MQ_KAFKA_SERVERS`.

use std::{process::ExitCode, time::Duration};

use mq_kafka::Kafka;
use mq_testkit::{Fixture, Suite, broker_address};

struct Servers(String);

impl Fixture for Servers {
    type Broker = Kafka;

    async fn connect(&self) -> mq_core::Result<Kafka> {
        // Few partitions: each case makes topics of its own, which stay on the broker.
        Kafka::builder(&self.0).partitions(4).connect().await
    }

    /// A member that joins waits for two heartbeats of the group, 5 s each unless the broker is told
    /// otherwise, and the first of four waits for all of them.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn quiet(&self) -> Duration {
        // Longer than a fetch waits for records.
        Duration::from_secs(1)
    }
}

fn main() -> ExitCode {
    Suite::new(
        "conformance",
        "mq-kafka",
        broker_address("MQ_KAFKA_SERVERS"),
    )
    // Above the patience, so that a case can say what did not come.
    .deadline(Duration::from_secs(120))
    .conformance(Servers, include_str!("conformance.expected"))
    .run()
}
