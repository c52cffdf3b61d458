#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod checker;
pub mod flow;
pub mod history;
#[cfg(feature = "proxy")]
pub mod network;
#[cfg(feature = "proxy")]
pub mod proxy;

mod address;
mod cases;
mod checks;
mod coverage;
mod failure;
mod fixture;
mod reader;
mod record;
mod scene;
mod stress;
mod suite;
mod trial;

pub use address::{Address, broker_address};
pub use cases::{Case, cases};
pub use failure::{Check, Failure};
pub use fixture::{Fixture, Hook, Link};
pub use suite::{Suite, run};
