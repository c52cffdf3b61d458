//! `cargo xtask e2e`: the broker tests and the examples against real brokers, and the table of what held.

use std::process::Command;

use crate::Result;
use crate::breaking;
use crate::brokers::{Brokers, Kind, Wish};
use crate::examples;
use crate::pages;
use crate::programs;
use crate::records::{self, Record};
use crate::results::{Totals, run_tests};
use crate::run as this_run;
use crate::step::{Steps, heading};
use crate::workspace::{Workspace, cargo};

/// The crates that are brokers: each runs the conformance suite.
const BACKENDS: [&str; 3] = ["mq-memory", "mq-amqp", "mq-kafka"];

/// What is built: the same for tests and examples, so that the dependencies are built once.
pub(crate) const PACKAGES: &[&str] = &[
    "--package=mq-memory",
    "--package=mq-amqp",
    "--package=mq-kafka",
    "--package=mq-patterns",
    "--package=mq-reliability",
    "--package=mq-testkit",
    "--package=mq-chaos",
    "--package=mq-examples",
];

/// Runs the command. A missing broker is a failure that names it. With `update`, the tables in the documentation are
/// written.
pub(crate) fn run(workspace: &Workspace, wish: &Wish, update: bool) -> Result {
    let mut steps = Steps::default();
    heading("start brokers");
    let brokers = Brokers::provide(workspace, wish)?;
    brokers.require()?;
    let mut totals = Totals::default();
    heading("build tests and examples");
    let programs = programs::build(workspace, &["build", "--all-targets"], PACKAGES)?;
    steps.run("broker tests", || {
        let mut found = programs::test(workspace, &programs, &brokers)?;
        found += programs::test_documentation(workspace, PACKAGES, &brokers)?;
        totals += found;
        found.verdict()
    });
    steps.run("tests that kill a broker", || {
        let found = breaking::single(workspace, wish, brokers.records())?;
        totals += found;
        found.verdict()
    });
    steps.run("examples", || {
        let found = examples::on_brokers(workspace, &programs, &brokers)?;
        totals += found;
        found.verdict()
    });
    steps.run("cases by broker", || {
        let found = records::read(brokers.records())?;
        println!("{}", records::tables(&found)?);
        all_took_part(&found)
    });
    steps.run("tables in the documentation", || {
        let found = records::read(brokers.records())?;
        pages::check(&workspace.root, &found, true, update)
    });
    steps.run("diagrams in the documentation", || {
        pages::diagrams(&workspace.root, &brokers.flows(), update)
    });
    drop(brokers);
    println!("\n{}\n\nrun {}: {totals}", steps.summary(), this_run::id());
    steps.verdict()
}

/// Runs the conformance suite of each backend ten times at once. No page is written: the copies leave records of a suite
/// of their own.
pub(crate) fn stress(workspace: &Workspace, wish: &Wish) -> Result {
    let mut steps = Steps::default();
    heading("start brokers");
    let brokers = Brokers::provide(workspace, wish)?;
    brokers.require()?;
    let mut totals = Totals::default();
    for backend in BACKENDS {
        steps.run(&format!("stress: {backend}"), || {
            let mut command = stressed(workspace, backend);
            brokers.tell(&mut command);
            let found = run_tests(command)?;
            totals += found;
            found.verdict()
        });
    }
    drop(brokers);
    println!("\n{}\n\nrun {}: {totals}", steps.summary(), this_run::id());
    steps.verdict()
}

/// The conformance suite of one backend, ten times at once.
pub(crate) fn stressed(workspace: &Workspace, backend: &str) -> Command {
    let mut command = Command::new(cargo());
    command
        .current_dir(&workspace.root)
        .args(["test", "--all-features", "--package", backend])
        .args(["--test", "conformance"])
        .env("MQ_STRESS", COPIES);
    command
}

const COPIES: &str = "10";

/// Runs the tests that kill nodes of a cluster, one broker after the other: two clusters do not fit on a small machine.
pub(crate) fn cluster(workspace: &Workspace, wish: &Wish, update: bool) -> Result {
    if update || wish.keep || wish.rabbitmq.is_some() || wish.kafka.is_some() {
        return Err(
            "`--cluster` starts its own brokers, takes them down, and writes no page: \
             leave out --update, --keep, --rabbitmq and --kafka"
                .into(),
        );
    }
    let records = workspace.target.join("test-records-cluster");
    if records.exists() {
        std::fs::remove_dir_all(&records)?;
    }
    std::fs::create_dir_all(&records)?;
    let mut steps = Steps::default();
    let mut totals = Totals::default();
    for kind in Kind::ALL {
        steps.run(&format!("a cluster of {}", kind.name()), || {
            let found = breaking::cluster(workspace, wish, kind, &records)?;
            totals += found;
            found.verdict()
        });
    }
    steps.run("cases by broker", || {
        println!("{}", records::tables(&records::read(&records)?)?);
        Ok(())
    });
    println!("\n{}\n\n{totals}", steps.summary());
    steps.verdict()
}

/// A backend whose harness ran nothing must not look like one that passed.
pub(crate) fn all_took_part(records: &[Record]) -> Result {
    let absent = |backend: &&&str| {
        !records
            .iter()
            .any(|record| record.broker == **backend && record.result == "passed")
    };
    let absent: Vec<&str> = BACKENDS.iter().filter(absent).copied().collect();
    if absent.is_empty() {
        Ok(())
    } else {
        Err(format!("no case passed on {}", absent.join(", ")).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_without_a_passed_case_is_named() {
        let record = |broker: &str, result: &str| -> Record {
            serde_json::from_str(&format!(
                r#"{{"suite":"s","broker":"{broker}","case":"c","result":"{result}"}}"#
            ))
            .unwrap()
        };
        let mut records = vec![
            record("mq-memory", "passed"),
            record("mq-amqp", "passed"),
            record("mq-kafka", "ignored"),
        ];
        assert_eq!(
            all_took_part(&records).unwrap_err().to_string(),
            "no case passed on mq-kafka"
        );
        records.push(record("mq-kafka", "passed"));
        assert!(all_took_part(&records).is_ok());
    }
}
