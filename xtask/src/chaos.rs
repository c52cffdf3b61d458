//! `cargo xtask chaos`: faults under load, with a checked history. The work is done by `mq-chaos`, which this builds and starts.

use std::path::Path;
use std::process::Command;

use xshell::cmd;

use crate::Result;
use crate::brokers::{Brokers, Kind};
use crate::containers::Containers;
use crate::flags::Chaos;
use crate::test::BAR;
use crate::workspace::{Workspace, cargo};

/// The program and its package.
const PROGRAM: &str = "mq-chaos";

/// Builds it in release and hands the flags on.
pub(crate) fn run(workspace: &Workspace, flags: &Chaos) -> Result {
    let cargo = cargo();
    cmd!(
        workspace.sh,
        "{cargo} build --quiet --release --package {PROGRAM}"
    )
    .run()?;
    if flags.scenario.as_deref() == Some(EXACTLY_ONCE) {
        if flags.broker != Kind::Kafka.service() || flags.minutes.or(flags.rate).is_some() {
            return Err(format!("{EXACTLY_ONCE} is a scenario of kafka, without minutes and rate").into());
        }
        let mut command = exactly_once(workspace, "release");
        if let Some(seed) = flags.seed {
            command.args(["--seed", &seed.to_string()]);
        }
        return verdict(command);
    }
    let mut command = program(workspace, "release");
    command.args(["--broker", &flags.broker]);
    let numbers = [
        ("--minutes", flags.minutes),
        ("--seed", flags.seed),
        ("--rate", flags.rate),
    ];
    for (flag, number) in numbers {
        if let Some(number) = number {
            command.args([flag, &number.to_string()]);
        }
    }
    if let Some(scenario) = &flags.scenario {
        command.args(["--scenario", scenario]);
    }
    verdict(command)
}

/// The runs of `test` and `ci`: two minutes on each broker and a few faults under exactly once, one after the other, with the program that the tests were built with.
///
/// # Errors
/// If a run does not pass. Without containers it says that it is skipped, and fails where brokers are required.
pub(crate) fn short(workspace: &Workspace, brokers: &Brokers) -> Result {
    if let Err(reason) = Containers::new(workspace, "mq-chaos", &[], Vec::new(), false) {
        if brokers.required {
            return Err(reason);
        }
        eprintln!("\n{BAR}\nThe chaos runs are SKIPPED: {reason}\n{BAR}");
        return Ok(());
    }
    let mut failed = Vec::new();
    for kind in Kind::ALL {
        let mut command = program(workspace, "debug");
        command
            .args(["--broker", kind.service()])
            .args(["--scenario", "mixed", "--minutes", "2"])
            .args(["--seed", SEED, "--rate", "200"]);
        command.env("MQ_TEST_RECORDS", brokers.records());
        if let Err(error) = verdict(command) {
            failed.push(format!("{}: {error}", kind.name()));
        }
    }
    let mut command = exactly_once(workspace, "debug");
    command.args(["--seed", SEED]).args(SHORT);
    if let Err(error) = verdict(command) {
        failed.push(format!("exactly once: {error}"));
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("; ").into()),
    }
}

fn program(workspace: &Workspace, profile: &str) -> Command {
    let mut command = Command::new(workspace.target.join(profile).join(PROGRAM));
    command
        .current_dir(&workspace.root)
        .args([Path::new("run"), Path::new("--into")])
        .arg(workspace.target.join("chaos"));
    command
}

fn exactly_once(workspace: &Workspace, profile: &str) -> Command {
    let mut command = Command::new(workspace.target.join(profile).join(PROGRAM));
    command
        .current_dir(&workspace.root)
        .args([Path::new(EXACTLY_ONCE), Path::new("--into")])
        .arg(workspace.target.join("chaos"));
    command
}

fn verdict(mut command: Command) -> Result {
    let status = command.status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{PROGRAM}: {status}; its report says why").into()),
    }
}

/// Always the same schedule: a red run is one of the code. Other seeds are for `cargo xtask chaos`.
const SEED: &str = "5";
/// The scenario with a conductor of its own.
const EXACTLY_ONCE: &str = "exactly-once";
/// What of it the runs of `test` and `ci` make.
const SHORT: [&str; 10] = [
    "--records",
    "5000",
    "--copier-kills",
    "2",
    "--broker-kills",
    "1",
    "--zombies",
    "1",
    "--aborts",
    "2",
];
