//! Rules about files: first lines, roots without logic, islands, names, paths of a machine.

use std::path::{Path, PathBuf};

use super::source;
use crate::Result;
use crate::workspace::Workspace;

/// The files of a broker crate, so that whoever knows one of them knows all.
const BACKEND_FILES: [&str; 12] = [
    "lib",
    "config",
    "connection",
    "publisher",
    "consumer",
    "settle",
    "topology",
    "headers",
    "capabilities",
    "metrics",
    "spans",
    "error",
];
/// What one broker has, and no other.
const OF_ONE_BACKEND: [(&str, &str); 2] = [("mq-kafka", "transaction"), ("mq-kafka", "legacy")];
const BACKENDS: [&str; 3] = ["mq-amqp", "mq-kafka", "mq-memory"];
/// Crates whose folders must each be able to become a crate.
const ARCHIPELAGOS: [&str; 2] = ["mq-patterns", "mq-reliability"];
/// Written apart, so that this file does not break its own rule.
const MACHINE_PATHS: [&str; 5] = [
    concat!("/", "home/"),
    concat!("/", "root/"),
    concat!("/", "work/"),
    concat!("/", "Users/"),
    concat!("C:", "\\Users"),
];
const TEXT_FILES: [&str; 9] = [
    "rs", "md", "toml", "yaml", "yml", "txt", "snap", "sh", "json",
];

pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let root = &workspace.root;
    let mut broken = Vec::new();
    for path in walk(root)? {
        let shown = path.strip_prefix(root).unwrap_or(&path).to_owned();
        let extension = path
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default();
        if !TEXT_FILES.contains(&extension) && !shown.starts_with(".ci") {
            continue;
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", shown.display()))?;
        let mut report = |reason: String| broken.push(format!("{}: {reason}", shown.display()));
        machine_paths(&text).into_iter().for_each(&mut report);
        if extension == "rs" {
            if !text.starts_with("//!")
                && !text.starts_with("#![doc = include_str!(\"../README.md\")]")
            {
                report("does not begin with a `//!` line that says what the file is".into());
            }
            // In tests/ a mod.rs is how test programs share helpers without becoming one.
            let in_source = shown.iter().any(|part| part == "src");
            if in_source
                && ["lib.rs", "mod.rs"].iter().any(|name| path.ends_with(name))
                && let Some((line, item)) = source::first_logic(&text)
            {
                report(format!(
                    "line {line}: a lib.rs or mod.rs holds docs, modules and re-exports only, not `{item}`"
                ));
            }
            backend_name(&shown).into_iter().for_each(&mut report);
            island(&shown, &text).into_iter().for_each(&mut report);
        }
    }
    Ok(broken)
}

/// Every file of the repository that a person wrote, in order.
pub(super) fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut entries = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if name != "target" && name != ".git" {
                files.extend(walk(&entry.path())?);
            }
        } else if name != "Cargo.lock" {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn machine_paths(text: &str) -> Vec<String> {
    let found = |line: &str| MACHINE_PATHS.iter().find(|path| line.contains(**path));
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(number, line)| {
            found(line)
                .map(|path| format!("line {}: `{path}` is a path of one machine", number + 1))
        })
        .collect()
}

/// The crate and the path under its `src`, as words.
fn in_source(shown: &Path) -> Option<(String, Vec<String>)> {
    let parts: Vec<String> = shown
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    match parts.as_slice() {
        [crates, name, src, rest @ ..] if crates == "crates" && src == "src" => {
            Some((name.clone(), rest.to_vec()))
        }
        _ => None,
    }
}

fn backend_name(shown: &Path) -> Option<String> {
    let (name, path) = in_source(shown)?;
    let first = path.first()?;
    let stem = first.strip_suffix(".rs").unwrap_or(first);
    let known = BACKEND_FILES.contains(&stem) || OF_ONE_BACKEND.contains(&(name.as_str(), stem));
    (BACKENDS.contains(&name.as_str()) && !known).then(|| {
        format!(
            "a broker crate has only files (or folders) named {}",
            BACKEND_FILES.join(", ")
        )
    })
}

