//! Rules about crates: who may depend on whom, what each has beside its source, which version its README names.

use std::path::Path;

use super::files;
use crate::Result;
use crate::workspace::{Dependency, Package, Workspace};

/// The one crate that every other may depend on, and that depends on none.
const CORE: &str = "mq-core";

pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for package in workspace.published() {
        let mut report = |reason: String| broken.push(format!("{}: {reason}", package.name));
        let own = package
            .dependencies
            .iter()
            .filter(|dependency| workspace.package(&dependency.name).is_some());
        own.filter_map(|dependency| wrong_dependency(package, dependency))
            .for_each(&mut report);
        for file in ["README.md", "CHANGELOG.md"] {
            if !package.folder().join(file).is_file() {
                report(format!("has no {file}"));
            }
        }
        wrong_manifest(&std::fs::read_to_string(&package.manifest_path)?)
            .into_iter()
            .for_each(&mut report);
    }
    for path in files::walk(&workspace.root)?
        .iter()
        .filter(|path| path.ends_with("README.md"))
    {
        let text = std::fs::read_to_string(path)?;
        let shown = path.strip_prefix(&workspace.root).unwrap_or(path).display();
        for package in workspace.published() {
            broken.extend(
                wrong_versions(&text, package)
                    .into_iter()
                    .map(|reason| format!("{shown}: {reason}")),
            );
        }
    }
    // The seven crates are folders of `crates/`; whatever else is published would escape the rules above.
    for package in workspace.published().filter(|package| {
        !package
            .folder()
            .starts_with(workspace.root.join(Path::new("crates")))
    }) {
        broken.push(format!(
            "{}: is not in crates/ and has no `publish = false`",
            package.name
        ));
    }
    Ok(broken)
}

fn wrong_dependency(package: &Package, dependency: &Dependency) -> Option<String> {
    let name = &dependency.name;
    let has_version = dependency.req != "*";
    match dependency.kind.as_deref() {
        Some("dev") => has_version.then(|| format!("dev-dependency {name} names a version: by path alone, else publishing goes in circles")),
        _ if package.name == CORE => Some(format!("depends on {name}: the core depends on no other crate")),
        _ if name != CORE => Some(format!("depends on {name}: siblings never depend on each other")),
        _ => (!has_version || dependency.path.is_none()).then(|| format!("dependency {name} needs both path and version")),
    }
}

fn wrong_manifest(manifest: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    if !manifest
        .lines()
        .any(|line| line.starts_with("version = \""))
    {
        reasons.push("has no literal version: each crate has its own".into());
    }
    let docs_rs = manifest
        .split("[package.metadata.docs.rs]")
        .nth(1)
        .unwrap_or_default();
    let section = docs_rs.split("\n[").next().unwrap_or_default();
    if !section
        .lines()
        .any(|line| line.trim() == "all-features = true")
    {
        reasons.push("has no [package.metadata.docs.rs] with all-features = true".into());
    }
    reasons
}

/// Versions that a README names for the crate and that are not its version: `mq-x = "0.1"`, `{ version = "0.1" }`, `mq-x@0.1`.
fn wrong_versions(readme: &str, package: &Package) -> Vec<String> {
    let mut reasons = Vec::new();
    for line in readme.lines() {
        for (at, found) in line.match_indices(package.name.as_str()) {
            let after = &line[at + found.len()..];
            let value = after.trim_start().strip_prefix('=').map(str::trim_start);
            let named = after
                .strip_prefix('@')
                .or_else(|| value.and_then(|value| value.strip_prefix('"')))
                .or_else(|| {
                    value
                        .filter(|value| value.starts_with('{'))
                        .and_then(|value| value.split("version = \"").nth(1))
                })
                .or_else(|| {
                    after
                        .strip_prefix(' ')
                        .filter(|after| after.starts_with(|c: char| c.is_ascii_digit()))
                });
            let Some(named) = named else { continue };
            let named: String = named
                .trim_start_matches(['=', '^', '~'])
                .chars()
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            let named = named.trim_end_matches('.');
            let same =
                package.version == named || package.version.starts_with(&format!("{named}."));
            if !named.is_empty() && !same {
                reasons.push(format!(
                    "names {} {named}, but it is {}",
                    package.name, package.version
                ));
            }
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str) -> Package {
        let json = format!(
            r#"{{"name":"{name}","version":"0.1.2","manifest_path":"/p/Cargo.toml","features":{{}},"dependencies":[],"targets":[],"publish":null}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn dependency(name: &str, kind: Option<&str>, req: &str) -> Dependency {
        Dependency {
            name: name.into(),
            req: req.into(),
            kind: kind.map(Into::into),
            path: Some("/p".into()),
        }
    }

    #[test]
    fn only_the_core_may_be_depended_on_and_with_a_version() {
        let amqp = package("mq-amqp");
        assert_eq!(
            wrong_dependency(&amqp, &dependency("mq-core", None, "^0.1.0")),
            None
        );
        assert!(wrong_dependency(&amqp, &dependency("mq-core", None, "*")).is_some());
        assert!(wrong_dependency(&amqp, &dependency("mq-kafka", None, "^0.1.0")).is_some());
        assert!(
            wrong_dependency(&amqp, &dependency("mq-kafka", Some("build"), "^0.1.0")).is_some()
        );
        assert!(
            wrong_dependency(
                &package("mq-core"),
                &dependency("mq-memory", None, "^0.1.0")
            )
            .is_some()
        );
    }

    #[test]
    fn dev_dependencies_name_a_path_alone() {
        let core = package("mq-core");
        assert_eq!(
            wrong_dependency(&core, &dependency("mq-memory", Some("dev"), "*")),
            None
        );
        assert!(wrong_dependency(&core, &dependency("mq-memory", Some("dev"), "^0.1.0")).is_some());
    }

    #[test]
    fn a_manifest_has_its_own_version_and_docs_rs_metadata() {
        assert!(
            wrong_manifest(
                "version = \"0.1.0\"\n[package.metadata.docs.rs]\nall-features = true\n"
            )
            .is_empty()
        );
        assert_eq!(wrong_manifest("version.workspace = true\n[package.metadata.docs.rs]\n[lints]\nall-features = true\n").len(), 2);
    }

    #[test]
    fn a_readme_names_the_version_of_the_manifest_or_none() {
        let package = package("mq-amqp");
        for fine in [
            "mq-amqp = \"0.1\"",
            "mq-amqp@0.1.2",
            "mq-amqp = { version = \"0.1.2\" }",
            "cargo add mq-amqp",
            "mq-amqp and 5 more",
            "mq-amqp 0.",
        ] {
            assert!(wrong_versions(fine, &package).is_empty(), "{fine}");
        }
        for wrong in [
            "mq-amqp = \"0.2\"",
            "mq-amqp@0.1.1",
            "mq-amqp = { version = \"1\", path = \"p\" }",
            "mq-amqp 0.3 can",
        ] {
            assert_eq!(wrong_versions(wrong, &package).len(), 1, "{wrong}");
        }
    }
}
