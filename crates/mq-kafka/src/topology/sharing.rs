//! The share group of a queue (KIP-932): its settings, which lie with the broker, and its places.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use krafka::{
    KrafkaError,
    admin::{
        ConfigEntry, ConfigOp, ConfigResource, DescribeShareGroupOffsetsOptions,
        IncrementalAlterConfigsOptions, OffsetSpec, TopicDescription,
    },
    error::ErrorCode,
};
use mq_core::{Error, ErrorKind, Result};
use tokio::time::{sleep, timeout};

use super::{configs, offsets::edges, topics::Topic};
use crate::{
    connection::Inner,
    error::{self, Stage},
    settle::Limits,
};

/// Sees to it that the group begins at the start of its queue and reads what is committed, whatever
/// the broker's default is, and reads what it says of deliveries and locks.
pub(crate) async fn prepare_share_group(
    inner: &Inner,
    operation: &'static str,
    group: &str,
) -> Result<Limits> {
    let named = |error: Error| error.with("share group", group);
    let found = read(inner, operation, group).await.map_err(named)?;
    let found = match is_prepared(&found) {
        true => found,
        false => {
            prepare(inner, operation, group).await.map_err(named)?;
            // A broker hears of it a moment after the controller has taken it.
            let heard = async {
                loop {
                    let found = read(inner, operation, group).await.map_err(named)?;
                    if is_prepared(&found) {
                        return Ok(found);
                    }
                    sleep(PAUSE).await;
                }
            };
            timeout(HEARS, heard).await.unwrap_or_else(|_| {
                let text =
                    "the settings of the share group were taken, but the broker does not show them";
                Err(named(Error::new(ErrorKind::Timeout, operation, text)))
            })?
        }
    };
    let limits = limits(inner, operation, &found).await.map_err(named)?;
    check_deliveries(operation, group, limits)?;
    Ok(limits)
}

/// Refuses a group in which a record is archived after too few deliveries to copy it before.
///
/// # Errors
/// [`Config`](ErrorKind::Config).
pub(crate) fn check_deliveries(operation: &'static str, group: &str, limits: Limits) -> Result<()> {
    if limits.deliveries >= FEWEST {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        operation,
        "the broker archives a record after too few deliveries to copy it before",
    )
    .with("share group", group)
    .with(DELIVERIES, limits.deliveries)
    .help("raise share.delivery.count.limit of the group to at least 4"))
}

/// What the broker says of deliveries and locks now: an operator may have changed it.
pub(crate) async fn share_group_limits(
    inner: &Inner,
    operation: &'static str,
    group: &str,
) -> Result<Limits> {
    let named = |error: Error| error.with("share group", group);
    let found = read(inner, operation, group).await.map_err(named)?;
    limits(inner, operation, &found).await.map_err(named)
}

async fn limits(inner: &Inner, operation: &'static str, found: &[ConfigEntry]) -> Result<Limits> {
    let number = |name: &str| configs::find(found, name).and_then(|value| value.parse().ok());
    let mut deliveries = number(DELIVERIES);
    if deliveries.is_none() {
        // Before Kafka 4.3 it is the broker's alone.
        deliveries = of_broker(inner, operation).await?;
    }
    let deliveries: u64 = deliveries.unwrap_or(5);
    let renews = configs::find(found, "share.renew.acknowledge.enable");
    Ok(Limits {
        deliveries: u32::try_from(deliveries).unwrap_or(u32::MAX),
        lock: Duration::from_millis(number(LOCK).unwrap_or(30_000)),
        renews: renews != Some("false"),
    })
}

async fn read(inner: &Inner, operation: &'static str, group: &str) -> Result<Vec<ConfigEntry>> {
    let names = [
        RESET,
        ISOLATION,
        DELIVERIES,
        LOCK,
        "share.renew.acknowledge.enable",
    ];
    configs::entries(inner, operation, ConfigResource::group(group), &names).await
}

fn is_prepared(found: &[ConfigEntry]) -> bool {
    let value = |name| configs::find(found, name);
    value(RESET) == Some("earliest") && value(ISOLATION) == Some("read_committed")
}

async fn prepare(inner: &Inner, operation: &'static str, group: &str) -> Result<()> {
    let failed = |e| error::map(operation, Stage::Before, e);
    let set = vec![
        ConfigOp::set(RESET, "earliest"),
        ConfigOp::set(ISOLATION, "read_committed"),
    ];
    let options = IncrementalAlterConfigsOptions::default();
    let change = [(ConfigResource::group(group), set)];
    let changed = inner.admin.incremental_alter_configs(change, options).await;
    for (_, result) in changed.map_err(failed)? {
        result.map_err(failed)?;
    }
    Ok(())
}

async fn of_broker(inner: &Inner, operation: &'static str) -> Result<Option<u64>> {
    let described = inner.admin.describe_cluster(Default::default()).await;
    let described = described.map_err(|e| error::map(operation, Stage::Before, e))?;
    let Some(broker) = described.brokers.first() else {
        return Ok(None);
    };
    let name = "group.share.delivery.count.limit";
    let resource = ConfigResource::broker(broker.id);
    let entries = configs::entries(inner, operation, resource, &[name]).await?;
    Ok(configs::find(&entries, name).and_then(|value| value.parse().ok()))
}

