//! A delivery: the received message, and the settlement that ends it.

use std::{fmt, mem, ops::Deref, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Message, Position, Result, codec::Codec, rejection::Rejection};

/// A message as a consumer got it. Cheap to clone, and small, since it goes through many hands.
///
/// It dereferences to its [`Message`].
#[derive(Clone)]
pub struct Received {
    inner: Arc<Inner>,
    attempt: u32,
    attempt_is_exact: bool,
    redelivered: Option<bool>,
}

#[derive(Clone)]
struct Inner {
    message: Message,
    source: Arc<str>,
    routing_key: Option<Arc<str>>,
    position: Option<Position>,
}

impl Received {
    /// A first attempt at a message that came from the subscription of this full name.
    pub fn new(message: Message, source: Arc<str>, routing_key: Option<Arc<str>>) -> Self {
        let inner = Arc::new(Inner {
            message,
            source,
            routing_key,
            position: None,
        });
        Self {
            inner,
            attempt: 1,
            attempt_is_exact: true,
            redelivered: None,
        }
    }

    /// Sets the number of this attempt, from 1.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt.max(1);
        self
    }

    /// Says that the number of this attempt may be too high: its broker counts what a consumer had, whatever became of it. Where all
    /// attempts are exact it declares [`Capability::ExactAttempts`](crate::Capability::ExactAttempts).
    #[must_use]
    pub fn with_inexact_attempt(mut self) -> Self {
        self.attempt_is_exact = false;
        self
    }

    /// Sets what the broker says about earlier deliveries.
    #[must_use]
    pub fn with_redelivered(mut self, redelivered: bool) -> Self {
        self.redelivered = Some(redelivered);
        self
    }

    /// Sets where in a log the message lies. Free before it is cloned; after that it costs a clone of the message.
    #[must_use]
    pub fn with_position(mut self, position: Position) -> Self {
        Arc::make_mut(&mut self.inner).position = Some(position);
        self
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.inner.message
    }

    /// The full name of the subscription it came from.
    pub fn source(&self) -> &Arc<str> {
        &self.inner.source
    }

    /// The routing key it was published with to a topic.
    pub fn routing_key(&self) -> Option<&str> {
        self.inner.routing_key.as_deref()
    }

    /// The number of this attempt, from 1.
    ///
    /// It counts the attempts that the message carries, those that the broker counted, and those
    /// that a retry layer made in this process.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// False if the number of this attempt may be too high: then it says nothing of how often a handler had the message.
    pub fn attempt_is_exact(&self) -> bool {
        self.attempt_is_exact
    }

    /// The broker's word that it was delivered before; `None` if it does not know.
    ///
    /// `Some(true)` means *maybe seen*, `Some(false)` does not prove a first processing: only an
    /// inbox does.
    pub fn redelivered(&self) -> Option<bool> {
        self.redelivered
    }

    /// Where in a log it lies.
    pub fn position(&self) -> Option<Position> {
        self.inner.position
    }

    /// The payload read by a codec; a tombstone cannot be read.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec) if there is no payload or it is not one value of this type.
    pub fn decode<C: Codec, T: DeserializeOwned>(&self) -> Result<T> {
        match self.payload() {
            Some(payload) => C::decode(payload),
            None => Err(Error::new(
                ErrorKind::Codec,
                "decode",
                "a tombstone has no payload",
            )),
        }
    }
}

impl Deref for Received {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.inner.message
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("source", &self.inner.source)
            .field("attempt", &self.attempt)
            .field("redelivered", &self.redelivered)
            .field("position", &self.inner.position)
            .field("message", &self.inner.message)
            .finish()
    }
}

/// A received message together with its settlement.
#[derive(Debug)]
#[must_use = "an unsettled delivery is given back and counted as a failure"]
pub struct Delivery {
    settlement: Settlement,
}

impl Delivery {
    /// A delivery whose verdict goes to this sink under this tag.
    pub fn new(received: Received, sink: Arc<dyn Settle>, tag: u64) -> Self {
        Self {
            settlement: Settlement {
                sink: Some(sink),
                tag,
                received,
            },
        }
    }

    /// The received message.
    pub fn received(&self) -> &Received {
        &self.settlement.received
    }

    /// The message and its settlement, to go separate ways.
    pub fn into_parts(self) -> (Received, Settlement) {
        (self.settlement.received.clone(), self.settlement)
    }

    /// The settlement alone.
    pub fn into_settlement(self) -> Settlement {
        self.settlement
    }

    /// Settles the message as done; see [`Settlement::ack`].
    ///
    /// # Errors
    /// [`Stale`](ErrorKind::Stale) if it comes too late.
    pub fn ack(self) -> Result<()> {
        self.settlement.ack()
    }
}

impl Deref for Delivery {
    type Target = Received;

    fn deref(&self) -> &Received {
        self.received()
    }
}

/// The right to settle one delivery, once.
///
/// Each verb is a local mark that does not wait for the network. To wait until the broker has it,
/// call [`Consumer::settled`](crate::Consumer::settled). Dropped without a verb, the message is
/// given back and the attempt counted as a failure.
///
/// Every verb fails with [`Stale`](ErrorKind::Stale) if the channel or assignment that the
/// delivery came from is gone: the broker delivers the message again.
#[must_use = "an unsettled delivery is given back and counted as a failure"]
pub struct Settlement {
    sink: Option<Arc<dyn Settle>>,
    tag: u64,
    received: Received,
}

