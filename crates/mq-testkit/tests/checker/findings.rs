//! Each class of finding: a smallest history that shows it, and one near it that does not.

use std::time::Duration;

use crate::histories::{check, steps, try_check};
use mq_testkit::{
    checker::{Claim, Class, Report, Verdict},
    history::HistoryError,
};

/// One message, sent and confirmed.
const SENT: &str = "a: send p#0 k=x
                    a: ok p#0\n";
/// Two messages of one key, sent and confirmed.
const TWO: &str = "a: send p#0 k=x
                   a: ok p#0 @q/0:0
                   a: send p#1 k=x
                   a: ok p#1 @q/0:1\n";

/// Where each line of evidence was read, as `file:line`.
fn places(report: &Report) -> Vec<String> {
    let evidence = report
        .findings()
        .iter()
        .flat_map(|finding| &finding.evidence);
    let name = |file: &std::path::Path| file.file_name().expect("a name").to_owned();
    evidence
        .map(|e| format!("{}:{}", name(&e.file).display(), e.line))
        .collect()
}

/// The history has exactly this finding, proved by these lines.
#[track_caller]
fn found(report: &Report, class: Class, evidence: &[&str]) {
    assert_eq!(report.broken(), [class], "{report}");
    assert_eq!(report.count(class), 1, "{report}");
    assert_eq!(report.verdict(), Verdict::Broken);
    assert_eq!(places(report), evidence, "{report}");
}

#[track_caller]
fn clean(report: &Report) {
    assert_eq!(report.broken(), [], "{report}");
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    assert!(report.findings().is_empty());
}

fn checked(claim: &Claim, parts: &[&str]) -> Report {
    check(claim.clone(), &parts.concat())
}

#[test]
fn lost() {
    let claim = Claim::at_least_once();
    let gone = checked(&claim, &[SENT, "b: deliver p#0 g=g\nb: ack p#0 g=g"]);
    found(
        &gone,
        Class::Lost,
        &["a.0.jsonl:3", "b.0.jsonl:2", "b.0.jsonl:3"],
    );
    found(&checked(&claim, &[SENT]), Class::Lost, &["a.0.jsonl:3"]);
    let one_of_two_groups = "b: effect p#0 g=g\nc: deliver p#0 g=h";
    let gone = checked(&claim, &[SENT, one_of_two_groups]);
    found(&gone, Class::Lost, &["a.0.jsonl:3", "c.0.jsonl:2"]);
    clean(&checked(&claim, &[SENT, "b: effect p#0 g=g"]));
    clean(&checked(
        &claim.clone().group("g"),
        &[SENT, one_of_two_groups],
    ));
    let silent = checked(&claim.group("silent"), &[SENT, "b: effect p#0 g=g"]);
    found(&silent, Class::Lost, &["a.0.jsonl:3"]);
    clean(&checked(
        &Claim::at_most_once(),
        &[SENT, "b: deliver p#0 g=g"],
    ));
}

#[test]
fn a_message_that_was_rejected_or_is_unknown_need_not_appear() {
    let claim = Claim::at_least_once();
    for outcome in ["a: rejected p#1", "a: unknown p#1", ""] {
        let sent = format!("a: send p#1\n{outcome}\n");
        clean(&checked(&claim, &[SENT, &sent, "b: effect p#0 g=g"]));
    }
    let again = "a: send p#1\na: unknown p#1\na: send p#1\na: ok p#1\n";
    let gone = checked(&claim, &[SENT, again, "b: effect p#0 g=g"]);
    found(&gone, Class::Lost, &["a.0.jsonl:4", "a.0.jsonl:7"]);
}

#[test]
fn unexpected() {
    let claim = Claim::at_least_once();
    let own = "b: effect p#0 g=g\n";
    let from_nowhere = checked(&claim, &[SENT, own, "b: effect p#1 g=g"]);
    found(&from_nowhere, Class::Unexpected, &["b.0.jsonl:3"]);
    let other_run = checked(&claim, &[SENT, own, "b: effect p#0 g=g run=old"]);
    found(&other_run, Class::Unexpected, &["b.0.jsonl:3"]);
    // Two machines, two clocks: the send may stand behind the effect.
    clean(&checked(&claim, &["b: effect p#0 g=g\n", SENT]));
    clean(&checked(&claim, &[SENT, own, "b: deliver p#0 g=g run=old"]));
}

