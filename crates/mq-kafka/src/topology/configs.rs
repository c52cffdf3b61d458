//! The settings of a topic as the cluster has them.

use std::time::Duration;

use krafka::admin::{ConfigEntry, ConfigResource, DescribeClusterOptions, DescribeConfigsOptions};
use mq_core::{ErrorKind, Result};

use super::settings::Cluster;
use crate::{
    connection::Inner,
    error::{self, Stage},
};

/// What a topic's configs say; `None` for what the broker did not tell.
#[derive(Debug, Default)]
pub(super) struct Configs {
    pub(super) max_bytes: Option<usize>,
    pub(super) min_in_sync: Option<u16>,
    pub(super) unclean: Option<bool>,
    pub(super) retention_ms: Option<i64>,
    pub(super) retention_bytes: Option<i64>,
    pub(super) cleanup: Option<String>,
}

/// Reads them: one request, and more where the broker that was asked has not yet heard of a topic
/// that was created a moment ago.
pub(super) async fn read(inner: &Inner, operation: &'static str, topic: &str) -> Result<Configs> {
    for _ in 0..HEARS {
        match read_once(inner, operation, topic).await {
            Err(error) if error.kind() == ErrorKind::NotFound => tokio::time::sleep(PAUSE).await,
            read => return read,
        }
    }
    read_once(inner, operation, topic).await
}

async fn read_once(inner: &Inner, operation: &'static str, topic: &str) -> Result<Configs> {
    let names = [
        "max.message.bytes",
        "min.insync.replicas",
        "unclean.leader.election.enable",
        "retention.ms",
        "retention.bytes",
        "cleanup.policy",
    ];
    let entries = entries(inner, operation, ConfigResource::topic(topic), &names).await;
    let entries = entries.map_err(|error| error.with("topic", topic))?;
    let value = |name| find(&entries, name);
    Ok(Configs {
        max_bytes: value("max.message.bytes").and_then(|v| v.parse().ok()),
        min_in_sync: value("min.insync.replicas").and_then(|v| v.parse().ok()),
        unclean: value("unclean.leader.election.enable").and_then(|v| v.parse().ok()),
        retention_ms: value("retention.ms").and_then(|v| v.parse().ok()),
        retention_bytes: value("retention.bytes").and_then(|v| v.parse().ok()),
        cleanup: value("cleanup.policy").map(str::to_owned),
    })
}

/// What the cluster gives a topic that says nothing. Its defaults may be hidden from this user.
pub(super) async fn cluster(inner: &Inner, operation: &'static str) -> Result<Cluster> {
    let options = DescribeClusterOptions::default();
    let described = inner.admin.describe_cluster(options).await;
    let described = described.map_err(|e| error::map(operation, Stage::Before, e))?;
    let brokers = u16::try_from(described.brokers.len()).unwrap_or(u16::MAX);
    let entries = match described.brokers.first() {
        Some(broker) => {
            let names = ["default.replication.factor", "min.insync.replicas"];
            let resource = ConfigResource::broker(broker.id);
            let entries = entries(inner, operation, resource, &names).await;
            entries.unwrap_or_default()
        }
        None => Vec::new(),
    };
    let number = |name| find(&entries, name).and_then(|value| value.parse().ok());
    Ok(Cluster {
        brokers,
        replication: number("default.replication.factor"),
        min_in_sync: number("min.insync.replicas"),
    })
}

pub(super) async fn entries(
    inner: &Inner,
    operation: &'static str,
    resource: ConfigResource,
    names: &[&str],
) -> Result<Vec<ConfigEntry>> {
    let failed = |e| error::map(operation, Stage::Before, e);
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let options = DescribeConfigsOptions::default().config_names(names);
    let found = inner.admin.describe_configs([resource.clone()], options);
    match found.await.map_err(failed)?.remove(&resource) {
        Some(entries) => entries.map_err(failed),
        None => Ok(Vec::new()),
    }
}

pub(super) fn find<'e>(entries: &'e [ConfigEntry], name: &str) -> Option<&'e str> {
    let entry = entries.iter().find(|entry| entry.name == name)?;
    entry.value.as_deref()
}

/// How often, and how far apart, a broker is asked for a topic that it has not heard of.
const HEARS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);
