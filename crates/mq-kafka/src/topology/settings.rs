//! The settings of a topic as a value: what `declare` creates with, and what it compares.

use std::{collections::BTreeSet, fmt, time::Duration};

use mq_core::{Error, ErrorKind, Result};

use super::{Topic, configs::Configs};

/// How a queue or topic is stored; given by [`KafkaBuilder::topic`] for one name and by
/// [`KafkaBuilder::topics`] for all.
///
/// `declare` creates with these settings. Of a queue or topic that is there, `declare` and `verify`
/// compare each setting that was set; a difference is a [`Mismatch`](ErrorKind::Mismatch) that
/// names it with both sides. Nothing that is there is ever changed. What was not set is taken as it
/// is.
///
/// The dead-letter topic of a queue or subscription is created with the partitions, the replication
/// and the in-sync replicas of its source, and never with its retention or clean-up: nothing removes
/// a dead letter but what is set for the dead-letter topic by its own name.
///
/// ```
/// use mq_kafka::{Cleanup, Kafka, TopicSettings};
///
/// let kafka = Kafka::builder("localhost:9092")
///     .topics(TopicSettings::new().replication(3).min_in_sync_replicas(2))
///     .topic("orders", TopicSettings::new().partitions(12))
///     .topic("prices", TopicSettings::new().cleanup(Cleanup::Compact));
/// ```
///
/// [`KafkaBuilder::topic`]: crate::KafkaBuilder::topic
/// [`KafkaBuilder::topics`]: crate::KafkaBuilder::topics
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use = "they take effect when they are given to the builder of a connection"]
pub struct TopicSettings {
    partitions: Option<u32>,
    replication: Option<u16>,
    min_in_sync: Option<u16>,
    retention: Option<Duration>,
    retention_bytes: Option<u64>,
    cleanup: Option<Cleanup>,
}

impl TopicSettings {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many partitions. Default 8; 1 for a queue that is declared under
    /// [`GroupProtocol::Share`](crate::GroupProtocol::Share).
    ///
    /// It is how many consumers can share a queue that is read through consumer groups. Adding partitions later moves keys to other
    /// ones, so that the order of a key holds only within the old and within the new.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// On how many brokers each partition is stored (`replication.factor`). Default: 3, fewer where
    /// fewer brokers answer when the topic is created, and more where the cluster's
    /// `default.replication.factor` is more.
    pub fn replication(mut self, replicas: u16) -> Self {
        self.replication = Some(replicas);
        self
    }

    /// On how many brokers a message has to be before it is confirmed (`min.insync.replicas`);
    /// with fewer in sync, publishes are rejected. Default: 2 where the topic gets 3 replicas or
    /// more, else the cluster's; more where the cluster's is more.
    ///
    /// With 2 of 3, one broker may be lost for ever without a confirmed message, and one may be
    /// down without a pause in publishing. Equal to the replication, any broker that is down stops
    /// publishing.
    pub fn min_in_sync_replicas(mut self, replicas: u16) -> Self {
        self.min_in_sync = Some(replicas);
        self
    }

    /// How long messages are kept, read or not, in milliseconds (`retention.ms`);
    /// [`Duration::MAX`] is for ever. Default: the cluster's, 7 days unless changed there.
    ///
    /// It bounds every guarantee: what nobody read in this time is gone.
    pub fn retention(mut self, time: Duration) -> Self {
        self.retention = Some(time);
        self
    }

    /// How many bytes each partition keeps (`retention.bytes`), read or not; [`u64::MAX`] is
    /// without limit. Default: the cluster's, which is without limit unless changed there.
    ///
    /// Whole segments are removed (`segment.bytes`, 1 GiB unless changed), so some more is kept.
    pub fn retention_bytes(mut self, bytes: u64) -> Self {
        self.retention_bytes = Some(bytes);
        self
    }

    /// What is done with old messages (`cleanup.policy`). Default: the cluster's,
    /// [`Delete`](Cleanup::Delete) unless changed there.
    pub fn cleanup(mut self, cleanup: Cleanup) -> Self {
        self.cleanup = Some(cleanup);
        self
    }

