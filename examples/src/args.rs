//! The command line of a program: which broker, and the token.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
};

use mq_amqp::Amqp;
use mq_core::dynamic::AnyBroker;
use mq_kafka::{GroupProtocol, Kafka};
use mq_memory::Memory;

use crate::Result;

/// `--broker` and `--token`.
///
/// `Debug` shows no address, since that may hold a password.
pub struct Args {
    broker: Address,
    token: String,
}

pub(crate) enum Address {
    Memory,
    RabbitMq(String),
    Kafka(String),
    /// Queues are read through share groups.
    KafkaShare(String),
}

impl Args {
    /// Reads the command line. Where it makes no sense, or asks for help, the program ends here.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn parse() -> Result<Self> {
        let flags = xflags::parse_or_exit! {
            /// `memory` (default), `amqp://user:password@host:port/vhost` or `kafka://host:port[,host:port]`.
            /// With `kafka+share://…` queues are read through share groups (Kafka 4.2 or later).
            optional --broker broker: String
            /// A word that goes through the broker and is printed when it is back. It is in every name, so
            /// that no run meets another one. Default: a random one.
            optional --token word: String
        };
        Self::new(flags.broker.as_deref(), flags.token)
    }

    /// For a program that has further flags: takes the two that all have.
    ///
    /// # Errors
    /// Says what is wrong with the broker's address, without repeating it, or with the token.
    pub fn new(broker: Option<&str>, token: Option<String>) -> Result<Self> {
        let broker = match broker.map(|broker| (broker, broker.split_once("://"))) {
            None | Some(("memory", _)) => Address::Memory,
            Some((url, Some(("amqp" | "amqps", _)))) => Address::RabbitMq(url.to_owned()),
            Some((_, Some(("kafka", servers)))) => Address::Kafka(servers.to_owned()),
            Some((_, Some(("kafka+share", servers)))) => Address::KafkaShare(servers.to_owned()),
            _ => {
                return Err(
                    "--broker is memory, amqp://… (or amqps://…) or kafka://host:port[,host:port] (or kafka+share://…)"
                        .into(),
                );
            }
        };
        let token = token.unwrap_or_else(|| format!("t{:016x}", RandomState::new().hash_one(())));
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if token.is_empty() || token.len() > 64 || !token.chars().all(allowed) {
            return Err("--token is 1 to 64 letters, digits, - or _".into());
        }
        Ok(Self { broker, token })
    }

    /// Connects to the broker that was asked for. Without one, that is a new one in this process.
    ///
    /// # Errors
    /// As the `connect` of its crate.
    pub async fn connect(&self) -> Result<AnyBroker> {
        Ok(match &self.broker {
            Address::Memory => AnyBroker::new(Memory::new()),
            Address::RabbitMq(url) => AnyBroker::new(Amqp::connect(url).await?),
            Address::Kafka(servers) => AnyBroker::new(Kafka::connect(servers).await?),
            Address::KafkaShare(servers) => {
                let builder = Kafka::builder(servers).group_protocol(GroupProtocol::Share);
                AnyBroker::new(builder.connect().await?)
            }
        })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.broker
    }

    /// `memory`, `rabbitmq` or `kafka`.
    pub fn broker(&self) -> &'static str {
        match self.broker {
            Address::Memory => "memory",
            Address::RabbitMq(_) => "rabbitmq",
            Address::Kafka(_) | Address::KafkaShare(_) => "kafka",
        }
    }

    /// The URL, for what only RabbitMQ has; it may hold a password.
    ///
    /// # Errors
    /// The broker is another one.
    pub fn rabbitmq(&self) -> Result<&str> {
        match &self.broker {
            Address::RabbitMq(url) => Ok(url),
            _ => Err("this needs RabbitMQ: --broker amqp://user:password@host:port/vhost".into()),
        }
    }

    /// The servers, for what only Kafka has.
    ///
    /// # Errors
    /// The broker is another one.
    pub fn kafka(&self) -> Result<&str> {
        match &self.broker {
            Address::Kafka(servers) | Address::KafkaShare(servers) => Ok(servers),
            _ => Err("this needs Kafka: --broker kafka://host:port[,host:port]".into()),
        }
    }

    /// The token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A name for a queue or topic of this run: `orders-TOKEN`.
    pub fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.token)
    }
}

impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Args")
            .field("broker", &self.broker())
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_three_brokers() {
        let broker = |text: Option<&str>| Args::new(text, None).expect("known").broker();
        assert_eq!(broker(None), "memory");
        assert_eq!(broker(Some("memory")), "memory");
        assert_eq!(broker(Some("amqp://h/v")), "rabbitmq");
        assert_eq!(broker(Some("amqps://h")), "rabbitmq");
        assert_eq!(broker(Some("kafka://a:1,b:2")), "kafka");
        assert_eq!(broker(Some("kafka+share://a:1")), "kafka");
        let kafka = Args::new(Some("kafka://a:1,b:2"), None).expect("known");
        assert_eq!(kafka.kafka().ok(), Some("a:1,b:2"));
        assert!(kafka.rabbitmq().is_err());
    }

    #[test]
    fn refuses_another_broker_without_repeating_its_address() {
        for wrong in ["", "redis://me:hunter2@h", "me:hunter2@host:5672"] {
            let error = Args::new(Some(wrong), None).expect_err(wrong);
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let args = Args::new(Some("amqp://me:hunter2@h"), None).expect("known");
        assert!(!format!("{args:?}").contains("hunter2"), "{args:?}");
    }

    #[test]
    fn a_token_is_a_word_that_can_stand_in_any_name() {
        let token = |text: &str| Args::new(None, Some(text.to_owned()));
        assert_eq!(token("a-B_9").expect("a word").name("jobs"), "jobs-a-B_9");
        for wrong in ["", "a b", "a.b", "ä", &"x".repeat(65)] {
            assert!(token(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn two_random_tokens_differ() {
        let token = || Args::new(None, None).expect("defaults").token;
        assert_ne!(token(), token());
    }
}
