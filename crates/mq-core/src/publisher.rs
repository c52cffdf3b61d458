//! Publishing: confirmed by `Publisher`, handed over by `Unconfirmed`.

use std::{
    fmt,
    future::Future,
    ops::Deref,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{Destination, Message, Result};

/// Publishes messages and reports what became of each.
///
/// Every publish ends as exactly one of four outcomes (see the table in the crate's docs):
/// *confirmed* is `Ok` with a [`Receipt`]; *rejected*, *unroutable* and *unknown* are errors of
/// the kinds [`Rejected`], [`Unroutable`] and [`Unknown`]. An error of any other kind means that
/// the message was never sent.
///
/// A clone shares the connection, the window and the order of its original. Messages that one task
/// enqueues to one destination are written in that order.
///
/// [`Rejected`]: crate::ErrorKind::Rejected
/// [`Unroutable`]: crate::ErrorKind::Unroutable
/// [`Unknown`]: crate::ErrorKind::Unknown
pub trait Publisher: Clone + Send + Sync + 'static {
    /// Resolves to the outcome of one publish. It ends by the publisher's deadline.
    ///
    /// Dropping it does not recall the message: its outcome is then unknown to the caller.
    type Pending: Future<Output = Result<Receipt>> + Send + 'static;

    /// Waits for room in the window, hands the message on, and returns a handle to its outcome.
    ///
    /// This is the pipelined publish: enqueue many, then await the handles.
    ///
    /// # Errors
    /// What is known before anything is sent: a name, message, size or closed publisher, or no
    /// room in the window within the publisher's deadline.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the message was not enqueued.
    fn enqueue(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> impl Future<Output = Result<Self::Pending>> + Send;

    /// Waits until every message enqueued before this call, by any clone, has its outcome.
    ///
    /// The outcomes themselves are in their handles; this returns no error for them.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) if an outcome is still missing at the deadline.
    ///
    /// # Cancel safety
    /// Safe: dropping it changes nothing.
    fn flush(&self) -> impl Future<Output = Result<()>> + Send;

    /// Refuses further messages from every clone, then waits as [`flush`](Self::flush) does.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    ///
    /// # Cancel safety
    /// Dropped, the publisher stays closed; call it again to wait on.
    fn close(&self) -> impl Future<Output = Result<()>> + Send;

    /// Publishes one message and waits for its outcome.
    ///
    /// # Errors
    /// [`Rejected`](crate::ErrorKind::Rejected), [`Unroutable`](crate::ErrorKind::Unroutable),
    /// [`Unknown`](crate::ErrorKind::Unknown), or an error from before it was sent.
    ///
    /// # Cancel safety
    /// Dropped, the outcome is unknown: the message may or may not be stored.
    fn publish(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> impl Future<Output = Result<Receipt>> + Send {
        async move { self.enqueue(to, message).await?.await }
    }

    /// Enqueues many messages and returns one handle to all their outcomes.
    ///
    /// A message that could not be enqueued has its error as its outcome; the others go on.
    ///
    /// # Cancel safety
    /// Dropped before it returns, some of the messages may have been enqueued.
    #[expect(
        clippy::async_yields_async,
        reason = "the caller awaits the handle later"
    )]
    fn enqueue_batch(
        &self,
        to: &Destination,
        messages: Vec<Message>,
    ) -> impl Future<Output = PendingBatch> + Send {
        async move {
            let mut pending = Vec::with_capacity(messages.len());
            for message in messages {
                pending.push(self.enqueue(to, message).await);
            }
            PendingBatch::new(async move {
                let mut outcomes = Vec::with_capacity(pending.len());
                for one in pending {
                    outcomes.push(match one {
                        Ok(handle) => handle.await,
                        Err(error) => Err(error),
                    });
                }
                outcomes
            })
        }
    }

    /// Publishes many messages and waits for all outcomes, in the order of the messages.
    ///
    /// # Cancel safety
    /// Dropped, the outcomes are unknown.
    fn publish_batch(
        &self,
        to: &Destination,
        messages: Vec<Message>,
    ) -> impl Future<Output = Outcomes> + Send {
        async move { self.enqueue_batch(to, messages).await.await }
    }
}

