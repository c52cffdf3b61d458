//! `cargo xtask features`: each crate alone, without features and with each single one.

use xshell::cmd;

use crate::Result;
use crate::workspace::{Package, Workspace, cargo};

/// Checks every combination, and names all that fail. Warnings are failures: code that a feature leaves unused shows only here.
pub(crate) fn run(workspace: &Workspace) -> Result {
    let cargo = cargo();
    let all: Vec<(&Package, Option<&str>)> = workspace
        .published()
        .flat_map(|package| sets(package).map(move |feature| (package, feature)))
        .collect();
    let mut failed = Vec::new();
    for (number, (package, feature)) in all.iter().enumerate() {
        let name = &package.name;
        let label = format!("{name} with {}", feature.unwrap_or("no feature"));
        eprintln!("    [{}/{}] {label}", number + 1, all.len());
        let feature = feature.map(|feature| ["--features".to_owned(), feature.to_owned()]);
        let feature = feature.iter().flatten();
        // Clippy checks what `cargo check` does, and can deny the warnings of our crates alone without building the others again.
        let check = cmd!(
            workspace.sh,
            "{cargo} clippy --quiet --package {name} --lib --no-default-features {feature...} -- -D warnings"
        );
        if check.quiet().run().is_err() {
            failed.push(label);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join(", ").into())
    }
}

/// No feature, then each single one. The default set is a set, not a feature, and the rest of `ci` builds with it.
fn sets(package: &Package) -> impl Iterator<Item = Option<&str>> {
    let single = package
        .features
        .keys()
        .map(String::as_str)
        .filter(|feature| *feature != "default");
    std::iter::once(None).chain(single.map(Some))
}
