//! `cargo xtask chaos`: faults under load, with a checked history. The work is done by `mq-chaos`, which this builds and starts.

use std::path::Path;
use std::process::Command;

use xshell::cmd;

use crate::Result;
use crate::brokers::{Brokers, Kind};
use crate::containers::Containers;
use crate::flags::{Chaos, ExactlyOnce};
use crate::lanes::{self, Job};
use crate::test::BAR;
use crate::workspace::{Workspace, cargo};

/// The program and its package.
const PROGRAM: &str = "mq-chaos";

/// Builds it in release and hands the flags on.
pub(crate) fn run(workspace: &Workspace, flags: &Chaos) -> Result {
    let mut command = released(workspace, "run")?;
    command.args(["--broker", &flags.broker]);
    numbers(
        &mut command,
        [
            ("--minutes", flags.minutes),
            ("--faults", flags.faults),
            ("--messages", flags.messages),
            ("--seed", flags.seed),
            ("--rate", flags.rate),
        ],
    );
    let words = [
        ("--scenario", &flags.scenario),
        ("--protocol", &flags.protocol),
        ("--rabbitmq-version", &flags.rabbitmq_version),
        ("--kafka-version", &flags.kafka_version),
    ];
    for (flag, word) in words {
        if let Some(word) = word {
            command.args([flag, word]);
        }
    }
    for (flag, set) in [("--cluster", flags.cluster), ("--resend", flags.resend)] {
        if set {
            command.arg(flag);
        }
    }
    verdict(command)
}

/// The scenario of exactly once, which has a conductor of its own.
pub(crate) fn exactly_once(workspace: &Workspace, flags: &ExactlyOnce) -> Result {
    let mut command = released(workspace, "exactly-once")?;
    numbers(
        &mut command,
        [
            ("--records", flags.records),
            ("--copier-kills", flags.copier_kills),
            ("--broker-kills", flags.broker_kills),
            ("--zombies", flags.zombies),
            ("--aborts", flags.aborts),
            ("--seed", flags.seed),
        ],
    );
    verdict(command)
}

/// The program, built in release.
fn released(workspace: &Workspace, subcommand: &str) -> Result<Command> {
    let cargo = cargo();
    cmd!(
        workspace.sh,
        "{cargo} build --quiet --release --package {PROGRAM}"
    )
    .run()?;
    Ok(program(workspace, "release", subcommand))
}

fn numbers<const N: usize>(command: &mut Command, flags: [(&str, Option<u64>); N]) {
    for (flag, number) in flags {
        if let Some(number) = number {
            command.args([flag, &number.to_string()]);
        }
    }
}

/// The runs of `test` and `ci`, those of one broker beside those of the other, with the program that the tests were built with: two
/// minutes of all faults on each broker, and short runs of drains, alarms and connections that end again and again.
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
    let lanes = SHORT.iter().map(|(kind, runs)| {
        let job = |run: &&[&str]| {
            let mut command = program(workspace, "debug", "run");
            command
                .args(["--broker", kind.service(), "--seed", SEED])
                .args(*run);
            command.env("MQ_TEST_RECORDS", brokers.records());
            Job {
                name: format!("{}: {}", kind.name(), run.join(" ")),
                command,
            }
        };
        runs.iter().map(job).collect()
    });
    let ended = lanes::run(lanes.collect())?;
    let failed: Vec<String> = ended
        .into_iter()
        .filter(|run| !run.succeeded)
        .map(|run| run.name)
        .collect();
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("{}; their reports say why", failed.join("; ")).into()),
    }
}

fn program(workspace: &Workspace, profile: &str, subcommand: &str) -> Command {
    let mut command = Command::new(workspace.target.join(profile).join(PROGRAM));
    command
        .current_dir(&workspace.root)
        .args([Path::new(subcommand), Path::new("--into")])
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

const SHORT: &[(Kind, &[&[&str]])] = &[
    // How soon an alarm is known is looked at when the other broker's runs are over.
    (Kind::RabbitMq, &[MIXED, DRAINS, LIVES, ALARMS]),
    (Kind::Kafka, &[MIXED, LIVES]),
];
const ALARMS: &[&str] = &["--scenario", "alarms", "--faults", "2"];
const MIXED: &[&str] = &["--scenario", "mixed", "--minutes", "2", "--rate", "200"];
const DRAINS: &[&str] = &["--scenario", "drains", "--faults", "3", "--rate", "200"];
const LIVES: &[&str] = &["--scenario", "lives", "--minutes", "1", "--rate", "200"];
/// Always the same schedule: a red run is one of the code. Other seeds are for `cargo xtask chaos`.
const SEED: &str = "5";
