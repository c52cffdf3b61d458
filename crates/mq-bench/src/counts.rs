//! What a message costs in instructions and allocations, as valgrind counts them. Unlike times these are the same in each run, so a
//! small change shows.

use std::{fmt::Write as _, path::Path, process::Stdio};

use tokio::process::Command;

use crate::{Result, arms::ARMS, report::save};

/// Writes a table of all arms in memory, or says that it cannot.
///
/// # Errors
/// An arm that fails, and those of writing.
pub(crate) async fn write(into: &Path) -> Result {
    let found = Command::new("valgrind")
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .await;
    let Ok(version) = found else {
        println!(
            "NOT COUNTED: there is no valgrind, so instructions and allocations were not counted"
        );
        return Ok(());
    };
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let mut text = format!(
        "# memory: counts\n\n```sh\ncargo xtask bench memory\n```\n\nOf one message of {SIZE} bytes, all on one thread, by {version}: the \
         difference of a run with {LESS} messages and one with {MORE}, so that what a start costs is left out.\n\n| arm | instructions | \
         allocations | bytes allocated |\n|---|---:|---:|---:|\n"
    );
    for arm in ARMS.iter().filter(|arm| arm.name.starts_with("memory/")) {
        let instructions = per_message(arm.name, "callgrind", instructions).await?;
        let blocks = per_message(arm.name, "dhat", blocks).await?;
        let bytes = per_message(arm.name, "dhat", bytes).await?;
        println!("  {}: {instructions:.0} instructions", arm.name);
        writeln!(
            text,
            "| {} | {instructions:.0} | {blocks:.2} | {bytes:.0} |",
            arm.name
        )?;
    }
    save(&into.join("memory-counts.md"), &text)
}

async fn per_message(arm: &str, tool: &str, find: fn(&str) -> Option<u64>) -> Result<f64> {
    let mut counts = Vec::new();
    for messages in [LESS, MORE] {
        let output = Command::new("valgrind")
            .args([
                &format!("--tool={tool}"),
                &format!("--{tool}-out-file=/dev/null"),
            ])
            .arg(std::env::current_exe()?)
            .args(["arm", arm, "--one-thread", "--address", "-"])
            .args(["--queue", "q.classic", "--group", "g"])
            .args(["--messages", &messages.to_string()])
            .args(["--size", &SIZE.to_string()])
            .stdin(Stdio::null())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let last = said.lines().last().unwrap_or_default();
            return Err(format!("{arm} under {tool}: {last}").into());
        }
        let found = said.lines().find_map(find);
        counts.push(found.ok_or_else(|| format!("{tool} said nothing of {arm}"))?);
    }
    let more = counts[1].saturating_sub(counts[0]);
    Ok(more as f64 / (MORE - LESS) as f64)
}

/// As callgrind says it: `==1== Collected : 123456`.
fn instructions(line: &str) -> Option<u64> {
    number(line.split_once("Collected :")?.1)
}

/// As DHAT says it: `==1== Total:     1,234 bytes in 56 blocks`.
fn blocks(line: &str) -> Option<u64> {
    number(line.split_once("Total:")?.1.split_once(" in ")?.1)
}

fn bytes(line: &str) -> Option<u64> {
    number(line.split_once("Total:")?.1)
}

fn number(text: &str) -> Option<u64> {
    let first = text.split_whitespace().next()?;
    first.replace(',', "").parse().ok()
}

const SIZE: usize = 64;
const LESS: u64 = 20_000;
const MORE: u64 = 40_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tools_say_is_understood() {
        assert_eq!(instructions("==7== Collected : 23516785"), Some(23_516_785));
        let total = "==7== Total:     21,560,014 bytes in 80,163 blocks";
        assert_eq!(
            (bytes(total), blocks(total)),
            (Some(21_560_014), Some(80_163))
        );
        assert_eq!(instructions(total), None);
        assert_eq!(blocks("==7== At t-gmax: 1 bytes in 2 blocks"), None);
    }
}
