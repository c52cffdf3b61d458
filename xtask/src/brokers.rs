//! The brokers that a run of tests has: given by address, or started as containers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::certificates;
use crate::containers::Containers;
use crate::peers::Peers;
use crate::probe;
use crate::run;
use crate::workspace::Workspace;

/// The compose project of this tool: one name, so that a second run finds what the first one left.
const PROJECT: &str = "mq-e2e";
/// How long a starting broker may take. It needs about ten seconds on two idle cores, and a good deal more on busy ones.
const PATIENCE: Duration = Duration::from_secs(180);
/// A broker that is said to run already is not waited for as long.
const PATIENCE_RUNNING: Duration = Duration::from_secs(20);

/// What the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(crate) rabbitmq: Option<String>,
    pub(crate) kafka: Option<String>,
    pub(crate) rabbitmq_version: Option<String>,
    pub(crate) kafka_version: Option<String>,
    pub(crate) keep: bool,
    /// A missing broker is a failure.
    pub(crate) required: bool,
}

impl Wish {
    /// The versions of images, as `compose/` asks for them.
    pub(crate) fn versions(&self) -> Vec<(&'static str, String)> {
        let versions = [
            ("RABBITMQ_VERSION", &self.rabbitmq_version),
            ("KAFKA_VERSION", &self.kafka_version),
        ];
        let versions = versions.into_iter();
        versions
            .filter_map(|(name, version)| Some((name, version.clone()?)))
            .collect()
    }
}

/// One kind of broker, and all that differs between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    RabbitMq,
    Kafka,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::RabbitMq, Self::Kafka];

    /// As it is spelt in texts.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RabbitMq => "RabbitMQ",
            Self::Kafka => "Kafka",
        }
    }

    /// The service in `compose/`.
    pub(crate) fn service(self) -> &'static str {
        match self {
            Self::RabbitMq => "rabbitmq",
            Self::Kafka => "kafka",
        }
    }

    /// The variable that tells tests where the broker is.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::RabbitMq => "MQ_RABBITMQ_URL",
            Self::Kafka => "MQ_KAFKA_SERVERS",
        }
    }

    /// Where `compose/` publishes the broker.
    pub(crate) fn container_address(self) -> String {
        let port =
            |variable: &str, usual: &str| std::env::var(variable).unwrap_or_else(|_| usual.into());
        match self {
            Self::RabbitMq => format!(
                "amqp://guest:guest@127.0.0.1:{}/%2f",
                port("MQ_RABBITMQ_PORT", "25672")
            ),
            Self::Kafka => format!("127.0.0.1:{}", port("MQ_KAFKA_PORT", "29092")),
        }
    }

    /// Asks the broker at this address, in its protocol.
    pub(crate) fn probe(self, address: &str) -> std::io::Result<probe::Answer> {
        match self {
            Self::RabbitMq => probe::amqp(address),
            Self::Kafka => probe::kafka(address),
        }
    }

    /// The address given by flag or, failing that, by the variable.
    pub(crate) fn given(self, flag: Option<&String>) -> Option<String> {
        flag.cloned()
            .or_else(|| std::env::var(self.variable()).ok())
            .filter(|address| !address.is_empty())
    }
}

/// Names the listener of the Kafka of `compose/` that asks for a login.
const KAFKA_LOGIN: &str = "MQ_KAFKA_LOGIN_SERVERS";

fn kafka_login_address() -> String {
    let port = std::env::var("MQ_KAFKA_LOGIN_PORT").unwrap_or_else(|_| "29094".into());
    format!("127.0.0.1:{port}")
}

/// Names the listeners of the Kafka of `compose/` that speak TLS, and where they are.
fn kafka_tls_addresses() -> [(&'static str, String); 3] {
    let of = |name, variable: &str, usual: &str| {
        let port = std::env::var(variable).unwrap_or_else(|_| usual.into());
        (name, format!("localhost:{port}"))
    };
    [
        of("MQ_KAFKA_TLS_SERVERS", "MQ_KAFKA_TLS_PORT", "29095"),
        of("MQ_KAFKA_MUTUAL_SERVERS", "MQ_KAFKA_MUTUAL_PORT", "29096"),
        of(
            "MQ_KAFKA_TLS_LOGIN_SERVERS",
            "MQ_KAFKA_TLS_LOGIN_PORT",
            "29097",
        ),
    ]
}

/// Names the Kafka of `--kafka-version 3.9.2`.
const OLDER_KAFKA: &str = "MQ_KAFKA_LEGACY_SERVERS";

/// True of an image's version before 4.0.
fn is_before_4(version: &str) -> bool {
    let major = version.split('.').next().unwrap_or(version);
    major.parse().is_ok_and(|major: u32| major < 4)
}

/// Names the management API of the RabbitMQ of `compose/`.
const RABBITMQ_MANAGEMENT: &str = "MQ_RABBITMQ_MANAGEMENT";

fn rabbitmq_management_address() -> String {
    let port = std::env::var("MQ_RABBITMQ_MANAGEMENT_PORT").unwrap_or_else(|_| "35672".into());
    format!("http://127.0.0.1:{port}")
}

/// Names the listener of the RabbitMQ of `compose/` that speaks TLS.
const RABBITMQ_TLS: &str = "MQ_RABBITMQ_TLS_URL";

fn rabbitmq_tls_address() -> String {
    let port = std::env::var("MQ_RABBITMQ_TLS_PORT").unwrap_or_else(|_| "25671".into());
    format!("amqps://guest:guest@localhost:{port}/%2f")
}

/// A broker that answers, or the reason why there is none.
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) address: std::result::Result<String, String>,
}

