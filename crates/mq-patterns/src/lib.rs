#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "producer-consumer")]
pub mod producer_consumer;
#[cfg(feature = "work-queue")]
pub mod work_queue;
