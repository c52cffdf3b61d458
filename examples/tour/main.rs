//! A tour of the main job: a work queue, from publishing to the last dead letter, on any broker.
//!
//! ```text
//! cargo run --example tour
//! cargo run --example tour -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! cargo run --example tour -- --broker kafka://127.0.0.1:9092 --input records.jsonl --key customer
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that shows what it does"
)]

mod check;
mod input;
mod sample;
mod steps;

use std::{error::Error, path::PathBuf, process::ExitCode};

use mq_amqp::Amqp;
use mq_kafka::Kafka;
use mq_memory::Memory;

use crate::steps::Plan;

#[tokio::main]
async fn main() -> ExitCode {
    let flags = xflags::parse_or_exit! {
        /// `memory` (default), `amqp://user:password@host:port/vhost` or `kafka://host:port[,host:port]`.
        optional --broker broker: String
        /// A file with text lines, JSON lines or a JSON array. Default: a built-in sample, some of whose
        /// records fail on purpose.
        optional --input file: PathBuf
        /// The field of the JSON records that is their ordering key.
        optional --key field: String
        /// The queue. Default: `tour`, or `tour-TOKEN` with a token.
        optional --queue name: String
        /// A word that goes through the broker with every record and is printed when it is back.
        optional --token word: String
    };
    let broker = flags.broker.unwrap_or_else(|| "memory".to_owned());
    let result = match Plan::new(flags.input, flags.key, flags.queue, flags.token) {
        Ok(plan) => run(&broker, plan).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// The one place that names a broker: everything else is the same for all of them.
async fn run(broker: &str, plan: Plan) -> Result<(), Box<dyn Error + Send + Sync>> {
    match broker.split_once("://") {
        None if broker == "memory" => steps::tour("memory", Memory::new(), plan).await,
        Some(("amqp" | "amqps", _)) => {
            steps::tour("rabbitmq", Amqp::connect(broker).await?, plan).await
        }
        Some(("kafka", servers)) => {
            steps::tour("kafka", Kafka::connect(servers).await?, plan).await
        }
        // The text may hold a password, so it is not repeated.
        _ => Err("--broker is memory, amqp://… or kafka://host:port[,host:port]".into()),
    }
}

/// An error and its causes in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
