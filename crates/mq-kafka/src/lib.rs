#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod capabilities;
mod config;
mod connection;
mod consumer;
mod error;
mod headers;
#[cfg(feature = "legacy")]
#[cfg_attr(docsrs, doc(cfg(feature = "legacy")))]
pub mod legacy;
mod metrics;
mod publisher;
mod settle;
mod spans;
mod topology;
mod transaction;

pub use config::{Compression, GroupProtocol, KafkaBuilder, Sasl, Tls};
pub use connection::Kafka;
pub use consumer::{
    Assignment, ConsumerProgress, KafkaConsumer, KafkaEvent, KafkaEvents, KafkaReader,
    PartitionProgress,
};
pub use metrics::KafkaMetrics;
pub use mq_core as core;
pub use publisher::{KafkaPublisher, KafkaUnconfirmed, PublishOutcome};
pub use topology::{
    At, Cleanup, GroupDescription, GroupListing, GroupMember, GroupPlace, Groups, TopicSettings,
    WeakTopics,
};
pub use transaction::{ExactlyOnce, ExactlyOnceSession, TransactionLevel, Transactions};
