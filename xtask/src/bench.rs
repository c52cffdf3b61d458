//! `cargo xtask bench`: our crates beside bare clients and peers. The work is done by `mq-bench`, a package outside of the workspace,
//! which this builds and starts.

use std::process::Command;

use crate::Result;
use crate::flags::Bench;
use crate::workspace::{Workspace, cargo};

/// The program and its package.
const PROGRAM: &str = "mq-bench";
/// What is measured if nothing is named.
const ALL: [&str; 3] = ["memory", "amqp", "kafka"];

/// Builds it in release, and hands the flags on, for one broker or for one after the other.
pub(crate) fn run(workspace: &Workspace, flags: &Bench) -> Result {
    build(workspace, flags)?;
    let program = workspace.target.join("release").join(PROGRAM);
    let brokers = match &flags.broker {
        Some(broker) => vec![broker.as_str()],
        None => ALL.to_vec(),
    };
    let mut failed = Vec::new();
    for broker in brokers {
        let mut command = Command::new(&program);
        command
            .current_dir(&workspace.root)
            .args(["run", broker])
            .args(options(flags));
        // The others are measured all the same.
        if !command.status()?.success() {
            failed.push(broker);
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("{PROGRAM}: {} did not end well", failed.join(", ")).into()),
    }
}

fn build(workspace: &Workspace, flags: &Bench) -> Result {
    let mut command = Command::new(cargo());
    command
        .current_dir(&workspace.root)
        .args(["build", "--release", "--locked"])
        .args(["--manifest-path", "crates/mq-bench/Cargo.toml"])
        .arg("--target-dir")
        .arg(&workspace.target);
    // Cargo tells this tool what package it is. Build scripts that look at that would be run again, and most of the peers built
    // again, whenever the program is built from a shell and then from here.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    if !flags.without_peers {
        command.args(["--features", "peers"]);
    }
    match command.status()?.success() {
        true => Ok(()),
        false => Err(format!("{PROGRAM} was not built").into()),
    }
}

/// The flags as the program takes them.
fn options(flags: &Bench) -> Vec<String> {
    let texts = [
        ("--row", flags.row.clone()),
        ("--blocks", flags.blocks.map(|blocks| blocks.to_string())),
        (
            "--seconds",
            flags.seconds.map(|seconds| seconds.to_string()),
        ),
        (
            "--messages",
            flags.messages.map(|messages| messages.to_string()),
        ),
        ("--seed", flags.seed.map(|seed| seed.to_string())),
        ("--address", flags.address.clone()),
        (
            "--into",
            flags.into.as_ref().map(|into| into.display().to_string()),
        ),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(flag, text)| Some([flag.to_owned(), text?]))
        .flatten();
    let switches = [("--pinned", flags.pinned), ("--null", flags.null)];
    let set = switches.into_iter().filter(|(_, set)| *set);
    texts.chain(set.map(|(flag, _)| flag.to_owned())).collect()
}