impl Settlement {
    /// A settlement of something that is settled already: every verb is a no-op.
    ///
    /// *At most once* acknowledges before the handler runs; its outcomes end here.
    pub fn already_settled(received: Received) -> Self {
        Self {
            sink: None,
            tag: 0,
            received,
        }
    }

    /// The message that this settles.
    pub fn received(&self) -> &Received {
        &self.received
    }

    /// The tag that the backend gave the delivery, as it was given to [`Delivery::new`]; 0 if it was
    /// settled before its handler ran. For a guarantee that is made for this backend, and has more
    /// to hand over than a verdict.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Sets the number of the attempt that it ends with, from 1, where more than one was made of this
    /// delivery: a copy that it makes tells it.
    pub fn after_attempt(mut self, attempt: u32) -> Self {
        self.received = self.received.clone().with_attempt(attempt);
        self
    }

    /// The message is done: it will not be delivered again to this subscription.
    ///
    /// # Errors
    /// [`Stale`](ErrorKind::Stale).
    pub fn ack(self) -> Result<()> {
        self.finish(Verdict::Ack)
    }

    /// The attempt failed: deliver the message again, with the failure counted by the broker where
    /// it can count.
    ///
    /// # Errors
    /// [`Stale`](ErrorKind::Stale).
    pub fn requeue(self) -> Result<()> {
        self.finish(Verdict::Requeue)
    }

    /// Hands back a message that was not attempted, such as at shutdown: nothing is counted.
    ///
    /// # Errors
    /// [`Stale`](ErrorKind::Stale).
    pub fn release(self) -> Result<()> {
        self.finish(Verdict::Release)
    }

    /// Delivers the message again to this subscription after a delay, never earlier.
    ///
    /// The copy carries one attempt more; the original is settled once the copy is confirmed. With
    /// [`Deferred::InPlace`](crate::Deferred::InPlace) there is no copy, and the message holds the
    /// later ones of its key.
    ///
    /// # Errors
    /// [`Stale`](ErrorKind::Stale); [`Unsupported`](ErrorKind::Unsupported) where the broker's
    /// backend cannot delay: the message is then given back.
    pub fn defer(self, delay: Duration) -> Result<()> {
        self.finish(Verdict::Defer(delay))
    }

    /// Moves the message to the dead-letter home of this consumer's plan.
    ///
    /// The copy is confirmed first, then the original is settled.
    ///
    /// # Errors
    /// [`Stale`](ErrorKind::Stale); [`Unsupported`](ErrorKind::Unsupported) if the plan has no
    /// dead-letter home: the message is then given back.
    pub fn reject(self, why: impl Into<Rejection>) -> Result<()> {
        self.finish(Verdict::Reject(Box::new(why.into())))
    }

    /// Settles it. A verdict that came too late needs no action: the broker delivers again. It is worth a line.
    pub(crate) fn finish_logged(mut self, verdict: Verdict) {
        if let Err(error) = self.carry_out(verdict) {
            tracing::warn!(id = %self.received.id(), %error, "the message will be delivered again");
        }
    }

    pub(crate) fn finish(mut self, verdict: Verdict) -> Result<()> {
        self.carry_out(verdict)
    }

    fn carry_out(&mut self, verdict: Verdict) -> Result<()> {
        let Some(sink) = mem::take(&mut self.sink) else {
            return Ok(());
        };
        match sink.settle(self.tag, verdict, &self.received) {
            // Nothing was done, so the message still has to go back.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                self.sink = Some(sink);
                Err(error)
            }
            result => result,
        }
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            // A stale one is delivered again anyway, which is all that a drop promises.
            let _ = sink.settle(self.tag, Verdict::Requeue, &self.received);
        }
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settlement")
            .field("tag", &self.tag)
            .field("settled", &self.sink.is_none())
            .finish_non_exhaustive()
    }
}

/// What a settlement asks of a backend.
#[derive(Debug)]
#[allow(
    clippy::exhaustive_enums,
    reason = "every backend must act on every verdict; a new one must not fall through"
)]
pub enum Verdict {
    /// Done.
    Ack,
    /// Failed: deliver again and count it.
    Requeue,
    /// Handed back: deliver again and count nothing.
    Release,
    /// Copy to this subscription's delay, confirm, settle.
    Defer(Duration),
    /// Copy to the dead-letter home, confirm, settle.
    Reject(Box<Rejection>),
}

/// The backend's side of settlements: one per consumer, shared by its deliveries.
pub trait Settle: Send + Sync + 'static {
    /// Marks the delivery of this tag. Called at most once per tag, save after `Unsupported`.
    ///
    /// It must not block: the network is another task's business.
    ///
    /// # Errors
    /// [`Stale`](ErrorKind::Stale) if the delivery's channel or assignment is gone;
    /// [`Unsupported`](ErrorKind::Unsupported) if nothing was done.
    fn settle(&self, tag: u64, verdict: Verdict, received: &Received) -> Result<()>;
}

/// The error of a settlement that came too late.
pub fn stale(source: &str) -> Error {
    Error::new(
        ErrorKind::Stale,
        "settle",
        "the channel or assignment of this delivery is gone; the broker delivers it again",
    )
    .with("source", source)
}
