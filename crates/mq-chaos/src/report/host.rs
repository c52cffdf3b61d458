//! On what a run was made.

use std::process::Command;

use serde::Serialize;

/// The machine and the build.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    /// The commit, with a plus where files differ from it.
    pub(crate) commit: String,
    /// Of the processes; debug or release.
    pub(crate) build: &'static str,
    /// The clients' versions, as the lock file has them.
    pub(crate) clients: Vec<String>,
    pub(crate) system: String,
    pub(crate) cores: usize,
    /// The system's load average at the start, over 1, 5 and 15 minutes.
    pub(crate) load: String,
}

impl Host {
    /// At the start of a run: the commit is then the one that was built, as far as can be told.
    pub(crate) fn look() -> Self {
        Self {
            commit: commit(),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            },
            clients: ["lapin", "krafka", "tokio"]
                .into_iter()
                .filter_map(locked)
                .collect(),
            system: file("/proc/sys/kernel/osrelease").map_or_else(
                || std::env::consts::OS.to_owned(),
                |release| format!("{} {release}", std::env::consts::OS),
            ),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            load: load_average(),
        }
    }
}

/// Over 1, 5 and 15 minutes.
pub(crate) fn load_average() -> String {
    let text = file("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-C", env!("CARGO_MANIFEST_DIR")])
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    let differs = git(&["status", "--porcelain", "--untracked-files=no"]);
    match differs.is_some_and(|text| !text.is_empty()) {
        true => format!("{head}+"),
        false => head,
    }
}

fn locked(name: &str) -> Option<String> {
    let after = LOCK
        .split(&format!("\nname = \"{name}\"\nversion = \""))
        .nth(1)?;
    Some(format!("{name} {}", after.split('"').next()?))
}

fn file(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

const LOCK: &str = include_str!("../../../../Cargo.lock");