#[test]
fn corrupt() {
    let claim = Claim::at_least_once();
    let known = checked(&claim, &[SENT, "b: corrupt p#0 g=g"]);
    found(&known, Class::Corrupt, &["a.0.jsonl:2", "b.0.jsonl:2"]);
    let anything = checked(&claim, &[SENT, "b: effect p#0 g=g\nb: corrupt g=g"]);
    found(&anything, Class::Corrupt, &["b.0.jsonl:3"]);
    clean(&checked(&claim, &[SENT, "b: effect p#0 g=g"]));
}

#[test]
fn aborted_read() {
    let claim = Claim::exactly_once();
    let rejected = "a: send p#1\na: rejected p#1\nb: effect p#0 g=g\nb: effect p#1 g=g";
    let report = checked(&claim, &[SENT, rejected]);
    found(&report, Class::AbortedRead, &["a.0.jsonl:5", "b.0.jsonl:3"]);
    clean(&checked(
        &claim.clone().rejected_may_appear(),
        &[SENT, rejected],
    ));
    let aborted = "a: send p#1 tx=t\na: ok p#1\na: aborted tx=t\nb: effect p#0 g=g\n";
    let report = checked(&claim, &[SENT, aborted, "b: effect p#1 g=g"]);
    found(&report, Class::AbortedRead, &["a.0.jsonl:6", "b.0.jsonl:3"]);
    let on_a_topic = claim.clone().rejected_may_appear();
    let report = checked(&on_a_topic, &[SENT, aborted, "b: effect p#1 g=g"]);
    assert_eq!(report.broken(), [Class::AbortedRead]);
    clean(&checked(&claim, &[SENT, aborted]));
    let committed = aborted.replace("aborted", "committed");
    clean(&checked(&claim, &[SENT, &committed, "b: effect p#1 g=g"]));
}

#[test]
fn recovered_is_counted_and_no_finding() {
    let unknown = "a: send p#1\na: unknown p#1\na: send p#2\n";
    let effects = "b: effect p#0 g=g\nb: effect p#1 g=g\nb: effect p#2 g=g";
    let report = checked(&Claim::exactly_once(), &[SENT, unknown, effects]);
    clean(&report);
    assert_eq!((report.counts().unknown, report.counts().recovered), (2, 2));
}

#[test]
fn duplicate_delivery() {
    let twice = "b: deliver p#0 g=g\nb: effect p#0 g=g\nc: deliver p#0 g=g";
    let report = checked(&Claim::at_most_once(), &[SENT, twice]);
    found(
        &report,
        Class::DuplicateDelivery,
        &["b.0.jsonl:2", "c.0.jsonl:2"],
    );
    let report = checked(&Claim::effectively_once(), &[SENT, twice]);
    clean(&report);
    assert_eq!(report.count(Class::DuplicateDelivery), 1);
    let two_groups = "b: deliver p#0 g=g\nc: deliver p#0 g=h";
    clean(&checked(&Claim::at_most_once(), &[SENT, two_groups]));
}

#[test]
fn duplicate_effect() {
    let twice = "b: effect p#0 g=g\nc: effect p#0 g=g";
    for claim in [
        Claim::at_most_once(),
        Claim::effectively_once(),
        Claim::exactly_once(),
    ] {
        let report = checked(&claim, &[SENT, twice]);
        found(
            &report,
            Class::DuplicateEffect,
            &["b.0.jsonl:2", "c.0.jsonl:2"],
        );
        clean(&checked(
            &claim,
            &[SENT, "b: effect p#0 g=g\nc: effect p#0 g=h"],
        ));
    }
    clean(&checked(&Claim::at_least_once(), &[SENT, twice]));
    let undone =
        "b: effect p#0 g=g tx=t\nb: aborted tx=t\nb: effect p#0 g=g tx=u\nb: committed tx=u";
    clean(&checked(&Claim::exactly_once(), &[SENT, undone]));
    let done = undone.replace("aborted", "committed");
    let report = checked(&Claim::exactly_once(), &[SENT, &done]);
    found(
        &report,
        Class::DuplicateEffect,
        &["b.0.jsonl:2", "b.0.jsonl:4"],
    );
}

