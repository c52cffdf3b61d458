//! Places in a topic that are named by what is meant: its beginning, its end, a time, offsets.

use std::{
    collections::{BTreeMap, HashMap},
    time::{SystemTime, UNIX_EPOCH},
};

use krafka::{
    KrafkaError,
    admin::{AdminClient, ListOffsetsOptions, OffsetSpec, TopicPartition},
    error::ErrorCode,
};
use mq_core::{Error, ErrorKind, Result};

use super::offsets::{edges, readable_ends};
use crate::error::{self, Stage};

/// A place in each partition of a topic: where a subscription starts
/// ([`Kafka::declare_from`](crate::Kafka::declare_from)), or where a window begins and ends
/// ([`Kafka::reader`](crate::Kafka::reader)).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum At {
    /// The first message that is still there.
    Earliest,
    /// Where the log ends at the time of the call: a live tail, which sees nothing of what was
    /// stored before.
    LiveTail,
    /// The first message whose time is this one or later, in ms; the end where there is none.
    ///
    /// Kafka looks for it by offset: where times do not grow with the offsets, as when publishers
    /// set them, earlier ones may lie behind it.
    Time(SystemTime),
    /// These offsets, by partition. A partition that is not named is at its
    /// [`Earliest`](Self::Earliest), so that nothing is left out by a slip.
    Offsets(BTreeMap<u32, u64>),
}

impl At {
    /// The offset in each of these partitions.
    pub(crate) async fn resolve(
        &self,
        admin: &AdminClient,
        operation: &'static str,
        topic: &str,
        partitions: &[i32],
    ) -> Result<HashMap<i32, i64>> {
        let look = |spec| edges(admin, operation, topic, partitions, spec);
        match self {
            Self::Earliest => look(OffsetSpec::Earliest).await,
            Self::LiveTail => look(OffsetSpec::Latest).await,
            Self::Time(time) => {
                let mut found = look(OffsetSpec::Latest).await?;
                let late = later(admin, operation, topic, &found, millis(*time)).await?;
                let spec = OffsetSpec::Timestamp(millis(*time));
                found.extend(edges(admin, operation, topic, &late, spec).await?);
                Ok(found)
            }
            Self::Offsets(wanted) => {
                let mut found = look(OffsetSpec::Earliest).await?;
                let ends = look(OffsetSpec::Latest).await?;
                for (partition, offset) in wanted {
                    let at = i32::try_from(*partition).unwrap_or(i32::MAX);
                    let (Some(first), Some(end)) = (found.get_mut(&at), ends.get(&at)) else {
                        return Err(outside(operation, topic, "there is no such partition")
                            .with("partition", partition)
                            .with("partitions", partitions.len()));
                    };
                    let place = i64::try_from(*offset).unwrap_or(i64::MAX);
                    if place < *first || place > *end {
                        return Err(outside(operation, topic, "the offset is not in the log")
                            .with("partition", partition)
                            .with("offset", offset)
                            .with("first", *first)
                            .with("end", end));
                    }
                    *first = place;
                }
                Ok(found)
            }
        }
    }

    /// The same as the end of what a reader of committed messages may read.
    pub(crate) async fn resolve_end(
        &self,
        admin: &AdminClient,
        operation: &'static str,
        topic: &str,
        partitions: &[i32],
    ) -> Result<HashMap<i32, i64>> {
        let mut found = self.resolve(admin, operation, topic, partitions).await?;
        if *self == Self::LiveTail {
            // Behind the last stable offset lie open transactions, which may never be committed.
            for (partition, end) in readable_ends(admin, topic, partitions, true).await {
                found.insert(partition, end);
            }
        }
        Ok(found)
    }
}

/// Those of these partitions, given with their ends, that have a message of this time or later.
///
/// Asked for a time that no message has, the client asks again and again until its deadline.
async fn later(
    admin: &AdminClient,
    operation: &'static str,
    topic: &str,
    ends: &HashMap<i32, i64>,
    time: i64,
) -> Result<Vec<i32>> {
    let all: Vec<i32> = ends.keys().copied().collect();
    let starts = edges(admin, operation, topic, &all, OffsetSpec::Earliest).await?;
    let filled = starts
        .into_iter()
        .filter(|(p, start)| ends.get(p) > Some(start));
    let last = filled.map(|(p, _)| (TopicPartition::new(topic, p), OffsetSpec::MaxTimestamp));
    let failed = |e| error::map(operation, Stage::Before, e).with("topic", topic);
    let listed = admin
        .list_offsets(last, ListOffsetsOptions::default())
        .await;
    let mut late = Vec::new();
    for (at, found) in listed.map_err(failed)? {
        match found {
            Ok(last) if last.timestamp.is_none_or(|last| last >= time) => late.push(at.partition),
            Ok(_) => {}
            // Compaction left offsets and no message.
            Err(KrafkaError::Broker {
                code: ErrorCode::OffsetNotAvailable,
                ..
            }) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(late)
}

fn outside(operation: &'static str, topic: &str, text: &'static str) -> Error {
    Error::new(ErrorKind::Config, operation, text).with("topic", topic)
}

/// What lies before 1970 is at 1970: Kafka knows no earlier time.
fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
