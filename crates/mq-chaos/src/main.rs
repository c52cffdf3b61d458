//! `mq-chaos`: kills, stops and cuts off processes and brokers under load, and has the history of the run checked.
//!
//! `mq-chaos run` is the conductor; `producer` and `consumer` are the processes that it starts and that are faulted.
//! `exactly-once` is a scenario with a conductor and processes of its own.
//! This file only dispatches.

mod broker;
mod conductor;
mod crew;
mod exactly_once;
mod flags;
mod gaps;
mod in_flight;
mod links;
mod observer;
mod process;
mod report;
mod samples;
mod schedule;
mod site;

use std::{error::Error, process::ExitCode};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::flags::{MqChaos, MqChaosCmd};

/// What a command ends with. The text is for the person at the terminal.
type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let flags = MqChaos::from_env_or_exit();
    match run(flags.subcommand) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// False where a run is over and shows something that must not be.
fn run(command: MqChaosCmd) -> Result<bool> {
    match command {
        // One thread: a child asks to be killed when the thread that started it ends.
        MqChaosCmd::Run(flags) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(conductor::run(flags.try_into()?)),
        MqChaosCmd::ExactlyOnce(flags) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(exactly_once::run(flags.into())),
        MqChaosCmd::Copier(flags) => {
            log();
            exactly_once::copier(&flags.address, &flags.id)
        }
        MqChaosCmd::Producer(flags) => process::start(flags.try_into()?, process::Role::Producer),
        MqChaosCmd::Consumer(flags) => process::start(flags.try_into()?, process::Role::Consumer),
    }
}

/// What the crates and their clients say goes to the log of the process; `RUST_LOG` asks for more of it. Producers and consumers of
/// the other scenarios count what is said (`process/telling.rs`).
fn log() {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter.from_env_lossy())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

/// An error with what it was caused by, on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