#[test]
fn an_effect_that_was_undone_is_no_evidence() {
    let undone = "b: effect p#0 g=g tx=t\nb: aborted tx=t\n";
    let twice = "b: effect p#0 g=g\nc: effect p#0 g=g";
    let report = checked(&Claim::exactly_once(), &[SENT, undone, twice]);
    found(
        &report,
        Class::DuplicateEffect,
        &["b.0.jsonl:4", "c.0.jsonl:2"],
    );
}

#[test]
fn reordered() {
    let claim = Claim::at_least_once().ordered();
    let swapped = "b: effect p#1 g=g k=x\nb: effect p#0 g=g k=x";
    let report = checked(&claim, &[TWO, swapped]);
    found(&report, Class::Reordered, &["b.0.jsonl:2", "b.0.jsonl:3"]);
    clean(&checked(&Claim::at_least_once(), &[TWO, swapped]));
    clean(&checked(
        &claim,
        &[TWO, "b: effect p#1 g=g k=x\nb: effect p#0 g=g k=y"],
    ));
    clean(&checked(
        &claim,
        &[TWO, "b: effect p#1 g=g\nb: effect p#0 g=g"],
    ));
    let repeated = "b: effect p#0 g=g k=x\nb: effect p#1 g=g k=x\nb: effect p#0 g=g k=x";
    clean(&checked(&claim, &[TWO, repeated]));
    // It was sent again, behind the other one.
    clean(&checked(
        &claim,
        &[TWO, "a: send p#0 k=x\na: ok p#0\n", swapped],
    ));
}

#[test]
fn commit_ahead() {
    let claim = Claim::at_least_once();
    let given = "b: deliver p#0 g=g @q/0:0\nb: deliver p#1 g=g @q/0:1\nb: effect p#1 g=g\n";
    let late = "b: effect p#0 g=g\n";
    let ahead = checked(&claim, &[TWO, given, "b: commit g=g @q/0:2\n", late]);
    found(&ahead, Class::CommitAhead, &["b.0.jsonl:2", "b.0.jsonl:5"]);
    clean(&checked(
        &claim,
        &[TWO, given, late, "b: commit g=g @q/0:2\n"],
    ));
    clean(&checked(
        &claim,
        &[TWO, given, "b: commit g=g @q/0:0\n", late],
    ));
    clean(&checked(
        &claim,
        &[
            TWO,
            given,
            "b: commit g=h @q/0:2\n",
            late,
            "c: effect p#0 g=h\nc: effect p#1 g=h",
        ],
    ));
    clean(&checked(
        &claim,
        &[TWO, given, "b: ack p#0 g=g\nb: commit g=g @q/0:2\n", late],
    ));
    // Delivered again after it was done: nothing is open.
    let again = "b: deliver p#0 g=g @q/0:0\nb: commit g=g @q/0:2";
    clean(&checked(&claim, &[TWO, given, late, again]));
    let before_handling = checked(
        &Claim::at_most_once(),
        &[TWO, given, "b: commit g=g @q/0:2"],
    );
    clean(&before_handling);
}

#[test]
fn a_commit_in_a_transaction_counts_when_that_is_committed() {
    let claim = Claim::exactly_once();
    let work = "b: deliver p#0 g=g @q/0:0\nb: commit g=g @q/0:1 tx=t\nb: effect p#0 g=g tx=t\n";
    clean(&checked(&claim, &[SENT, work, "b: committed tx=t"]));
    let redone = work.replace("=t", "=u");
    clean(&checked(
        &claim,
        &[
            SENT,
            work,
            "b: aborted tx=t\n",
            &redone,
            "b: committed tx=u",
        ],
    ));
    let ahead = "b: deliver p#0 g=g @q/0:0\nb: commit g=g @q/0:1 tx=t\nb: committed tx=t\nb: effect p#0 g=g";
    let report = checked(&claim, &[SENT, ahead]);
    found(&report, Class::CommitAhead, &["b.0.jsonl:2", "b.0.jsonl:3"]);
}

