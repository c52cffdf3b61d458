//! Queues, topics and subscriptions as Kafka topics and groups: declare, verify and delete.
//!
//! A queue `q` is the topic `q` read by the group `q`; its dead letters go to the topic `q.dead`. A
//! topic `t` is the topic `t`. A durable subscription `s` of `t` is the group `s@t`, whose start is
//! committed when it is declared; its dead letters go to the topic `t.s.dead`. What either defers
//! waits in retry topics, see [`tiers`].
//!
//! A queue and a topic of one name would be one Kafka topic, and every message of the queue would
//! go to each subscription of the topic too. So the pair is refused, and what tells them apart is
//! the dead-letter topic, which is made before its queue: `q` with `q.dead` is a queue, `t` without
//! `t.dead` is not. A queue whose name itself ends with `.dead` has no home and cannot be told.

mod configs;
mod delete;
mod durability;
mod groups;
mod known;
mod offsets;
mod settings;
mod sharing;
mod start;
mod tiers;
mod topics;

use mq_core::{Declaration, Destination, Error, ErrorKind, Result, Subscription, SubscriptionKind};

use crate::{config::GroupProtocol, connection::Inner};
use configs::Configs;
pub(crate) use delete::delete;
pub use durability::WeakTopics;
pub use groups::{GroupDescription, GroupListing, GroupMember, GroupPlace, Groups};
pub(crate) use known::{Known, Topics};
pub(crate) use offsets::{committed, edges, readable_ends};
pub use settings::{Cleanup, TopicSettings};
pub(crate) use sharing::{
    check_deliveries, check_leaders, check_one_leader, prepare_share_group, share_group_lag,
    share_group_limits,
};
pub use start::At;
pub(crate) use tiers::{Tier, Tiers, find_tiers};
pub(crate) use topics::{Topic, describe, find, topic_name};

/// Creates what is missing.
pub(crate) async fn declare(inner: &Inner, what: &Declaration) -> Result<()> {
    match what {
        Declaration::Destination(destination) => declare_destination(inner, destination).await,
        Declaration::Subscription(subscription) => match subscription.kind() {
            SubscriptionKind::Queue { queue } => {
                declare_destination(inner, &Destination::queue(queue.clone())).await
            }
            SubscriptionKind::Durable { topic, name } => {
                declare_durable(inner, subscription, topic, name, &At::LiveTail).await
            }
            SubscriptionKind::Ephemeral { topic } => {
                find(inner, "declare", "topic", topic).await.map(drop)
            }
        },
    }
}

/// Creates what is missing of a subscription, which starts there if it is new.
pub(crate) async fn declare_from(
    inner: &Inner,
    subscription: &Subscription,
    start: &At,
) -> Result<()> {
    const DECLARE: &str = "declare";
    match subscription.kind() {
        SubscriptionKind::Queue { .. } if inner.config.group_protocol == GroupProtocol::Share => {
            Err(Error::new(
                ErrorKind::Unsupported,
                DECLARE,
                "a share group starts at the beginning of its queue",
            )
            .with("subscription", subscription)
            .help("declare the queue, or move its share group with Kafka's own tools"))
        }
        SubscriptionKind::Queue { queue } => {
            declare_destination(inner, &Destination::queue(queue.clone())).await?;
            let found = find(inner, DECLARE, "queue", queue).await?;
            offsets::fix_start(inner, queue, queue, found.partitions, start).await
        }
        SubscriptionKind::Durable { topic, name } => {
            declare_durable(inner, subscription, topic, name, start).await
        }
        SubscriptionKind::Ephemeral { .. } => Err(Error::new(
            ErrorKind::Config,
            DECLARE,
            "an ephemeral subscription starts where its topic ends when its consumer is opened",
        )
        .with("subscription", subscription)
        .help("declare a durable one, or read a window with `Kafka::reader`")),
    }
}

