//! The clients of other makes for the interop tests: pika, kcat, and the Java tools that come with Kafka.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::containers::Containers;
use crate::workspace::Workspace;

/// What pika is installed from: the exact version, with its hash.
const REQUIREMENTS: &str = "crates/mq-amqp/tests/interop/requirements.txt";
/// Kafka as it is seen from inside its container of `compose/`.
const INSIDE: &str = "kafka:19092";

/// The peers of a run.
#[derive(Default)]
pub(crate) struct Peers(Vec<Peer>);

struct Peer {
    name: &'static str,
    /// What tells the tests where it is, or why it is not there.
    variables: std::result::Result<Vec<(&'static str, String)>, String>,
}

impl Peers {
    /// Finds or installs the peers of the brokers that are there: of the others there is nothing to test.
    ///
    /// `containers` is where Kafka runs, if it is one of `compose/`.
    pub(crate) fn provide(
        workspace: &Workspace,
        rabbitmq: bool,
        kafka: bool,
        containers: Option<&Containers>,
    ) -> Self {
        let mut peers = Vec::new();
        let mut add = |name, variables| peers.push(Peer { name, variables });
        if rabbitmq {
            let python = python(workspace).map(|path| vec![("MQ_PEER_PYTHON", shown(&path))]);
            add("pika", python);
        }
        if kafka {
            add("kcat", kcat().map(|path| vec![("MQ_PEER_KCAT", path)]));
            let inside = containers.and_then(|containers| containers.inside("kafka"));
            add(
                "the Kafka tools",
                tools(given("MQ_PEER_KAFKA_TOOLS").is_some(), inside),
            );
        }
        Self(peers)
    }

    /// One line for each peer that is missing: why, and what to do.
    pub(crate) fn missing(&self) -> impl Iterator<Item = String> {
        let reason = |peer: &Peer| Some((peer.name, peer.variables.clone().err()?));
        let missing = self.0.iter().filter_map(reason);
        missing.map(|(name, reason)| format!("{name}, for the interop tests, is missing: {reason}"))
    }

    /// Tells a test command where the peers are.
    pub(crate) fn tell(&self, command: &mut Command) {
        for (name, value) in self
            .0
            .iter()
            .flat_map(|peer| peer.variables.iter().flatten())
        {
            command.env(name, value);
        }
    }
}

/// An interpreter that has pika: the given one, or one in a virtual environment of ours, which stays for the next run.
fn python(workspace: &Workspace) -> std::result::Result<PathBuf, String> {
    if let Some(given) = given("MQ_PEER_PYTHON") {
        return match succeeds(Command::new(&given).args(["-c", "import pika"])) {
            Ok(()) => Ok(given.into()),
            Err(reason) => Err(format!("MQ_PEER_PYTHON cannot import it: {reason}")),
        };
    }
    let requirements = workspace.root.join(REQUIREMENTS);
    let wanted = std::fs::read_to_string(&requirements)
        .map_err(|error| format!("{}: {error}", shown(&requirements)))?;
    let folder = workspace.target.join("peers");
    let (environment, stamp) = (folder.join("python"), folder.join("requirements.txt"));
    let python = environment.join("bin/python");
    if is_stamped(&stamp, &wanted)
        && succeeds(Command::new(&python).args(["-c", "import pika"])).is_ok()
    {
        return Ok(python);
    }
    eprintln!("    installing pika into {}", shown(&environment));
    // Half an environment, or one with another version.
    let _ = std::fs::remove_dir_all(&folder);
    let mut make = Command::new("python3");
    succeeds(make.args(["-m", "venv"]).arg(&environment)).map_err(|reason| {
        format!("python3 could not make a virtual environment: {reason}; install Python 3 (Debian: python3-venv), or name one that has pika in MQ_PEER_PYTHON")
    })?;
    let mut install = Command::new(&python);
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--retries=2",
        ])
        .args(["--require-hashes", "--only-binary=:all:", "--requirement"])
        .arg(&requirements);
    succeeds(&mut install).map_err(|reason| {
        format!(
            "pip could not install it: {reason}; or name a Python that has pika in MQ_PEER_PYTHON"
        )
    })?;
    // Last, so that it is there only if all went well.
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", shown(&stamp)))?;
    Ok(python)
}

