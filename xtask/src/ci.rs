//! `cargo xtask ci`: every gate, in the order of how soon it can fail.

use xshell::cmd;

use crate::brokers::Wish;
use crate::step::Steps;
use crate::workspace::{Workspace, cargo};
use crate::{Result, alone, docs, features, test, tidy};

/// Runs all gates, prints how long each took, and the number of tests as the last line.
pub(crate) fn run(workspace: &Workspace) -> Result {
    let sh = &workspace.sh;
    let cargo = cargo();
    let mut steps = Steps::default();
    steps.run("fmt", || Ok(cmd!(sh, "{cargo} fmt --all --check").run()?));
    steps.run("tidy", || tidy::run(workspace));
    steps.run("clippy", || {
        Ok(cmd!(
            sh,
            "{cargo} clippy --workspace --all-targets --all-features -- -D warnings"
        )
        .run()?)
    });
    // Programs that kill brokers, which are in no run of all tests and so in no target of the above.
    steps.run("clippy: tests that kill", || {
        Ok(cmd!(
            sh,
            "{cargo} clippy --workspace --all-features --test * -- -D warnings"
        )
        .run()?)
    });
    steps.run("features", || features::run(workspace));
    steps.run("docs", || docs::run(workspace));
    steps.run("alone", || alone::run(workspace));
    let wish = Wish {
        required: true,
        ..Wish::default()
    };
    let totals = test::all(workspace, &wish, &mut steps);
    println!("\n{}\n", steps.summary());
    println!("{totals}");
    steps.verdict()
}
