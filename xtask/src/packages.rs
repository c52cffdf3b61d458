//! The crates as the registry would have them: packaged, and unpacked in a workspace that knows no other copy of them.

use std::fmt::Write as _;
use std::path::PathBuf;

use xshell::cmd;

use crate::Result;
use crate::workspace::{Package, Workspace, cargo};

/// Packages every published crate into a fresh workspace and returns its folder. `members` are projects that stand there beside
/// the crates.
///
/// # Errors
/// If a crate can't be packaged: a missing file, a dependency without version, a description that is not there.
pub(crate) fn unpack(workspace: &Workspace, folder: &str, members: &[Project]) -> Result<PathBuf> {
    let sh = &workspace.sh;
    let cargo = cargo();
    let others = workspace
        .packages
        .iter()
        .filter(|package| !package.is_published());
    let exclude = others.flat_map(|package| ["--exclude", package.name.as_str()]);
    // Packages what is in the working tree: whether it is committed is not asked here.
    cmd!(
        sh,
        "{cargo} package --workspace {exclude...} --no-verify --allow-dirty --quiet"
    )
    .quiet()
    .run()?;

    let root = workspace.target.join(folder);
    sh.remove_path(&root)?;
    let crates = root.join("crates");
    sh.create_dir(&crates)?;
    for package in workspace.published() {
        let archive = workspace
            .target
            .join("package")
            .join(format!("{}.crate", folder_name(package)));
        // -m: with today's times. Archives hold one fixed date, by which Cargo would take a changed file for an old one.
        cmd!(sh, "tar -xzmf {archive} -C {crates}").quiet().run()?;
    }
    for project in members {
        let home = root.join("projects").join(&project.name);
        sh.write_file(home.join("Cargo.toml"), &project.manifest)?;
        sh.write_file(home.join("src/main.rs"), &project.main)?;
    }
    sh.write_file(
        root.join("Cargo.toml"),
        manifest(workspace, !members.is_empty()),
    )?;
    // The same versions as the workspace has, so that dependencies checked there are not checked again.
    sh.copy_file(workspace.root.join("Cargo.lock"), root.join("Cargo.lock"))?;
    Ok(root)
}

/// A small project that stands beside the unpacked crates.
pub(crate) struct Project {
    pub(crate) name: String,
    pub(crate) manifest: String,
    pub(crate) main: String,
}

/// The folder that a crate's archive holds.
pub(crate) fn folder_name(package: &Package) -> String {
    format!("{}-{}", package.name, package.version)
}

fn manifest(workspace: &Workspace, with_projects: bool) -> String {
    let projects = if with_projects {
        ", \"projects/*\""
    } else {
        ""
    };
    let mut text = format!(
        "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"{projects}]\n\n[patch.crates-io]\n"
    );
    for package in workspace.published() {
        let _ = writeln!(
            text,
            "{} = {{ path = \"crates/{}\" }}",
            package.name,
            folder_name(package)
        );
    }
    text.push_str(&profiles(
        &std::fs::read_to_string(workspace.root.join("Cargo.toml")).unwrap_or_default(),
    ));
    text
}

/// The profile sections of the workspace's manifest: with other profiles every dependency would be built anew.
fn profiles(manifest: &str) -> String {
    let mut inside = false;
    let mut text = String::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.starts_with("[profile.");
        }
        if inside {
            text.push('\n');
            text.push_str(line);
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_over_the_profiles_and_nothing_else() {
        let manifest = "[workspace]\na = 1\n[profile.dev]\ndebug = 1\n[lints]\nb = 2\n[profile.dev.package.\"*\"]\ndebug = false";
        assert_eq!(
            profiles(manifest),
            "\n[profile.dev]\ndebug = 1\n[profile.dev.package.\"*\"]\ndebug = false\n"
        );
    }
}