#[test]
fn commit_back() {
    let claim = Claim::at_least_once();
    let done = "b: effect p#0 g=g\nb: effect p#1 g=g\n";
    let back = "b: commit g=g @q/0:2 e=1\nb: commit g=g @q/0:1 e=1";
    let report = checked(&claim, &[TWO, done, back]);
    found(&report, Class::CommitBack, &["b.0.jsonl:4", "b.0.jsonl:5"]);
    let no_epoch = back.replace(" e=1", "");
    assert_eq!(
        checked(&claim, &[TWO, done, &no_epoch]).broken(),
        [Class::CommitBack]
    );
    clean(&checked(
        &claim,
        &[
            TWO,
            done,
            "b: commit g=g @q/0:2 e=1\nb: commit g=g @q/0:1 e=2",
        ],
    ));
    clean(&checked(
        &claim,
        &[TWO, done, "b: commit g=g @q/0:2\nc: commit g=g @q/0:1"],
    ));
    clean(&checked(
        &claim,
        &[TWO, done, "b: commit g=g @q/0:2\nb: commit g=g @q/1:1"],
    ));
    clean(&checked(
        &claim,
        &[TWO, done, "b: commit g=g @q/0:1\nb: commit g=g @q/0:1"],
    ));
}

#[test]
fn stale_write() {
    let claim = Claim::at_least_once().handler_deadline(Duration::from_millis(1));
    let done = "b: effect p#0 g=g\n";
    let owned = "b: assign g=g @q/0 e=1\n";
    let late = "b: revoke g=g @q/0 e=1\nb: commit g=g @q/0:1 e=1";
    let report = checked(&claim, &[SENT, done, owned, late]);
    found(&report, Class::StaleWrite, &["b.0.jsonl:4", "b.0.jsonl:5"]);
    let unnumbered = late
        .replace("1 e=1", "1")
        .replace("q/0 ", "q/0 e=1 ")
        .replace("q/0 e=1 e=1", "q/0 e=1");
    assert_eq!(
        checked(&claim, &[SENT, done, owned, &unnumbered]).broken(),
        [Class::StaleWrite]
    );
    for op in ["lost", "revoke"] {
        let late = late.replace("revoke", op);
        assert_eq!(
            checked(&claim, &[SENT, done, owned, &late]).broken(),
            [Class::StaleWrite]
        );
    }
    let in_time = "b: commit g=g @q/0:1 e=1\nb: revoke g=g @q/0 e=1";
    clean(&checked(&claim, &[SENT, done, owned, in_time]));
    let again = "b: revoke g=g @q/0 e=1\nb: assign g=g @q/0 e=2\nb: commit g=g @q/0:1 e=2";
    clean(&checked(&claim, &[SENT, done, owned, again]));
    clean(&checked(
        &claim,
        &[
            SENT,
            done,
            owned,
            "b: revoke g=g @q/1 e=1\nb: commit g=g @q/0:1 e=1",
        ],
    ));
}

#[test]
fn a_stale_effect_has_until_the_handlers_deadline() {
    let claim = Claim::at_least_once().handler_deadline(Duration::from_millis(1));
    let effect = |at: u64| {
        format!(
            "100 b: assign g=g @q/0 e=1\n200 b: revoke g=g @q/0 e=1\n{at} b: effect p#0 g=g @q/0:0 e=1"
        )
    };
    clean(&checked(&claim, &[SENT, &effect(1_200)]));
    let report = checked(&claim, &[SENT, &effect(1_201)]);
    found(&report, Class::StaleWrite, &["b.0.jsonl:3", "b.0.jsonl:4"]);
    let exact = Claim::exactly_once().handler_deadline(Duration::from_millis(1));
    assert_eq!(
        checked(&exact, &[SENT, &effect(201)]).broken(),
        [Class::StaleWrite]
    );
}

#[test]
fn a_process_that_was_fenced_by_another_writes_stale() {
    let claim = Claim::at_least_once().handler_deadline(Duration::from_millis(1));
    let commit = |at: u64, epoch: u64| {
        let owners =
            "100 b: assign g=g @q/0 e=1\n200 c: assign g=g @q/0 e=2\n210 c: effect p#0 g=g\n";
        format!("{owners}{at} b: commit g=g @q/0:1 e={epoch}")
    };
    clean(&checked(&claim, &[SENT, &commit(1_200, 1)]));
    let report = checked(&claim, &[SENT, &commit(1_201, 1)]);
    found(&report, Class::StaleWrite, &["c.0.jsonl:2", "b.0.jsonl:3"]);
    clean(&checked(&claim, &[SENT, &commit(1_201, 2)]));
}

