#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod capabilities;
mod config;
mod connection;
mod consumer;
mod error;
mod headers;
mod publisher;
mod settle;
mod topology;

pub use config::{GroupProtocol, KafkaBuilder, Sasl, Tls};
pub use connection::Kafka;
pub use consumer::{Assignment, KafkaConsumer};
pub use mq_core as core;
pub use publisher::{KafkaPublisher, KafkaUnconfirmed, PublishOutcome};
pub use topology::{Cleanup, TopicSettings, WeakTopics};
