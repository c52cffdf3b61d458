//! `cargo xtask bench`: our crates beside bare clients and peers. The work is done by `mq-bench`, a package outside of the workspace,
//! which this builds and starts.

use std::process::Command;

use crate::Result;
use crate::flags::Bench;
use crate::workspace::{Workspace, cargo};

/// Builds it in release with all peers, and hands the flags on.
pub(crate) fn run(workspace: &Workspace, flags: &Bench) -> Result {
    let mut command = Command::new(cargo());
    command
        .current_dir(&workspace.root)
        .args(["run", "--release", "--locked", "--features", "peers"])
        .args(["--manifest-path", "crates/mq-bench/Cargo.toml"])
        .arg("--target-dir")
        .arg(workspace.target.join("bench"))
        .args(["--", "run", &flags.broker]);
    if let Some(row) = &flags.row {
        command.args(["--row", row]);
    }
    for (flag, number) in [
        ("--blocks", flags.blocks),
        ("--seconds", flags.seconds),
        ("--seed", flags.seed),
    ] {
        if let Some(number) = number {
            command.args([flag, &number.to_string()]);
        }
    }
    if flags.pinned {
        command.arg("--pinned");
    }
    match command.status()?.success() {
        true => Ok(()),
        false => Err("mq-bench did not end well".into()),
    }
}
