//! The two brokers, and all that differs between them for a run.

use std::{fmt, str::FromStr, time::Duration};

use mq_amqp::Amqp;
use mq_core::{Destination, Result, Subscription};
use mq_kafka::{GroupProtocol, Kafka};
use mq_testkit::checker::Claim;

/// A kind of broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    RabbitMq,
    Kafka,
}

impl Kind {
    /// What a fault can have delivered again: deliveries that the broker has no verdict of, at most.
    pub(crate) fn open(self) -> usize {
        match self {
            Self::RabbitMq => OPEN,
            Self::Kafka => OPEN + CONSUMERS * 2 * COMMIT_AFTER,
        }
    }

    /// As on the command line, and as the folder in `compose/`.
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

    /// What a client is told to connect to, at this host and port.
    pub(crate) fn address_at(self, host: &str) -> String {
        match self {
            Self::RabbitMq => format!("amqp://guest:guest@{host}/%2f"),
            Self::Kafka => host.to_owned(),
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

/// Connects to RabbitMQ, at one of these addresses. Each process begins with another one, so that a cluster's nodes share them.
pub(crate) async fn amqp(addresses: &str, name: &str) -> Result<Amqp> {
    let all: Vec<&str> = addresses.split(',').collect();
    let first = name.bytes().map(usize::from).sum::<usize>() % all.len();
    let mut builder = Amqp::builder()
        .url(all[first])?
        .name(name)
        // A stopped peer is found lost within a stop of the schedule.
        .heartbeat(Duration::from_secs(5));
    for address in all.iter().cycle().skip(first + 1).take(all.len() - 1) {
        let is_host =
            |part: &&str| part.contains(':') && part.ends_with(|c: char| c.is_ascii_digit());
        let host = address.split(['@', '/']).find(is_host);
        builder = builder.another_host(host.unwrap_or(address));
    }
    builder.connect().await
}

/// Connects to Kafka.
pub(crate) async fn kafka(servers: &str, protocol: Option<Protocol>) -> Result<Kafka> {
    // Longer than the slowest handler: what a process that ends does to the others is no cause for a delivery again.
    let mut builder = Kafka::builder(servers)
        .partitions(PARTITIONS)
        .drain(DRAIN)
        .commit_after(COMMIT_AFTER as u32);
    if let Some(Protocol(protocol)) = protocol {
        builder = builder.group_protocol(protocol);
    }
    builder.connect().await
}

const DRAIN: Duration = Duration::from_secs(15);

/// How the members of a Kafka group share its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protocol(GroupProtocol);

impl Protocol {
    /// As on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self.0 {
            GroupProtocol::Classic => "classic",
            _ => "consumer",
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "classic" => Ok(Self(GroupProtocol::Classic)),
            "consumer" => Ok(Self(GroupProtocol::Consumer)),
            _ => Err(format!("{word:?} is no protocol: classic or consumer")),
        }
    }
}

/// The queue or topic, which is also the log of the positions.
pub(crate) const ORDERS: &str = "orders";
pub(crate) const PARTITIONS: u32 = 12;
/// Publishes of one producer whose outcome is missing, at most.
pub(crate) const WINDOW: usize = 100;
/// Deliveries that are with handlers of all consumers together, at most.
pub(crate) const OPEN: usize = 100;
/// A Kafka consumer asks for a commit after so many settlements, and hands out nothing more once there are twice as many without
/// one. The default is far more; this is what bounds the redeliveries of a run.
const COMMIT_AFTER: usize = 25;
pub(crate) const PRODUCERS: usize = 4;
pub(crate) const CONSUMERS: usize = 4;
/// Standing still for longer, faults apart, is a finding. Kafka gives what a killed member held to others after 10 s.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(30);
