//! Partitions of a Kafka cluster, as its nodes tell them.

use std::{
    io::{Error, Result},
    time::{Duration, Instant},
};

use krafka::admin::{AdminClient, DescribeTopicsOptions, PartitionDescription};
use tokio::time::sleep;

/// What a node says of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub leader: Option<usize>,
    pub in_sync: usize,
    pub replicas: usize,
}

/// The partitions of a topic in order, as one of these servers tells them.
///
/// # Errors
/// If none answers, or the topic is not there.
///
/// # Cancel safety
/// Safe.
pub async fn partitions(servers: &str, topic: &str) -> Result<Vec<Partition>> {
    // A new client each time: what it knows is what the nodes say now.
    let looking = async {
        let client = krafka::Kafka::builder(servers)
            .connect_timeout(Duration::from_secs(2))
            .request_timeout(Duration::from_secs(3))
            .connect()
            .await
            .map_err(Error::other)?;
        let admin: AdminClient = client.admin();
        let options = DescribeTopicsOptions::default();
        let described = admin.describe_topics([topic], options).await;
        let mut found = described.map_err(Error::other)?;
        let found = found
            .remove(topic)
            .ok_or_else(|| Error::other("no answer"))?
            .map_err(Error::other)?;
        let mut partitions = found.partitions;
        partitions.sort_by_key(|partition| partition.partition);
        let partition = |partition: &PartitionDescription| {
            let leader = partition.leader.and_then(|id| usize::try_from(id - 1).ok());
            Partition {
                leader,
                in_sync: partition.isr.len(),
                replicas: partition.replicas.len(),
            }
        };
        Ok(partitions.iter().map(partition).collect())
    };
    match tokio::time::timeout(Duration::from_secs(6), looking).await {
        Ok(partitions) => partitions,
        Err(_) => Err(Error::other("no node answers")),
    }
}

/// Waits until the partitions of a topic are as they should be.
///
/// # Errors
/// What these servers told last, if that takes longer than three minutes.
///
/// # Cancel safety
/// Safe.
pub async fn until(
    what: &str,
    servers: &str,
    topic: &str,
    mut good: impl FnMut(&[Partition]) -> bool,
) -> Result<Vec<Partition>> {
    let start = Instant::now();
    loop {
        let told = partitions(servers, topic).await;
        match told {
            Ok(partitions) if good(&partitions) => return Ok(partitions),
            told if start.elapsed() > PATIENCE => {
                let seconds = PATIENCE.as_secs();
                return Err(Error::other(format!(
                    "{topic}: {what}: not within {seconds} s, last {told:?}"
                )));
            }
            _ => sleep(Duration::from_millis(250)).await,
        }
    }
}

/// Waits until every node has a leader and all replicas in sync for each partition of a topic.
///
/// # Errors
/// As [`until`].
///
/// # Cancel safety
/// Safe.
pub async fn whole(servers: &str, topic: &str) -> Result<Vec<Partition>> {
    let good = |partitions: &[Partition]| {
        let whole = |p: &Partition| p.leader.is_some() && p.in_sync == p.replicas;
        !partitions.is_empty() && partitions.iter().all(whole)
    };
    for server in servers.split(',') {
        until("all in sync", server, topic, good).await?;
    }
    until("all in sync", servers, topic, good).await
}

/// A node that was killed has to start, on a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(180);
