//! The tests that kill brokers: on two brokers of their own, and on clusters of three nodes, one cluster at a time.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::brokers::{Kind, Wish, setups};
use crate::containers::Containers;
use crate::e2e::PACKAGES;
use crate::probe;
use crate::results::{Totals, run_tests};
use crate::run;
use crate::workspace::{Workspace, cargo};

/// The compose project of the brokers that are killed.
const PROJECT: &str = "mq-durability";
const CLUSTER_PROJECT: &str = "mq-cluster";
/// Ports of the brokers that are killed. The system takes none of them for an outgoing connection while its broker is down.
const PORTS: [(&str, u16); 4] = [
    ("MQ_RABBITMQ_PORT", 25_772),
    ("MQ_RABBITMQ_MANAGEMENT_PORT", 25_773),
    ("MQ_KAFKA_PORT", 29_792),
    ("MQ_KAFKA_LOGIN_PORT", 29_794),
];
/// What moved between two levels of the delay cascade when the broker died is moved on after this many milliseconds. The
/// broker's own pause is three minutes, and would be most of the lateness that is looked at.
const MOVED_AGAIN: (&str, &str) = (
    "MQ_RABBITMQ_ERL_ARGS",
    "-rabbit dead_letter_worker_publisher_confirm_timeout 1000",
);
const NODES: u16 = 3;
/// Three nodes on two cores that others use too.
const PATIENCE: Duration = Duration::from_secs(180);

/// Starts a broker of each kind and runs the tests that kill it.
pub(crate) fn single(workspace: &Workspace, wish: &Wish, records: &Path) -> Result<Totals> {
    let mut variables = wish.versions();
    variables.extend(PORTS.map(|(name, port)| (name, port.to_string())));
    variables.push((MOVED_AGAIN.0, MOVED_AGAIN.1.to_owned()));
    let mut containers = Containers::new(workspace, PROJECT, &setups(), variables, false)?;
    for kind in Kind::ALL {
        containers.start(kind.service())?;
    }
    let mut totals = Totals::default();
    for kind in Kind::ALL {
        let address = single_address(kind);
        answers(&containers, kind.service(), || kind.probe(&address))?;
        let name = match kind {
            Kind::RabbitMq => "MQ_KILL_RABBITMQ_URL",
            Kind::Kafka => "MQ_KILL_KAFKA_SERVERS",
        };
        let programs: &[&str] = match kind {
            Kind::RabbitMq => &["single", "delays"],
            Kind::Kafka => &["single"],
        };
        for of in programs {
            let mut command = test(workspace, kind, of, records);
            command.env(name, &address).env("MQ_KILL_PROJECT", PROJECT);
            totals += run_tests(command)?;
        }
    }
    Ok(totals)
}

/// Starts a cluster, runs the tests that kill its nodes, and takes it down.
///
/// # Errors
/// Names the node that does not answer, or does not see the others.
pub(crate) fn cluster(
    workspace: &Workspace,
    wish: &Wish,
    kind: Kind,
    records: &Path,
) -> Result<Totals> {
    // Before three nodes have to share the machine with a compiler.
    let mut build = program(workspace, kind, "cluster");
    if !build.arg("--no-run").status()?.success() {
        return Err("the tests were not built".into());
    }
    let files = [format!("{}/cluster", kind.service())];
    let variables = wish.versions();
    let mut containers = Containers::new(workspace, CLUSTER_PROJECT, &files, variables, false)?;
    eprintln!("    starting {NODES} nodes of {}", kind.name());
    for node in 1..=NODES {
        containers.start(&service(kind, node))?;
    }
    for node in 1..=NODES {
        let address = node_address(kind, node);
        answers(&containers, &service(kind, node), || kind.probe(&address))?;
    }
    for node in 1..=NODES {
        let name = service(kind, node);
        answers(&containers, &name, || together(&containers, kind, node))?;
    }
    let addresses: Vec<String> = (1..=NODES).map(|node| node_address(kind, node)).collect();
    let name = match kind {
        Kind::RabbitMq => "MQ_CLUSTER_RABBITMQ_URLS",
        Kind::Kafka => "MQ_CLUSTER_KAFKA_SERVERS",
    };
    let mut command = test(workspace, kind, "cluster", records);
    command
        .env(name, addresses.join(","))
        .env("MQ_CLUSTER_PROJECT", CLUSTER_PROJECT);
    run_tests(command)
}

