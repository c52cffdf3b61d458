//! `cargo xtask alone`: does one `cargo add` really suffice? Compiles each crate's README program in a project of its own.

use std::fmt::Write as _;

use xshell::cmd;

use crate::Result;
use crate::packages::{self, Project};
use crate::readme;
use crate::workspace::{Package, Workspace, cargo};

/// Crates that are no broker: their programs need one, and this one needs no server.
const WITH_A_BROKER_BESIDE: [&str; 4] = ["mq-core", "mq-patterns", "mq-reliability", "mq-testkit"];
const BROKER_BESIDE: &str = "mq-memory";

/// Compiles the programs against the packaged crates.
pub(crate) fn run(workspace: &Workspace) -> Result {
    let mut projects = Vec::new();
    let mut failed = Vec::new();
    for package in workspace.published() {
        let readme = std::fs::read_to_string(package.folder().join("README.md"))?;
        match project(workspace, package, &readme) {
            Ok(project) => projects.push(project),
            Err(error) => failed.push(format!("{}: {error}", package.name)),
        }
    }
    let sh = &workspace.sh;
    let cargo = cargo();
    let root = packages::unpack(workspace, "alone", &projects)?;
    let _inside = sh.push_dir(&root);
    for project in &projects {
        let name = &project.name;
        eprintln!("    {name}");
        // One project at a time: together, one's dependencies would lend their features to the others.
        let check = cmd!(sh, "{cargo} check --quiet --package {name}")
            .env("CARGO_TARGET_DIR", &workspace.target);
        if check.quiet().run().is_err() {
            failed.push(format!("{name}: the README's program does not compile"));
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("; ").into())
    }
}

/// The project that a reader gets who follows the README.
///
/// # Errors
/// If the README asks for more than the crate, tokio and serde (and a broker, where the crate is none).
fn project(
    workspace: &Workspace,
    package: &Package,
    readme: &str,
) -> std::result::Result<Project, String> {
    let main = readme::program(readme).ok_or("its README has no complete program")?;
    let added = readme::added(readme);
    if !added.contains_key(&package.name) {
        return Err(format!(
            "its README has no line `cargo add {}`",
            package.name
        ));
    }
    let name = format!("alone-{}", package.name);
    let mut manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n[dependencies]\n"
    );
    for (dependency, how) in &added {
        let beside =
            dependency == BROKER_BESIDE && WITH_A_BROKER_BESIDE.contains(&package.name.as_str());
        let version = match dependency.as_str() {
            "tokio" | "serde" => "1",
            own if own == package.name || beside => workspace
                .package(own)
                .map_or("*", |package| &package.version),
            other => return Err(format!("its README also asks for {other}")),
        };
        let _ = writeln!(
            manifest,
            "{dependency} = {{ version = \"{version}\", default-features = {}, features = {:?} }}",
            !how.no_default_features, how.features
        );
    }
    Ok(Project {
        name,
        manifest,
        main,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, readme: &str) -> std::result::Result<Project, String> {
        let workspace = Workspace::load().unwrap();
        project(&workspace, workspace.package(name).unwrap(), readme)
    }

    #[test]
    fn the_project_has_what_the_readme_adds_and_no_more() {
        let readme =
            "cargo add mq-amqp\ncargo add tokio --features full\n```rust\nfn main() {}\n```\n";
        let project = of("mq-amqp", readme).unwrap();
        assert!(project.manifest.contains(
            "tokio = { version = \"1\", default-features = true, features = [\"full\"] }"
        ));
        assert_eq!(
            project.manifest.matches("version =").count(),
            3,
            "{}",
            project.manifest
        );
    }

    #[test]
    fn a_readme_that_needs_more_or_has_no_program_is_refused() {
        let program = "```rust\nfn main() {}\n```\n";
        assert!(
            of(
                "mq-amqp",
                &format!("cargo add mq-amqp\ncargo add mq-memory\n{program}")
            )
            .is_err()
        );
        assert!(
            of(
                "mq-patterns",
                &format!("cargo add mq-patterns\ncargo add mq-memory\n{program}")
            )
            .is_ok()
        );
        assert!(of("mq-amqp", program).is_err());
        assert!(of("mq-amqp", "cargo add mq-amqp\n").is_err());
    }
}
