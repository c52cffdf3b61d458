//! Queues, exchanges and bindings: what is declared, how it is checked, and how it is deleted.

mod bindings;
pub(crate) mod cascade;
mod client;
mod compare;
mod declared;
mod delete;
mod exchange;
mod lint;
mod named;
mod part;
mod queue;
mod values;

use std::time::Duration;

use lapin::{
    Channel,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable, ShortString},
};
use mq_core::{
    Declaration, Destination, Error, ErrorKind, Filter, Result, Subscription, SubscriptionKind,
    check_name,
};

use self::{
    bindings::{End, bindings, check_filter},
    part::Part,
};
pub use self::{
    cascade::Delays,
    exchange::ExchangeKind,
    lint::Lint,
    queue::{Overflow, QueueSettings},
    values::{Binding, Topology},
};
pub(crate) use self::{client::declare_topology, declared::Declared, delete::delete, named::Named};
use crate::{
    connection::Link,
    error::{TYPE, invalid_name},
};

/// Creates what is missing, and compares what is there.
pub(crate) async fn declare(link: &Link, what: Declaration) -> Result<()> {
    const OPERATION: &str = "declare";
    let parts = parts(OPERATION, &what, link.named())?;
    topic_fits(link, OPERATION, &what).await?;
    declare_parts(link, OPERATION, parts).await
}

async fn declare_parts(link: &Link, operation: &'static str, parts: Vec<Part>) -> Result<()> {
    let mut created = false;
    for part in &parts {
        if !part.letters_go_to(&parts) {
            part.letters_arrive(link, operation).await?;
        }
        let there = part.is_there(link, operation).await?;
        let channel = link.channel(operation).await?;
        match link.answer(operation, part.declare(&channel)).await {
            Ok(()) => close(link, operation, channel).await,
            Err(error) if error.kind() == ErrorKind::Mismatch => {
                // The broker names the first difference only.
                Error::differences(
                    operation,
                    compare::differences(link, operation, part).await?,
                )?;
                return Err(part.name(error));
            }
            Err(error) => return Err(part.name(error)),
        }
        created |= !there && part.is_quorum();
    }
    for part in &parts {
        if let Part::Queue { name, .. } = part {
            // Deleted and declared again, it still gets what waits for it.
            cascade::bind_if_there(link, operation, name).await?;
        }
    }
    if created {
        // A younger quorum queue can lose confirmed messages when its whole cluster is killed.
        tokio::time::sleep(SETTLE).await;
    }
    Ok(())
}

/// Compares what is there, and names all that is missing or different.
pub(crate) async fn verify(link: &Link, what: Declaration) -> Result<()> {
    const OPERATION: &str = "verify";
    let parts = parts(OPERATION, &what, link.named())?;
    let fits = topic_fits(link, OPERATION, &what).await;
    let mut found: Vec<Error> = compare::difference(fits)?.into_iter().collect();
    found.extend(differences(link, OPERATION, &parts).await?);
    Error::differences(OPERATION, found)
}

/// All that is missing or different.
async fn differences(link: &Link, operation: &'static str, parts: &[Part]) -> Result<Vec<Error>> {
    let mut found = Vec::new();
    for part in parts {
        if part.is_there(link, operation).await? {
            if !part.letters_go_to(parts) {
                let letters = part.letters_arrive(link, operation).await;
                found.extend(compare::difference(letters)?);
            }
            found.extend(compare::differences(link, operation, part).await?);
        } else {
            found.push(part.missing(operation));
        }
    }
    Ok(found)
}

/// Fails with `NotFound` unless the queue or topic is there.
pub(crate) async fn exists(link: &Link, operation: &'static str, what: &Destination) -> Result<()> {
    check_name(operation, what.name())?;
    let name = what.name().to_string();
    let part = if what.is_queue() {
        let settings = link.named().queue(&name);
        Part::Queue {
            name,
            settings,
            letters: None,
        }
    } else {
        exchange(name, link.named())
    };
    if part.is_there(link, operation).await? {
        return Ok(());
    }
    Err(part.missing(operation))
}