/// The command that runs one program. Its cases run one after the other: each kills what the next one needs.
fn test(workspace: &Workspace, kind: Kind, of: &str, records: &Path) -> Command {
    let mut command = program(workspace, kind, of);
    command
        .args(["--", "--test-threads=1"])
        .env("MQ_REQUIRE_BROKERS", "1")
        .env("MQ_TEST_RECORDS", records)
        .env(run::VARIABLE, run::id());
    command
}

/// The program of `mq-chaos` for this broker and what it is about: `<broker>_<of>`.
fn program(workspace: &Workspace, kind: Kind, of: &str) -> Command {
    let mut command = Command::new(cargo());
    command
        .current_dir(&workspace.root)
        .args(["test", "--all-features", "--no-fail-fast"])
        .args(PACKAGES)
        .arg("--test")
        .arg(format!("{}_{of}", kind.service()));
    command
}

/// Waits until a service answers; shows what it logged if it does not.
fn answers(
    containers: &Containers,
    service: &str,
    ask: impl FnMut() -> std::io::Result<probe::Answer>,
) -> Result {
    match probe::wait(service, PATIENCE, ask) {
        Ok(answer) => {
            eprintln!("    {service}: {answer}");
            Ok(())
        }
        Err(error) => {
            eprintln!("{}", containers.logs(service));
            Err(format!("{service} {error}").into())
        }
    }
}

/// Asks a node how many nodes it sees.
fn together(containers: &Containers, kind: Kind, node: u16) -> std::io::Result<probe::Answer> {
    let seen = match kind {
        Kind::Kafka => probe::kafka_brokers(&node_address(kind, node))?,
        Kind::RabbitMq => {
            let ask = ["rabbitmqctl", "cluster_status", "--formatter", "json"];
            running_nodes(&containers.run_inside(&service(kind, node), &ask)?)?
        }
    };
    match seen == usize::from(NODES) {
        true => Ok(format!("sees {seen} nodes")),
        false => Err(std::io::Error::other(format!(
            "it sees {seen} of {NODES} nodes"
        ))),
    }
}

fn running_nodes(status: &str) -> std::io::Result<usize> {
    let status: serde_json::Value = serde_json::from_str(status)?;
    let running = status["running_nodes"].as_array();
    running
        .map(Vec::len)
        .ok_or_else(|| std::io::Error::other("its status names no running nodes"))
}

fn service(kind: Kind, node: u16) -> String {
    format!("{}-{node}", kind.service())
}

fn single_address(kind: Kind) -> String {
    let port = |name: &str| {
        PORTS
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |(_, p)| *p)
    };
    match kind {
        Kind::RabbitMq => format!(
            "amqp://guest:guest@127.0.0.1:{}/%2f",
            port("MQ_RABBITMQ_PORT")
        ),
        Kind::Kafka => format!("127.0.0.1:{}", port("MQ_KAFKA_PORT")),
    }
}

/// Where `compose/<broker>/cluster` publishes a node.
fn node_address(kind: Kind, node: u16) -> String {
    let port = |broker: &str, usual: u16| {
        std::env::var(format!("MQ_{broker}_{node}_PORT"))
            .unwrap_or_else(|_| (usual + node).to_string())
    };
    match kind {
        Kind::RabbitMq => format!(
            "amqp://guest:guest@127.0.0.1:{}/%2f",
            port("RABBITMQ", 25_680)
        ),
        Kind::Kafka => format!("127.0.0.1:{}", port("KAFKA", 29_190)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_those_of_compose() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose");
        for kind in Kind::ALL {
            let file = root.join(kind.service()).join("cluster/compose.yaml");
            let text = std::fs::read_to_string(file).unwrap();
            for node in 1..=NODES {
                let address = node_address(kind, node);
                let port = address.rsplit(':').next().unwrap();
                let port = port.trim_end_matches("/%2f");
                assert!(text.contains(&format!("-{port}}}:")), "{address}");
                assert!(text.contains(&format!("  {}:\n", service(kind, node))));
            }
            for (name, _) in PORTS {
                let files = Kind::ALL.map(|kind| {
                    let file = root.join(kind.service()).join("single/compose.yaml");
                    std::fs::read_to_string(file).unwrap()
                });
                assert!(files.iter().any(|file| file.contains(name)), "{name}");
            }
        }
    }

    #[test]
    fn counts_the_nodes_that_run() {
        let status = r#"{"disk_nodes":["a","b","c"],"running_nodes":["a","c"]}"#;
        assert_eq!(running_nodes(status).unwrap(), 2);
        assert!(running_nodes("{}").is_err() && running_nodes("no").is_err());
    }
}
