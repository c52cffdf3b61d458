//! Kafka topics: names, description, creation, and what a publisher needs to know of them.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use krafka::{
    KrafkaError,
    admin::{
        ConfigResource, CreateTopicsOptions, DescribeConfigsOptions, DescribeTopicsOptions,
        NewTopic, OffsetSpec,
    },
    error::ErrorCode,
};
use mq_core::{Error, ErrorKind, Result, check_name};

use super::edges;
use crate::{
    connection::Inner,
    error::{self, Stage},
};

/// What is known of a topic.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) id: [u8; 16],
    pub(crate) partitions: usize,
    /// Every partition has a leader, so that it can be written and read.
    led: bool,
}

/// Checks a name against Kafka's alphabet, and keeps Kafka's own topics (`__consumer_offsets` and
/// others) from being written and read as if they held messages.
pub(crate) fn topic_name(operation: &'static str, name: &str) -> Result<()> {
    check_name(operation, name)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let wrong = if !name.chars().all(legal) {
        "a Kafka topic has only letters, digits, dot, underscore and hyphen in its name"
    } else if name.starts_with("__") {
        "names that begin with two underscores are those of Kafka's own topics"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(64).collect();
    Err(Error::new(ErrorKind::InvalidName, operation, wrong).with("name", shown.escape_debug()))
}

/// What is known of these topics, in their order; `None` for one that is not there.
pub(crate) async fn describe(
    inner: &Inner,
    operation: &'static str,
    names: &[&str],
) -> Result<Vec<Option<Topic>>> {
    let mut found = inner
        .admin
        .describe_topics(names, DescribeTopicsOptions::default())
        .await
        .map_err(|e| error::map(operation, Stage::Before, e))?;
    names
        .iter()
        .map(|name| match found.remove(*name) {
            Some(Ok(topic)) => Ok(Some(Topic {
                id: topic.topic_id,
                partitions: topic.partitions.len(),
                led: topic.partitions.iter().all(|p| p.leader.is_some()),
            })),
            Some(Err(error)) if is_missing(&error) => Ok(None),
            Some(Err(e)) => Err(error::map(operation, Stage::Before, e).with("topic", name)),
            None => Ok(None),
        })
        .collect()
}

/// What is known of a topic that has to be there.
pub(crate) async fn find(
    inner: &Inner,
    operation: &'static str,
    part: &'static str,
    name: &str,
) -> Result<Topic> {
    topic_name(operation, name)?;
    match describe(inner, operation, &[name]).await?.pop().flatten() {
        Some(topic) => Ok(topic),
        None => Err(missing(operation, part, name)),
    }
}

pub(super) fn missing(operation: &'static str, part: &'static str, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, operation, "it is not there")
        .with(part, name)
        .help("declare it first")
}

/// Creates a topic, and waits until it can be used.
pub(super) async fn create(inner: &Inner, name: &str) -> Result<()> {
    let failed = |e| error::map("declare", Stage::Before, e).with("topic", name);
    let partitions = inner.config.partitions.unwrap_or(PARTITIONS);
    let topic = NewTopic::new(
        name,
        i32::try_from(partitions).unwrap_or(i32::MAX),
        inner
            .config
            .replication
            .map_or(-1, |r| i16::try_from(r).unwrap_or(i16::MAX)),
    )
    .map_err(failed)?;
    let created = inner
        .admin
        .create_topics([topic], CreateTopicsOptions::default())
        .await
        .map_err(failed)?
        .remove(name);
    match created {
        // Another process was faster; it asked for what it wants, as this one does.
        Some(Err(KrafkaError::Broker {
            code: ErrorCode::TopicAlreadyExists,
            ..
        }))
        | Some(Ok(()))
        | None => {}
        Some(Err(e)) => return Err(failed(e)),
    }
    // The controller has it; the brokers hear of it a moment later, and lead it another one later.
    let ready = async {
        let found = loop {
            match describe(inner, "declare", &[name]).await?.pop().flatten() {
                Some(topic) if topic.led => break topic,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let all: Vec<i32> = (0..i32::try_from(found.partitions).unwrap_or(i32::MAX)).collect();
        edges(&inner.admin, "declare", name, &all, OffsetSpec::Latest)
            .await
            .map(drop)
    };
    match tokio::time::timeout(READY, ready).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            ErrorKind::Timeout,
            "declare",
            "the topic was created, but its partitions have no leader yet",
        )
        .with("topic", name)),
    }
}

/// What publishers know of the topics they write to.
#[derive(Debug, Default)]
pub(crate) struct Topics(RwLock<HashMap<Arc<str>, usize>>);

impl Topics {
    /// The most bytes of one batch that the topic takes; `None` if there is no such topic.
    pub(crate) async fn max_bytes(
        &self,
        inner: &Inner,
        operation: &'static str,
        name: &Arc<str>,
    ) -> Result<Option<usize>> {
        if let Some(limit) = self.cached(name) {
            return Ok(Some(limit));
        }
        topic_name(operation, name)?;
        if describe(inner, operation, &[name]).await?[0].is_none() {
            return Ok(None);
        }
        let limit = limit(inner, name).await;
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(Arc::clone(name), limit);
        Ok(Some(limit))
    }

    /// Forgets a topic that turned out to be gone.
    pub(crate) fn forget(&self, name: &str) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(name);
    }

    fn cached(&self, name: &str) -> Option<usize> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).copied()
    }
}

/// `max.message.bytes` of a topic. Whoever may not read it is told by the broker's refusal later.
async fn limit(inner: &Inner, name: &str) -> usize {
    let resource = ConfigResource::topic(name);
    let options =
        DescribeConfigsOptions::default().config_names(vec!["max.message.bytes".to_owned()]);
    let configs = inner.admin.describe_configs([resource.clone()], options);
    match configs.await.ok().and_then(|mut c| c.remove(&resource)) {
        Some(Ok(entries)) => entries
            .iter()
            .find(|entry| entry.name == "max.message.bytes")
            .and_then(|entry| entry.value.as_deref()?.parse().ok())
            .unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}

fn is_missing(error: &KrafkaError) -> bool {
    matches!(
        error,
        KrafkaError::Broker {
            code: ErrorCode::UnknownTopicOrPartition,
            ..
        } | KrafkaError::UnknownTopic { .. }
    )
}

/// Partitions of a new topic: how many consumers can share a queue.
const PARTITIONS: u32 = 8;
const READY: Duration = Duration::from_secs(30);
/// Names that a publisher remembers, so that made-up names cannot fill the memory.
const KNOWN: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_names_that_kafka_takes() {
        for good in ["orders", "a.b_c-D9", "orders.dead", "_schemas"] {
            assert!(topic_name("declare", good).is_ok(), "{good}");
        }
        let long = "x".repeat(250);
        for bad in ["", "..", "a b", "a@b", "größe", "a\n", &long, "__x", "__"] {
            let error = topic_name("declare", bad).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidName, "{bad}");
        }
    }
}