/// A subscription does not create its topic: a name with a slip of the pen would hear nothing.
async fn topic_fits(link: &Link, operation: &'static str, what: &Declaration) -> Result<()> {
    if let Declaration::Subscription(subscription) = what
        && let SubscriptionKind::Durable { topic, .. } = subscription.kind()
    {
        fits(link, operation, topic).await?;
    }
    Ok(())
}

/// Fails unless the topic is there, and is of the kind that its bindings are made for: on another
/// one they would take too much, or nothing.
async fn fits(link: &Link, operation: &'static str, topic: &str) -> Result<()> {
    exists(link, operation, &Destination::topic(topic)).await?;
    // A passive declaration does not compare the kind.
    let part = exchange(topic.to_owned(), link.named());
    match compare::differences(link, operation, &part).await {
        // How a stranger's topic is stored is not what bindings depend on.
        Ok(found) => match found
            .into_iter()
            .find(|e| e.context("argument") == Some(TYPE))
        {
            Some(error) => Err(error),
            None => Ok(()),
        },
        // Whoever may only read it cannot compare it.
        Err(error) if error.kind() == ErrorKind::Permission => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a consumer of this subscription tells the broker beside the queue.
pub(crate) fn consume_arguments(named: &Named, subscription: &Subscription) -> FieldTable {
    let mut arguments = FieldTable::default();
    if let Some(priority) = named.priority(subscription) {
        arguments.insert("x-priority".into(), AMQPValue::LongInt(priority));
    }
    arguments
}

/// Refuses a single active consumer of a queue that would let all of them be active.
pub(crate) async fn check_single_active(link: &Link, subscription: &Subscription) -> Result<()> {
    const OPERATION: &str = "consume";
    let settings = link.named().queue(subscription.name());
    if !settings.is_single_active() {
        return Err(Error::new(
            ErrorKind::Config,
            OPERATION,
            "the plan asks for a single active consumer, and the queue is not set to have one",
        )
        .with("queue", subscription.name())
        .with("setting", "single_active_consumer of the plan")
        .with("against", "QueueSettings without single_active_consumer")
        .help(
            "declare the queue with `QueueSettings::single_active_consumer`, and name it so in \
             `AmqpBuilder::queue`",
        ));
    }
    // What is there may be another one than the settings say.
    let part = Part::Queue {
        name: subscription.name().to_string(),
        letters: settings.letters(subscription.dead_letter_home()),
        settings,
    };
    let single = |e: &Error| e.context("argument") == Some(queue::SINGLE_ACTIVE);
    match compare::differences(link, OPERATION, &part).await {
        Ok(found) => found.into_iter().find(single).map_or(Ok(()), Err),
        // Whoever may only read it cannot compare it.
        Err(error) if error.kind() == ErrorKind::Permission => Ok(()),
        // The consumer itself tells what is not there.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The queue that a subscription reads; an ephemeral one has none before it is opened.
///
/// # Errors
/// `InvalidName` for a name that no declaration would take.
pub(crate) fn queue_of(
    operation: &'static str,
    subscription: &Subscription,
) -> Result<ShortString> {
    match subscription.kind() {
        SubscriptionKind::Queue { queue } => check_name(operation, queue)?,
        SubscriptionKind::Durable { topic, name } => {
            check_name(operation, topic)?;
            check_name(operation, name)?;
        }
        SubscriptionKind::Ephemeral { topic } => {
            check_name(operation, topic)?;
            return Ok(ShortString::default());
        }
    }
    short(operation, subscription.name())
}

/// A queue for an ephemeral subscription, named by the broker and gone with its connection.
pub(crate) async fn ephemeral(
    link: &Link,
    channel: &Channel,
    topic: &str,
    filter: &Filter,
) -> Result<ShortString> {
    const OPERATION: &str = "consume";
    let kind = link.named().exchange(topic);
    check_filter(OPERATION, topic, kind, filter)?;
    // Looked up apart, since a missing exchange would end this channel.
    fits(link, OPERATION, topic).await?;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(ShortString::default(), options, FieldTable::default());
    let queue = link.answer(OPERATION, declared).await?.name().clone();
    for part in bindings(OPERATION, topic, kind, End::Queue(queue.as_str()), filter)? {
        link.answer(OPERATION, part.declare(channel))
            .await
            .map_err(|e| part.name(e))?;
    }
    Ok(queue)
}

fn parts(operation: &'static str, what: &Declaration, named: &Named) -> Result<Vec<Part>> {
    match what {
        Declaration::Destination(to) if to.is_queue() => {
            queue(operation, to.name(), to.dead_letter_home(), named)
        }
        Declaration::Destination(to) => {
            let name = own_name(operation, to.name())?;
            Ok(vec![exchange(name, named)])
        }
        Declaration::Subscription(subscription) => match subscription.kind() {
            SubscriptionKind::Queue { queue: name } => {
                queue(operation, name, subscription.dead_letter_home(), named)
            }
            SubscriptionKind::Durable { topic, .. } => {
                named.check_subscription(operation, subscription)?;
                let name = queue_of(operation, subscription)?;
                let name = name.as_str();
                let mut parts = queue(operation, name, subscription.dead_letter_home(), named)?;
                let (kind, filter) = (named.exchange(topic), subscription.filter_by());
                parts.extend(bindings(operation, topic, kind, End::Queue(name), filter)?);
                Ok(parts)
            }
            SubscriptionKind::Ephemeral { .. } => Err(Error::new(
                ErrorKind::Unsupported,
                operation,
                "an ephemeral subscription lives with its consumer: open one instead",
            )
            .with("subscription", subscription)),
        },
    }
}

fn exchange(name: String, named: &Named) -> Part {
    let kind = named.exchange(&name);
    Part::Exchange { name, kind }
}

/// A queue, after its dead-letter home, so that the home is there when the first letter comes.
fn queue(
    operation: &'static str,
    name: &str,
    home: Option<Destination>,
    named: &Named,
) -> Result<Vec<Part>> {
    let part = |name: &str, home: Option<Destination>| {
        let name = own_name(operation, name)?;
        let settings = named.queue(&name);
        let letters = settings.letters(home);
        Ok(Part::Queue {
            name,
            settings,
            letters,
        })
    };
    // Of two names that cannot be, the caller's own is told.
    own_name(operation, name)?;
    let first = home.as_ref().map(|home| part(home.name(), None));
    first
        .into_iter()
        .chain([part(name, home.clone())])
        .collect()
}

/// A name that may be created: `amq.` belongs to the broker, `mq.delay.` to the delay cascade.
fn own_name(operation: &'static str, name: &str) -> Result<String> {
    check_name(operation, name)?;
    if name.starts_with("amq.") {
        return Err(invalid_name(
            operation,
            "names that begin with `amq.` are the broker's",
            name,
        ));
    }
    if name.starts_with(cascade::PREFIX) {
        return Err(invalid_name(
            operation,
            "names that begin with `mq.delay.` are the delay cascade's",
            name,
        ));
    }
    Ok(name.to_owned())
}

fn short(operation: &'static str, name: &str) -> Result<ShortString> {
    ShortString::try_new(name)
        .map_err(|_| invalid_name(operation, "AMQP allows at most 255 bytes here", name))
}

/// A channel that was used for a look; if it does not close, the connection's end will.
async fn close(link: &Link, operation: &'static str, channel: Channel) {
    if let Err(error) = link
        .answer(operation, channel.close(200, "done".into()))
        .await
    {
        tracing::debug!(%error, "a channel did not close");
    }
}

const SETTLE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
