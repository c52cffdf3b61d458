//! `cargo xtask docs`: what docs.rs will do, rehearsed from the packaged crates.

use xshell::cmd;

use crate::Result;
use crate::packages;
use crate::workspace::{Workspace, cargo};

/// Documents each crate from its package, with all features and with warnings denied.
///
/// docs.rs builds with a nightly compiler; `RUSTC_BOOTSTRAP` lets the stable one take the same attributes.
pub(crate) fn run(workspace: &Workspace) -> Result {
    let sh = &workspace.sh;
    let cargo = cargo();
    let root = packages::unpack(workspace, "docs-rehearsal", &[])?;
    let _inside = sh.push_dir(&root);
    // A target folder of its own: build scripts look at RUSTC_BOOTSTRAP, so in the common one each run would undo the other's work.
    let target = workspace.target.join("docs-target");
    let mut failed = Vec::new();
    for package in workspace.published() {
        let name = &package.name;
        eprintln!("    {name}");
        let doc = cmd!(
            sh,
            "{cargo} doc --quiet --package {name} --all-features --no-deps"
        )
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTDOCFLAGS", "--cfg docsrs -D warnings");
        if doc.quiet().run().is_err() {
            failed.push(name.as_str());
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("warnings or errors in {}", failed.join(", ")).into())
    }
}