    /// These, with those of `others` for what is not set.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            partitions: self.partitions.or(others.partitions),
            replication: self.replication.or(others.replication),
            min_in_sync: self.min_in_sync.or(others.min_in_sync),
            retention: self.retention.or(others.retention),
            retention_bytes: self.retention_bytes.or(others.retention_bytes),
            cleanup: self.cleanup.or(others.cleanup),
        }
    }

    /// What a dead-letter topic takes from its source.
    pub(crate) fn for_home(self) -> Self {
        Self {
            retention: None,
            retention_bytes: None,
            cleanup: None,
            ..self
        }
    }

    /// What a retry topic takes from its source: its retention is never shorter than that of the
    /// source or a week, and counts from when a message is due.
    pub(crate) fn for_tier(self, delay: Duration) -> Self {
        let kept = self.retention.unwrap_or_default().max(WEEK);
        Self {
            retention: Some(kept.saturating_add(delay)),
            cleanup: Some(Cleanup::Delete),
            ..self.for_home()
        }
    }

    /// Checks what can be checked without a cluster.
    pub(crate) fn check(&self) -> std::result::Result<(), &'static str> {
        let zero = [self.replication, self.min_in_sync].contains(&Some(0));
        if zero || self.partitions == Some(0) || self.retention_bytes == Some(0) {
            return Err(
                "partitions, replication, in-sync replicas and retention_bytes are at least 1",
            );
        }
        if self.retention.is_some_and(|time| time.as_millis() == 0) {
            return Err("the retention is at least 1 ms");
        }
        if let (Some(min), Some(replicas)) = (self.min_in_sync, self.replication)
            && min > replicas
        {
            return Err("min_in_sync_replicas is over replication: nothing could be published");
        }
        let kept = self.retention.is_some() || self.retention_bytes.is_some();
        if kept && self.cleanup == Some(Cleanup::Compact) {
            return Err(
                "a topic that is only compacted has no retention; take Cleanup::CompactAndDelete",
            );
        }
        Ok(())
    }

    /// Checks these for a queue.
    pub(super) fn check_queue(&self, operation: &'static str, name: &str) -> Result<()> {
        match self.cleanup {
            Some(Cleanup::Compact | Cleanup::CompactAndDelete) => Err(Error::new(
                ErrorKind::Config,
                operation,
                "a queue cannot be compacted: of two messages of a key it would drop the first, handled or not",
            )
            .with("queue", name)
            .help("declare a topic, or leave `cleanup` unset")),
            _ => Ok(()),
        }
    }

    /// What to create in this cluster.
    pub(super) fn plan(
        &self,
        operation: &'static str,
        name: &str,
        cluster: Cluster,
    ) -> Result<Planned> {
        let partitions = self.partitions.unwrap_or(PARTITIONS);
        let usual = SAFE_REPLICATION.min(cluster.brokers).max(1);
        let replication = self
            .replication
            .unwrap_or_else(|| usual.max(cluster.replication.unwrap_or(1)));
        let min_in_sync = self.min_in_sync.or_else(|| {
            let there = cluster.min_in_sync.unwrap_or(1);
            // The cluster's own is left to the cluster where it is enough.
            (replication >= SAFE_REPLICATION && there < SAFE_IN_SYNC).then_some(SAFE_IN_SYNC)
        });
        if let Some(min) = min_in_sync
            && min > replication
        {
            return Err(Error::new(
                ErrorKind::Config,
                operation,
                "min_in_sync_replicas is over the replication: nothing could be published",
            )
            .with("name", name)
            .with("min.insync.replicas", min)
            .with("replication.factor", replication)
            .with("brokers", cluster.brokers)
            .help("set both, or add brokers"));
        }
        let mut entries = Vec::new();
        if let Some(min) = min_in_sync {
            entries.push(("min.insync.replicas", min.to_string()));
        }
        if let Some(time) = self.retention {
            entries.push(("retention.ms", millis(time).to_string()));
        }
        if let Some(bytes) = self.retention_bytes {
            entries.push(("retention.bytes", limit(bytes).to_string()));
        }
        if let Some(cleanup) = self.cleanup {
            entries.push(("cleanup.policy", cleanup.to_string()));
        }
        Ok(Planned {
            partitions,
            replication,
            copies: replication.min(min_in_sync.or(cluster.min_in_sync).unwrap_or(1)),
            entries,
        })
    }

    /// True if something is set that stands in the topic's configs.
    pub(super) fn needs_configs(&self) -> bool {
        self.min_in_sync.is_some()
            || self.retention.is_some()
            || self.retention_bytes.is_some()
            || self.cleanup.is_some()
    }

    /// What differs from these: Kafka's name of the setting, what is there, what is wanted.
    pub(super) fn differences(&self, topic: &Topic, configs: &Configs) -> Vec<Difference> {
        let mut all = Vec::new();
        let mut compare = |setting, found: Option<String>, wanted: Option<String>| {
            if let Some(wanted) = wanted
                && found.as_ref() != Some(&wanted)
            {
                let found = found.unwrap_or_else(|| "?".to_owned());
                all.push(Difference {
                    setting,
                    found,
                    wanted,
                });
            }
        };
        let text = |number: Option<i64>| number.map(|n| n.to_string());
        compare(
            "partitions",
            Some(topic.partitions.to_string()),
            self.partitions.map(|n| n.to_string()),
        );
        compare(
            "replication.factor",
            Some(topic.replication.to_string()),
            self.replication.map(|n| n.to_string()),
        );
        compare(
            "min.insync.replicas",
            configs.min_in_sync.map(|n| n.to_string()),
            self.min_in_sync.map(|n| n.to_string()),
        );
        compare(
            "retention.ms",
            text(configs.retention_ms),
            text(self.retention.map(millis)),
        );
        compare(
            "retention.bytes",
            text(configs.retention_bytes),
            text(self.retention_bytes.map(limit)),
        );
        let sorted = |text: &str| {
            let parts: BTreeSet<_> = text.split(',').map(str::trim).collect();
            parts.into_iter().collect::<Vec<_>>().join(",")
        };
        compare(
            "cleanup.policy",
            configs.cleanup.as_deref().map(sorted),
            self.cleanup.map(|cleanup| cleanup.to_string()),
        );
        all
    }
}

