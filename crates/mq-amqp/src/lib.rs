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

pub use mq_core as core;

pub use crate::{
    config::{AmqpBuilder, Tls},
    connection::Amqp,
    consumer::{AmqpConsumer, AmqpNoAckConsumer},
    publisher::{AmqpPending, AmqpPublisher, AmqpUnconfirmed},
    topology::{ExchangeKind, Overflow, QueueSettings},
};
