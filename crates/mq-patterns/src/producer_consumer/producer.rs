//! The producing side: pipelined and confirmed, in bounded memory.

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use mq_core::{
    Broker, Datatype, Destination, Error, Message, MessageBuilder, Publisher, Receipt, Result,
    codec::{Codec, JsonCodec},
};
use serde::Serialize;

/// Publishes items of the type `T`, written by the codec `C`, without waiting for each answer.
///
/// At most [`window`](Self::window) items are without their answer, and at most as many failures
/// are remembered. Dropped, the outcomes of the items under way are unknown: end it with
/// [`finish`](Self::finish).
pub struct Producer<T, P: Publisher, C = JsonCodec> {
    publisher: P,
    to: Destination,
    items: Datatype<T, C>,
    window: usize,
    pending: VecDeque<Pending<P::Pending>>,
    sent: Sent,
}

struct Pending<F> {
    message: Message,
    outcome: Pin<Box<F>>,
}

/// What became of the items of a [`Producer`].
#[derive(Debug, Default)]
#[non_exhaustive]
#[must_use = "an item that is not stored is told here and nowhere else"]
pub struct Sent {
    /// How many were confirmed.
    pub confirmed: u64,
    /// Those that were not, in the order in which they were sent.
    pub failed: Vec<Failed>,
}

/// A message that was sent and not confirmed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failed {
    /// The message. Published again, it has the same id, so that a receiver can tell.
    pub message: Message,
    /// Why; [`possibly_delivered`](Error::possibly_delivered) says whether it may be stored.
    pub error: Error,
}

impl<T, P: Publisher> Producer<T, P> {
    /// Publishes to a queue or topic, with items as JSON.
    pub fn new(broker: &impl Broker<Publisher = P>, to: Destination) -> Self {
        Self {
            publisher: broker.publisher(),
            to,
            items: Datatype::new(),
            window: 1024,
            pending: VecDeque::new(),
            sent: Sent::default(),
        }
    }
}

impl<T, P: Publisher, C: Codec> Producer<T, P, C> {
    /// Writes the items by another codec.
    #[must_use]
    pub fn codec<C2: Codec>(self) -> Producer<T, P, C2> {
        Producer {
            publisher: self.publisher,
            to: self.to,
            items: self.items.codec(),
            window: self.window,
            pending: self.pending,
            sent: self.sent,
        }
    }

    /// Sets what each item's message has besides its payload: ordering key, headers, id
    /// (EIP *Envelope Wrapper*).
    #[must_use]
    pub fn envelope(
        mut self,
        envelope: impl Fn(&T, MessageBuilder) -> MessageBuilder + Send + Sync + 'static,
    ) -> Self {
        self.items = self.items.envelope(envelope);
        self
    }

    /// Sets how many items may be without their answer; at least 1. Default 1024.
    #[must_use]
    pub fn window(mut self, items: usize) -> Self {
        self.window = items.max(1);
        self
    }

    /// Waits until every item sent so far has its outcome, and hands over what became of those
    /// since the last time.
    ///
    /// Each outcome comes by the publisher's deadline.
    ///
    /// # Cancel safety
    /// Safe: what was not handed over is kept for the next call.
    pub async fn flush(&mut self) -> Sent {
        while !self.pending.is_empty() {
            self.oldest().await;
        }
        mem::take(&mut self.sent)
    }

    /// Waits as [`flush`](Self::flush) does, and ends.
    ///
    /// # Cancel safety
    /// Dropped, the outcomes are unknown.
    pub async fn finish(mut self) -> Sent {
        self.flush().await
    }

    /// Waits for the outcome of the oldest item under way.
    async fn oldest(&mut self) {
        poll_fn(|cx| self.poll_oldest(cx)).await;
    }

    fn poll_oldest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(oldest) = self.pending.front_mut() else {
            return Poll::Ready(());
        };
        let outcome = std::task::ready!(oldest.outcome.as_mut().poll(cx));
        if let Some(Pending { message, .. }) = self.pending.pop_front() {
            self.sent.count(message, outcome);
        }
        Poll::Ready(())
    }
}

impl<T: Serialize, P: Publisher, C: Codec> Producer<T, P, C> {
    /// Sends an item: waits for room, hands it on, and does not wait for its outcome.
    ///
    /// Items of one producer are written in the order of their `send`s.
    ///
    /// # Errors
    /// The item was not sent: it cannot be written, its message was refused before it was sent, or
    /// as many items as the window have failed. In the last case the error is that of the latest
    /// failure, and [`flush`](Self::flush) makes room again.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the item was not sent.
    pub async fn send(&mut self, item: &T) -> Result<()> {
        // Answers that have come are counted now, so that memory does not wait for a full window.
        let mut no_wake = Context::from_waker(Waker::noop());
        while !self.pending.is_empty() && self.poll_oldest(&mut no_wake).is_ready() {}
        while self.pending.len() >= self.window {
            self.oldest().await;
        }
        if let Some(failed) = self.sent.failed.last()
            && self.sent.failed.len() >= self.window
        {
            return Err(failed.error.clone());
        }
        let message = self.items.message(item)?;
        let outcome = self.publisher.enqueue(&self.to, message.clone()).await?;
        self.pending.push_back(Pending {
            message,
            outcome: Box::pin(outcome),
        });
        Ok(())
    }
}

impl Sent {
    /// How many items were confirmed, if all were.
    ///
    /// # Errors
    /// That of the first item that was not.
    pub fn all_confirmed(self) -> Result<u64> {
        match self.failed.into_iter().next() {
            Some(failed) => Err(failed.error),
            None => Ok(self.confirmed),
        }
    }

    fn count(&mut self, message: Message, outcome: Result<Receipt>) {
        match outcome {
            Ok(_) => self.confirmed += 1,
            Err(error) => self.failed.push(Failed { message, error }),
        }
    }
}

impl<T, P: Publisher, C> fmt::Debug for Producer<T, P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("to", &self.to)
            .field("window", &self.window)
            .field("pending", &self.pending.len())
            .field("confirmed", &self.sent.confirmed)
            .field("failed", &self.sent.failed.len())
            .finish_non_exhaustive()
    }
}
