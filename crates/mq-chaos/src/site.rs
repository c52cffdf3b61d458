//! The broker of a run: one node, or a cluster of three.

use mq_chaos::{
    cluster,
    containers::{Node, Project, Setup},
};

use crate::{
    Result,
    broker::{Kind, ORDERS},
};

/// Which broker is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ground {
    pub(crate) kind: Kind,
    /// Three nodes instead of one.
    pub(crate) cluster: bool,
    /// The image's version, instead of that in `compose/`.
    pub(crate) version: Option<String>,
}

/// A broker that runs in containers of its own. Dropping it takes them down, with their data.
pub(crate) struct Site {
    // Dropped first: no node that is dead then has to run again.
    _project: Project,
    pub(crate) nodes: Vec<Node>,
    ground: Ground,
}

impl Ground {
    /// Where its nodes are published. No port from which the system takes those of outgoing connections: while a node is down,
    /// one of them could take it.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let ports = match (self.kind, self.cluster) {
            (Kind::RabbitMq, false) => 25_872..=25_872,
            (Kind::RabbitMq, true) => 25_881..=25_883,
            (Kind::Kafka, false) => 29_892..=29_892,
            (Kind::Kafka, true) => 29_881..=29_883,
        };
        ports.map(|port: u16| format!("127.0.0.1:{port}")).collect()
    }

    /// What a client is told to connect to: all nodes, separated by commas.
    pub(crate) fn addresses(&self) -> String {
        let hosts = self.hosts();
        let addresses = hosts.iter().map(|host| self.kind.address_at(host));
        addresses.collect::<Vec<_>>().join(",")
    }

    fn setup(&self) -> Setup {
        let word = self.kind.word();
        let variable = word.to_uppercase();
        let port = |host: &String| host.rsplit(':').next().unwrap_or_default().to_owned();
        let ports: Vec<String> = self.hosts().iter().map(port).collect();
        let mut variables = Vec::new();
        let services = if self.cluster {
            for (number, port) in (1..).zip(&ports) {
                variables.push((format!("MQ_{variable}_{number}_PORT"), port.clone()));
            }
            (1..=ports.len())
                .map(|number| format!("{word}-{number}"))
                .collect()
        } else {
            variables.push((format!("MQ_{variable}_PORT"), ports[0].clone()));
            // The other port of each compose file.
            let (other, port) = match self.kind {
                Kind::RabbitMq => ("MQ_RABBITMQ_MANAGEMENT_PORT", "25873"),
                Kind::Kafka => ("MQ_KAFKA_LOGIN_PORT", "29893"),
            };
            variables.push((other.to_owned(), port.to_owned()));
            vec![word.to_owned()]
        };
        if let Some(version) = &self.version {
            variables.push((format!("{variable}_VERSION"), version.clone()));
        }
        let size = if self.cluster { "cluster" } else { "single" };
        let suffix = if self.cluster { "-cluster" } else { "" };
        Setup {
            // One name for each, so that a run finds what the one before left.
            project: format!("mq-chaos-{word}{suffix}"),
            folder: format!("{word}/{size}"),
            services,
            variables,
        }
    }
}

impl Site {
    /// Starts it without data. What an earlier run left is taken down first. The nodes of a cluster have found each other.
    ///
    /// # Errors
    /// As [`Project::start`]; what a node says that does not see the others.
    pub(crate) async fn start(ground: Ground) -> Result<Self> {
        let (project, nodes) = Project::start(ground.setup()).await?;
        if ground.cluster && ground.kind == Kind::RabbitMq {
            for node in &nodes {
                cluster::rabbitmq::together(node, nodes.len()).await?;
            }
        }
        Ok(Self {
            _project: project,
            nodes,
            ground,
        })
    }

    /// The node that a kill is to strike: who leads what the run needs. On Kafka nodes lead partitions, so it goes in turn.
    pub(crate) async fn leader(&self, turn: usize) -> Result<usize> {
        match (self.ground.cluster, self.ground.kind) {
            (false, _) => Ok(0),
            (true, Kind::RabbitMq) => Ok(cluster::rabbitmq::leader(&self.nodes[0], ORDERS).await?),
            (true, Kind::Kafka) => {
                let partitions = cluster::kafka::whole(&self.ground.addresses(), ORDERS).await?;
                let at = turn % partitions.len().max(1);
                let leader = partitions.get(at).and_then(|partition| partition.leader);
                Ok(leader.ok_or("a partition has no leader")?)
            }
        }
    }

    /// Waits until every node has all that the run needs, as the nodes say. Nothing to wait for where there is one node.
    pub(crate) async fn whole(&self) -> Result {
        if !self.ground.cluster {
            return Ok(());
        }
        let dead = self.ground.kind.subscription().dead_letter_home();
        let dead = dead.as_ref().map_or(ORDERS, |home| home.name());
        match self.ground.kind {
            Kind::RabbitMq => {
                for queue in [ORDERS, dead] {
                    let nodes = self.nodes.len();
                    cluster::rabbitmq::whole(&self.nodes[0], queue, nodes).await?;
                }
            }
            Kind::Kafka => {
                for topic in [ORDERS, dead, OFFSETS] {
                    cluster::kafka::whole(&self.ground.addresses(), topic).await?;
                }
            }
        }
        Ok(())
    }

    /// The version of the broker in it, by its own words.
    pub(crate) async fn version(&self) -> Result<String> {
        let ask: &[&str] = match self.ground.kind {
            Kind::RabbitMq => &["rabbitmqctl", "version"],
            Kind::Kafka => &["/opt/kafka/bin/kafka-topics.sh", "--version"],
        };
        let said = self.nodes[0].exec(ask).await?;
        let version = said.split_whitespace().next().unwrap_or_default();
        let nodes = match self.nodes.len() {
            1 => String::new(),
            nodes => format!(", {nodes} nodes"),
        };
        Ok(format!("{} {version}{nodes}", self.ground.kind))
    }

    /// What its nodes logged last.
    pub(crate) async fn logs(&self) -> String {
        let mut all = String::new();
        for node in &self.nodes {
            all.push_str(&format!("{}:\n{}\n", node.service(), node.logs().await));
        }
        all
    }
}

/// Where Kafka keeps what groups have committed.
const OFFSETS: &str = "__consumer_offsets";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_up_is_one_of_compose() {
        for kind in [Kind::RabbitMq, Kind::Kafka] {
            for cluster in [false, true] {
                let version = Some("1.2".to_owned());
                let ground = Ground {
                    kind,
                    cluster,
                    version,
                };
                let setup = ground.setup();
                let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../compose");
                let file = format!("{root}/{}/compose.yaml", setup.folder);
                let text = std::fs::read_to_string(file).unwrap();
                for service in &setup.services {
                    assert!(text.contains(&format!("  {service}:\n")), "{service}");
                }
                for (variable, _) in &setup.variables {
                    assert!(text.contains(&format!("${{{variable}:-")), "{variable}");
                }
                assert_eq!(setup.services.len(), ground.hosts().len());
            }
        }
    }
}
