//! Reports of made-up runs.

use std::time::Duration;

use mq_testkit::{
    checker::Checker,
    history::{Event, Recorder},
};

use super::*;
use crate::{
    broker::Kind,
    process::{Role, Status},
    schedule::{Fault, Scenario, Step},
    site::Ground,
};

/// What a made-up run does.
#[derive(Default)]
struct Run {
    /// How often the one message is delivered again.
    again: usize,
    lose: bool,
    unknown: bool,
    faults: Vec<Done>,
    problems: Vec<String>,
}

fn done(fault: Fault, target: Target, in_flight: usize) -> Done {
    let step = Step {
        at: Duration::from_secs(4),
        fault,
        target,
        lasts: Duration::from_secs(1),
    };
    Done {
        step,
        node: None,
        in_flight,
        from: 1_000,
        to: 5_001_000,
        drain: None,
        alarm: None,
        ended: 0,
    }
}

fn report(name: &str, run: Run) -> Report {
    let folder = std::env::temp_dir().join(format!("mq-chaos-{name}-{}", std::process::id()));
    let history = folder.join("history");
    let recorder = Recorder::create(&history, "made-up", "p").unwrap();
    let tags = recorder.tags();
    let tag = tags.next("alice");
    recorder.record(Event::send(&tag)).unwrap();
    recorder.record(Event::ok(&tag)).unwrap();
    if run.unknown {
        let tag = tags.next("bob");
        recorder.record(Event::send(&tag)).unwrap();
        recorder.record(Event::unknown(&tag)).unwrap();
    }
    for _ in 0..if run.lose { 0 } else { 1 + run.again } {
        recorder.record(Event::deliver("orders", &tag)).unwrap();
        recorder.record(Event::effect("orders", &tag)).unwrap();
    }
    recorder.record(Event::drained()).unwrap();
    let plan = Plan {
        ground: Ground {
            kind: Kind::RabbitMq,
            cluster: false,
            version: None,
        },
        scenario: Scenario::Crash,
        minutes: Some(2),
        faults: None,
        messages: None,
        seed: 7,
        rate: 400,
        protocol: None,
        resend: false,
        into: folder.clone(),
    };
    let checked = Checker::new(plan.ground.kind.claim())
        .check(&history)
        .unwrap();
    let effects = Effects::read(&history).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let load = Load {
        seconds: 120,
        drained: true,
        dead_letters: 0,
    };
    let exit = |name: &str, by_error| Exit {
        name: name.into(),
        by_error,
        words: "error: the connection was lost".into(),
        last: Status::default(),
    };
    Report::new(
        folder,
        "RabbitMQ 4.3.6".into(),
        plan,
        Host::look(),
        &Schedule(run.faults.iter().map(|done| done.step).collect()),
        load,
        run.faults,
        vec![
            exit("producer-1", true),
            exit("producer-2", true),
            exit("consumer-1", false),
        ],
        &checked,
        &effects,
        BTreeMap::new(),
        run.problems,
    )
}

fn crash() -> Vec<Done> {
    let consumer = Target::Process(Role::Consumer, 2);
    vec![
        done(Fault::Kill, Target::Broker, 12),
        done(Fault::Kill, consumer, 0),
        done(Fault::Pause, consumer, 3),
    ]
}

