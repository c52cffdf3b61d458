//! Kafka topics: names, description, creation and deletion.

use std::time::Duration;

use krafka::{
    KrafkaError,
    admin::{
        CreateTopicsOptions, DeleteTopicsOptions, DescribeTopicsOptions, NewTopic, OffsetSpec,
    },
    error::ErrorCode,
};
use mq_core::{Error, ErrorKind, Result, check_name};

use super::{configs, durability::check_planned, edges, settings::TopicSettings};
use crate::{
    connection::Inner,
    error::{self, Stage},
};

/// What is known of a topic.
#[derive(Debug, Clone)]
pub(crate) struct Topic {
    pub(crate) id: [u8; 16],
    pub(crate) partitions: usize,
    /// Of the partition that has the fewest.
    pub(super) replication: u16,
    /// Every partition has a leader, so that it can be written and read.
    pub(super) led: bool,
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
                replication: topic
                    .partitions
                    .iter()
                    .map(|p| u16::try_from(p.replicas.len()).unwrap_or(u16::MAX))
                    .min()
                    .unwrap_or(0),
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
pub(super) async fn create(inner: &Inner, name: &str, settings: TopicSettings) -> Result<()> {
    let failed = |e| error::map(DECLARE, Stage::Before, e).with("topic", name);
    let cluster = configs::cluster(inner, DECLARE).await?;
    let planned = settings.plan(DECLARE, name, cluster)?;
    check_planned(inner.config.weak_topics, DECLARE, name, &planned)?;
    let mut topic = NewTopic::new(
        name,
        i32::try_from(planned.partitions).unwrap_or(i32::MAX),
        i16::try_from(planned.replication).unwrap_or(i16::MAX),
    )
    .map_err(failed)?;
    for (setting, value) in planned.entries {
        topic = topic.with_config(setting, value);
    }
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
            match describe(inner, DECLARE, &[name]).await?.pop().flatten() {
                Some(topic) if topic.led => break topic,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let all: Vec<i32> = (0..i32::try_from(found.partitions).unwrap_or(i32::MAX)).collect();
        edges(&inner.admin, DECLARE, name, &all, OffsetSpec::Latest)
            .await
            .map(drop)
    };
    match tokio::time::timeout(READY, ready).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            ErrorKind::Timeout,
            DECLARE,
            "the topic was created, but its partitions have no leader yet",
        )
        .with("topic", name)),
    }
}

/// Deletes a topic with its records, and waits until it is gone. One that is not there is no error.
pub(super) async fn delete(inner: &Inner, name: &str) -> Result<()> {
    const DELETE: &str = "delete";
    let failed = |e| error::map(DELETE, Stage::Before, e).with("topic", name);
    let options = DeleteTopicsOptions::default();
    let deleted = inner.admin.delete_topics([name], options).await;
    match deleted.map_err(failed)?.remove(name) {
        Some(Err(error)) if is_missing(&error) => {}
        Some(Err(error)) => return Err(failed(error)),
        Some(Ok(())) | None => {}
    }
    // The controller has forgotten it; the brokers hear of it a moment later.
    let gone = async {
        while describe(inner, DELETE, &[name]).await?[0].is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    let gone = tokio::time::timeout(READY, gone).await;
    inner.topics.forget(name);
    gone.unwrap_or_else(|_| {
        let text = "the topic was deleted, but the brokers still have it";
        Err(Error::new(ErrorKind::Timeout, DELETE, text).with("topic", name))
    })
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

const DECLARE: &str = "declare";
const READY: Duration = Duration::from_secs(30);
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
