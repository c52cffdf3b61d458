#![doc = include_str!("../README.md")]

mod capabilities;
mod config;
mod connection;
mod consumer;
mod error;
mod headers;
mod publisher;
mod settle;
mod topology;

pub use config::Builder;
pub use connection::Memory;
pub use consumer::MemoryConsumer;
pub use publisher::{MemoryPublisher, MemoryUnconfirmed};

pub use mq_core as core;
