//! A Kafka cluster for a test: its nodes, and one partition as they tell it.

pub use mq_chaos::cluster::kafka::Partition;
use mq_chaos::{cluster::kafka, containers::Node};
use mq_testkit::{Check, Failure};

use super::told;

/// Three nodes; what is asked is partition 0 of a topic.
pub struct Cluster {
    servers: String,
    pub nodes: Vec<Node>,
}

impl Cluster {
    pub async fn of(servers: &str) -> Check<Self> {
        let project = told("MQ_CLUSTER_PROJECT")?;
        let mut nodes = Vec::new();
        for number in 1..=3 {
            nodes.push(Node::of(&project, &format!("kafka-{number}")).await?);
        }
        Ok(Self {
            servers: servers.to_owned(),
            nodes,
        })
    }

    /// Waits until a partition is as it should be; `from` are the nodes that are asked. Nodes are
    /// counted from 0.
    pub async fn until(
        &self,
        what: &str,
        topic: &str,
        from: &[usize],
        mut good: impl FnMut(&Partition) -> bool,
    ) -> Check<Partition> {
        let all: Vec<&str> = self.servers.split(',').collect();
        let asked: Vec<&str> = from.iter().map(|node| all[*node]).collect();
        let good = |partitions: &[Partition]| partitions.first().is_some_and(&mut good);
        first(kafka::until(what, &asked.join(","), topic, good).await?)
    }

    /// Waits until every node is in sync and leads or follows.
    pub async fn whole(&self, topic: &str) -> Check<Partition> {
        first(kafka::whole(&self.servers, topic).await?)
    }
}

fn first(partitions: Vec<Partition>) -> Check<Partition> {
    let first = partitions.into_iter().next();
    first.ok_or_else(|| Failure::new("no partition"))
}
