#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "dead-letter")]
pub mod dead_letter;
#[cfg(feature = "retry")]
pub mod retry;
#[cfg(feature = "supervise")]
pub mod supervise;
#[cfg(feature = "timeout")]
pub mod timeout;
