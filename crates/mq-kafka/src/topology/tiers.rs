//! Retry topics: where deferred messages wait, one topic for each delay of a subscription.
//!
//! The delay of 10 s of a queue `q` is the topic `q.retry.10`, that of a durable subscription `s`
//! of `t` is `t.s.retry.10`. Each is a queue of its own, read by the group of its name: so what one
//! subscription defers never reaches another one, and a short delay never waits behind a long one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use krafka::admin::{AdminClient, ListTopicsOptions};
use mq_core::{ConsumePlan, Deferred, Error, ErrorKind, Result, Subscription, SubscriptionKind};

use super::{
    configs::{self, Configs},
    settings::TopicSettings,
    topics::{self, Topic, describe, topic_name},
};
use crate::{
    connection::Inner,
    error::{self, Stage},
};

/// One retry topic.
#[derive(Debug, Clone)]
pub(crate) struct Tier {
    pub(crate) topic: Arc<str>,
    /// How long a message waits in it, to the millisecond above.
    pub(crate) delay: Duration,
    pub(crate) id: [u8; 16],
    pub(crate) partitions: usize,
}

/// The retry topics of a subscription, the shortest delay first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tiers(Vec<Tier>);

impl Tier {
    /// A due time is rounded up to a millisecond, so a message of just this delay may be due so much
    /// later. It must not end in a longer one, where it could be held up.
    pub(crate) fn longest(&self) -> Duration {
        self.delay.saturating_add(Duration::from_millis(1))
    }
}