#[test]
fn inconsistent_offset() {
    let claim = Claim::at_least_once();
    let done = "b: effect p#0 g=g\nb: effect p#1 g=g\n";
    let other = checked(&claim, &[TWO, done, "b: deliver p#1 g=g @q/0:0"]);
    found(
        &other,
        Class::InconsistentOffset,
        &["a.0.jsonl:3", "b.0.jsonl:4"],
    );
    clean(&checked(&claim, &[TWO, done, "b: deliver p#1 g=g @q/0:1"]));
    clean(&checked(&claim, &[TWO, done, "b: deliver p#1 g=g @q/1:0"]));
    clean(&checked(
        &claim,
        &[TWO, done, "b: deliver p#1 g=g @other/0:0"],
    ));
    // Stored twice, at two offsets: a duplicate, not a contradiction.
    clean(&checked(&claim, &[TWO, done, "b: deliver p#1 g=g @q/0:2"]));
}

#[test]
fn skipped() {
    let claim = Claim::at_least_once();
    let jump = "b: deliver p#1 g=g @q/0:1\nb: effect p#1 g=g\n";
    let report = checked(&claim, &[TWO, jump]);
    found(&report, Class::Skipped, &["a.0.jsonl:3", "b.0.jsonl:2"]);
    clean(&checked(
        &claim,
        &[TWO, jump, "b: deliver p#0 g=g @q/0:0\nb: effect p#0 g=g"],
    ));
    // Given and not handled: that is lost.
    let report = checked(&claim, &[TWO, jump, "b: deliver p#0 g=g @q/0:0"]);
    assert_eq!(report.broken(), [Class::Lost]);
    // Above all that was read: nobody jumped.
    let report = checked(
        &claim,
        &[TWO, "b: deliver p#0 g=g @q/0:0\nb: effect p#0 g=g"],
    );
    assert_eq!(report.broken(), [Class::Lost]);
    clean(&checked(&Claim::at_most_once(), &[TWO, jump]));
}

#[test]
fn torn_transaction() {
    let claim = Claim::exactly_once();
    let sent = "a: send p#0 tx=t\na: ok p#0\na: send p#1 tx=t\na: ok p#1\n";
    let half = "b: effect p#1 g=g\n";
    let report = checked(&claim, &[sent, "a: committed tx=t\n", half]);
    found(
        &report,
        Class::TornTransaction,
        &["a.0.jsonl:2", "a.0.jsonl:6", "b.0.jsonl:2"],
    );
    // Its end is not known: half of it is torn all the same.
    let report = checked(
        &claim,
        &[
            sent,
            half,
            SENT.replace('p', "o").as_str(),
            "b: effect o#0 g=g",
        ],
    );
    assert_eq!(report.broken(), [Class::TornTransaction]);
    clean(&checked(
        &claim,
        &[sent, "a: committed tx=t\n", half, "b: effect p#0 g=g"],
    ));
    let none = checked(&claim, &[sent, "a: committed tx=t\nb: deliver p#0 g=g"]);
    assert_eq!(none.broken(), [Class::Lost]);
    assert_eq!(none.count(Class::Lost), 2);
    // One that was rejected, and tried again alone, is no part of it.
    let refused = sent.replace("ok p#0", "rejected p#0");
    let again = "a: send p#0\na: ok p#0\nb: effect p#0 g=g\n";
    clean(&checked(
        &claim,
        &[&refused, "a: committed tx=t\n", half, again],
    ));
}

