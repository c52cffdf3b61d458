//! The in-process broker with one fault at a time: what the suite has to find.

mod broker;
mod consumer;
mod fault;
mod found;
mod link;
mod publisher;
mod settle;

pub(crate) use broker::{Local, Shape};
pub(crate) use fault::Fault;
pub(crate) use found::FOUND;
