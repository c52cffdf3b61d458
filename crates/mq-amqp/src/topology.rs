//! Queues, exchanges and bindings: what is declared, and how it is checked.

mod bindings;
mod exchange;
mod named;
mod queue;

use std::time::Duration;

use lapin::{
    Channel,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use mq_core::{
    Declaration, Destination, Error, ErrorKind, Filter, Result, Subscription, SubscriptionKind,
    check_name,
};

use self::bindings::{bindings, check_filter};
pub use self::exchange::ExchangeKind;
pub(crate) use self::named::Named;
pub use self::queue::{Overflow, QueueSettings};
use crate::{
    connection::Link,
    error::{TYPE, invalid_name},
};

/// Something that has to be there.
#[derive(Debug, Clone, PartialEq)]
enum Part {
    Queue {
        name: String,
        settings: QueueSettings,
        /// Where the broker's own dead letters go.
        letters: Option<Destination>,
    },
    Exchange {
        name: String,
        kind: lapin::ExchangeKind,
    },
    /// The headers exchange of a topic hangs on it, for all routing keys.
    Hang { topic: String, headers: String },
    Bind {
        queue: String,
        exchange: String,
        key: String,
        arguments: FieldTable,
    },
}

/// Creates what is missing, and compares what is there.
pub(crate) async fn declare(link: &Link, what: Declaration) -> Result<()> {
    const OPERATION: &str = "declare";
    let parts = parts(OPERATION, &what, link.named())?;
    topic_fits(link, OPERATION, &what).await?;
    let mut created = false;
    for part in parts {
        part.letters_arrive(link, OPERATION).await?;
        let there = part.is_there(link, OPERATION).await?;
        let channel = link.channel(OPERATION).await?;
        link.answer(OPERATION, part.declare(&channel))
            .await
            .map_err(|e| part.name(e))?;
        created |= !there && part.is_quorum();
        close(link, OPERATION, channel).await;
    }
    if created {
        // A younger quorum queue can lose confirmed messages when its whole cluster is killed.
        tokio::time::sleep(SETTLE).await;
    }
    Ok(())
}

/// Compares what is there, and names what is missing.
pub(crate) async fn verify(link: &Link, what: Declaration) -> Result<()> {
    const OPERATION: &str = "verify";
    let parts = parts(OPERATION, &what, link.named())?;
    topic_fits(link, OPERATION, &what).await?;
    for part in parts {
        if matches!(part, Part::Bind { .. } | Part::Hang { .. }) {
            continue;
        }
        if !part.is_there(link, OPERATION).await? {
            let error = Error::new(ErrorKind::NotFound, OPERATION, "it is not there");
            return Err(part.name(error).help("declare it first"));
        }
        part.letters_arrive(link, OPERATION).await?;
        // Declaring what is there changes nothing, and is the only way to compare.
        let channel = link.channel(OPERATION).await?;
        link.answer(OPERATION, part.declare(&channel))
            .await
            .map_err(|e| part.name(e))?;
        close(link, OPERATION, channel).await;
    }
    Ok(())
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
    let error = Error::new(ErrorKind::NotFound, operation, "it is not there");
    Err(part.name(error).help("declare it first"))
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
    // A passive declaration does not compare the kind, one of what is there does.
    let part = exchange(topic.to_owned(), link.named());
    let channel = link.channel(operation).await?;
    match link.answer(operation, part.declare(&channel)).await {
        Ok(()) => close(link, operation, channel).await,
        // Whoever may only read it cannot compare it, and how a stranger's topic is stored is not
        // what bindings depend on.
        Err(error) if error.kind() == ErrorKind::Permission => {}
        Err(error) if error.context("argument").is_some_and(|a| a != TYPE) => {}
        Err(error) => return Err(part.name(error)),
    }
    Ok(())
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
    for part in bindings(OPERATION, topic, kind, queue.as_str(), filter)? {
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
                parts.extend(bindings(operation, topic, kind, name, filter)?);
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
    let kind = named.exchange(&name).into();
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

impl Part {
    /// Looks without touching: a missing part ends the channel, so each look has its own.
    async fn is_there(&self, link: &Link, operation: &'static str) -> Result<bool> {
        let channel = link.channel(operation).await?;
        let none = FieldTable::default;
        let looked = match self {
            Self::Queue { name, .. } => {
                let options = QueueDeclareOptions {
                    passive: true,
                    ..Default::default()
                };
                let look = channel.queue_declare(short(operation, name)?, options, none());
                link.answer(operation, look).await.map(drop)
            }
            Self::Exchange { name, kind } => {
                let options = ExchangeDeclareOptions {
                    passive: true,
                    ..Default::default()
                };
                let name = short(operation, name)?;
                let look = channel.exchange_declare(name, kind.clone(), options, none());
                link.answer(operation, look).await
            }
            Self::Hang { .. } | Self::Bind { .. } => Ok(()),
        };
        match looked {
            Ok(()) => {
                close(link, operation, channel).await;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.name(error)),
        }
    }

    /// A place for the broker's dead letters that is not made here has to be there: letters to a
    /// missing one are dropped without a word.
    async fn letters_arrive(&self, link: &Link, operation: &'static str) -> Result<()> {
        let Self::Queue { settings, .. } = self else {
            return Ok(());
        };
        match settings.named_letters() {
            Some(to) => exists(link, operation, to)
                .await
                .map_err(|error| error.with("broker_dead_letters", to)),
            None => Ok(()),
        }
    }

    /// A young quorum queue is not safe yet.
    fn is_quorum(&self) -> bool {
        matches!(self, Self::Queue { settings, .. } if settings.is_quorum())
    }

    /// Every name in a part is short: [`parts`] and [`bindings`] made sure of it.
    async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        let name = |name: &str| ShortString::try_new(name).unwrap_or_default();
        match self {
            Self::Queue {
                name: queue,
                settings,
                letters,
            } => {
                let arguments = settings.arguments(letters.as_ref());
                let options = QueueDeclareOptions {
                    durable: !settings.is_exclusive(),
                    exclusive: settings.is_exclusive(),
                    ..QueueDeclareOptions::default()
                };
                channel
                    .queue_declare(name(queue), options, arguments)
                    .await
                    .map(drop)
            }
            Self::Exchange {
                name: exchange,
                kind,
            } => {
                let options = ExchangeDeclareOptions {
                    durable: true,
                    ..Default::default()
                };
                let none = FieldTable::default();
                channel
                    .exchange_declare(name(exchange), kind.clone(), options, none)
                    .await
            }
            Self::Hang { topic, headers } => {
                let (options, none) = (ExchangeBindOptions::default(), FieldTable::default());
                channel
                    .exchange_bind(name(headers), name(topic), "#".into(), options, none)
                    .await
            }
            Self::Bind {
                queue,
                exchange,
                key,
                arguments,
            } => {
                let options = QueueBindOptions::default();
                let arguments = arguments.clone();
                channel
                    .queue_bind(name(queue), name(exchange), name(key), options, arguments)
                    .await
            }
        }
    }

    /// Says in an error which part it is about.
    fn name(&self, error: Error) -> Error {
        match self {
            // The broker's own text may have named it.
            Self::Queue { .. } if error.context("queue").is_some() => error,
            Self::Queue { name, .. } => error.with("queue", name),
            Self::Exchange { name, .. } => error.with("topic", name),
            Self::Hang { headers, .. } => error.with("topic", headers),
            Self::Bind {
                queue, exchange, ..
            } => error.with("queue", queue).with("topic", exchange),
        }
    }
}

/// A name that may be created: `amq.` belongs to the broker.
fn own_name(operation: &'static str, name: &str) -> Result<String> {
    check_name(operation, name)?;
    if name.starts_with("amq.") {
        return Err(invalid_name(
            operation,
            "names that begin with `amq.` are the broker's",
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
