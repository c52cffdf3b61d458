//! The processes of a run end with it, whatever happens. That there is this test also makes `cargo test` build the program
//! that `cargo xtask test` then runs.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A consumer whose broker is not there: it goes on asking for it.
fn consumer(history: &Path) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_mq-chaos"))
        .args([
            "consumer", "--broker", "rabbitmq", "--run", "r", "--name", "c", "--seed", "1",
        ])
        .args([
            "--address",
            "amqp://guest:guest@127.0.0.1:1/%2f",
            "--history",
        ])
        .arg(history)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    until("it began its history", || {
        history.join("c.0.jsonl").exists()
    });
    child
}

fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    until("the process ended", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{what}: not within 20 s"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("mq-chaos-{name}-{}", std::process::id()))
}

#[test]
fn a_process_ends_when_its_conductor_lets_go_of_it() {
    let history = folder("gone");
    let mut child = consumer(&history);
    assert_eq!(child.try_wait().unwrap(), None, "it waits for its broker");
    drop(child.stdin.take());
    assert_eq!(ended(&mut child).code(), Some(3));
    fs::remove_dir_all(history).unwrap();
}

#[test]
fn a_stopped_process_is_killed_when_who_started_it_is_gone() {
    let history = folder("stopped");
    let folder = history.clone();
    // What counts for the system is the thread.
    let starter = thread::spawn(move || {
        let child = consumer(&folder);
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        child
    });
    let mut child = starter.join().unwrap();
    assert_eq!(ended(&mut child).signal(), Some(9));
    fs::remove_dir_all(history).unwrap();
}

#[test]
fn a_broker_that_is_not_known_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_mq-chaos"))
        .args(["run", "--broker", "redis"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("rabbitmq or kafka"),
        "{text}"
    );
}
