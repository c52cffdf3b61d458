//! What every part of the tour is given, and how it checks what it got.

use std::fmt;

use mq_core::{MessageBuilder, Received, dynamic::AnyBroker};
use mq_examples::Result;

/// The header that carries the token.
pub(crate) const TOKEN: &str = "tour-token";

/// The broker, and the names and the token of this run.
#[derive(Debug)]
pub(crate) struct Tour {
    pub(crate) broker: AnyBroker,
    queue: String,
    token: String,
}

impl Tour {
    /// A tour whose names begin with that of its queue.
    pub(crate) fn new(broker: AnyBroker, queue: String, token: &str) -> Self {
        let token = token.to_owned();
        Self {
            broker,
            queue,
            token,
        }
    }

    /// The queue of the main job.
    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    /// The token of this run.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// A name for one part of the tour.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.queue)
    }

    /// Puts the token into a message whose payload is a text.
    pub(crate) fn stamp(&self) -> impl Fn(&String, MessageBuilder) -> MessageBuilder + use<> {
        let token = self.token.clone();
        // One key, so that what is published in a row keeps its order on every broker.
        move |_, message| message.key("tour").header(TOKEN, token.clone())
    }

    /// True for a message of this run; others are left over from an earlier one on the same queues.
    pub(crate) fn ours(&self, received: &Received) -> bool {
        received.headers().text(TOKEN) == Some(&*self.token)
    }
}

/// The one thing that all this is for: what arrived is what was sent.
pub(crate) fn check<T: fmt::Debug + PartialEq<U>, U: fmt::Debug>(
    what: &str,
    arrived: T,
    due: U,
) -> Result<()> {
    if arrived == due {
        return Ok(());
    }
    Err(format!("{what}: {arrived:?} arrived, where {due:?} was due").into())
}
