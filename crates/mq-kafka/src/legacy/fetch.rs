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
            let records = first_batch(part.bytes, |bytes| {
                fetch_once(client, topic, &[Part { bytes, ..*part }])
            })?;
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

/// The records of the first batch: those of the smallest answer that has any. None if an answer says nothing of the partition,
/// as that of a broker does whose quota is used up: then the partition is asked anew, later.
fn first_batch(
    bytes: i32,
    mut fetch: impl FnMut(i32) -> kafka::Result<Got>,
) -> kafka::Result<Vec<Fetched>> {
    // Nothing comes by so many bytes, and something by so many.
    let (mut none, mut some) = (0, bytes);
    let mut found = Vec::new();
    while some - none > 1 || found.is_empty() {
        // In the end what was asked for in the beginning, if nothing less gave anything.
        let bytes = match some - none > 1 {
            true => none + (some - none) / 2,
            false => some,
        };
        let got = fetch(bytes)?;
        match (got.records.is_empty(), got.behind.is_empty()) {
            (false, _) => (some, found) = (bytes, got.records),
            (true, false) if bytes < some => none = bytes,
            (true, _) => return Ok(Vec::new()),
        }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// What a partition answers that has three records before a compressed batch of two.
    fn answer(bytes: i32) -> Got {
        let record = |offset| Fetched {
            partition: 0,
            offset,
            key: Bytes::new(),
            value: Bytes::new(),
        };
        let behind = vec![Part {
            partition: 0,
            offset: 0,
            bytes,
        }];
        match bytes {
            // Whole only with those before it, which are dropped then.
            500.. => Got {
                records: vec![record(3), record(4)],
                behind: Vec::new(),
            },
            100..500 => Got {
                records: (0..3).map(record).collect(),
                behind: Vec::new(),
            },
            _ => Got {
                records: Vec::new(),
                behind,
            },
        }
    }

    fn offsets(found: &[Fetched]) -> Vec<i64> {
        found.iter().map(|one| one.offset).collect()
    }

    #[test]
    fn the_smallest_answer_is_the_first_batch() {
        let found = first_batch(1024, |bytes| Ok(answer(bytes))).unwrap();
        assert_eq!(offsets(&found), [0, 1, 2]);
        // It comes by exactly what is asked for first.
        let found = first_batch(100, |bytes| Ok(answer(bytes))).unwrap();
        assert_eq!(offsets(&found), [0, 1, 2]);
    }

    #[test]
    fn an_answer_that_says_nothing_is_no_empty_one() {
        for silent in 1..=8 {
            let mut asked = 0;
            let found = first_batch(1024, |bytes| {
                asked += 1;
                Ok(match asked == silent {
                    true => Got::default(),
                    false => answer(bytes),
                })
            });
            let found = offsets(&found.unwrap());
            assert!(
                found.is_empty() || found == [0, 1, 2],
                "{silent}: {found:?}"
            );
        }
    }
}