#[test]
fn a_run_with_a_redelivery_and_nothing_lost_is_a_pass() {
    let faults = crash();
    let report = report(
        "pass",
        Run {
            again: 1,
            faults,
            ..Run::default()
        },
    );
    assert!(report.passed, "{:?}", report.reasons);
    let text = report.markdown();
    for part in [
        ": passed\n",
        "cargo xtask chaos --broker rabbitmq --scenario crash --minutes 2 --seed 7 --rate 400",
        "on RabbitMQ 4.3.6\n",
        "| confirmed | 1 |",
        "| of them again | 1 |",
        "50.000 % of the deliveries are again. For a run of kills alone 600 are allowed",
        "3 of 3 scheduled faults were made",
        "1 kills count",
        "| kill broker | 1 | 1 |",
        "| kill consumer | 1 | 0 |",
        "| pause consumer | 1 | 1 |",
        "- 2 × producer: error: the connection was lost",
        "| lost | 0 |  |",
        "| duplicate effect | 1 | allowed |",
        "| torn transaction | 0 |  |",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(
        !text.contains("consumer: error"),
        "who was asked to end did not fail"
    );
}

#[test]
fn a_lost_message_fails_the_run_and_shows_its_evidence() {
    let faults = crash();
    let report = report(
        "lost",
        Run {
            lose: true,
            unknown: true,
            faults,
            ..Run::default()
        },
    );
    assert_eq!(report.reasons, ["lost: 1"]);
    let text = report.markdown();
    assert!(text.contains(": FAILED\n") && text.contains("| lost | 1 | **NOT ALLOWED** |"));
    assert!(
        text.contains("p.0.0#0 never had its effect in group orders"),
        "{text}"
    );
}

#[test]
fn a_run_without_a_redelivery_or_an_unknown_publish_is_void() {
    let void = |name: &str, run| {
        let report = report(name, run);
        report
            .reasons
            .iter()
            .any(|reason| reason.starts_with("VOID"))
    };
    assert!(void(
        "void",
        Run {
            faults: crash(),
            ..Run::default()
        }
    ));
    assert!(void(
        "no-fault",
        Run {
            again: 1,
            ..Run::default()
        }
    ));
    assert!(!void(
        "again",
        Run {
            again: 1,
            faults: crash(),
            ..Run::default()
        }
    ));
    assert!(!void(
        "unknown",
        Run {
            unknown: true,
            faults: crash(),
            ..Run::default()
        }
    ));
}

#[test]
fn connections_that_ended_are_told_and_none_of_them_makes_a_run_void() {
    let lives = |ended| {
        let done = Done {
            ended,
            ..done(Fault::Lives, Target::Links, 1)
        };
        let run = Run {
            faults: vec![done],
            ..Run::default()
        };
        report(&format!("lives-{ended}"), run)
    };
    let (some, none) = (lives(70), lives(0));
    assert!(some.passed, "{:?}", some.reasons);
    assert!(some.markdown().contains("70 connections were ended"));
    assert!(none.reasons[0].starts_with("VOID"), "{:?}", none.reasons);
}

#[test]
fn a_problem_outside_of_the_history_fails_the_run() {
    let problems = vec!["stuck: 3 messages are left".to_owned()];
    let run = Run {
        again: 1,
        faults: crash(),
        problems,
        ..Run::default()
    };
    let report = report("stuck", run);
    assert!(
        !report.passed
            && report
                .markdown()
                .contains("- **stuck: 3 messages are left**")
    );
}

#[test]
fn only_a_kill_with_messages_in_flight_counts() {
    assert!(done(Fault::Kill, Target::Broker, 1).counts());
    assert!(!done(Fault::Kill, Target::Broker, 0).counts());
    assert!(!done(Fault::Restart, Target::Broker, 9).counts());
}

#[test]
fn the_json_has_every_class_and_the_seed() {
    let faults = crash();
    let report = report(
        "json",
        Run {
            again: 1,
            faults,
            ..Run::default()
        },
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["findings"].as_array().unwrap().len(), Class::ALL.len());
    assert!(json["command"].as_str().unwrap().contains("--seed 7"));
    assert_eq!(json["counts"]["confirmed"], 1);
    assert_eq!(json["faults"]["kill broker"]["with_messages_in_flight"], 1);
}

#[test]
fn a_run_is_a_record_of_the_suite_chaos() {
    let run = Run {
        again: 1,
        faults: crash(),
        ..Run::default()
    };
    let report = report("record", run);
    let folder = std::env::temp_dir().join(format!("mq-chaos-records-{}", std::process::id()));
    report.record(&folder).unwrap();
    report.record(&folder).unwrap();
    let text = fs::read_to_string(folder.join("chaos.jsonl")).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(text.lines().count(), 2);
    let record: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(record["case"], "crash, 2 minutes, seed 7");
    assert_eq!(
        (&record["broker"], &record["result"]),
        (&"mq-amqp".into(), &"passed".into())
    );
}

#[test]
fn more_redeliveries_than_so_many_kills_explain_fail_a_run_of_kills_alone() {
    let kill = done(Fault::Kill, Target::Broker, 12);
    let reasons = |name: &str, again, faults| {
        let run = Run {
            again,
            faults,
            ..Run::default()
        };
        report(name, run).reasons
    };
    assert!(reasons("within", 200, vec![kill.clone()]).is_empty());
    assert_eq!(
        reasons("over", 201, vec![kill.clone()]),
        ["201 deliveries again, more than 200"]
    );
    let pause = done(Fault::Pause, Target::Broker, 12);
    assert!(reasons("paused", 401, vec![kill, pause]).is_empty());
}
