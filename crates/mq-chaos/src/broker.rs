//! The two brokers, and all that differs between them for a run.

use std::{fmt, str::FromStr, time::Duration};

use mq_amqp::Amqp;
use mq_core::{Destination, Result, Subscription};
use mq_kafka::Kafka;
use mq_testkit::checker::Claim;

/// A kind of broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    RabbitMq,
    Kafka,
}

impl Kind {
    /// As on the command line, and as the service in `compose/`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::RabbitMq => "rabbitmq",
            Self::Kafka => "kafka",
        }
    }

    /// The crate that is proved.
    pub(crate) fn of_crate(self) -> &'static str {
        match self {
            Self::RabbitMq => "mq-amqp",
            Self::Kafka => "mq-kafka",
        }
    }

    /// Where the broker is published. No port from which the system takes those of outgoing connections: while the broker
    /// is down, one of them could take it.
    pub(crate) fn host(self) -> String {
        let port = match self {
            Self::RabbitMq => RABBITMQ_PORT,
            Self::Kafka => KAFKA_PORT,
        };
        format!("127.0.0.1:{port}")
    }

    /// What a client is told to connect to: the broker itself.
    pub(crate) fn address(self) -> String {
        self.address_at(&self.host())
    }

    /// What a client is told to connect to, at this host and port.
    pub(crate) fn address_at(self, host: &str) -> String {
        match self {
            Self::RabbitMq => format!("amqp://guest:guest@{host}/%2f"),
            Self::Kafka => host.to_owned(),
        }
    }

    /// The ports, as `compose/` asks for them.
    pub(crate) fn ports(self) -> Vec<(&'static str, u16)> {
        match self {
            Self::RabbitMq => vec![
                ("MQ_RABBITMQ_PORT", RABBITMQ_PORT),
                ("MQ_RABBITMQ_MANAGEMENT_PORT", RABBITMQ_PORT + 1),
            ],
            Self::Kafka => vec![
                ("MQ_KAFKA_PORT", KAFKA_PORT),
                ("MQ_KAFKA_LOGIN_PORT", KAFKA_PORT + 1),
            ],
        }
    }

    /// Where the producers publish: a quorum queue, or a topic of twelve partitions.
    pub(crate) fn destination(self) -> Destination {
        match self {
            Self::RabbitMq => Destination::queue(ORDERS),
            Self::Kafka => Destination::topic(ORDERS),
        }
    }

    /// What the consumers read.
    pub(crate) fn subscription(self) -> Subscription {
        match self {
            Self::RabbitMq => Subscription::queue(ORDERS),
            Self::Kafka => Subscription::durable(ORDERS, "shop"),
        }
    }

    /// What the run is said to hold.
    pub(crate) fn claim(self) -> Claim {
        let claim = Claim::at_least_once()
            .stuck_after(STUCK_AFTER)
            .group(&**self.subscription().name());
        match self {
            // What is redelivered goes to any consumer, beside what is new.
            Self::RabbitMq => claim,
            Self::Kafka => claim.ordered(),
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::RabbitMq, Self::Kafka]
            .into_iter()
            .find(|kind| kind.word() == word)
            .ok_or_else(|| format!("{word:?} is no broker: rabbitmq or kafka"))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RabbitMq => "RabbitMQ",
            Self::Kafka => "Kafka",
        })
    }
}

/// Connects to RabbitMQ.
pub(crate) async fn amqp(address: &str, name: &str) -> Result<Amqp> {
    Amqp::builder()
        .url(address)?
        .name(name)
        // A stopped peer is found lost within a stop of the schedule.
        .heartbeat(Duration::from_secs(5))
        .connect()
        .await
}

/// Connects to Kafka.
pub(crate) async fn kafka(address: &str) -> Result<Kafka> {
    Kafka::builder(address)
        .partitions(PARTITIONS)
        .connect()
        .await
}

/// The queue or topic, which is also the log of the positions.
pub(crate) const ORDERS: &str = "orders";
pub(crate) const PARTITIONS: u32 = 12;
/// Publishes of one producer whose outcome is missing, at most.
pub(crate) const WINDOW: usize = 100;
/// Open deliveries of all consumers together, at most.
pub(crate) const OPEN: usize = 100;
pub(crate) const PRODUCERS: usize = 4;
pub(crate) const CONSUMERS: usize = 4;
/// Standing still for longer, faults apart, is a finding. Kafka gives what a killed member held to others after 10 s.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(30);

const RABBITMQ_PORT: u16 = 25872;
const KAFKA_PORT: u16 = 29892;
