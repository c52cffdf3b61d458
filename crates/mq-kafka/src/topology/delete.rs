//! Deleting topics and groups, unless somebody may still need them.

use std::collections::HashMap;

use krafka::{
    KrafkaError,
    admin::{DeleteConsumerGroupsOptions, ListConsumerGroupsOptions, OffsetSpec},
    error::ErrorCode,
};
use mq_core::{
    Declaration, Deletion, Destination, Error, ErrorKind, Result, Subscription, SubscriptionKind,
};

use super::{
    check_kind, durable_home, home_name,
    offsets::{committed, edges},
    sharing,
    topics::{self, Topic, describe},
};
use crate::{
    config::GroupProtocol,
    connection::Inner,
    error::{self, Stage},
};

/// Deletes what `declare` created.
pub(crate) async fn delete(inner: &Inner, what: &Deletion) -> Result<()> {
    let with_messages = what.takes_messages();
    match what.what() {
        Declaration::Destination(destination) => {
            delete_destination(inner, destination, with_messages).await
        }
        Declaration::Subscription(subscription) => match subscription.kind() {
            SubscriptionKind::Queue { queue } => {
                let queue = Destination::queue(queue.clone());
                delete_destination(inner, &queue, with_messages).await
            }
            SubscriptionKind::Durable { topic, name } => {
                let home = durable_home(DELETE, subscription, topic, name)?;
                delete_durable(inner, subscription, topic, &home, with_messages).await
            }
            SubscriptionKind::Ephemeral { .. } => Err(Error::new(
                ErrorKind::Unsupported,
                DELETE,
                "an ephemeral subscription lives with its consumer: close that instead",
            )
            .with("subscription", subscription)),
        },
    }
}

async fn delete_destination(
    inner: &Inner,
    destination: &Destination,
    with_messages: bool,
) -> Result<()> {
    let name = destination.name();
    let home = home_name(DELETE, destination)?;
    let found = describe(inner, DELETE, &[name, &home]).await?;
    check_kind(DELETE, destination, &found[0], &found[1])?;
    if let Some(topic) = &found[0] {
        if destination.is_queue() {
            if !with_messages && holds_messages(inner, name, name, topic).await? {
                return Err(in_use(destination, Kept::Messages));
            }
            delete_group(inner, name, destination).await?;
        } else if let Some(subscription) = a_subscription_of(inner, name).await? {
            return Err(in_use(destination, Kept::Subscriptions).with("subscription", subscription));
        }
        // Before the home, which marks it as a queue.
        topics::delete(inner, name).await?;
    }
    match (&found[1], destination.dead_letter_home()) {
        (Some(topic), Some(_)) => delete_home(inner, &home, topic).await,
        _ => Ok(()),
    }
}

async fn delete_durable(
    inner: &Inner,
    subscription: &Subscription,
    topic: &str,
    home: &str,
    with_messages: bool,
) -> Result<()> {
    let group = subscription.name();
    let found = describe(inner, DELETE, &[topic, home]).await?;
    if let Some(topic_found) = &found[0]
        && !with_messages
    {
        let places = committed(&inner.admin, DELETE, group, topic, None).await?;
        // Without a place it is not there.
        if places.values().any(|place| place.offset.is_some())
            && holds_messages(inner, group, topic, topic_found).await?
        {
            return Err(in_use(subscription, Kept::Messages));
        }
    }
    delete_group(inner, group, subscription).await?;
    match &found[1] {
        Some(topic) => delete_home(inner, home, topic).await,
        None => Ok(()),
    }
}

/// Deletes a dead-letter topic, unless it has letters, or a reader.
async fn delete_home(inner: &Inner, home: &str, topic: &Topic) -> Result<()> {
    if holds_messages(inner, home, home, topic).await? {
        return Ok(());
    }
    match delete_group(inner, home, home).await {
        Err(error) if error.kind() == ErrorKind::InUse => Ok(()),
        deleted => {
            deleted?;
            topics::delete(inner, home).await
        }
    }
}

/// True if a partition has records behind the place of this group. The mark that ends a transaction
/// is one, and so is what its filter would leave out.
async fn holds_messages(inner: &Inner, group: &str, name: &str, topic: &Topic) -> Result<bool> {
    let all: Vec<i32> = (0..i32::try_from(topic.partitions).unwrap_or(i32::MAX)).collect();
    let starts = edges(&inner.admin, DELETE, name, &all, OffsetSpec::Earliest).await?;
    let ends = edges(&inner.admin, DELETE, name, &all, OffsetSpec::Latest).await?;
    let edge = |of: &HashMap<i32, i64>, at: &i32| of.get(at).copied().unwrap_or(0);
    // Durable subscriptions are consumer groups; a queue's group has its name.
    if inner.config.group_protocol == GroupProtocol::Share && group == name {
        let places = sharing::places(inner, DELETE, group, name).await?;
        return Ok(all.iter().any(|partition| {
            let (start, end) = (edge(&starts, partition), edge(&ends, partition));
            let place = places.get(partition);
            place.map_or(end > start, |place| place.leaves(start, end))
        }));
    }
    let places = committed(&inner.admin, DELETE, group, name, None).await?;
    let holds = |partition: &i32| {
        let start = edge(&starts, partition);
        let place = places.get(partition).and_then(|place| place.offset);
        edge(&ends, partition) > place.unwrap_or(start).max(start)
    };
    Ok(all.iter().any(holds))
}

/// Deletes a group, which has to be without members.
async fn delete_group(inner: &Inner, group: &str, what: impl std::fmt::Display) -> Result<()> {
    let failed = |e| error::map(DELETE, Stage::Before, e).with("group", group);
    let options = DeleteConsumerGroupsOptions::default();
    let deleted = inner.admin.delete_consumer_groups([group], options).await;
    match deleted.map_err(failed)?.remove(group) {
        Some(Err(KrafkaError::Broker {
            code: ErrorCode::NonEmptyGroup,
            ..
        })) => Err(in_use(what, Kept::Consumers)),
        Some(Err(KrafkaError::Broker {
            code: ErrorCode::GroupIdNotFound,
            ..
        }))
        | Some(Ok(()))
        | None => Ok(()),
        Some(Err(e)) => Err(failed(e)),
    }
}

/// A durable subscription of this topic, which is a group named after it.
async fn a_subscription_of(inner: &Inner, topic: &str) -> Result<Option<String>> {
    let failed = |e| error::map(DELETE, Stage::Before, e).with("topic", topic);
    let options = ListConsumerGroupsOptions::default();
    let listed = inner.admin.list_consumer_groups(options).await;
    let suffix = format!("@{topic}");
    for groups in listed.map_err(failed)?.into_values() {
        let mut ids = groups.map_err(failed)?.into_iter().map(|g| g.group_id);
        if let Some(group) = ids.find(|id| id.ends_with(&suffix)) {
            return Ok(Some(group));
        }
    }
    Ok(None)
}

/// Why something is not deleted.
enum Kept {
    Consumers,
    Messages,
    Subscriptions,
}

fn in_use(what: impl std::fmt::Display, kept: Kept) -> Error {
    let (text, help) = match kept {
        Kept::Consumers => ("a consumer reads it", "close its consumers first"),
        Kept::Messages => (
            "it holds messages that its group has not committed",
            "consume them, or say `with_messages` to lose them",
        ),
        Kept::Subscriptions => ("it has subscriptions", "delete them first"),
    };
    Error::new(ErrorKind::InUse, DELETE, text)
        .with("what", what)
        .help(help)
}

const DELETE: &str = "delete";
