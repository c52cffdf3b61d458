//! The suite against brokers with planted faults: each case has to fail under one of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unwrap_in_result,
    reason = "a test, with its helpers in files of their own: a panic is its failure"
)]

mod broken;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use broken::{FOUND, Fault, Local, Shape};
use futures::future::join_all;
use mq_core::{Broker, Capabilities, Capability};
use mq_testkit::{Case, Fixture, Hook, cases};

/// Runs cases side by side on brokers of their own; each with why it failed.
async fn run(
    shape: Shape,
    fault: Fault,
    chosen: impl Fn(&Case<Local>) -> bool,
) -> Vec<(&'static str, Result<(), String>)> {
    let one = |case: Case<Local>| async move {
        let local = Arc::new(Local::new(shape, fault));
        let result = match tokio::time::timeout(DEADLINE, case.run(local)).await {
            Ok(result) => result.map_err(|failure| failure.to_string()),
            Err(_) => Err("not done within its deadline".to_owned()),
        };
        (case.name(), result)
    };
    join_all(cases::<Local>().into_iter().filter(chosen).map(one)).await
}

async fn abilities(shape: Shape) -> (Capabilities, &'static [Hook]) {
    let local = Local::new(shape, Fault::None);
    let broker = local.connect().await;
    (broker.expect("in process").capabilities(), local.hooks())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_fault_every_case_passes() {
    for shape in [Shape::Queues, Shape::Log] {
        let (can, hooks) = abilities(shape).await;
        for (case, result) in run(shape, Fault::None, |case| case.runs_with(can, hooks)).await {
            assert_eq!(result, Ok(()), "{case} on {shape:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_is_found_by_its_cases() {
    let each = |(shape, fault, expected): (Shape, Fault, &'static [&'static str])| async move {
        let results = run(shape, fault, |case| expected.contains(&case.name())).await;
        assert_eq!(
            results.len(),
            expected.len(),
            "a case of {fault:?} has another name"
        );
        for (case, result) in results {
            assert!(
                result.is_err(),
                "{case} passes on {shape:?} in spite of {fault:?}"
            );
        }
    };
    join_all(FOUND.iter().copied().map(each)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capability_that_is_declared_and_not_there_is_found() {
    for shape in [Shape::Queues, Shape::Log] {
        let (can, hooks) = abilities(shape).await;
        for (case, result) in run(shape, Fault::None, |case| !case.runs_with(can, hooks)).await {
            assert!(
                result.is_err(),
                "{case} passes on {shape:?}, which cannot do it"
            );
        }
    }
}

#[tokio::test]
async fn every_case_is_among_those_that_can_fail() {
    let mut never: BTreeSet<_> = cases::<Local>().iter().map(Case::name).collect();
    assert_eq!(
        never.len(),
        cases::<Local>().len(),
        "two cases have one name"
    );
    for (_, _, found) in FOUND {
        never.retain(|case| !found.contains(case));
    }
    for shape in [Shape::Queues, Shape::Log] {
        let (can, hooks) = abilities(shape).await;
        let undeclared = cases::<Local>()
            .into_iter()
            .filter(|case| !case.runs_with(can, hooks));
        for case in undeclared {
            never.remove(case.name());
        }
    }
    assert!(
        never.is_empty(),
        "nothing shows that these can fail: {never:?}"
    );
}

#[test]
fn every_capability_has_a_case_that_needs_it() {
    let needed: BTreeSet<String> = cases::<Local>()
        .iter()
        .flat_map(|case| {
            case.needs()
                .split(", ")
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    for capability in Capability::ALL {
        assert!(needed.contains(&capability.to_string()), "{capability}");
    }
}

const DEADLINE: Duration = Duration::from_secs(30);
