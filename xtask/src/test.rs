//! `cargo xtask test`: every test there is, and a count of them at the end.

use std::process::Command;

use crate::Result;
use crate::brokers::{Brokers, Wish};
use crate::chaos;
use crate::e2e;
use crate::examples;
use crate::pages;
use crate::programs;
use crate::records;
use crate::results::{Totals, run_tests};
use crate::step::Steps;
use crate::workspace::{ALL_CRATES, Workspace, cargo};

/// Runs all tests and prints the count as the last line.
pub(crate) fn run(workspace: &Workspace, wish: &Wish) -> Result {
    let mut steps = Steps::default();
    let totals = all(workspace, wish, &mut steps);
    println!("\n{}\n", steps.summary());
    println!("{totals}");
    steps.verdict()
}

/// Runs all tests: those of the libraries, with brokers and examples, then those of this tool.
///
/// What fails, a missing broker too, is in the count and in `steps`, and the rest still runs.
pub(crate) fn all(workspace: &Workspace, wish: &Wish, steps: &mut Steps) -> Totals {
    let Some(brokers) = steps.run("start brokers", || Brokers::provide(workspace, wish)) else {
        return Totals::default();
    };
    steps.run("brokers answer", || brokers.require());
    let warning = brokers.missing().map(|missing| {
        let verb = if brokers.required {
            "FAIL"
        } else {
            "are SKIPPED"
        };
        format!("\n{BAR}\nThe tests and examples that need these {verb}:\n{missing}\n{BAR}")
    });
    if let Some(warning) = &warning {
        eprintln!("{warning}");
    }

    let mut totals = Totals::default();
    let programs = steps.run("build tests and examples", || {
        programs::build(workspace, &["build", "--all-targets"], ALL_CRATES)
    });
    let Some(programs) = programs else {
        totals.failed += 1;
        return totals;
    };
    steps.run("test: libraries, brokers", || {
        let found = programs::test(workspace, &programs, &brokers)?;
        totals += found;
        found.verdict()
    });
    steps.run("test: documentation", || {
        let found = programs::test_documentation(workspace, ALL_CRATES, &brokers)?;
        totals += found;
        found.verdict()
    });
    steps.run("test: xtask", || {
        let mut command = Command::new(cargo());
        command
            .current_dir(&workspace.root)
            .args(["test", "--package", "xtask"]);
        let found = run_tests(command)?;
        totals += found;
        found.verdict()
    });
    steps.run("conformance in memory, ten times at once", || {
        let found = run_tests(e2e::stressed(workspace, "mq-memory"))?;
        totals += found;
        found.verdict()
    });
    steps.run("examples", || {
        let found = examples::on_brokers(workspace, &programs, &brokers)?;
        totals += found;
        found.verdict()
    });

    steps.run("chaos: short runs on each broker", || {
        chaos::short(workspace, &brokers)
    });

    steps.run("cases by broker", || {
        let found = records::read(brokers.records())?;
        println!("{}", records::tables(&found)?);
        if brokers.both_answer() {
            e2e::all_took_part(&found)
        } else {
            Ok(())
        }
    });
    if brokers.both_answer() {
        steps.run("tables in the documentation", || {
            let found = records::read(brokers.records())?;
            pages::check(&workspace.root, &found, warning.is_none(), false)
        });
        steps.run("diagrams in the documentation", || {
            pages::diagrams(&workspace.root, &brokers.flows(), false)
        });
    }
    if let Some(warning) = &warning {
        eprintln!("{warning}");
    }
    totals
}

/// Around what must not be overlooked.
pub(crate) const BAR: &str =
    "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!";