/// The brokers of a run. The containers among them live as long as this value.
pub(crate) struct Brokers {
    pub(crate) found: Vec<Found>,
    peers: Peers,
    records: PathBuf,
    /// What the TLS listeners of containers have.
    certificates: PathBuf,
    /// Kafka is of a version before 4.0.
    older_kafka: bool,
    /// A missing one is a failure.
    pub(crate) required: bool,
    _containers: Option<Containers>,
}

impl Brokers {
    /// Finds or starts both brokers, and waits until they answer. One that does not is missing, which is no error yet.
    pub(crate) fn provide(workspace: &Workspace, wish: &Wish) -> Result<Self> {
        let records = workspace.target.join("test-records");
        if records.exists() {
            std::fs::remove_dir_all(&records)?;
        }
        std::fs::create_dir_all(&records)?;

        let certificates = certificates::provide(workspace)?;
        let given = [wish.rabbitmq.as_ref(), wish.kafka.as_ref()];
        let given: Vec<Option<String>> = Kind::ALL
            .iter()
            .zip(given)
            .map(|(kind, flag)| kind.given(flag))
            .collect();
        let mut containers = if given.contains(&None) {
            containers_of(workspace, &certificates, wish.versions(), wish.keep)
                .map_err(|error| error.to_string())
        } else {
            Err("not needed".into())
        };

        // All are started before the first one is waited for.
        let mut starting = Vec::new();
        for (kind, given) in Kind::ALL.into_iter().zip(given) {
            let (address, patience) = match (given, &mut containers) {
                (Some(address), _) => (Ok(address), PATIENCE_RUNNING),
                (None, Ok(containers)) => {
                    eprintln!(
                        "    starting {} as a container (the first time, its image is fetched)",
                        kind.name()
                    );
                    let started = containers
                        .start(kind.service())
                        .map_err(|error| error.to_string());
                    (started.map(|()| kind.container_address()), PATIENCE)
                }
                (None, Err(reason)) => (Err(reason.clone()), PATIENCE),
            };
            starting.push((kind, address, patience));
        }
        let containers = containers.ok();
        let found: Vec<Found> = starting
            .into_iter()
            .map(|(kind, address, patience)| Found {
                kind,
                address: address
                    .and_then(|address| wait(kind, address, patience, containers.as_ref())),
            })
            .collect();
        for broker in &found {
            if let Ok(address) = &broker.address
                && let Ok(answer) = broker.kind.probe(address)
            {
                let answer = product(broker.kind, containers.as_ref()).unwrap_or(answer);
                run::record_broker(&records, broker.kind.name(), &answer)?;
            }
        }
        let peers = peers(workspace, &found, containers.as_ref(), &certificates);
        Ok(Self {
            found,
            peers,
            records,
            certificates,
            older_kafka: wish.kafka_version.as_deref().is_some_and(is_before_4),
            required: wish.required || in_ci(),
            _containers: containers,
        })
    }

    /// Looks for brokers that run already: at the addresses given, else where `compose/` publishes them. Starts nothing.
    pub(crate) fn running(workspace: &Workspace, wish: &Wish) -> Self {
        let found = Kind::ALL
            .iter()
            .zip([&wish.rabbitmq, &wish.kafka])
            .map(|(kind, flag)| {
                let address = kind
                    .given(flag.as_ref())
                    .unwrap_or_else(|| kind.container_address());
                Found {
                    kind: *kind,
                    address: wait(*kind, address, Duration::ZERO, None),
                }
            });
        Self {
            found: found.collect(),
            peers: Peers::default(),
            records: workspace.target.join("test-records"),
            certificates: PathBuf::new(),
            older_kafka: false,
            required: false,
            _containers: None,
        }
    }

    /// An error that names the missing brokers and peers, where they may not be missing.
    pub(crate) fn require(&self) -> Result {
        match self.missing() {
            Some(missing) if self.required => Err(missing.into()),
            _ => Ok(()),
        }
    }

