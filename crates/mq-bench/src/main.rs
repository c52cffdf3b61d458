//! `mq-bench`: measures our crates beside the best hand-written use of the bare clients, and beside peers, in one run.
//!
//! `mq-bench run` is the conductor. It starts each arm in a process of its own, in blocks of random order, looks at the broker
//! whether the work was done, and writes a report. This file only dispatches.

mod arm;
mod arms;
mod conductor;
mod counts;
mod flags;
mod ground;
mod null;
mod report;
mod rows;
mod stats;

use std::process::ExitCode;

use crate::{
    arm::{Clock, Order},
    flags::{MqBench, MqBenchCmd},
};

/// What a command ends with. The text is for the person at the terminal.
type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let flags = MqBench::from_env_or_exit();
    match run(flags.subcommand) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: MqBenchCmd) -> Result {
    let one_thread = matches!(&command, MqBenchCmd::Arm(flags) if flags.one_thread);
    let mut runtime = match one_thread {
        true => tokio::runtime::Builder::new_current_thread(),
        false => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(2).enable_all().build()?;
    match command {
        MqBenchCmd::Null(flags) => null::serve(&flags.broker, flags.messages, flags.size),
        MqBenchCmd::Run(flags) => runtime.block_on(conductor::run(flags.try_into()?)),
        MqBenchCmd::Arm(flags) => {
            let arm = arms::find(&flags.name)
                .ok_or_else(|| format!("{:?} is no arm of this program", flags.name))?;
            let order = Order {
                address: flags.address,
                queue: flags.queue,
                group: flags.group,
                messages: flags.messages,
                size: flags.size,
            };
            let mut clock = Clock::default();
            runtime.block_on((arm.run)(&order, &mut clock))?;
            let measured = clock.measured().ok_or("the arm did not stop its clock")?;
            println!("{}", serde_json::to_string(&measured)?);
            Ok(())
        }
        MqBenchCmd::Arms(_) => {
            arms::ARMS.iter().for_each(|arm| println!("{}", arm.name));
            Ok(())
        }
    }
}
