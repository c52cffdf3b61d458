//! The start-up check: whether a topic's settings can carry what a confirmation says.

use std::fmt;

use mq_core::{Error, ErrorKind, Result};

use super::{Topic, configs::Configs, settings::Planned};

/// What to do with a queue or topic whose settings cannot carry the guarantee of a confirmed
/// message: that it survives the loss of a broker; chosen by [`KafkaBuilder::weak_topics`].
///
/// They cannot where a confirmation may stand for one copy (`min.insync.replicas` or the
/// replication is 1), and where a broker that missed confirmed messages may become leader
/// (`unclean.leader.election.enable`).
///
/// It is looked at when a connection first publishes to it (not by the publishers that promise
/// less, [`leader_only`] and [`unconfirmed`]), when a consumer is opened, for its dead-letter topic
/// too, and by each `declare` and `verify`. What is changed in the cluster later is seen by those,
/// and by the next connection.
///
/// [`KafkaBuilder::weak_topics`]: crate::KafkaBuilder::weak_topics
/// [`leader_only`]: crate::KafkaPublisher::leader_only
/// [`unconfirmed`]: mq_core::Broker::unconfirmed
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WeakTopics {
    /// A warning through `tracing`, once for each topic and connection. A single broker, as for
    /// development, stays usable.
    #[default]
    Warn,
    /// A [`Mismatch`](ErrorKind::Mismatch) that names each reason, or
    /// [`Config`](ErrorKind::Config) where `declare` would create such a topic. Nothing is sent,
    /// read or created. Needs the right to read the topic's configs.
    Refuse,
}

/// Whether a topic carries the guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Carries,
    Weak(Weakness),
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weakness {
    replication: u16,
    /// `None` if the broker did not tell.
    min_in_sync: Option<u16>,
    unclean: bool,
}

impl Standing {
    pub(super) fn of(topic: &Topic, configs: &Configs) -> Self {
        let weakness = Weakness {
            replication: topic.replication,
            min_in_sync: configs.min_in_sync,
            unclean: configs.unclean.unwrap_or(false),
        };
        let copies = configs.min_in_sync.unwrap_or(0).min(topic.replication);
        if copies < COPIES || weakness.unclean {
            Self::Weak(weakness)
        } else {
            Self::Carries
        }
    }
}

impl Weakness {
    pub(super) fn warn(&self, name: &str) {
        tracing::warn!(
            topic = name,
            replication.factor = self.replication,
            min.insync.replicas = self.min_in_sync,
            unclean.leader.election.enable = self.unclean,
            "{self}: {HELP}",
        );
    }

    pub(super) fn error(&self, operation: &'static str, name: &str) -> Error {
        let found = self.min_in_sync.map_or("?".to_owned(), |n| n.to_string());
        Error::new(ErrorKind::Mismatch, operation, self.to_string())
            .with("topic", name)
            .with("replication.factor", self.replication)
            .with("min.insync.replicas", found)
            .with("unclean.leader.election.enable", self.unclean)
            .help(HELP)
    }
}

impl fmt::Display for Weakness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.min_in_sync {
            None => "whether a confirmed message has a second copy cannot be told: the topic's configs cannot be read",
            Some(min) if min.min(self.replication) < COPIES => {
                "a confirmed message may have one copy only, and is lost with its broker"
            }
            Some(_) => "a broker that missed confirmed messages may become leader, and they are lost",
        })
    }
}

/// Refuses to create a topic that cannot carry the guarantee.
pub(super) fn check_planned(
    weak: WeakTopics,
    operation: &'static str,
    name: &str,
    planned: &Planned,
) -> Result<()> {
    if weak == WeakTopics::Warn || planned.copies >= COPIES {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Config,
        operation,
        "a confirmed message would have one copy only; nothing was created",
    )
    .with("name", name)
    .with("replication.factor", planned.replication)
    .with("copies of a confirmed message", planned.copies)
    .help(HELP))
}

/// A confirmed message survives the loss of a broker if it has this many copies.
const COPIES: u16 = 2;
const HELP: &str = "give it three replicas, min.insync.replicas 2 and no unclean leader election";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_carries_the_guarantee_with_two_copies_and_clean_elections() {
        let standing = |replication, min, unclean| {
            let topic = Topic {
                id: [0; 16],
                partitions: 1,
                replication,
                led: true,
            };
            let configs = Configs {
                min_in_sync: min,
                unclean: Some(unclean),
                ..Configs::default()
            };
            Standing::of(&topic, &configs) == Standing::Carries
        };
        assert!(standing(3, Some(2), false));
        assert!(standing(2, Some(2), false));
        assert!(!standing(3, Some(1), false), "one in sync");
        assert!(!standing(1, Some(1), false), "one replica");
        // The broker then asks for no more than there are.
        assert!(!standing(1, Some(2), false), "one replica, two wanted");
        assert!(!standing(3, Some(2), true), "unclean elections");
        assert!(!standing(3, None, false), "not readable");
    }
}
