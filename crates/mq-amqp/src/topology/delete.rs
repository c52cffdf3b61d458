//! Deleting queues and exchanges, unless somebody may still need them.
//!
//! The broker's own conditions cannot be used for queues: a quorum queue answers `if-empty` and
//! `if-unused` with 540, which ends the whole connection. So it is looked first.

use std::time::Duration;

use lapin::{
    options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use mq_core::{Declaration, Deletion, Destination, Error, ErrorKind, Result, SubscriptionKind};

use tokio::time::{Instant, sleep};

use super::{ExchangeKind, Part, close, compare, own_name, queue_of, short};
use crate::{
    connection::Link,
    error::{TYPE, is_used},
};

/// Deletes what `declare` created.
pub(crate) async fn delete(link: &Link, what: Deletion) -> Result<()> {
    let with_messages = what.takes_messages();
    let (name, home) = match what.what() {
        Declaration::Destination(to) if to.is_queue() => {
            (own_name(DELETE, to.name())?, to.dead_letter_home())
        }
        Declaration::Destination(to) => {
            let name = own_name(DELETE, to.name())?;
            return exchange(link, &name).await;
        }
        Declaration::Subscription(subscription) => match subscription.kind() {
            SubscriptionKind::Ephemeral { .. } => {
                let text = "an ephemeral subscription lives with its consumer: close that instead";
                let error = Error::new(ErrorKind::Unsupported, DELETE, text);
                return Err(error.with("subscription", subscription));
            }
            _ => {
                let name = queue_of(DELETE, subscription)?;
                let name = own_name(DELETE, name.as_str())?;
                (name, subscription.dead_letter_home())
            }
        },
    };
    let queue = Queue { name: &name, home };
    queue.check(link, with_messages).await?;
    queue.delete(link).await
}

/// A queue with its dead-letter home.
pub(super) struct Queue<'a> {
    pub(super) name: &'a str,
    pub(super) home: Option<Destination>,
}

impl Queue<'_> {
    /// Refuses what is read, or holds messages that shall not go.
    pub(super) async fn check(&self, link: &Link, with_messages: bool) -> Result<()> {
        let begun = Instant::now();
        let (messages, consumers) = loop {
            match look(link, self.name).await? {
                None => return Ok(()),
                // The broker may still count one whose close it has answered.
                Some((_, 1..)) if begun.elapsed() < CLOSING => sleep(CLOSING / 20).await,
                Some(counts) => break counts,
            }
        };
        if consumers > 0 {
            return Err(in_use("a consumer reads it", "close its consumers first")
                .with("queue", self.name)
                .with("consumers", consumers));
        }
        if messages > 0 && !with_messages {
            let help = "consume them, or say `with_messages` to lose them";
            return Err(in_use("it holds messages", help)
                .with("queue", self.name)
                .with("messages", messages));
        }
        Ok(())
    }

    /// The queue first: without it nothing comes into its home any more. A home that holds letters
    /// stays.
    pub(super) async fn delete(&self, link: &Link) -> Result<()> {
        delete_queue(link, self.name).await?;
        if let Some(home) = &self.home
            && let Some((0, 0)) = look(link, home.name()).await?
        {
            delete_queue(link, home.name()).await?;
        }
        Ok(())
    }
}

/// Deletes an exchange without bindings, and the one for filters by headers that hangs on it.
pub(super) async fn exchange(link: &Link, name: &str) -> Result<()> {
    if let Ok(headers) = own_name(DELETE, &format!("{name}.headers")) {
        let part = Part::Exchange {
            name: headers.clone(),
            kind: ExchangeKind::Headers,
        };
        // Another one of this name is not ours.
        let ours = part.is_there(link, DELETE).await?
            && match compare::differences(link, DELETE, &part).await {
                Ok(found) => !found.iter().any(|e| e.context("argument") == Some(TYPE)),
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
        if ours {
            delete_exchange(link, &headers)
                .await
                .map_err(|error| error.with("of", name))?;
        }
    }
    delete_exchange(link, name).await
}

/// Ready messages and consumers; `None` if it is not there.
async fn look(link: &Link, queue: &str) -> Result<Option<(u32, u32)>> {
    let channel = link.channel(DELETE).await?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let look = channel.queue_declare(short(DELETE, queue)?, options, FieldTable::default());
    match link.answer(DELETE, look).await {
        Ok(found) => {
            close(link, DELETE, channel).await;
            Ok(Some((found.message_count(), found.consumer_count())))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        // The broker's own text may have named it.
        Err(error) if error.context("queue").is_some() => Err(error),
        Err(error) => Err(error.with("queue", queue)),
    }
}

async fn delete_queue(link: &Link, queue: &str) -> Result<()> {
    let channel = link.channel(DELETE).await?;
    let deleting = channel.queue_delete(short(DELETE, queue)?, QueueDeleteOptions::default());
    match link.answer(DELETE, deleting).await {
        Ok(_) => close(link, DELETE, channel).await,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.with("queue", queue)),
    }
    Ok(())
}

async fn delete_exchange(link: &Link, exchange: &str) -> Result<()> {
    let channel = link.channel(DELETE).await?;
    let unused = ExchangeDeleteOptions {
        if_unused: true,
        ..ExchangeDeleteOptions::default()
    };
    let deleting = channel.exchange_delete(short(DELETE, exchange)?, unused);
    match link.answer(DELETE, deleting).await {
        Ok(()) => close(link, DELETE, channel).await,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if is_used(&error) => {
            let text = "it has subscriptions or other bindings";
            return Err(in_use(text, "delete them first").with("topic", exchange));
        }
        Err(error) => return Err(error.with("topic", exchange)),
    }
    Ok(())
}

fn in_use(text: &'static str, help: &'static str) -> Error {
    Error::new(ErrorKind::InUse, DELETE, text).help(help)
}

pub(super) const DELETE: &str = "delete";
/// How long a consumer that was just closed may be counted.
const CLOSING: Duration = Duration::from_secs(1);
