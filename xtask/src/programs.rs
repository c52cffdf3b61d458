//! The test and example programs of a run: built by one command of Cargo, so that nothing is built twice, and run from here.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::Result;
use crate::brokers::Brokers;
use crate::lanes::{self, Job};
use crate::results::{Totals, run_tests};
use crate::workspace::{Package, Workspace, cargo};

/// A program that was built.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    manifest: PathBuf,
    kind: String,
    is_test: bool,
}

#[derive(Deserialize)]
struct Message {
    manifest_path: Option<PathBuf>,
    target: Option<BuiltTarget>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct BuiltTarget {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

impl Program {
    /// Reads a line that Cargo prints as JSON; `None` if it is about something else.
    fn parse(line: &str) -> Option<Self> {
        let message: Message = serde_json::from_str(line).ok()?;
        let target = message.target?;
        Some(Self {
            name: target.name,
            path: message.executable?,
            manifest: message.manifest_path?,
            kind: target.kind.first()?.clone(),
            is_test: message.profile?.test,
        })
    }

    pub(crate) fn is_example(&self) -> bool {
        self.kind == "example" && !self.is_test
    }

    fn is_of(&self, package: &Package) -> bool {
        self.manifest == package.manifest_path
    }
}

/// What Cargo builds of these packages for this command, such as `build --all-targets`.
pub(crate) fn build(
    workspace: &Workspace,
    command: &[&str],
    packages: &[&str],
) -> Result<Vec<Program>> {
    let output = Command::new(cargo())
        .current_dir(&workspace.root)
        .args(command)
        .arg("--all-features")
        .args(packages)
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("the programs do not build".into());
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    Ok(lines.lines().filter_map(Program::parse).collect())
}

/// Runs the tests among them, package by package, one program after the other: many of them measure time, and a group of Kafka
/// whose members are late has another course.
pub(crate) fn test(
    workspace: &Workspace,
    programs: &[Program],
    brokers: &Brokers,
) -> Result<Totals> {
    let mut jobs = Vec::new();
    for package in &workspace.packages {
        let tests = programs
            .iter()
            .filter(|program| program.is_test && program.is_of(package));
        jobs.extend(tests.map(|program| job(program, package, brokers)));
    }
    let mut totals = Totals::default();
    for ended in lanes::run(vec![jobs])? {
        totals += Totals::of(&ended.output, ended.succeeded, &ended.name);
    }
    Ok(totals)
}

/// Runs the examples in the documentation of these packages.
pub(crate) fn test_documentation(
    workspace: &Workspace,
    packages: &[&str],
    brokers: &Brokers,
) -> Result<Totals> {
    let mut command = Command::new(cargo());
    command
        .current_dir(&workspace.root)
        .args(["test", "--doc", "--all-features", "--no-fail-fast"])
        .args(packages);
    brokers.tell(&mut command);
    run_tests(command)
}

/// As `cargo test` runs it.
fn job(program: &Program, package: &Package, brokers: &Brokers) -> Job {
    let mut command = Command::new(&program.path);
    command
        .current_dir(package.folder())
        .env("CARGO", cargo())
        .env("CARGO_MANIFEST_DIR", package.folder())
        .env("CARGO_MANIFEST_PATH", &package.manifest_path)
        .env("CARGO_PKG_NAME", &package.name)
        .env("CARGO_PKG_VERSION", &package.version);
    brokers.tell(&mut command);
    let (kind, name) = (&program.kind, &program.name);
    Job {
        name: format!("{}: {kind} {name}", package.name),
        command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, test: bool, executable: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"/w/a/Cargo.toml","target":{{"kind":["{kind}"],"name":"n"}},
            "profile":{{"test":{test}}},"executable":{executable}}}"#
        )
    }

    #[test]
    fn programs_are_told_apart_from_all_else_that_cargo_says() {
        let test = Program::parse(&line("test", true, "\"/t/n\"")).unwrap();
        assert!(test.is_test && !test.is_example());
        assert_eq!(
            (test.name.as_str(), test.path.as_path()),
            ("n", "/t/n".as_ref())
        );
        let example = Program::parse(&line("example", false, "\"/t/n\"")).unwrap();
        assert!(!example.is_test && example.is_example());
        // A program that tests start, and an example that is tested.
        let program = Program::parse(&line("bin", false, "\"/t/n\"")).unwrap();
        assert!(!program.is_test && !program.is_example());
        assert!(
            !Program::parse(&line("example", true, "\"/t/n\""))
                .unwrap()
                .is_example()
        );
        for other in [
            &*line("lib", false, "null"),
            r#"{"reason":"build-finished","success":true}"#,
            "text",
        ] {
            assert!(Program::parse(other).is_none(), "{other}");
        }
    }
}
