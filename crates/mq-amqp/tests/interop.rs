//! What a RabbitMQ program written in Python with pika reads of us, and what we read of it, field by
//! field. It needs the broker, and an interpreter with pika, named by `MQ_PEER_PYTHON`;
//! `cargo xtask test` provides both.
//!
//! A case is named `<field> to pika` or `<field> from pika`: the matrix in `docs/guides/interop.md`
//! is made from these names.
#![allow(clippy::expect_used, reason = "a test may panic")]

#[path = "interop/peer.rs"]
mod peer;
#[path = "interop/read.rs"]
mod read;
mod support;
#[path = "interop/together.rs"]
mod together;
#[path = "interop/written.rs"]
mod written;

use std::process::ExitCode;

use mq_testkit::{Address, Suite, broker_address};

fn main() -> ExitCode {
    let mut suite = Suite::new("interop", "mq-amqp", address());
    for (name, check) in written::CASES {
        suite = suite.case(name, move |url| async move {
            check(written::messages(&url).await?)
        });
    }
    for (name, check) in read::CASES {
        suite = suite.case(name, move |url| async move {
            check(read::messages(&url).await?)
        });
    }
    together::add(suite).run()
}

/// The broker, if the peer is there as well.
fn address() -> Address {
    let lacking = || "no peer: MQ_PEER_PYTHON names no Python that has pika".to_owned();
    match broker_address(peer::PYTHON) {
        Address::Here(_) => broker_address("MQ_RABBITMQ_URL"),
        Address::Missing(_) => Address::Missing(lacking()),
        Address::Required(_) => Address::Required(lacking()),
    }
}
