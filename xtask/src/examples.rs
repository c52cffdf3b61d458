//! `cargo xtask examples`: runs each example program on each broker that it names, and compares what it prints with what it should.
//!
//! An example names a broker by a file beside it with the output expected there: `expected.rabbitmq.txt`, or `expected.txt` for
//! every broker that has no file of its own.

mod expected;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use self::expected::{MEMORY, came_back, compare, expectation, expectations};
use crate::Result;
use crate::brokers::{Brokers, Kind, Wish};
use crate::flags;
use crate::programs::{self, Program};
use crate::results::Totals;
use crate::workspace::{ALL_CRATES, Workspace};

/// An example that hangs is a failure. The slowest one takes less than a minute.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, flags: &flags::Examples) -> Result {
    let wish = Wish {
        rabbitmq: flags.rabbitmq.clone(),
        kafka: flags.kafka.clone(),
        ..Wish::default()
    };
    let brokers = Brokers::running(workspace, &wish);
    let programs = programs::build(workspace, &["build", "--examples"], ALL_CRATES)?;
    let totals = run_all(workspace, &programs, &brokers, flags.token.as_deref())?;
    println!("\n{totals}");
    totals.verdict()
}

/// Runs each example in memory and on each broker of this run, as far as it names them. Each counts as one test; one without its
/// broker as skipped.
pub(crate) fn on_brokers(
    workspace: &Workspace,
    programs: &[Program],
    brokers: &Brokers,
) -> Result<Totals> {
    run_all(workspace, programs, brokers, None)
}

fn run_all(
    workspace: &Workspace,
    programs: &[Program],
    brokers: &Brokers,
    token: Option<&str>,
) -> Result<Totals> {
    let mut totals = Totals::default();
    for example in examples(workspace, programs)? {
        let places = brokers.found.iter().map(|found| {
            (
                found.kind.service(),
                found
                    .address
                    .clone()
                    .map(|address| url(found.kind, &address)),
            )
        });
        for (broker, url) in std::iter::once((MEMORY, Ok(MEMORY.to_owned()))).chain(places) {
            let Some(expected) = expectation(&example.expected, broker) else {
                continue;
            };
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
                    expected,
                    broker,
                    &url,
                    &brokers.flows(),
                    // Two examples may have a name in common for a queue, and not its settings.
                    &token.map_or_else(random_word, |word| format!("{word}-{}", example.name)),
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
    /// The files in the folder that say what it should print.
    expected: Vec<String>,
}

fn examples(workspace: &Workspace, programs: &[Program]) -> Result<Vec<Example>> {
    let package = workspace
        .package("mq-examples")
        .ok_or("there is no package mq-examples")?;
    let mut examples = Vec::new();
    for target in package
        .targets
        .iter()
        .filter(|target| target.kind.iter().any(|kind| kind == "example"))
    {
        let program = programs
            .iter()
            .find(|program| program.is_example() && program.name == target.name);
        let folder = target
            .src_path
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        let expected = expectations(files(&folder)?)
            .map_err(|reason| format!("example {}: {reason}", target.name))?;
        examples.push(Example {
            name: target.name.clone(),
            program: program
                .map(|program| program.path.clone())
                .ok_or_else(|| format!("example {} was not built", target.name))?,
            folder,
            expected,
        });
    }
    if examples.is_empty() {
        Err("there is no example".into())
    } else {
        Ok(examples)
    }
}

fn files(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn try_one(
    example: &Example,
    expected: &str,
    broker: &str,
    url: &str,
    flows: &Path,
    token: &str,
) -> Result<Duration> {
    let start = Instant::now();
    let mut child = Command::new(&example.program)
        .args(["--broker", url, "--token", token])
        .env("MQ_FLOW_DIR", flows)
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
    let verdict = match (
        ended,
        std::fs::read_to_string(example.folder.join(expected)),
    ) {
        (Some(true), Ok(_)) if !came_back(&stdout, token) => Err(format!(
            "the word {token}, sent through the broker, did not come back: it stands nowhere by itself"
        )),
        (Some(true), Ok(text)) => {
            compare(&text, &stdout, broker, token).map_err(|reason| format!("{expected}: {reason}"))
        }
        (Some(true), Err(error)) => Err(format!("{expected}: {error}")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_random_words_differ() {
        assert_ne!(random_word(), random_word());
    }
}
