//! The places of a group in a topic.

use std::{collections::HashMap, time::Duration};

use krafka::{
    KrafkaError,
    admin::{
        AdminClient, AlterConsumerGroupOffsetsOptions, ListConsumerGroupOffsetsOptions,
        ListOffsetsOptions, OffsetSpec, TopicPartition,
    },
    error::ErrorCode,
};
use mq_core::{Error, Result};

use super::At;
use crate::{
    connection::Inner,
    error::{self, Stage},
};

/// What a group committed for one partition.
#[derive(Debug, Clone, Default)]
pub(crate) struct Committed {
    /// The next offset to read; `None` if nothing was committed.
    pub(crate) offset: Option<i64>,
    pub(crate) metadata: String,
}

/// What the group committed, for these partitions or for all it ever did. Waits for transactions
/// that may still change it; not for long where partitions are named, since a member asks then, and
/// all of its others wait.
pub(crate) async fn committed(
    admin: &AdminClient,
    operation: &'static str,
    group: &str,
    topic: &str,
    partitions: Option<&[i32]>,
) -> Result<HashMap<i32, Committed>> {
    let failed = |e| error::map(operation, Stage::Before, e).with("group", group);
    let mut options = ListConsumerGroupOffsetsOptions::default().require_stable(true);
    if let Some(partitions) = partitions {
        let name = |p: &i32| TopicPartition::new(topic, *p);
        options = options
            .partitions(partitions.iter().map(name).collect())
            .timeout(UNSTABLE);
    }
    let listed = admin
        .list_consumer_group_offsets(group, options)
        .await
        .map_err(failed)?;
    listed
        .into_iter()
        .filter(|(at, _)| at.topic == topic)
        .map(|(at, place)| {
            let place = place.map_err(failed)?;
            let committed = Committed {
                offset: place.offset,
                metadata: place.metadata.unwrap_or_default(),
            };
            Ok((at.partition, committed))
        })
        .collect()
}

/// How long a member waits for the end of a transaction that may still change where it begins.
const UNSTABLE: Duration = Duration::from_secs(2);

/// The first or the next offset of each of these partitions, once its leader answers.
pub(crate) async fn edges(
    admin: &AdminClient,
    operation: &'static str,
    topic: &str,
    partitions: &[i32],
    edge: OffsetSpec,
) -> Result<HashMap<i32, i64>> {
    let failed = |e| error::map(operation, Stage::Before, e).with("topic", topic);
    let all = partitions
        .iter()
        .map(|p| (TopicPartition::new(topic, *p), edge));
    let listed = admin.list_offsets(all, ListOffsetsOptions::default()).await;
    let listed = listed.map_err(failed)?.into_iter();
    listed
        .map(|(at, found)| Ok((at.partition, found.map_err(failed)?.offset)))
        .collect()
}

/// Where what may be read of these partitions ends, as far as their leaders answer: at the last
/// stable offset for a reader of what is committed.
pub(crate) async fn readable_ends(
    admin: &AdminClient,
    topic: &str,
    partitions: &[i32],
    read_committed: bool,
) -> HashMap<i32, i64> {
    let all = partitions
        .iter()
        .map(|p| (TopicPartition::new(topic, *p), OffsetSpec::Latest));
    let options = ListOffsetsOptions::default().read_committed(read_committed);
    let listed = admin.list_offsets(all, options).await.unwrap_or_default();
    listed
        .into_iter()
        .filter_map(|(at, found)| Some((at.partition, found.ok()?.offset)))
        .collect()
}

/// Commits the start of a new group, on every partition.
///
/// A group that has a place anywhere is not new: its other partitions were added later, and are
/// read from their beginning. Two processes that declare one subscription at the same moment are
/// not kept apart by Kafka: the later of the two ends then counts.
pub(super) async fn fix_start(
    inner: &Inner,
    group: &str,
    topic: &str,
    partitions: usize,
    start: &At,
) -> Result<()> {
    const DECLARE: &str = "declare";
    let failed = |e| -> Error { error::map(DECLARE, Stage::Before, e).with("subscription", group) };
    let places = committed(&inner.admin, DECLARE, group, topic, None).await?;
    if places.values().any(|place| place.offset.is_some()) {
        return Ok(());
    }
    let all: Vec<i32> = (0..i32::try_from(partitions).unwrap_or(i32::MAX)).collect();
    let starts = start.resolve(&inner.admin, DECLARE, topic, &all).await?;
    let starts = starts
        .into_iter()
        .map(|(p, offset)| (TopicPartition::new(topic, p), offset));
    let options = AlterConsumerGroupOffsetsOptions::default();
    let set = inner
        .admin
        .alter_consumer_group_offsets(group, starts, options)
        .await
        .map_err(failed)?;
    for (_, result) in set {
        match result {
            // The group has a member, so another process declared it meanwhile.
            Ok(())
            | Err(KrafkaError::Broker {
                code: ErrorCode::UnknownMemberId,
                ..
            }) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}
