//! `cargo xtask examples`: runs each example program on each broker, and compares what it prints with its `expected.txt`.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::Result;
use crate::brokers::{Brokers, Kind, Wish};
use crate::flags;
use crate::results::Totals;
use crate::workspace::{ALL_CRATES, Workspace, cargo};

/// An example that hangs is a failure. The slowest one takes a few seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, flags: &flags::Examples) -> Result {
    let wish = Wish {
        rabbitmq: flags.rabbitmq.clone(),
        kafka: flags.kafka.clone(),
        ..Wish::default()
    };
    let brokers = Brokers::running(workspace, &wish);
    let totals = run_all(workspace, ALL_CRATES, &brokers, flags.token.as_deref())?;
    println!("\n{totals}");
    totals.verdict()
}

/// Runs each example in memory and on each broker of this run. Each counts as one test; one without its broker as skipped.
///
/// `packages` is what the tests before were built with: with another choice Cargo would build the dependencies once more.
pub(crate) fn on_brokers(
    workspace: &Workspace,
    packages: &[&str],
    brokers: &Brokers,
) -> Result<Totals> {
    run_all(workspace, packages, brokers, None)
}

fn run_all(
    workspace: &Workspace,
    packages: &[&str],
    brokers: &Brokers,
    token: Option<&str>,
) -> Result<Totals> {
    let mut totals = Totals::default();
    for example in build(workspace, packages)? {
        let places = brokers.found.iter().map(|found| {
            (
                found.kind.service(),
                found
                    .address
                    .clone()
                    .map(|address| url(found.kind, &address)),
            )
        });
        for (broker, url) in std::iter::once(("memory", Ok("memory".to_owned()))).chain(places) {
            let label = format!("{} on {broker}", example.name);
            let result = match url {
                Err(reason) if brokers.required => Err(reason.into()),
                Err(reason) => {
                    println!("example {label} ... skipped ({reason})");
                    totals.skipped += 1;
                    continue;
                }
                Ok(url) => try_one(
                    &example,
                    broker,
                    &url,
                    &token.map_or_else(random_word, str::to_owned),
                ),
            };
            match result {
                Ok(took) => {
                    println!("example {label} ... ok ({:.1} s)", took.as_secs_f64());
                    totals.passed += 1;
                }
                Err(error) => {
                    println!("example {label} ... FAILED\n{error}");
                    totals.failed += 1;
                }
            }
        }
    }
    Ok(totals)
}

struct Example {
    name: String,
    program: PathBuf,
    folder: PathBuf,
}

fn build(workspace: &Workspace, packages: &[&str]) -> Result<Vec<Example>> {
    #[derive(Deserialize)]
    struct Message {
        target: Option<BuiltTarget>,
        executable: Option<PathBuf>,
    }
    #[derive(Deserialize)]
    struct BuiltTarget {
        name: String,
    }

    let output = Command::new(cargo())
        .current_dir(&workspace.root)
        .args(["build", "--all-features", "--examples"])
        .args(packages)
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("the examples do not build".into());
    }
    let built: Vec<Message> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let package = workspace
        .package("mq-examples")
        .ok_or("there is no package mq-examples")?;
    let mut examples = Vec::new();
    for target in package
        .targets
        .iter()
        .filter(|target| target.kind.iter().any(|kind| kind == "example"))
    {
        let is_it = |message: &&Message| {
            message
                .target
                .as_ref()
                .is_some_and(|built| built.name == target.name)
        };
        let program = built
            .iter()
            .filter(is_it)
            .find_map(|message| message.executable.clone());
        examples.push(Example {
            name: target.name.clone(),
            program: program.ok_or_else(|| format!("example {} was not built", target.name))?,
            folder: target
                .src_path
                .parent()
                .map(Path::to_owned)
                .unwrap_or_default(),
        });
    }
    if examples.is_empty() {
        Err("there is no example".into())
    } else {
        Ok(examples)
    }
}

fn try_one(example: &Example, broker: &str, url: &str, token: &str) -> Result<Duration> {
    let start = Instant::now();
    let mut child = Command::new(&example.program)
        .args(["--broker", url, "--token", token])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let ended = end(&mut child)?;
    let stdout = stdout.join().unwrap_or_default();
    let shown = || {
        format!(
            "--- its output\n{stdout}--- its errors\n{}---",
            stderr.join().unwrap_or_default()
        )
    };
    let expected = std::fs::read_to_string(example.folder.join("expected.txt"));
    let verdict = match (ended, expected) {
        (Some(true), Ok(expected)) => compare(&expected, &stdout, broker, token),
        (Some(true), Err(error)) => Err(format!("no expected.txt beside it: {error}")),
        (Some(false), _) => Err("it ended with an error".to_owned()),
        (None, _) => Err(format!("it did not end within {} s", DEADLINE.as_secs())),
    };
    verdict
        .map(|()| start.elapsed())
        .map_err(|reason| format!("{reason}\n{}", shown()).into())
}

