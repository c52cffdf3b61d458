//! Declaring, verifying and deleting: a queue, with its dead-letter home.

use mq_core::{
    Declaration, Deletion, Destination, Error, ErrorKind, Result, Subscription, SubscriptionKind,
    check_name,
};

use crate::{connection::Link, error, server::Ask};

// guide: topology
pub(crate) async fn declare(link: &Link, what: Declaration) -> Result<()> {
    let queue = queue("declare", what)?;
    for name in [queue.dead_letter_home(), Some(queue)]
        .into_iter()
        .flatten()
    {
        let ask = Ask::Declare(name.name().to_string());
        link.ask("declare", ask).await?;
    }
    Ok(())
}

pub(crate) async fn verify(link: &Link, what: Declaration) -> Result<()> {
    // A topic is never there, and that is what this says.
    if let Declaration::Destination(topic) = &what
        && !topic.is_queue()
    {
        return Err(error::not_found("verify", topic));
    }
    let queue = queue("verify", what)?;
    let mut missing = Vec::new();
    for part in [queue.dead_letter_home(), Some(queue)]
        .into_iter()
        .flatten()
    {
        match exists(link, "verify", &part).await {
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(error),
            looked => looked?,
        }
    }
    Error::differences("verify", missing)
}

pub(crate) async fn delete(link: &Link, what: Deletion) -> Result<()> {
    let queue = queue("delete", what.what().clone())?;
    let ask = Ask::Delete(queue.name().to_string(), what.takes_messages());
    if !link.ask("delete", ask).await? {
        return Err(error::in_use(&queue));
    }
    if let Some(home) = queue.dead_letter_home() {
        // One that holds letters is refused, and stays.
        let ask = Ask::Delete(home.name().to_string(), false);
        link.ask("delete", ask).await?;
    }
    Ok(())
}
// guide: end

/// Fails unless the queue is there.
pub(crate) async fn exists(
    link: &Link,
    operation: &'static str,
    queue: &Destination,
) -> Result<()> {
    let ask = Ask::Exists(queue.name().to_string());
    match link.ask(operation, ask).await? {
        true => Ok(()),
        false => Err(error::not_found(operation, queue)),
    }
}

/// The queue that is meant; this broker has nothing else.
fn queue(operation: &'static str, what: Declaration) -> Result<Destination> {
    let name = match &what {
        Declaration::Destination(to) => to.name(),
        Declaration::Subscription(from) => from.name(),
    };
    check_name(operation, name)?;
    match what {
        Declaration::Destination(to) if to.is_queue() => Ok(to),
        Declaration::Subscription(from) => of(operation, &from),
        Declaration::Destination(_) => Err(error::unsupported(operation, "no topics here")),
    }
}

/// The queue that a subscription reads.
pub(crate) fn of(operation: &'static str, from: &Subscription) -> Result<Destination> {
    match from.kind() {
        SubscriptionKind::Queue { queue } => Ok(Destination::queue(queue.clone())),
        _ => Err(error::unsupported(operation, "no subscriptions here")),
    }
}
