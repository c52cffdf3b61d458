#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "consumer-group")]
pub mod consumer_group;
#[cfg(feature = "fan-out")]
pub mod fan_out;
#[cfg(feature = "pipeline")]
pub mod pipeline;
#[cfg(feature = "producer-consumer")]
pub mod producer_consumer;
#[cfg(feature = "routing")]
pub mod routing;
#[cfg(feature = "work-queue")]
pub mod work_queue;
