//! The recorder in a process that is killed: what it said it wrote is there.
#![allow(
    clippy::expect_used,
    reason = "a test with a helper process: a panic is its failure"
)]

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use mq_testkit::{
    checker::{Checker, Claim},
    history::{Event, Recorder},
};

const FOLDER: &str = "MQ_TEST_HISTORY";
const KILLS: u64 = 10;

/// Not a test of its own: what the killed process does.
#[test]
fn records_until_it_is_killed() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let recorder = Recorder::create(folder, "run", "killed").expect("a recorder");
    let tags = recorder.tags();
    let mut out = std::io::stderr();
    loop {
        let tag = tags.next("key");
        recorder.record(Event::send(&tag)).expect("recorded");
        recorder.record(Event::ok(&tag)).expect("recorded");
        writeln!(out, "seq {}", tag.seq()).expect("told");
    }
}

#[test]
fn what_was_recorded_survives_kill_9() {
    let folder = env::temp_dir().join(format!("mq-killed-{}", std::process::id()));
    let mut promised = 0;
    for kill in 0..KILLS {
        let program = env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--exact", "records_until_it_is_killed", "--nocapture"])
            .env(FOLDER, &folder)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let told = child.stderr.take().expect("a pipe");
        let mut last = None;
        for line in BufReader::new(told).lines() {
            let line = line.expect("text");
            if let Some(seq) = line
                .strip_prefix("seq ")
                .and_then(|seq| seq.parse::<u64>().ok())
            {
                last = Some(seq);
                if seq == 50 + 13 * kill {
                    child.kill().expect("killed");
                }
            }
        }
        child.wait().expect("over");
        // The process was killed while it went on, so it may have told of some more.
        promised += last.expect("it told of one") + 1;
    }
    let report = Checker::new(Claim::at_least_once()).check(&folder);
    let report = report.expect("only torn ends");
    fs::remove_dir_all(&folder).expect("removed");
    let counts = report.counts();
    assert_eq!(counts.files, KILLS);
    let most = promised + KILLS;
    assert!(
        (promised..=most).contains(&counts.confirmed),
        "{promised} promised: {report}"
    );
}