/// What is done with old messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cleanup {
    /// They are removed when the retention is over.
    Delete,
    /// Of each key the latest is kept for ever; earlier ones are removed some time later, and a
    /// tombstone removes the key. Only for topics; a message without a key is
    /// [`Rejected`](ErrorKind::Rejected) by the broker.
    Compact,
    /// Both: of each key the latest, until the retention is over.
    CompactAndDelete,
}

impl fmt::Display for Cleanup {
    /// Kafka's own text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
            Self::CompactAndDelete => "compact,delete",
        })
    }
}

/// What the cluster says of itself; `None` where it may not be asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cluster {
    pub(super) brokers: u16,
    pub(super) replication: Option<u16>,
    pub(super) min_in_sync: Option<u16>,
}

/// A topic as it is going to be created.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) partitions: u32,
    pub(super) replication: u16,
    /// In how many copies a confirmed message is at least.
    pub(super) copies: u16,
    pub(super) entries: Vec<(&'static str, String)>,
}

/// A setting that is not as it was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) setting: &'static str,
    pub(super) found: String,
    pub(super) wanted: String,
}

/// `-1` is for ever.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(-1)
}

/// `-1` is without limit.
fn limit(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(-1)
}

/// How long Kafka keeps messages unless it is told otherwise.
const WEEK: Duration = Duration::from_hours(7 * 24);
/// Partitions of a new topic: how many consumers can share a queue.
const PARTITIONS: u32 = 8;
/// With three replicas and two in sync, one broker can be lost and one more be down.
const SAFE_REPLICATION: u16 = 3;
const SAFE_IN_SYNC: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const BIG: Cluster = Cluster {
        brokers: 5,
        replication: Some(1),
        min_in_sync: Some(1),
    };

    fn planned(
        settings: TopicSettings,
        cluster: Cluster,
    ) -> (u16, u16, Vec<(&'static str, String)>) {
        let planned = settings.plan("declare", "t", cluster).expect("a plan");
        (planned.replication, planned.copies, planned.entries)
    }

    #[test]
    fn three_replicas_and_two_in_sync_unless_the_cluster_is_smaller_or_stricter() {
        let two = vec![("min.insync.replicas", "2".to_owned())];
        assert_eq!(planned(TopicSettings::new(), BIG), (3, 2, two.clone()));
        let unreadable = Cluster {
            replication: None,
            min_in_sync: None,
            ..BIG
        };
        assert_eq!(planned(TopicSettings::new(), unreadable), (3, 2, two));
        let single = Cluster { brokers: 1, ..BIG };
        assert_eq!(planned(TopicSettings::new(), single), (1, 1, vec![]));
        let pair = Cluster { brokers: 2, ..BIG };
        assert_eq!(planned(TopicSettings::new(), pair), (2, 1, vec![]));
        let strict = Cluster {
            brokers: 5,
            replication: Some(5),
            min_in_sync: Some(3),
        };
        assert_eq!(planned(TopicSettings::new(), strict), (5, 3, vec![]));
        // What is set stands, however weak.
        let weak = TopicSettings::new().replication(3).min_in_sync_replicas(1);
        let one = vec![("min.insync.replicas", "1".to_owned())];
        assert_eq!(planned(weak, strict), (3, 1, one));
    }

    #[test]
    fn more_in_sync_than_replicas_is_refused_before_and_in_the_cluster() {
        let both = TopicSettings::new().replication(2).min_in_sync_replicas(3);
        assert!(both.check().is_err());
        let one = TopicSettings::new().min_in_sync_replicas(2);
        assert!(one.check().is_ok());
        let single = Cluster { brokers: 1, ..BIG };
        let error = one.plan("declare", "t", single).expect_err("one broker");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert_eq!(error.context("min.insync.replicas"), Some("2"));
        assert_eq!(error.context("replication.factor"), Some("1"));
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let new = TopicSettings::new;
        let bad = [
            new().partitions(0),
            new().replication(0),
            new().min_in_sync_replicas(0),
            new().retention(Duration::from_micros(999)),
            new().retention_bytes(0),
            new().cleanup(Cleanup::Compact).retention(Duration::MAX),
            new().cleanup(Cleanup::Compact).retention_bytes(1),
        ];
        for settings in bad {
            assert!(settings.check().is_err(), "{settings:?}");
        }
        let both = new().cleanup(Cleanup::CompactAndDelete).retention_bytes(1);
        assert!(both.check().is_ok());
    }

    #[test]
    fn every_difference_is_named_with_both_sides() {
        let topic = Topic {
            id: [0; 16],
            partitions: 3,
            replication: 1,
            led: true,
        };
        let configs = Configs {
            max_bytes: None,
            min_in_sync: Some(1),
            unclean: Some(false),
            retention_ms: Some(604_800_000),
            retention_bytes: Some(-1),
            cleanup: Some("delete, compact".to_owned()),
        };
        let same = TopicSettings::new()
            .partitions(3)
            .replication(1)
            .min_in_sync_replicas(1)
            .retention(Duration::from_hours(168))
            .retention_bytes(u64::MAX)
            .cleanup(Cleanup::CompactAndDelete);
        assert_eq!(same.differences(&topic, &configs), vec![]);
        assert_eq!(TopicSettings::new().differences(&topic, &configs), vec![]);
        let other = TopicSettings::new()
            .partitions(4)
            .replication(3)
            .min_in_sync_replicas(2)
            .retention(Duration::MAX)
            .retention_bytes(1000)
            .cleanup(Cleanup::Compact);
        let all: Vec<_> = other
            .differences(&topic, &configs)
            .into_iter()
            .map(|d| format!("{}: {} / {}", d.setting, d.found, d.wanted))
            .collect();
        let expected = [
            "partitions: 3 / 4",
            "replication.factor: 1 / 3",
            "min.insync.replicas: 1 / 2",
            "retention.ms: 604800000 / -1",
            "retention.bytes: -1 / 1000",
            "cleanup.policy: compact,delete / compact",
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn a_dead_letter_topic_takes_what_keeps_messages_and_nothing_that_removes_them() {
        let source = TopicSettings::new()
            .partitions(4)
            .replication(3)
            .min_in_sync_replicas(2)
            .retention(Duration::from_secs(1))
            .retention_bytes(1)
            .cleanup(Cleanup::CompactAndDelete);
        let kept = TopicSettings::new()
            .partitions(4)
            .replication(3)
            .min_in_sync_replicas(2);
        assert_eq!(source.for_home(), kept);
    }
}
