//! The conformance suite, on the Kafka that `MQ_KAFKA_SERVERS` names.

use std::{process::ExitCode, time::Duration};

use mq_kafka::Kafka;
use mq_testkit::{Fixture, Suite, broker_address};

struct Cluster {
    servers: String,
}

impl Fixture for Cluster {
    type Broker = Kafka;

    async fn connect(&self) -> mq_core::Result<Kafka> {
        Kafka::builder(&self.servers).partitions(4).connect().await
    }

    /// A fetch waits for its time before it answers that there is nothing.
    fn quiet(&self) -> Duration {
        Duration::from_secs(1)
    }
}

fn main() -> ExitCode {
    Suite::new("conformance", "mq-kafka", broker_address("MQ_KAFKA_SERVERS"))
        .conformance(|servers| Cluster { servers }, include_str!("conformance.expected"))
        .run()
}
