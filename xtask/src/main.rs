//! The workspace's tool: `cargo xtask <command>`. This file only dispatches; each command has a file of its own.

mod alone;
mod bench;
mod breaking;
mod brokers;
mod certificates;
mod chaos;
mod ci;
mod containers;
mod docs;
mod e2e;
mod evidence;
mod examples;
mod features;
mod flags;
mod interop;
mod lanes;
mod packages;
mod pages;
mod peers;
mod probe;
mod programs;
mod promises;
mod readme;
mod records;
mod results;
mod run;
mod step;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use crate::flags::{Xtask, XtaskCmd};
use crate::workspace::Workspace;

/// What a command ends with. The text is for the person at the terminal.
type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let flags = Xtask::from_env_or_exit();
    match run(flags.subcommand) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: XtaskCmd) -> Result {
    let workspace = Workspace::load()?;
    match command {
        XtaskCmd::Ci(_) => ci::run(&workspace),
        XtaskCmd::Test(flags) => test::run(&workspace, &flags.into()),
        XtaskCmd::E2e(flags) => {
            let (cluster, stress, update) = (flags.cluster, flags.stress, flags.update);
            match (cluster, stress) {
                (true, _) => e2e::cluster(&workspace, &flags.into(), update),
                (false, true) => e2e::stress(&workspace, &flags.into()),
                (false, false) => e2e::run(&workspace, &flags.into(), update),
            }
        }
        XtaskCmd::Examples(flags) => examples::run(&workspace, &flags),
        XtaskCmd::Chaos(flags) => chaos::run(&workspace, &flags),
        XtaskCmd::Bench(flags) => bench::run(&workspace, &flags),
        XtaskCmd::ExactlyOnce(flags) => chaos::exactly_once(&workspace, &flags),
        XtaskCmd::Tidy(_) => tidy::run(&workspace),
        XtaskCmd::Features(_) => features::run(&workspace),
        XtaskCmd::Docs(_) => docs::run(&workspace),
        XtaskCmd::Alone(_) => alone::run(&workspace),
        XtaskCmd::Certificates(_) => {
            println!("{}", certificates::provide(&workspace)?.display());
            Ok(())
        }
    }
}
