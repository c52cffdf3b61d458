//! Docker or Podman, and the commands that are given to it.

use std::{
    io::{Error, Result},
    process::{Command as Blocking, Stdio},
    time::Duration,
};

use tokio::process::Command;

/// The engines that are known, in the order in which they are tried.
pub(super) const ALL: [&str; 2] = ["docker", "podman"];

/// An engine that has Compose and whose daemon answers.
pub(super) async fn find() -> Result<&'static str> {
    let mut reasons = Vec::new();
    for engine in ALL {
        let mut works = Ok(());
        for arguments in [&["compose", "version"][..], &["info"]] {
            works = works.and(run(engine, arguments.iter().copied()).await.map(drop));
        }
        match works {
            Ok(()) => return Ok(engine),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    let reasons = reasons.join("; ");
    Err(Error::other(format!(
        "containers can't run here: {reasons}"
    )))
}

/// Runs a command of the engine, and returns what it printed.
pub(super) async fn run<'a>(
    engine: &str,
    arguments: impl IntoIterator<Item = &'a str>,
) -> Result<String> {
    let mut command = Blocking::new(engine);
    command.args(arguments);
    answer(command).await
}

/// What the command printed; its last words as the error.
///
/// It is in a process group of its own: Ctrl-C is for who gave the command, who then has to take containers down.
pub(super) async fn answer(command: Blocking) -> Result<String> {
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    let program = command.get_program().to_string_lossy();
    let shown = format!("{program} {}", arguments.join(" "));
    let mut command = Command::from(command);
    command
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .map_err(|_| {
            let seconds = PATIENCE.as_secs();
            Error::other(format!("{shown}: no answer within {seconds} s"))
        })?
        .map_err(|error| Error::other(format!("{shown}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.unwrap_or("failed").trim();
    Err(Error::other(format!("{shown}: {last}")))
}

/// An image may have to be fetched.
const PATIENCE: Duration = Duration::from_secs(300);
