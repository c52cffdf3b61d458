//! Programs with planted bugs: each has to be found in at most three runs, by its own finding and
//! no other, and the same program without the bug has to be clean.
#![allow(
    clippy::expect_used,
    clippy::unwrap_in_result,
    reason = "a test, with its helpers in files of their own: a panic is its failure"
)]

mod lab;
mod logs;
mod publishing;
mod queues;
mod transactions;

use std::{env, fmt::Write as _, fs, io::Write as _, path::Path};

use lab::{Lab, Shape};
use mq_testkit::checker::{Checker, Claim, Class, Report, Verdict};

/// A program with a bug that can be switched on.
struct Planted {
    bug: &'static str,
    finding: Class,
    claim: fn() -> Claim,
    program: fn(&Lab),
    shapes: &'static [Shape],
}

/// In how many runs a bug has to be found.
const RUNS: u64 = 3;
/// How many runs without it have to be clean.
const CLEAN: u64 = 20;

const QUEUES: &[Shape] = &[Shape::Queues];
/// Where a message that no handler got lies below others that one did.
const LOG: &[Shape] = &[Shape::Log];
const BOTH: &[Shape] = &[Shape::Queues, Shape::Log];
/// A log of the test's own, or none at all.
const OWN: &[Shape] = &[Shape::Own];

const PLANTED: [Planted; 24] = [
    planted(
        "ack before effect, and a crash",
        Class::Lost,
        Claim::at_least_once,
        queues::ack_before_effect,
        BOTH,
    ),
    planted(
        "drain drops leftovers",
        Class::Lost,
        Claim::at_least_once,
        queues::drain_drops_leftovers,
        QUEUES,
    ),
    planted(
        "drain drops leftovers",
        Class::Skipped,
        Claim::at_least_once,
        queues::drain_drops_leftovers,
        LOG,
    ),
    planted(
        "requeue without budget",
        Class::Stuck,
        queues::lively,
        queues::requeue_without_budget,
        BOTH,
    ),
    planted(
        "refused ack taken as acked",
        Class::DuplicateEffect,
        Claim::effectively_once,
        queues::refused_ack,
        BOTH,
    ),
    planted(
        "inbox: check, then act",
        Class::DuplicateEffect,
        Claim::effectively_once,
        queues::check_then_act,
        BOTH,
    ),
    planted(
        "new message id on replay",
        Class::DuplicateEffect,
        Claim::effectively_once,
        queues::new_id_on_replay,
        BOTH,
    ),
    planted(
        "acknowledged after handling, said to be at most once",
        Class::DuplicateDelivery,
        Claim::at_most_once,
        queues::late_ack,
        BOTH,
    ),
    planted(
        "one key handled by two at once",
        Class::Reordered,
        queues::ordered,
        queues::no_lanes,
        QUEUES,
    ),
    planted(
        "payload cut on the way",
        Class::Corrupt,
        Claim::at_least_once,
        queues::payload_cut,
        BOTH,
    ),
    planted(
        "ignore a nack",
        Class::Lost,
        Claim::at_least_once,
        publishing::ignore_a_nack,
        QUEUES,
    ),
    planted(
        "trust a plain ack for an unroutable message",
        Class::Lost,
        Claim::at_least_once,
        publishing::unroutable,
        BOTH,
    ),
    planted(
        "outbox: mark, then publish, and a crash",
        Class::Lost,
        Claim::at_least_once,
        publishing::mark_before_publish,
        BOTH,
    ),
    planted(
        "outbox: publish before the row is committed",
        Class::Unexpected,
        Claim::at_least_once,
        publishing::phantom,
        BOTH,
    ),
    planted(
        "commit the highest offset",
        Class::CommitAhead,
        Claim::at_least_once,
        logs::commit_the_highest,
        OWN,
    ),
    planted(
        "commit positions instead of the watermark",
        Class::CommitAhead,
        Claim::at_least_once,
        logs::commit_positions,
        OWN,
    ),
    planted(
        "auto offset store",
        Class::CommitAhead,
        Claim::at_least_once,
        logs::auto_offset_store,
        OWN,
    ),
    planted(
        "commit after revoke",
        Class::StaleWrite,
        Claim::at_least_once,
        logs::commit_after_revoke,
        OWN,
    ),
    planted(
        "commits overtake each other",
        Class::CommitBack,
        Claim::at_least_once,
        logs::commits_overtake,
        OWN,
    ),
    planted(
        "start at the end after a restart",
        Class::Skipped,
        Claim::at_least_once,
        logs::start_at_the_end,
        OWN,
    ),
    planted(
        "a leader without the last records",
        Class::InconsistentOffset,
        Claim::at_least_once,
        logs::unclean_leader,
        OWN,
    ),
    planted(
        "no seek back after an abort",
        Class::Lost,
        Claim::exactly_once,
        transactions::no_seek_back,
        OWN,
    ),
    planted(
        "read uncommitted",
        Class::AbortedRead,
        Claim::exactly_once,
        transactions::read_uncommitted,
        OWN,
    ),
    planted(
        "one partition misses the commit marker",
        Class::TornTransaction,
        Claim::exactly_once,
        transactions::missing_marker,
        OWN,
    ),
];

