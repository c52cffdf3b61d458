//! A Kafka cluster as an operator sees it: who leads a partition, and who is in sync.

use std::time::Duration;

use krafka::admin::{AdminClient, DescribeTopicsOptions};
use mq_testkit::{Check, Failure};
use tokio::time::{Instant, sleep};

use super::{PATIENCE, node::Node, told};

/// Three nodes; what is asked is partition 0 of a topic.
pub struct Cluster {
    servers: String,
    pub nodes: Vec<Node>,
}

/// What a node says of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub leader: Option<usize>,
    pub in_sync: usize,
    pub replicas: usize,
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

    /// Waits until a partition is as it should be; `from` are the nodes that are asked, all if it is
    /// empty. Nodes are counted from 0.
    pub async fn until(
        &self,
        what: &str,
        topic: &str,
        from: &[usize],
        mut good: impl FnMut(&Partition) -> bool,
    ) -> Check<Partition> {
        let start = Instant::now();
        let mut last = String::new();
        while start.elapsed() < PATIENCE {
            match self.look(topic, from).await {
                Ok(partition) if good(&partition) => return Ok(partition),
                Ok(partition) => last = format!("{partition:?}"),
                Err(error) => last = format!("{error:?}"),
            }
            sleep(Duration::from_millis(250)).await;
        }
        let seconds = PATIENCE.as_secs();
        Err(Failure::new(format!(
            "{topic}: {what}: not within {seconds} s, last {last}"
        )))
    }

    /// Waits until every node is in sync and leads or follows.
    pub async fn whole(&self, topic: &str) -> Check<Partition> {
        for node in 0..3 {
            let whole = |p: &Partition| p.in_sync == 3 && p.leader.is_some();
            self.until("all in sync", topic, &[node], whole).await?;
        }
        self.look(topic, &[]).await
    }

    async fn look(&self, topic: &str, from: &[usize]) -> Check<Partition> {
        let all: Vec<&str> = self.servers.split(',').collect();
        let asked: Vec<&str> = match from {
            [] => all,
            some => some.iter().map(|node| all[*node]).collect(),
        };
        // A new client each time: what it knows is what the nodes say now.
        let looking = async {
            let client = krafka::Kafka::builder(asked.join(","))
                .connect_timeout(Duration::from_secs(2))
                .request_timeout(Duration::from_secs(3))
                .connect()
                .await?;
            let admin: AdminClient = client.admin();
            let mut found = admin
                .describe_topics([topic], DescribeTopicsOptions::default())
                .await?;
            let found = found
                .remove(topic)
                .ok_or_else(|| Failure::new("no answer"))??;
            let partition = found
                .partitions
                .first()
                .ok_or_else(|| Failure::new("no partition"))?;
            let leader = partition.leader.and_then(|id| usize::try_from(id - 1).ok());
            Ok(Partition {
                leader,
                in_sync: partition.isr.len(),
                replicas: partition.replicas.len(),
            })
        };
        match tokio::time::timeout(Duration::from_secs(6), looking).await {
            Ok(partition) => partition,
            Err(_) => Err(Failure::new("no node answers")),
        }
    }
}
