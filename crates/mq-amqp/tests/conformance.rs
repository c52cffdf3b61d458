//! The conformance suite, on the RabbitMQ that `MQ_RABBITMQ_URL` names.

use std::process::ExitCode;

use mq_amqp::Amqp;
use mq_testkit::{Fixture, Suite, broker_address};

struct Rabbit {
    url: String,
}

impl Fixture for Rabbit {
    type Broker = Amqp;

    async fn connect(&self) -> mq_core::Result<Amqp> {
        Amqp::connect(&self.url).await
    }
}

fn main() -> ExitCode {
    Suite::new("conformance", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .conformance(|url| Rabbit { url }, include_str!("conformance.expected"))
        .run()
}