/// A folder of patterns or guarantees uses `mq_core` and itself.
fn island(shown: &Path, text: &str) -> Vec<String> {
    let Some((name, path)) = in_source(shown) else {
        return Vec::new();
    };
    let [folder, inner @ ..] = path.as_slice() else {
        return Vec::new();
    };
    if !ARCHIPELAGOS.contains(&name.as_str()) || inner.is_empty() {
        return Vec::new();
    }
    // How often `super` may be said before the folder is left: not at all in its mod.rs.
    let inside = if inner.len() == 1 && inner[0] == "mod.rs" {
        0
    } else {
        inner.len() - usize::from(inner.ends_with(&["mod.rs".into()]))
    };
    let code: String = source::code(source::without_tests(text))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let code = code.replace(" :: ", "::").replace("{ ", "{");
    let mut reasons = Vec::new();
    for after in code.split("crate::").skip(1) {
        for other in heads(after).into_iter().filter(|head| head != folder) {
            reasons.push(format!(
                "uses crate::{other}: a folder uses mq_core and itself only"
            ));
        }
    }
    if code.contains(&"super::".repeat(inside + 1)) {
        reasons.push("`super` leaves the folder: a folder uses mq_core and itself only".into());
    }
    for after in code.split("mq_").skip(1) {
        let word = word(after);
        if word != "core" {
            reasons.push(format!(
                "uses mq_{word}: a folder uses mq_core and itself only"
            ));
        }
    }
    reasons
}

/// The first names of a path or of a group of paths: `a::b` is a; `{a::b, c}` is a and c.
fn heads(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return vec![word(path)];
    };
    let mut heads = Vec::new();
    let mut depth = 0_i32;
    let mut start = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.push(word(group[start..at].trim_start()));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(path: &str, text: &str) -> usize {
        island(Path::new(path), text).len()
    }

    #[test]
    fn an_island_may_use_the_core_and_itself() {
        let text = "use mq_core::Message;\nuse super::policy::Policy;\nuse crate::retry::{layer::A, B};\n// crate::dead_letter\n#[cfg(test)]\nmod tests { use mq_memory::Memory; }\n";
        assert_eq!(reasons("crates/mq-reliability/src/retry/layer.rs", text), 0);
    }

    #[test]
    fn an_island_may_not_use_its_neighbours() {
        let layer = "crates/mq-reliability/src/retry/layer.rs";
        assert_eq!(reasons(layer, "use crate::dead_letter::X;"), 1);
        assert_eq!(
            reasons(layer, "use crate::{retry::A, dead_letter::{B, C}, D};"),
            2
        );
        assert_eq!(reasons(layer, "use super::super::dead_letter::X;"), 1);
        assert_eq!(reasons(layer, "fn f() { mq_memory::g() }"), 1);
        assert_eq!(
            reasons(
                "crates/mq-patterns/src/work_queue/mod.rs",
                "pub use super::other::X;"
            ),
            1
        );
        assert_eq!(
            reasons(
                "crates/mq-patterns/src/work_queue/mod.rs",
                "pub use self::worker::X;"
            ),
            0
        );
        assert_eq!(
            reasons("crates/mq-core/src/worker/mod.rs", "use crate::anything;"),
            0
        );
    }

    #[test]
    fn broker_crates_have_the_ten_names() {
        assert_eq!(
            backend_name(Path::new("crates/mq-kafka/src/topology.rs")),
            None
        );
        assert_eq!(
            backend_name(Path::new("crates/mq-kafka/src/consumer/window.rs")),
            None
        );
        assert!(backend_name(Path::new("crates/mq-kafka/src/driver.rs")).is_some());
        assert_eq!(
            backend_name(Path::new("crates/mq-kafka/tests/anything.rs")),
            None
        );
        assert_eq!(
            backend_name(Path::new("crates/mq-core/src/worker.rs")),
            None
        );
    }

    #[test]
    fn finds_paths_of_a_machine() {
        let text = format!("fine\nsee {}me/x\n", MACHINE_PATHS[0]);
        assert_eq!(machine_paths(&text).len(), 1);
        assert!(machine_paths("/opt/kafka/bin and https://example.org/homes").is_empty());
    }
}
