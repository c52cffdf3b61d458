//! The delay cascade: 28 levels of exchanges and queues through which a message waits, without a plugin.
//!
//! Level *n* is a topic exchange and a quorum queue whose messages live 2^n seconds. The routing key
//! of a message is its delay in binary, highest bit first, and then the queue it goes to. A bit that
//! is set leads into the level's queue, and from there by dead-lettering to the next level; one that
//! is not leads on at once. Behind the last level the end of the key chooses the queue.

mod delays;
mod parts;
mod route;

use std::time::Duration;

use futures::future::join_all;
use lapin::{
    options::{ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use mq_core::{Destination, Error, ErrorKind, Result};

pub use self::delays::Delays;
use self::parts::{DUE, Part, parts};
pub(crate) use self::{
    parts::{PREFIX, is_of_cascade},
    route::Later,
};
use super::{Named, SETTLE, close, exists};
use crate::connection::Link;

/// Creates what is missing of the cascade, and compares the rest.
async fn declare(link: &Link) -> Result<()> {
    const OPERATION: &str = "declare";
    let there = match look(link, OPERATION).await {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    all(link, OPERATION, parts()).await?;
    if !there {
        // A younger quorum queue can lose confirmed messages when its whole cluster is killed.
        tokio::time::sleep(SETTLE).await;
    }
    Ok(())
}

/// Compares the cascade that is there with the one that has to be.
async fn verify(link: &Link, operation: &'static str) -> Result<()> {
    look(link, operation).await?;
    // Declaring what is there changes nothing, and is the only way to compare.
    let whole = parts().filter(|part| !part.is_binding());
    all(link, operation, whole).await
}

/// Makes sure that a message which waits for this queue arrives: the cascade is as it has to be, and
/// the queue is bound to its end.
///
/// AMQP has no way to look at a binding. Making it again changes nothing where it is there, and
/// whoever delays has to be sure of it, since a mandatory publish proves the first hop alone.
pub(crate) async fn arrives(link: &Link, operation: &'static str, queue: &str) -> Result<()> {
    check(link.named(), operation, queue)?;
    verify(link, operation).await?;
    bind(link, operation, queue).await
}

/// Binds a queue to the cascade, if there is one and the queue can have delayed messages.
pub(super) async fn bind_if_there(link: &Link, operation: &'static str, queue: &str) -> Result<()> {
    if check(link.named(), operation, queue).is_err() {
        return Ok(());
    }
    let bound = async {
        exists(link, operation, &Destination::topic(DUE)).await?;
        bind(link, operation, queue).await
    };
    match bound.await {
        Ok(()) => Ok(()),
        // Whoever may not use it delays nothing, and declares all the same.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Permission) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn bind(link: &Link, operation: &'static str, queue: &str) -> Result<()> {
    let key = route::binding(operation, queue)?;
    let channel = link.channel(operation).await?;
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    let bound = channel.queue_bind(queue.into(), DUE.into(), key, options, none);
    let name = |error: Error| match error.context("queue") {
        Some(_) => error,
        None => error.with("queue", queue),
    };
    link.answer(operation, bound).await.map_err(name)?;
    close(link, operation, channel).await;
    Ok(())
}

/// Refuses a queue that no delayed message can reach, or that could hold up those of all others.
pub(crate) fn check(named: &Named, operation: &'static str, queue: &str) -> Result<()> {
    route::binding(operation, queue)?;
    if named.queue(queue).refuses() {
        let text = "a full queue that refuses would hold up the delayed messages of all queues";
        return Err(Error::new(ErrorKind::Unsupported, operation, text)
            .with("queue", queue)
            .help("delay into a queue without a limit, or one with `Overflow::DropHead`"));
    }
    Ok(())
}

/// Refuses a delay that the cascade cannot make.
pub(crate) fn in_range(operation: &'static str, delays: &[Duration]) -> Result<()> {
    let longest = delays.iter().max().copied().unwrap_or_default();
    route::whole_seconds(operation, longest).map(drop)
}

/// Removes the cascade, unless a message waits in it and `waiting` says that it may be lost.
async fn delete(link: &Link, waiting: bool) -> Result<()> {
    const OPERATION: &str = "delete";
    if !waiting {
        empty(link, OPERATION).await?;
    }
    let channel = link.channel(OPERATION).await?;
    // Without its exchanges nothing enters, and what a queue would let go stays in it.
    for part in parts() {
        if let Part::Exchange { name, .. } = &part {
            let options = ExchangeDeleteOptions::default();
            let gone = channel.exchange_delete(name.as_str().into(), options);
            link.answer(OPERATION, gone)
                .await
                .map_err(|error| error.with("part", name))?;
        }
    }
    if !waiting && let Err(error) = empty(link, OPERATION).await {
        // Something slipped in: it waits on as if nothing had been.
        close(link, OPERATION, channel).await;
        declare(link).await?;
        return Err(error);
    }
    for part in parts() {
        if let Part::Queue { name, .. } = &part {
            let options = QueueDeleteOptions::default();
            let gone = channel.queue_delete(name.as_str().into(), options);
            link.answer(OPERATION, gone)
                .await
                .map_err(|error| error.with("part", name))?;
        }
    }
    close(link, OPERATION, channel).await;
    Ok(())
}

/// Fails with `InUse` if a message waits in a queue of the cascade. A quorum queue cannot be asked to
/// go only if it is empty.
async fn empty(link: &Link, operation: &'static str) -> Result<()> {
    for part in parts() {
        let Part::Queue { name, .. } = &part else {
            continue;
        };
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let channel = link.channel(operation).await?;
        let look = channel.queue_declare(name.as_str().into(), options, FieldTable::default());
        match link.answer(operation, look).await {
            Ok(queue) if queue.message_count() > 0 => {
                close(link, operation, channel).await;
                let text = "messages wait in the delay cascade";
                return Err(Error::new(ErrorKind::InUse, operation, text)
                    .with("queue", name)
                    .with("messages", queue.message_count())
                    .help("wait until they have left, or delete it with what is in it"));
            }
            Ok(_) => close(link, operation, channel).await,
            // A missing one ends the channel.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.with("part", name)),
        }
    }
    Ok(())
}

/// Fails with `NotFound` if a part is missing. Changes nothing.
async fn look(link: &Link, operation: &'static str) -> Result<()> {
    let parts = parts().filter(|part| !part.is_binding());
    let looked = ask(link, operation, parts, true).await;
    looked.map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let text = "the delay cascade is not there, or not whole";
            Error::new(ErrorKind::NotFound, operation, text)
                .with("missing", error.context("part").unwrap_or(PREFIX))
                .help("declare it first: `Amqp::delays().declare()`")
        }
        _ => error,
    })
}

/// Declares parts, in this order.
async fn all(
    link: &Link,
    operation: &'static str,
    parts: impl Iterator<Item = Part>,
) -> Result<()> {
    let declared = ask(link, operation, parts, false).await;
    declared.map_err(|error| match error.kind() {
        ErrorKind::Mismatch => error.help(
            "names that begin with `mq.delay.` belong to the delay cascade: once it is empty delete \
             what is there, and declare it again",
        ),
        _ => error,
    })
}

/// Asks for many parts on one channel before the first is answered, since each answer is a round trip. The broker goes in order, and ends the channel with the first that it refuses.
async fn ask(
    link: &Link,
    operation: &'static str,
    parts: impl Iterator<Item = Part>,
    passive: bool,
) -> Result<()> {
    let channel = link.channel(operation).await?;
    let parts: Vec<Part> = parts.collect();
    // Each answer has a deadline, and a broker that is busy makes quorum queues one after the other.
    for some in parts.chunks(TOGETHER) {
        let asked = some.iter().map(|part| async {
            let asked = part.declare(&channel, passive);
            let answer = link.answer(operation, asked).await;
            answer.map_err(|error| error.with("part", part.name()))
        });
        let answers = join_all(asked).await.into_iter();
        answers.collect::<Result<()>>()?;
    }
    close(link, operation, channel).await;
    Ok(())
}

/// Parts that are asked for together.
const TOGETHER: usize = 16;