fn is_stamped(stamp: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(stamp).is_ok_and(|found| found == wanted)
}

fn kcat() -> std::result::Result<String, String> {
    let program = given("MQ_PEER_KCAT").unwrap_or_else(|| "kcat".to_owned());
    match succeeds(Command::new(&program).arg("-V")) {
        Ok(()) => Ok(program),
        Err(reason) => Err(format!(
            "{program}: {reason}; install it (Debian: kcat), or name it in MQ_PEER_KCAT"
        )),
    }
}

/// The given ones, or those inside the broker's container.
fn tools(
    given: bool,
    inside: Option<String>,
) -> std::result::Result<Vec<(&'static str, String)>, String> {
    match inside {
        _ if given => Ok(Vec::new()), // the tests inherit it
        Some(inside) => Ok(vec![
            ("MQ_PEER_KAFKA_TOOLS", format!("{inside} /opt/kafka/bin/")),
            ("MQ_PEER_KAFKA_SERVERS", INSIDE.to_owned()),
        ]),
        None => Err("this Kafka is no container of this tool; say how to run its tools in MQ_PEER_KAFKA_TOOLS, such as `/opt/kafka/bin/`, and in MQ_PEER_KAFKA_SERVERS where they find the broker".to_owned()),
    }
}

fn given(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}

/// Runs a command to its end; its last line of errors if it fails.
fn succeeds(command: &mut Command) -> std::result::Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    // Where it says it differs: `venv` prints to standard output.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    Err(last.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned()))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        Peers(vec![
            Peer {
                name: "pika",
                variables: Ok(vec![("MQ_PEER_PYTHON", "p".into())]),
            },
            Peer {
                name: "kcat",
                variables: Err("not there".into()),
            },
        ])
    }

    #[test]
    fn names_the_peer_that_is_missing_and_why() {
        let missing: Vec<String> = peers().missing().collect();
        assert_eq!(
            missing,
            ["kcat, for the interop tests, is missing: not there"]
        );
        assert_eq!(Peers::default().missing().count(), 0);
    }

    #[test]
    fn tells_tests_only_of_what_is_there() {
        let mut command = Command::new("true");
        peers().tell(&mut command);
        let told: Vec<_> = command.get_envs().collect();
        assert_eq!(told, [("MQ_PEER_PYTHON".as_ref(), Some("p".as_ref()))]);
    }

    #[test]
    fn kafka_elsewhere_needs_to_be_told_where_its_tools_are() {
        assert!(
            tools(false, None)
                .unwrap_err()
                .contains("MQ_PEER_KAFKA_TOOLS")
        );
        assert_eq!(tools(true, None), Ok(Vec::new()));
        let variables = tools(false, Some("docker exec id".into())).unwrap();
        assert_eq!(variables[0].1, "docker exec id /opt/kafka/bin/");
        assert_eq!(variables[1], ("MQ_PEER_KAFKA_SERVERS", INSIDE.to_owned()));
    }

    #[test]
    fn a_command_that_fails_is_told_by_its_last_line() {
        let mut shell = Command::new("sh");
        let reason = succeeds(shell.args(["-c", "echo first; echo last >&2; exit 3"]));
        assert_eq!(reason, Err("last".to_owned()));
        assert!(succeeds(&mut Command::new("no-such-program-of-ours")).is_err());
        assert_eq!(succeeds(&mut Command::new("true")), Ok(()));
    }

    #[test]
    fn what_was_installed_for_other_requirements_is_not_taken() {
        let stamp = std::env::temp_dir().join(format!("xtask-peers-{}", std::process::id()));
        assert!(!is_stamped(&stamp, "pika==1"));
        std::fs::write(&stamp, "pika==1").unwrap();
        let (same, other) = (is_stamped(&stamp, "pika==1"), is_stamped(&stamp, "pika==2"));
        std::fs::remove_file(&stamp).unwrap();
        assert!(same && !other);
    }

    #[test]
    fn pika_is_pinned_by_hash() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = std::fs::read_to_string(root.join(REQUIREMENTS)).unwrap();
        assert!(
            text.contains("pika==") && text.contains("--hash=sha256:"),
            "{text}"
        );
    }
}