    /// True if no broker is missing; a peer may be.
    pub(crate) fn both_answer(&self) -> bool {
        self.found.iter().all(|found| found.address.is_ok())
    }

    /// Says which brokers and which peers for them are missing and why; `None` if all are there.
    pub(crate) fn missing(&self) -> Option<String> {
        let lines: Vec<String> = self
            .found
            .iter()
            .filter_map(|found| {
                found
                    .address
                    .as_ref()
                    .err()
                    .map(|reason| format!("{} is missing: {reason}", found.kind.name()))
            })
            .chain(self.peers.missing())
            .collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// True if the broker is the one of `compose/`, which has listeners that somebody's own need not have.
    fn is_container(&self, kind: Kind) -> bool {
        let address = kind.container_address();
        let mut addresses = self.found.iter().map(|found| found.address.as_ref());
        addresses.any(|found| found == Ok(&address))
    }

    /// The folder where examples leave what they draw.
    pub(crate) fn flows(&self) -> PathBuf {
        self.records.join("flow")
    }

    /// The folder where tests leave their records.
    pub(crate) fn records(&self) -> &Path {
        &self.records
    }

    /// Tells a test command where the brokers are.
    pub(crate) fn tell(&self, command: &mut Command) {
        for found in &self.found {
            match &found.address {
                Ok(address) => command.env(found.kind.variable(), address),
                Err(_) => command.env_remove(found.kind.variable()),
            };
        }
        command.env(run::VARIABLE, run::id());
        if self.is_container(Kind::Kafka) {
            command.env(KAFKA_LOGIN, kafka_login_address());
            command.envs(kafka_tls_addresses());
            command.env(certificates::VARIABLE, &self.certificates);
        }
        if self.is_container(Kind::RabbitMq) {
            command.env(RABBITMQ_MANAGEMENT, rabbitmq_management_address());
            command.env(RABBITMQ_TLS, rabbitmq_tls_address());
            command.env(certificates::VARIABLE, &self.certificates);
        }
        if self.required || self.missing().is_none() {
            // A broker that goes away in the middle must not turn its tests into skipped ones.
            command.env("MQ_REQUIRE_BROKERS", "1");
        }
        command.env("MQ_TEST_RECORDS", &self.records);
        // Without it the tests of the client that speaks to none from 4.0 on are skipped, and that is printed.
        if self.older_kafka
            && let Some(address) = found_address(&self.found, Kind::Kafka)
        {
            command.env(OLDER_KAFKA, address);
        }
        self.peers.tell(command);
    }
}

fn found_address(found: &[Found], kind: Kind) -> Option<&String> {
    let found = found.iter().find(|found| found.kind == kind)?;
    found.address.as_ref().ok()
}

/// The peers of the brokers that were found. Those of a Kafka that `compose/` started are in its container, also if an
/// earlier run left it there.
fn peers(
    workspace: &Workspace,
    found: &[Found],
    containers: Option<&Containers>,
    certificates: &Path,
) -> Peers {
    let at = |kind: Kind| found_address(found, kind);
    let kafka = at(Kind::Kafka);
    let left;
    let containers = match containers {
        _ if kafka.is_none_or(|address| *address != Kind::Kafka.container_address()) => None,
        Some(ours) => Some(ours),
        None => {
            left = containers_of(workspace, certificates, Vec::new(), true).ok();
            left.as_ref()
        }
    };
    Peers::provide(
        workspace,
        at(Kind::RabbitMq).is_some(),
        kafka.is_some(),
        containers,
    )
}

/// The containers of this tool's project: each broker alone, with TLS listeners beside the plain ones.
fn containers_of(
    workspace: &Workspace,
    certificates: &Path,
    mut variables: Vec<(&'static str, String)>,
    keep: bool,
) -> Result<Containers> {
    let folder = certificates
        .to_str()
        .ok_or("the path of the certificates is no UTF-8")?;
    variables.push((certificates::VARIABLE, folder.to_owned()));
    let setups = [&setups()[..], &TLS.map(str::to_owned)].concat();
    Containers::new(workspace, PROJECT, &setups, variables, keep)
}

/// What is added to the set-ups of the brokers alone.
const TLS: [&str; 2] = ["rabbitmq/tls", "kafka/tls"];

/// The set-up of `compose/` for each broker alone.
pub(crate) fn setups() -> [String; 2] {
    Kind::ALL.map(|kind| format!("{}/single", kind.service()))
}

fn wait(
    kind: Kind,
    address: String,
    patience: Duration,
    containers: Option<&Containers>,
) -> std::result::Result<String, String> {
    match probe::wait(kind.name(), patience, || kind.probe(&address)) {
        Ok(answer) => {
            eprintln!(
                "    {} answers at {}: {answer}",
                kind.name(),
                redacted(&address)
            );
            Ok(address)
        }
        Err(error) => {
            if let Some(containers) = containers {
                eprintln!("{}", containers.logs(kind.service()));
            }
            Err(format!("{} {error}", redacted(&address)))
        }
    }
}

/// The version of a Kafka that `compose/` started: unlike RabbitMQ, it tells a client only which requests it takes.
fn product(kind: Kind, containers: Option<&Containers>) -> Option<String> {
    if kind != Kind::Kafka {
        return None;
    }
    let ask = ["/opt/kafka/bin/kafka-topics.sh", "--version"];
    let said = containers?.run_inside(kind.service(), &ask).ok()?;
    let version = said.split_whitespace().next()?;
    Some(format!("{} {version}", kind.name()))
}

/// True where a missing broker may never pass as a skip.
pub(crate) fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// The address without user and password.
pub(crate) fn redacted(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_owned();
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_before_4_is_an_older_kafka() {
        for older in ["3.9.2", "2.8", "3"] {
            assert!(is_before_4(older), "{older}");
        }
        for other in ["4.0.0", "4.3.1", "latest", ""] {
            assert!(!is_before_4(other), "{other}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(
            redacted("amqp://user:secret@host:1/%2f"),
            "amqp://***@host:1/%2f"
        );
        assert_eq!(redacted("amqp://host/a@b"), "amqp://host/a@b");
        assert_eq!(redacted("127.0.0.1:29092"), "127.0.0.1:29092");
    }

    fn brokers(kafka: std::result::Result<String, String>) -> Brokers {
        let rabbitmq = Found {
            kind: Kind::RabbitMq,
            address: Ok("amqp://h".into()),
        };
        Brokers {
            found: vec![
                rabbitmq,
                Found {
                    kind: Kind::Kafka,
                    address: kafka,
                },
            ],
            peers: Peers::default(),
            records: "r".into(),
            certificates: "c".into(),
            older_kafka: false,
            required: false,
            _containers: None,
        }
    }

    fn told(brokers: &Brokers, name: &str) -> Option<Option<String>> {
        let mut command = Command::new("true");
        brokers.tell(&mut command);
        let value = command.get_envs().find(|(key, _)| *key == name)?.1;
        Some(value.map(|value| value.to_string_lossy().into_owned()))
    }

    #[test]
    fn names_the_broker_that_is_missing_and_why() {
        let brokers = brokers(Err("h:1 did not answer".into()));
        assert_eq!(
            brokers.missing().as_deref(),
            Some("Kafka is missing: h:1 did not answer")
        );
        assert_eq!(told(&brokers, "MQ_KAFKA_SERVERS"), Some(None));
        assert_eq!(told(&brokers, "MQ_REQUIRE_BROKERS"), None);
        assert!(brokers.require().is_ok());
        let brokers = Brokers {
            required: true,
            ..brokers
        };
        assert!(brokers.require().is_err());
        assert_eq!(told(&brokers, "MQ_REQUIRE_BROKERS"), Some(Some("1".into())));
    }

    #[test]
    fn tests_may_skip_nothing_once_both_brokers_answered() {
        let brokers = brokers(Ok("h:2".into()));
        assert_eq!(
            told(&brokers, "MQ_RABBITMQ_URL"),
            Some(Some("amqp://h".into()))
        );
        assert_eq!(told(&brokers, "MQ_REQUIRE_BROKERS"), Some(Some("1".into())));
    }
    #[test]
    fn the_listener_with_a_login_is_told_where_compose_runs_it() {
        let ours = brokers(Ok(Kind::Kafka.container_address()));
        assert_eq!(told(&ours, KAFKA_LOGIN), Some(Some(kafka_login_address())));
        assert_eq!(told(&brokers(Ok("h:2".into())), KAFKA_LOGIN), None);
    }

    #[test]
    fn the_tls_listeners_of_kafka_are_told_where_compose_runs_them() {
        let ours = brokers(Ok(Kind::Kafka.container_address()));
        for (variable, address) in kafka_tls_addresses() {
            assert_eq!(told(&ours, variable), Some(Some(address)));
            assert_eq!(told(&brokers(Ok("h:2".into())), variable), None);
        }
    }

    #[test]
    fn the_tls_listener_and_its_certificates_are_told_where_compose_runs_them() {
        let mut brokers = brokers(Err("gone".into()));
        assert_eq!(told(&brokers, RABBITMQ_TLS), None);
        brokers.found[0].address = Ok(Kind::RabbitMq.container_address());
        let address = told(&brokers, RABBITMQ_TLS).flatten();
        assert_eq!(address, Some(rabbitmq_tls_address()));
        assert_eq!(
            told(&brokers, certificates::VARIABLE),
            Some(Some("c".into()))
        );
    }
}