async fn declare_destination(inner: &Inner, destination: &Destination) -> Result<()> {
    const DECLARE: &str = "declare";
    let name = destination.name();
    let settings = inner.config.settings_of(name);
    let home = home_name(DECLARE, destination)?;
    if destination.is_queue() {
        settings.check_queue(DECLARE, name)?;
    }
    let found = describe(inner, DECLARE, &[name, &home]).await?;
    check_kind(DECLARE, destination, &found[0], &found[1])?;
    if let Some(topic) = &found[0] {
        check_settings(inner, DECLARE, name, topic).await?;
    }
    // The home first: it marks the queue, so an interrupted `declare` leaves no queue that looks
    // like a topic.
    if destination.dead_letter_home().is_some() && found[1].is_none() {
        let settings = for_queue(inner, inner.config.settings_of_home(&home, name));
        topics::create(inner, &home, settings).await?;
    }
    if destination.is_queue() {
        let queue = Subscription::queue(name.clone());
        tiers::declare(inner, &queue, name, found[0].as_ref()).await?;
    }
    if found[0].is_none() {
        let settings = match destination.is_queue() {
            true => for_queue(inner, settings),
            false => settings,
        };
        topics::create(inner, name, settings).await?;
        let created = find(inner, DECLARE, "name", name).await?;
        // Another process may have been faster, with other settings.
        check_settings(inner, DECLARE, name, &created).await?;
    }
    Ok(())
}

/// What a new queue gets where nothing else was set: one partition for a share group, which needs no
/// more. With several, each of its members has some of them, and waits before the others.
fn for_queue(inner: &Inner, settings: TopicSettings) -> TopicSettings {
    match inner.config.group_protocol {
        GroupProtocol::Share => settings.or(TopicSettings::new().partitions(1)),
        GroupProtocol::Classic | GroupProtocol::Consumer => settings,
    }
}

async fn declare_durable(
    inner: &Inner,
    subscription: &Subscription,
    topic: &str,
    name: &str,
    start: &At,
) -> Result<()> {
    const DECLARE: &str = "declare";
    let home = durable_home(DECLARE, subscription, topic, name)?;
    let topic_found = find(inner, DECLARE, "topic", topic).await?;
    let destination = Destination::topic(topic);
    let marker = describe(inner, DECLARE, &[&home_name(DECLARE, &destination)?]).await?;
    check_kind(
        DECLARE,
        &destination,
        &Some(topic_found.clone()),
        &marker[0],
    )?;
    check_settings(inner, DECLARE, topic, &topic_found).await?;
    if describe(inner, DECLARE, &[&home]).await?[0].is_none() {
        let settings = for_queue(inner, inner.config.settings_of_home(&home, topic));
        topics::create(inner, &home, settings).await?;
    }
    let partitions = topic_found.partitions;
    tiers::declare(inner, subscription, topic, Some(&topic_found)).await?;
    offsets::fix_start(inner, subscription.name(), topic, partitions, start).await
}

/// Checks what `declare` would create. Changes nothing.
pub(crate) async fn verify(inner: &Inner, what: &Declaration) -> Result<()> {
    const VERIFY: &str = "verify";
    match what {
        Declaration::Destination(destination) => verify_destination(inner, destination).await,
        Declaration::Subscription(subscription) => match subscription.kind() {
            SubscriptionKind::Queue { queue } => {
                verify_destination(inner, &Destination::queue(queue.clone())).await
            }
            SubscriptionKind::Durable { topic, name } => {
                let home = durable_home(VERIFY, subscription, topic, name)?;
                verify_durable(inner, subscription, topic, &home).await
            }
            SubscriptionKind::Ephemeral { topic } => {
                find(inner, VERIFY, "topic", topic).await.map(drop)
            }
        },
    }
}

async fn verify_destination(inner: &Inner, destination: &Destination) -> Result<()> {
    const VERIFY: &str = "verify";
    let name = destination.name();
    let home = home_name(VERIFY, destination)?;
    let found = describe(inner, VERIFY, &[name, &home]).await?;
    let part = if destination.is_queue() {
        "queue"
    } else {
        "topic"
    };
    let mut wrong = Vec::new();
    match &found[0] {
        Some(topic) => {
            if destination.is_queue() {
                inner.config.settings_of(name).check_queue(VERIFY, name)?;
            }
            let kind = check_kind(VERIFY, destination, &found[0], &found[1]);
            wrong.extend(difference(kind)?);
            wrong.extend(difference(
                check_settings(inner, VERIFY, name, topic).await,
            )?);
        }
        None => {
            wrong.push(topics::missing(VERIFY, part, name));
            if destination.dead_letter_home().is_some() && found[1].is_none() {
                wrong.push(topics::missing(VERIFY, "queue", &home));
            }
        }
    }
    if destination.is_queue() {
        let queue = Subscription::queue(name.clone());
        wrong.extend(tiers::verify(inner, &queue).await?);
    }
    Error::differences(VERIFY, wrong)
}