impl Tiers {
    /// Where a message goes that is due after this time: the shortest delay that is long enough,
    /// or, since it goes on from there, the longest one.
    pub(crate) fn fitting(&self, rest: Duration) -> Option<&Tier> {
        let fits = self.0.iter().find(|tier| tier.longest() >= rest);
        fits.or(self.0.last())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tier> {
        self.0.iter()
    }
}

/// What stands before `.retry.` in the names of the retry topics of a subscription; `None` for those
/// that have none, as they have no dead-letter home: an ephemeral one, and a queue that is such a
/// home itself.
fn stem(subscription: &Subscription) -> Option<String> {
    subscription.dead_letter_home()?;
    match subscription.kind() {
        SubscriptionKind::Queue { queue } => Some(queue.to_string()),
        SubscriptionKind::Durable { topic, name } => Some(format!("{topic}.{name}")),
        SubscriptionKind::Ephemeral { .. } => None,
    }
}

/// The name of a retry topic: its delay in whole seconds, rounded up.
fn tier_name(stem: &str, delay: Duration) -> String {
    format!("{stem}.retry.{}", seconds(delay))
}

fn seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

/// The delay that a name says, if it is one of a retry topic of this stem.
fn delay_of(stem: &str, name: &str) -> Option<Duration> {
    let text = name.strip_prefix(stem)?.strip_prefix(".retry.")?;
    let seconds = text.parse().ok().map(Duration::from_secs)?;
    // Only the one spelling: no sign, no leading zero.
    (!seconds.is_zero() && tier_name(stem, seconds) == name).then_some(seconds)
}

/// Creates the retry topics that the connection asks for and that are missing. The source may be
/// still to come.
pub(super) async fn declare(
    inner: &Inner,
    subscription: &Subscription,
    source: &str,
    source_found: Option<&Topic>,
) -> Result<()> {
    for (name, delay, found) in asked(inner, DECLARE, subscription).await? {
        match found {
            Some(_) => check(inner, DECLARE, &name, delay).await?,
            None => {
                let mut settings = inner.config.settings_of_tier(&name, source, delay);
                if let Some(found) = source_found {
                    // A key keeps its partition.
                    let partitions = u32::try_from(found.partitions).unwrap_or(u32::MAX);
                    settings = settings.or(TopicSettings::new().partitions(partitions));
                }
                topics::create(inner, &name, settings).await?;
            }
        }
    }
    Ok(())
}

/// What is wrong with the retry topics that the connection asks for.
pub(super) async fn verify(inner: &Inner, subscription: &Subscription) -> Result<Vec<Error>> {
    let mut wrong = Vec::new();
    for (name, delay, found) in asked(inner, VERIFY, subscription).await? {
        if found.is_none() {
            wrong.push(topics::missing(VERIFY, PART, &name));
            continue;
        }
        check(inner, VERIFY, &name, delay).await?;
    }
    Ok(wrong)
}

/// The names that the connection asks for, with their delays and what is there.
async fn asked(
    inner: &Inner,
    operation: &'static str,
    subscription: &Subscription,
) -> Result<Vec<(String, Duration, Option<Topic>)>> {
    let (Some(stem), false) = (stem(subscription), inner.config.delays.is_empty()) else {
        return Ok(Vec::new());
    };
    // Ascending, so that the longest delay of a name is its last.
    let mut named = BTreeMap::new();
    for delay in &inner.config.delays {
        let name = tier_name(&stem, *delay);
        topic_name(operation, &name)?;
        named.insert(name, *delay);
    }
    let (names, delays): (Vec<String>, Vec<Duration>) = named.into_iter().unzip();
    let found = look(inner, operation, &names).await?;
    let all = names.into_iter().zip(delays).zip(found);
    Ok(all
        .map(|((name, delay), found)| (name, delay, found))
        .collect())
}

/// Finds the retry topics of a subscription, also those that another connection declared: what
/// waits there has to be read. Checks them, and that they are enough for the plan.
pub(crate) async fn find_tiers(
    inner: &Inner,
    admin: &AdminClient,
    subscription: &Subscription,
    plan: &ConsumePlan,
) -> Result<Tiers> {
    let Some(stem) = stem(subscription) else {
        return match (plan.deferred, plan.delays.first()) {
            (Deferred::Aside, Some(_)) => Err(Error::new(
                ErrorKind::Unsupported,
                CONSUME,
                "an ephemeral subscription has no retry topics, and neither has a dead-letter queue",
            )
            .with("subscription", subscription)),
            _ => Ok(Tiers::default()),
        };
    };
    let failed = |e| error::map(CONSUME, Stage::Before, e).with("subscription", subscription);
    let mut names = admin
        .list_topics(ListTopicsOptions::default())
        .await
        .map_err(failed)?;
    // One that was made a moment ago may not be listed by every broker yet.
    names.extend(inner.config.delays.iter().map(|d| tier_name(&stem, *d)));
    names.retain(|name| delay_of(&stem, name).is_some());
    names.sort_unstable();
    names.dedup();
    let found = look(inner, CONSUME, &names).await?;
    let mut tiers = Vec::new();
    for (name, found) in names.iter().zip(found) {
        if let (Some(topic), Some(delay)) = (found, delay_of(&stem, name)) {
            check(inner, CONSUME, name, delay).await?;
            tiers.push(Tier {
                topic: Arc::from(name.as_str()),
                delay,
                id: topic.id,
                partitions: topic.partitions,
            });
        }
    }
    tiers.sort_unstable_by_key(|tier| tier.delay);
    let longest = tiers.last().map_or(Duration::ZERO, |tier| tier.delay);
    let missing = plan.delays.iter().find(|delay| **delay > longest);
    match missing.filter(|_| plan.deferred == Deferred::Aside) {
        Some(delay) => {
            let name = tier_name(&stem, *delay);
            Err(topics::missing(CONSUME, PART, &name)
                .with("subscription", subscription)
                .help("give the delay to KafkaBuilder::delays and declare the subscription again"))
        }
        None => Ok(Tiers(tiers)),
    }
}

/// What is there of these names. A queue of somebody's may have such a name; its dead-letter topic
/// tells.
async fn look(
    inner: &Inner,
    operation: &'static str,
    names: &[String],
) -> Result<Vec<Option<Topic>>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let markers: Vec<String> = names.iter().map(|name| format!("{name}.dead")).collect();
    let all: Vec<&str> = names.iter().chain(&markers).map(String::as_str).collect();
    let mut found = describe(inner, operation, &all).await?;
    let marked = found.split_off(names.len());
    match names
        .iter()
        .zip(marked)
        .find(|(_, marker)| marker.is_some())
    {
        None => Ok(found),
        Some((name, _)) => Err(Error::new(
            ErrorKind::Mismatch,
            operation,
            "there is a queue with the name of a retry topic",
        )
        .with("name", name)
        .help("rename that queue, or take another delay")),
    }
}

