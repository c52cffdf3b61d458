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

use std::fmt::Write as _;

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
fn each_bug_is_found_by_its_own_finding_in_three_runs() {
    let mut table = String::new();
    for (planted, shape) in all() {
        let needed = (0..3).find(|seed| {
            let report = planted.run(*seed, true, shape);
            let broken = report.broken();
            // A run in which the bug did not bite may be clean, and nothing else.
            assert!(
                broken.is_empty() || broken == [planted.finding],
                "{}: {report}",
                planted.bug
            );
            let shown = report
                .findings()
                .iter()
                .all(|finding| !finding.evidence.is_empty());
            assert!(shown, "a finding without evidence: {report}");
            !broken.is_empty()
        });
        let Planted { bug, finding, .. } = planted;
        let needed = needed.map(|seed| seed + 1).expect(bug);
        writeln!(table, "| {bug} ({shape:?}) | {finding} | {needed} |").expect("a string");
    }
    println!("| bug | finding | runs |\n|---|---|---|\n{table}");
}

#[test]
fn without_its_bug_each_program_is_clean_twenty_times() {
    for (planted, shape) in all() {
        for seed in 0..20 {
            let report = planted.run(seed, false, shape);
            assert_eq!(
                report.verdict(),
                Verdict::Holds,
                "{}, seed {seed}: {report}",
                planted.bug
            );
        }
    }
}

fn all() -> impl Iterator<Item = (&'static Planted, Shape)> {
    let shapes =
        |planted: &'static Planted| planted.shapes.iter().map(move |shape| (planted, *shape));
    PLANTED.iter().flat_map(shapes)
}

impl Planted {
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