/// Hands messages over without waiting for an answer.
///
/// A message may be lost without a word. It is a trait of its own, and no [`Publisher`], so that
/// it cannot slip into a stronger guarantee.
pub trait Unconfirmed: Clone + Send + Sync + 'static {
    /// Hands a message to the client library.
    ///
    /// # Errors
    /// What is known before anything is sent: a name, message, size or closed connection.
    ///
    /// # Cancel safety
    /// Dropped, the message may or may not have been handed over.
    fn hand_over(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Waits until everything handed over so far has left this process, as far as the client
    /// library can tell. It says nothing about the broker.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) or
    /// [`Disconnected`](crate::ErrorKind::Disconnected).
    ///
    /// # Cancel safety
    /// Safe.
    fn flush(&self) -> impl Future<Output = Result<()>> + Send;
}

/// The broker's word that it stored a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    stored: Stored,
    position: Option<Position>,
}

/// What a [`Receipt`] answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stored {
    /// In this process: gone with it.
    Process,
    /// By every queue that took it, as far as each queue's kind promises (a quorum queue: a
    /// majority of its members, written and synced; a classic queue: its node).
    Queues,
    /// By a Kafka partition's leader alone.
    Leader,
    /// By a Kafka partition's leader and all in-sync replicas.
    InSync,
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(
    clippy::exhaustive_structs,
    reason = "a log position is these two numbers"
)]
pub struct Position {
    /// The partition, from 0.
    pub partition: u32,
    /// The offset in the partition, from 0.
    pub offset: u64,
}

impl Receipt {
    /// A receipt for what stored the message.
    pub fn new(stored: Stored) -> Self {
        Self {
            stored,
            position: None,
        }
    }

    /// Adds where in a log it was stored.
    #[must_use]
    pub fn at(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }

    /// What the broker answered for.
    pub fn stored(&self) -> Stored {
        self.stored
    }

    /// Where in a log it was stored; `None` on a broker without positions.
    pub fn position(&self) -> Option<Position> {
        self.position
    }
}

impl fmt::Display for Position {
    /// `partition:offset`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

/// Resolves to the outcomes of a batch, in the order of its messages: one completion for all.
///
/// Dropping it does not recall the messages.
#[must_use = "the outcomes are known only when it is awaited"]
pub struct PendingBatch(Pin<Box<dyn Future<Output = Vec<Result<Receipt>>> + Send>>);

impl PendingBatch {
    /// Wraps the future that a backend has for a batch.
    pub fn new(outcomes: impl Future<Output = Vec<Result<Receipt>>> + Send + 'static) -> Self {
        Self(Box::pin(outcomes))
    }
}

impl Future for PendingBatch {
    type Output = Outcomes;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcomes> {
        self.0.as_mut().poll(cx).map(Outcomes)
    }
}

impl fmt::Debug for PendingBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingBatch")
    }
}

/// What became of each message of a batch, in the order of the messages.
///
/// It dereferences to a slice, and iterates over the results.
#[derive(Debug, Clone)]
#[must_use = "a message that is not stored is told here and nowhere else"]
pub struct Outcomes(Vec<Result<Receipt>>);

impl Outcomes {
    /// The receipts, if every message was confirmed.
    ///
    /// # Errors
    /// That of the first message that was not. Others may be stored, or have failed too.
    pub fn all_confirmed(self) -> Result<Vec<Receipt>> {
        self.0.into_iter().collect()
    }
}

impl From<Vec<Result<Receipt>>> for Outcomes {
    fn from(outcomes: Vec<Result<Receipt>>) -> Self {
        Self(outcomes)
    }
}

impl Deref for Outcomes {
    type Target = [Result<Receipt>];

    fn deref(&self) -> &[Result<Receipt>] {
        &self.0
    }
}

impl IntoIterator for Outcomes {
    type Item = Result<Receipt>;
    type IntoIter = std::vec::IntoIter<Result<Receipt>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