/// Fails for a topic that removes messages before they are due.
async fn check(inner: &Inner, operation: &'static str, name: &str, delay: Duration) -> Result<()> {
    let configs = match configs::read(inner, operation, name).await {
        Err(error) if error.kind() == ErrorKind::Permission => return Ok(()),
        read => read?,
    };
    keeps(&configs, delay).map_err(|(setting, found)| {
        Error::new(
            ErrorKind::Config,
            operation,
            "the retry topic removes messages before they are due",
        )
        .with("retry topic", name)
        .with(setting, found)
        .help("retry topics are not compacted, and keep messages longer than these wait")
    })
}

/// The setting that would remove a message before its delay is over.
fn keeps(configs: &Configs, delay: Duration) -> std::result::Result<(), (&'static str, String)> {
    let wait = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
    if let Some(kept) = configs.retention_ms
        && (0..=wait).contains(&kept)
    {
        return Err(("retention.ms", kept.to_string()));
    }
    match &configs.cleanup {
        Some(policy) if policy.contains("compact") => Err(("cleanup.policy", policy.clone())),
        _ => Ok(()),
    }
}

const DECLARE: &str = "declare";
const VERIFY: &str = "verify";
const CONSUME: &str = "consume";
const PART: &str = "retry topic";

#[cfg(test)]
mod tests {
    use super::*;

    fn tiers(delays: &[u64]) -> Tiers {
        let tier = |seconds: &u64| Tier {
            topic: tier_name("q", Duration::from_secs(*seconds)).into(),
            delay: Duration::from_secs(*seconds),
            id: [0; 16],
            partitions: 1,
        };
        Tiers(delays.iter().map(tier).collect())
    }

    #[test]
    fn a_message_goes_to_the_shortest_delay_that_is_long_enough() {
        let tiers = tiers(&[1, 10, 60]);
        let topic = |ms| {
            let tier = tiers.fitting(Duration::from_millis(ms)).expect("a tier");
            tier.topic.to_string()
        };
        assert_eq!(topic(0), "q.retry.1");
        assert_eq!(topic(1_000), "q.retry.1");
        assert_eq!(topic(1_001), "q.retry.1", "rounded up");
        assert_eq!(topic(1_002), "q.retry.10");
        assert_eq!(topic(60_000), "q.retry.60");
        assert_eq!(topic(3_600_000), "q.retry.60");
        assert!(Tiers::default().fitting(Duration::ZERO).is_none());
    }

    #[test]
    fn what_has_no_dead_letter_home_has_no_retry_topics() {
        assert_eq!(stem(&Subscription::queue("q")).as_deref(), Some("q"));
        let durable = Subscription::durable("t", "s");
        assert_eq!(stem(&durable).as_deref(), Some("t.s"));
        assert_eq!(stem(&Subscription::queue("q.dead")), None);
        assert_eq!(stem(&Subscription::ephemeral("t")), None);
    }

    #[test]
    fn a_name_reads_back_and_others_are_none() {
        assert_eq!(tier_name("q", Duration::from_millis(1_001)), "q.retry.2");
        assert_eq!(delay_of("q", "q.retry.90"), Some(Duration::from_secs(90)));
        for other in [
            "q.retry.0",
            "q.retry.01",
            "q.retry.+1",
            "q.retry.1.dead",
            "q.retry.",
            "q.s.retry.1",
            "qq.retry.1",
            "q",
        ] {
            assert_eq!(delay_of("q", other), None, "{other}");
        }
    }

    #[test]
    fn a_topic_that_removes_too_early_is_found_out() {
        let day = Duration::from_secs(24 * 3600);
        let keeping = |retention_ms, cleanup: &str| {
            let configs = Configs {
                retention_ms: Some(retention_ms),
                cleanup: Some(cleanup.to_owned()),
                ..Configs::default()
            };
            keeps(&configs, day).map_err(|(setting, _)| setting)
        };
        assert_eq!(keeping(-1, "delete"), Ok(()));
        assert_eq!(keeping(86_400_001, "delete"), Ok(()));
        assert_eq!(keeping(86_400_000, "delete"), Err("retention.ms"));
        assert_eq!(keeping(-1, "compact,delete"), Err("cleanup.policy"));
    }
}