async fn verify_durable(
    inner: &Inner,
    subscription: &Subscription,
    topic: &str,
    home: &str,
) -> Result<()> {
    const VERIFY: &str = "verify";
    let found = describe(inner, VERIFY, &[topic, home]).await?;
    let mut wrong = Vec::new();
    match &found[0] {
        Some(found) => {
            wrong.extend(difference(
                check_settings(inner, VERIFY, topic, found).await,
            )?);
            wrong.extend(difference(
                started(inner, VERIFY, subscription, topic).await,
            )?);
        }
        None => wrong.push(topics::missing(VERIFY, "topic", topic)),
    }
    if found[1].is_none() {
        wrong.push(topics::missing(VERIFY, "queue", home));
    }
    wrong.extend(tiers::verify(inner, subscription).await?);
    Error::differences(VERIFY, wrong)
}

/// What `verify` tells with others of its kind; any other error ends it.
fn difference(checked: Result<()>) -> Result<Option<Error>> {
    match checked {
        Ok(()) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Mismatch) => {
            Ok(Some(error))
        }
        Err(error) => Err(error),
    }
}

/// Fails if the durable subscription has no place in its topic.
pub(crate) async fn started(
    inner: &Inner,
    operation: &'static str,
    subscription: &Subscription,
    topic: &str,
) -> Result<()> {
    let group = subscription.name();
    let places = committed(&inner.admin, operation, group, topic, None).await?;
    if places.values().all(|place| place.offset.is_none()) {
        return Err(Error::new(
            ErrorKind::NotFound,
            operation,
            "the subscription has no place in its topic",
        )
        .with("subscription", group)
        .help(
            "declare it; a group that nobody reads loses its place after offsets.retention.minutes",
        ));
    }
    Ok(())
}

/// Checks that a topic without a home is not taken for a queue, nor the other way round.
fn check_kind(
    operation: &'static str,
    wanted: &Destination,
    topic: &Option<Topic>,
    home: &Option<Topic>,
) -> Result<()> {
    let mismatch = |text: &'static str, help: &'static str| {
        Err(Error::new(ErrorKind::Mismatch, operation, text)
            .with("name", wanted.name())
            .help(help))
    };
    match (wanted.is_queue(), topic, home) {
        (true, Some(_), None) if wanted.dead_letter_home().is_some() => mismatch(
            "a Kafka topic of this name is there, but no dead-letter topic that would make it a queue",
            "take another name, or create the topic <name>.dead to make it a queue",
        ),
        (false, _, Some(_)) => mismatch(
            "there is a queue of this name; a queue and a topic of one name are one Kafka topic",
            "take another name",
        ),
        _ => Ok(()),
    }
}

/// Compares a topic that is there with the settings that were given for it, and looks whether it
/// can carry the guarantee of a confirmed message.
async fn check_settings(
    inner: &Inner,
    operation: &'static str,
    name: &str,
    found: &Topic,
) -> Result<()> {
    let settings = inner.config.settings_of(name);
    let configs = match configs::read(inner, operation, name).await {
        Err(error) if error.kind() == ErrorKind::Permission && !settings.needs_configs() => {
            Configs::default()
        }
        read => read?,
    };
    let differences = settings.differences(found, &configs);
    if differences.is_empty() {
        return inner
            .topics
            .check_now(inner, operation, name, found, &configs);
    }
    let mismatch = Error::new(
        ErrorKind::Mismatch,
        operation,
        "it is there with other settings",
    )
    .with("name", name)
    .help("change the topic or the settings; what is not set is taken as it is");
    Err(differences.into_iter().fold(mismatch, |error, d| {
        error.with(d.setting, format!("{}, wanted {}", d.found, d.wanted))
    }))
}

/// The name of the topic that marks a queue, checked together with the name itself.
fn home_name(operation: &'static str, destination: &Destination) -> Result<String> {
    topic_name(operation, destination.name())?;
    let home = format!("{}.dead", destination.name());
    topic_name(operation, &home)?;
    Ok(home)
}

fn durable_home(
    operation: &'static str,
    subscription: &Subscription,
    topic: &str,
    name: &str,
) -> Result<String> {
    topic_name(operation, topic)?;
    topic_name(operation, name)?;
    subscription.filter_by().check(operation)?;
    let home = subscription
        .dead_letter_home()
        .map(|home| home.name().to_string())
        .unwrap_or_else(|| format!("{topic}.{name}.dead"));
    topic_name(operation, &home)?;
    Ok(home)
}