#[test]
fn stuck() {
    let claim = Claim::at_least_once().stuck_after(Duration::from_millis(1));
    let two = "0 a: send p#0\n0 a: ok p#0\n0 a: send p#1\n0 a: ok p#1\n100 b: effect p#0 g=g\n";
    let late = checked(&claim, &[two, "1101 b: effect p#1 g=g"]);
    found(&late, Class::Stuck, &["b.0.jsonl:2", "b.0.jsonl:3"]);
    clean(&checked(&claim, &[two, "1100 b: effect p#1 g=g"]));
    // At the end nothing came any more: nobody was shown to have lost it.
    let hangs = checked(
        &claim,
        &[two, "900 b: deliver p#1 g=g\n1101 b: deliver p#1 g=g"],
    );
    found(&hangs, Class::Stuck, &["b.0.jsonl:2", "b.0.jsonl:4"]);
    let gone = checked(&claim, &[two, "9999 c: drained"]);
    found(&gone, Class::Lost, &["a.0.jsonl:5"]);
    // A duplicate is no progress.
    let again = checked(
        &claim,
        &[two, "900 b: effect p#0 g=g\n1101 b: effect p#1 g=g"],
    );
    assert_eq!(again.broken(), [Class::Stuck]);
    // Nothing waits.
    let idle = "9999 a: send p#2\n9999 a: ok p#2\n10000 b: effect p#2 g=g";
    clean(&checked(&claim, &[two, "200 b: effect p#1 g=g\n", idle]));
    clean(&checked(
        &Claim::at_least_once(),
        &[two, "9999 b: effect p#1 g=g"],
    ));
}

#[test]
fn nobody_is_stuck_while_a_fault_is_on() {
    let claim = Claim::at_least_once().stuck_after(Duration::from_millis(1));
    let sent = "0 a: send p#0\n0 a: ok p#0\n10 b: deliver p#0 g=g\n";
    let fault =
        "500 c: fault n=kill\n600 c: fault n=cut\n5000 c: healed n=kill\n9000 c: healed n=cut\n";
    clean(&checked(&claim, &[sent, fault, "10000 b: effect p#0 g=g"]));
    let late = checked(&claim, &[sent, fault, "10001 b: effect p#0 g=g"]);
    found(&late, Class::Stuck, &["c.0.jsonl:5", "b.0.jsonl:3"]);
    let before = checked(
        &claim,
        &[
            sent,
            "1001 c: fault n=kill\n2000 c: healed n=kill\n2010 b: effect p#0 g=g",
        ],
    );
    assert_eq!(before.broken(), [Class::Stuck]);
    assert_eq!(late.counts().longest_gap_micros, 10_001);
}

#[test]
fn a_history_without_a_confirmed_message_proves_nothing() {
    for text in ["a: drained", "a: send p#0\na: rejected p#0", "a: send p#0"] {
        assert_eq!(check(Claim::at_least_once(), text).verdict(), Verdict::Void);
    }
    let broken = check(Claim::at_least_once(), "b: effect p#0 g=g");
    assert_eq!(broken.verdict(), Verdict::Broken);
}

#[test]
fn all_findings_are_counted_and_some_are_shown() {
    let sends: String = (0..30)
        .map(|seq| format!("a: send p#{seq}\na: ok p#{seq}\n"))
        .collect();
    let report = check(Claim::at_least_once(), &sends);
    assert_eq!(
        (report.count(Class::Lost), report.findings().len()),
        (30, 10)
    );
    let text = report.to_string();
    assert!(text.contains("at least once DOES NOT HOLD"), "{text}");
    assert!(text.contains("lost: 20 more"), "{text}");
    assert!(
        text.contains("p#0 never had its effect in no group at all"),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
    assert_eq!(json["verdict"], "broken");
    assert_eq!(
        json["classes"][0],
        serde_json::json!({"class": "lost", "count": 30, "allowed": false})
    );
    assert_eq!(json["findings"][0]["evidence"][0]["line"], 3);
    assert_eq!(json["counts"]["confirmed"], 30);
}

#[test]
fn numbers_that_no_recorder_makes_are_refused_and_do_not_fill_the_memory() {
    let far = |number: u64| {
        let seq = number * 5_000_000;
        format!("a: send p#{seq}\n")
    };
    let text: String = (0..40_000).map(far).collect();
    let error = try_check(Claim::at_least_once(), &steps(&text)).expect_err("too sparse");
    assert!(matches!(error, HistoryError::Malformed { .. }), "{error}");
    let huge = try_check(
        Claim::at_least_once(),
        &steps(&format!("a: send p#{}", u64::MAX)),
    );
    let error = huge.expect_err("too large");
    assert!(
        matches!(&error, HistoryError::Malformed { line: 2, .. }),
        "{error}"
    );
}