#[test]
fn each_bug_is_found_by_its_own_finding_in_three_runs_and_without_it_twenty_are_clean() {
    let mut table = String::new();
    for (planted, shape) in all() {
        let Planted { bug, finding, .. } = planted;
        let needed = planted.needed(shape);
        for seed in 0..CLEAN {
            let report = planted.run(seed, false, shape);
            assert_eq!(
                report.verdict(),
                Verdict::Holds,
                "{bug}, seed {seed}: {report}"
            );
        }
        let on = match shape {
            Shape::Queues => "queues",
            Shape::Log => "a log",
            Shape::Own => "its own log",
        };
        let detail = format!("{finding}; {needed} of {RUNS}; {CLEAN} of {CLEAN}");
        write_record(&format!("{bug} ({on})"), &detail);
        writeln!(table, "{bug} ({on}): {detail}").expect("a string");
    }
    println!("{table}");
}

/// Appends a line for the table of `docs/evidence.md` where `MQ_TEST_RECORDS` names a folder.
fn write_record(case: &str, detail: &str) {
    let Some(folder) = env::var_os("MQ_TEST_RECORDS").filter(|folder| !folder.is_empty()) else {
        return;
    };
    let line = serde_json::json!({
        "run": env::var("MQ_TEST_RUN").unwrap_or_default(),
        "suite": "planted-bugs",
        "broker": "mq-testkit",
        "case": case,
        "result": "passed",
        "detail": detail,
    });
    fs::create_dir_all(&folder).expect("a folder");
    let path = Path::new(&folder).join("planted-bugs.jsonl");
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    writeln!(file.expect("a file"), "{line}").expect("written");
}

fn all() -> impl Iterator<Item = (&'static Planted, Shape)> {
    let shapes =
        |planted: &'static Planted| planted.shapes.iter().map(move |shape| (planted, *shape));
    PLANTED.iter().flat_map(shapes)
}

impl Planted {
    /// The number of the first run in which the bug is found.
    fn needed(&self, shape: Shape) -> u64 {
        for seed in 0..RUNS {
            let report = self.run(seed, true, shape);
            let broken = report.broken();
            // A run in which the bug did not bite may be clean, and nothing else.
            let own = broken.is_empty() || broken == [self.finding];
            assert!(own, "{}: {report}", self.bug);
            let mut findings = report.findings().iter();
            let shown = findings.all(|finding| !finding.evidence.is_empty());
            assert!(shown, "a finding without evidence: {report}");
            if !broken.is_empty() {
                return seed + 1;
            }
        }
        panic!("{} is not found on {shape:?}", self.bug);
    }

    fn run(&self, seed: u64, bug: bool, shape: Shape) -> Report {
        let lab = Lab::new(seed, bug, shape);
        (self.program)(&lab);
        let report = Checker::new((self.claim)()).check(lab.folder());
        report.expect("a whole history")
    }
}

const fn planted(
    bug: &'static str,
    finding: Class,
    claim: fn() -> Claim,
    program: fn(&Lab),
    shapes: &'static [Shape],
) -> Planted {
    Planted {
        bug,
        finding,
        claim,
        program,
        shapes,
    }
}
