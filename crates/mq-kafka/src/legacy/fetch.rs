//! Fetches records, and finds those that the client below drops.

use kafka::{
    client::{FetchPartition, KafkaClient},
    error::KafkaCode,
};

use super::record::Fetched;

/// A partition that is fetched, from this offset on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) bytes: i32,
}

/// What a fetch gave.
#[derive(Debug, Default)]
pub(super) struct Got {
    pub(super) records: Vec<Fetched>,
    /// Partitions that have more, of which nothing whole came.
    pub(super) behind: Vec<Part>,
}

/// Fetches some partitions of a topic.
///
/// Where records lie before a compressed batch in one answer, kafka 0.10 returns those of the batch and
/// drops the others without a word (`MessageSet::from_slice`). So where the first record is not the one
/// that was asked for, the partition is asked again for as little as there is: the batch that comes
/// first, alone. What is missing then is missing in the log, as after compaction.
pub(super) fn fetch(client: &mut KafkaClient, topic: &str, parts: &[Part]) -> kafka::Result<Got> {
    if !have_leaders(client, topic, parts) {
        client.load_metadata_all()?;
        if !have_leaders(client, topic, parts) {
            // The client would leave the partition out without a word.
            return Err(kafka::Error::Kafka(KafkaCode::LeaderNotAvailable));
        }
    }
    let mut got = fetch_once(client, topic, parts)?;
    for part in parts {
        let of_part = |record: &&Fetched| record.partition == part.partition;
        let first = got.records.iter().find(of_part).map(|one| one.offset);
        if first.is_some_and(|first| first > part.offset) {
            let records = first_batch(client, topic, *part)?;
            got.records.retain(|one| one.partition != part.partition);
            got.records.extend(records);
        }
    }
    Ok(got)
}

fn have_leaders(client: &KafkaClient, topic: &str, parts: &[Part]) -> bool {
    let topics = client.topics();
    let known = topics.partitions(topic);
    known.is_some_and(|known| {
        let found = |part: &Part| known.partition(part.partition);
        parts
            .iter()
            .all(|part| found(part).is_some_and(|one| one.is_available()))
    })
}

/// The records of the first batch: those of the smallest answer that has any.
fn first_batch(client: &mut KafkaClient, topic: &str, part: Part) -> kafka::Result<Vec<Fetched>> {
    // Nothing comes by so many bytes, and something by so many.
    let (mut none, mut some) = (0, part.bytes);
    let mut found = Vec::new();
    while some - none > 1 {
        let bytes = none + (some - none) / 2;
        let records = fetch_once(client, topic, &[Part { bytes, ..part }])?.records;
        match records.is_empty() {
            true => none = bytes,
            false => (some, found) = (bytes, records),
        }
    }
    if found.is_empty() {
        found = fetch_once(
            client,
            topic,
            &[Part {
                bytes: some,
                ..part
            }],
        )?
        .records;
    }
    Ok(found)
}

fn fetch_once(client: &mut KafkaClient, topic: &str, parts: &[Part]) -> kafka::Result<Got> {
    let asked = parts.iter().map(|part| {
        FetchPartition::new(topic, part.partition, part.offset).with_max_bytes(part.bytes)
    });
    let mut got = Got::default();
    for answer in client.fetch_messages(asked)? {
        for partition in answer.topics().iter().flat_map(|topic| topic.partitions()) {
            let number = partition.partition();
            let Some(part) = parts.iter().find(|part| part.partition == number) else {
                continue;
            };
            let data = match partition.data() {
                Ok(data) => data,
                Err(error) => return Err(kafka::Error::ArcSelf(error)),
            };
            if data.messages().is_empty() && data.highwatermark_offset() > part.offset {
                got.behind.push(*part);
            }
            got.records
                .extend(data.messages().iter().map(|one| Fetched {
                    partition: number,
                    offset: one.offset,
                    key: one.key.to_vec().into(),
                    value: one.value.to_vec().into(),
                }));
        }
    }
    Ok(got)
}