/// Fails for several partitions in a cluster of several brokers.
///
/// The client asks each leader for records, hands out what comes first and leaves the rest locked
/// until that is settled. With long handlers such locks end again and again, each time for one of the
/// deliveries that the broker counts, and with the last one the record is archived.
pub(crate) async fn check_one_leader(
    inner: &Inner,
    operation: &'static str,
    queue: &str,
    found: &Topic,
) -> Result<()> {
    if found.partitions <= 1 {
        return Ok(());
    }
    let described = inner.admin.describe_cluster(Default::default()).await;
    let described = described.map_err(|e| error::map(operation, Stage::Before, e))?;
    one_leader(operation, queue, found.partitions, described.brokers.len())
}

/// Fails if partitions have several leaders by now.
pub(crate) fn check_leaders(
    operation: &'static str,
    queue: &str,
    found: &TopicDescription,
) -> Result<()> {
    let leaders: HashSet<_> = found.partitions.iter().filter_map(|p| p.leader).collect();
    one_leader(operation, queue, found.partitions.len(), leaders.len())
}

fn one_leader(
    operation: &'static str,
    queue: &str,
    partitions: usize,
    brokers: usize,
) -> Result<()> {
    if partitions <= 1 || brokers <= 1 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        operation,
        "a queue over a share group has one partition in a cluster of several brokers: locks of records on one would end while those of another are handled",
    )
    .with("queue", queue)
    .with("partitions", partitions)
    .with("brokers", brokers)
    .help("declare it with one partition, which is enough for any number of consumers, or take another GroupProtocol"))
}

/// How far a share group is in a partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Everything below was settled. What was settled behind it may be on the broker's books long
    /// before this moves.
    start: i64,
    /// How many records are not settled; `None` if the broker does not say.
    lag: Option<i64>,
}

impl Place {
    /// True if records between these edges of the partition's log are not settled.
    pub(super) fn leaves(self, first: i64, end: i64) -> bool {
        self.lag != Some(0) && end > self.start.max(first)
    }
}

/// How far the group is in each partition where it ever was.
pub(super) async fn places(
    inner: &Inner,
    operation: &'static str,
    group: &str,
    topic: &str,
) -> Result<HashMap<i32, Place>> {
    let failed = |e| error::map(operation, Stage::Before, e).with("share group", group);
    let options = DescribeShareGroupOffsetsOptions::default();
    let described = inner
        .admin
        .describe_share_group_offsets(group, options)
        .await;
    let described = match described {
        Err(KrafkaError::Broker {
            code: ErrorCode::GroupIdNotFound,
            ..
        }) => return Ok(HashMap::new()),
        described => described.map_err(failed)?,
    };
    let here = described.into_iter().filter(|(at, _)| at.topic == topic);
    here.map(|(at, found)| {
        let found = found.map_err(failed)?;
        let place = Place {
            start: found.start_offset,
            lag: found.lag,
        };
        Ok((at.partition, place))
    })
    .collect()
}

/// How many records of its queue the group has not settled, as far as the broker says.
pub(crate) async fn share_group_lag(
    inner: &Inner,
    operation: &'static str,
    queue: &str,
    partitions: usize,
) -> Result<u64> {
    let places = places(inner, operation, queue, queue).await?;
    let all = 0..i32::try_from(partitions).unwrap_or(i32::MAX);
    let is_begun = |p: &i32| places.get(p).is_some_and(|place| place.start >= 0);
    let unbegun: Vec<i32> = all.filter(|p| !is_begun(p)).collect();
    let mut lag: i64 = places.values().filter_map(|place| place.lag).sum();
    if !unbegun.is_empty() {
        // Of these the broker has no count before the first verdict: all that is there is left.
        let admin = &inner.admin;
        let starts = edges(admin, operation, queue, &unbegun, OffsetSpec::Earliest).await?;
        let ends = edges(admin, operation, queue, &unbegun, OffsetSpec::Latest).await?;
        lag += ends.values().sum::<i64>() - starts.values().sum::<i64>();
    }
    Ok(u64::try_from(lag).unwrap_or_default())
}

const RESET: &str = "share.auto.offset.reset";
const ISOLATION: &str = "share.isolation.level";
const DELIVERIES: &str = "share.delivery.count.limit";
const LOCK: &str = "share.record.lock.duration.ms";
/// With fewer, a record would be handed out once at most.
const FEWEST: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);
const HEARS: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_the_broker_counts_or_lies_behind_the_start() {
        let place = |start, lag| Place { start, lag };
        // Settled behind a start that has not moved yet.
        assert!(!place(0, Some(0)).leaves(0, 7));
        assert!(place(0, Some(1)).leaves(0, 7));
        // A broker that does not count.
        assert!(place(6, None).leaves(0, 7));
        assert!(!place(7, None).leaves(0, 7));
        // Retention took what was left.
        assert!(!place(3, Some(4)).leaves(7, 7));
        // A partition that the group has not begun.
        assert!(place(-1, None).leaves(0, 1));
        assert!(!place(-1, None).leaves(0, 0));
    }

    #[test]
    fn several_partitions_on_several_brokers_are_refused() {
        for (partitions, brokers) in [(1, 3), (8, 1), (1, 1)] {
            assert!(one_leader("test", "orders", partitions, brokers).is_ok());
        }
        let error = one_leader("test", "orders", 8, 3).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.context("partitions"), Some("8"));
    }
}
