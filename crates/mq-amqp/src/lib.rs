#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod capabilities;
mod config;
mod connection;
mod consumer;
mod error;
mod headers;
mod metrics;
mod publisher;
mod settle;
mod spans;
mod topology;

pub use mq_core as core;

pub use crate::{
    config::{AmqpBuilder, Tls},
    connection::{Amqp, AmqpEvent, AmqpEvents, AmqpRole, Recovery},
    consumer::{AmqpConsumer, AmqpNoAckConsumer},
    metrics::AmqpMetrics,
    publisher::{AmqpPending, AmqpPublisher, AmqpUnconfirmed},
    topology::{Binding, Delays, ExchangeKind, Lint, Overflow, QueueSettings, Topology},
};