/// Reads on a thread of its own, so that a full pipe never stops the program.
fn reader(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Whether the program ended well; `None` if it had to be killed.
fn end(child: &mut Child) -> Result<Option<bool>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if start.elapsed() > DEADLINE {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn url(kind: Kind, address: &str) -> String {
    match kind {
        Kind::Kafka if !address.contains("://") => format!("kafka://{address}"),
        _ => address.to_owned(),
    }
}

fn random_word() -> String {
    // The standard library's hasher is seeded at random, which is random enough for a name.
    format!("t{:016x}", RandomState::new().build_hasher().finish())
}

/// Compares line by line. In `expected`, `{token}` and `{broker}` are filled in, `...` within a line is any text, and a line of
/// `...` alone is any number of lines.
fn compare(
    expected: &str,
    actual: &str,
    broker: &str,
    token: &str,
) -> std::result::Result<(), String> {
    if !actual.contains(token) {
        return Err(format!(
            "the word {token}, sent through the broker, did not come back"
        ));
    }
    let filled = expected
        .replace("{token}", token)
        .replace("{broker}", broker);
    let expected: Vec<&str> = filled.trim_end().lines().map(str::trim_end).collect();
    let actual: Vec<&str> = actual.trim_end().lines().map(str::trim_end).collect();
    // How many of the expected lines the best attempt got through, for the message.
    let mut best = 0;
    if lines_match(&expected, &actual, 0, &mut best) {
        return Ok(());
    }
    match expected.get(best) {
        Some(line) => Err(format!(
            "expected.txt, line {}: not found: {line}",
            best + 1
        )),
        None => Err("there are more lines than expected.txt has".into()),
    }
}

fn lines_match(expected: &[&str], actual: &[&str], done: usize, best: &mut usize) -> bool {
    *best = done.max(*best);
    match expected.split_first() {
        None => actual.is_empty(),
        Some((&"...", rest)) => {
            (0..=actual.len()).any(|skipped| lines_match(rest, &actual[skipped..], done + 1, best))
        }
        Some((line, rest)) => actual.split_first().is_some_and(|(first, others)| {
            text_matches(line, first) && lines_match(rest, others, done + 1, best)
        }),
    }
}

fn text_matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: &str = "broker: {broker}\n...\nreceived {token}-1 after ... ms\n...\ndone\n";

    #[test]
    fn accepts_what_fits_the_placeholders_and_wildcards() {
        let output = "broker: kafka\nhello\nworld\nreceived x7-1 after 12.5 ms\ndone\n";
        assert_eq!(compare(EXPECTED, output, "kafka", "x7"), Ok(()));
    }

    #[test]
    fn names_the_first_expected_line_that_is_not_there() {
        let output = "broker: kafka\nreceived x7-1 after 3 ms\ncrashed\n";
        assert_eq!(
            compare(EXPECTED, output, "kafka", "x7").unwrap_err(),
            "expected.txt, line 5: not found: done"
        );
        let more = "broker: kafka\nreceived x7-1 after 3 ms\ndone\nand more\n";
        assert!(compare(EXPECTED, more, "kafka", "x7").is_err());
    }

    #[test]
    fn a_word_that_does_not_come_back_is_a_failure_whatever_the_lines() {
        assert!(
            compare("...", "anything\n", "memory", "x7")
                .unwrap_err()
                .contains("did not come back")
        );
    }

    #[test]
    fn a_wildcard_in_a_line_matches_only_where_both_ends_do() {
        for (pattern, text, expected) in [
            ("a...c", "abc", true),
            ("a...c", "ac", true),
            ("a...c", "abcd", false),
            ("ab...bc", "abc", false),
            ("...", "", true),
            ("a...b...c", "a1b2c", true),
            ("a...b...c", "acb", false),
            ("plain", "plain!", false),
        ] {
            assert_eq!(text_matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn two_random_words_differ() {
        assert_ne!(random_word(), random_word());
    }
}
