//! Runs programs in lanes: those of one lane one after the other, the lanes beside each other. What a program prints is shown once
//! it has ended, so that two of them do not mix.

use std::io::{Read, Write, pipe};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::step::clock;

/// A program to run, and what it is called.
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) command: Command,
}

/// A program that has ended.
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) succeeded: bool,
    /// What it printed, errors among the rest.
    pub(crate) output: String,
}

/// Runs all of them. One that fails stops no other.
///
/// # Errors
/// If one cannot be started, after all lanes have ended.
pub(crate) fn run(lanes: Vec<Vec<Job>>) -> Result<Vec<Ended>> {
    let run_lane =
        |lane: Vec<Job>| -> std::io::Result<Vec<Ended>> { lane.into_iter().map(run_one).collect() };
    let ended: Vec<_> = std::thread::scope(|scope| {
        let lanes: Vec<_> = lanes
            .into_iter()
            .map(|lane| scope.spawn(move || run_lane(lane)))
            .collect();
        lanes.into_iter().map(|lane| lane.join()).collect()
    });
    let mut all = Vec::new();
    for lane in ended {
        all.extend(lane.map_err(|_| "a lane of programs panicked")??);
    }
    Ok(all)
}

fn run_one(mut job: Job) -> std::io::Result<Ended> {
    let start = Instant::now();
    let (mut reader, writer) = pipe()?;
    job.command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = job.command.spawn()?;
    // It holds the other ends of the pipe, which would never be at its end.
    drop(job.command);
    let mut output = Vec::new();
    reader.read_to_end(&mut output)?;
    let status = child.wait()?;
    let output = String::from_utf8_lossy(&output).into_owned();
    show(&job.name, &output, start.elapsed())?;
    Ok(Ended {
        name: job.name,
        succeeded: status.success(),
        output,
    })
}

/// One write, so that the lanes do not mix.
fn show(name: &str, output: &str, took: Duration) -> std::io::Result<()> {
    let took = clock(took);
    let text = format!("\n    {name} ({took})\n{output}");
    std::io::stdout().lock().write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job {
            name: name.into(),
            command,
        }
    }

    #[test]
    fn a_lane_is_in_order_and_beside_the_other_one() {
        let folder = std::env::temp_dir().join(format!("mq-lanes-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str| folder.join(name).display().to_string();
        let (a, b) = (file("a"), file("b"));
        // Each lane waits for what the other one does in its second program.
        let wait = |path: &str| {
            format!("for i in $(seq 500); do [ -e {path} ] && exit; sleep 0.02; done; exit 1")
        };
        let ended = run(vec![
            vec![
                shell("1", &format!("echo out; echo err >&2; touch {a}")),
                shell("2", &wait(&b)),
            ],
            vec![
                shell("3", &wait(&a)),
                shell("4", &format!("touch {b}; exit 3")),
            ],
        ])
        .unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let found: Vec<_> = ended
            .iter()
            .map(|one| (&*one.name, one.succeeded))
            .collect();
        assert_eq!(found, [("1", true), ("2", true), ("3", true), ("4", false)]);
        assert_eq!(ended[0].output, "out\nerr\n");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let command = Command::new("/no/such/program");
        let name = "none".to_owned();
        assert!(run(vec![vec![Job { name, command }]]).is_err());
    }
}
