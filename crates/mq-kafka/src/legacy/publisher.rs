//! Publishing: acknowledged by all in-sync replicas or by the leader, or handed over.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::SeqCst},
    task::{Context, Poll},
    time::Duration,
};

use kafka::client::RequiredAcks;
use mq_core::{Destination, Error, ErrorKind, Message, Publisher, Receipt, Result, Unconfirmed};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout},
};

use super::{connection::Inner, record, sender::Outgoing};
use crate::error::closed;

/// Publishes with the answer of the leader and all in-sync replicas (`acks=all`), or with that of
/// the leader alone where [`leader_only`](Self::leader_only) is asked for.
///
/// A message whose answer is missing is [`Unknown`](ErrorKind::Unknown) and not sent again: these
/// brokers are not asked to tell what comes twice. One that was not sent, as while a partition has no
/// leader, is tried until the publish deadline.
#[derive(Clone)]
pub struct LegacyPublisher {
    inner: Arc<Inner>,
    acks: RequiredAcks,
}

impl LegacyPublisher {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let acks = RequiredAcks::All;
        Self { inner, acks }
    }

    /// A publisher of the same connection that is answered by the leader of the partition alone
    /// (`acks=1`); its receipts say [`Stored::Leader`](mq_core::Stored::Leader). A confirmed message is
    /// lost when the leader fails before its followers have it.
    #[must_use]
    pub fn leader_only(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            acks: RequiredAcks::One,
        }
    }
}

impl Publisher for LegacyPublisher {
    type Pending = LegacyOutcome;

    fn enqueue(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> impl Future<Output = Result<LegacyOutcome>> + Send {
        let message = message.into();
        async move { enqueue(&self.inner, PUBLISH, to, &message, self.acks).await }
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.publishing_closed.store(true, SeqCst);
        self.inner.flush().await
    }
}

impl fmt::Debug for LegacyPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyPublisher")
            .field("acks", &self.acks)
            .finish_non_exhaustive()
    }
}

async fn enqueue(
    inner: &Inner,
    operation: &'static str,
    to: &Destination,
    message: &Message,
    acks: RequiredAcks,
) -> Result<LegacyOutcome> {
    if inner.publishing_closed.load(SeqCst) {
        return Err(closed(operation));
    }
    crate::topology::topic_name(operation, to.name())?;
    record::check(operation, to, message)?;
    let deadline = Instant::now() + inner.config.publish_timeout;
    let permits = room(message.size());
    if permits > inner.window {
        return Err(too_large(operation, to, message, inner.config.window));
    }
    let waiting = Arc::clone(&inner.room).acquire_many_owned(permits);
    let Ok(Ok(room)) = timeout(inner.config.publish_timeout, waiting).await else {
        return Err(Error::new(
            ErrorKind::Timeout,
            operation,
            "no room in the window in time; it was never sent",
        )
        .with("destination", to));
    };
    // The publisher may have been closed meanwhile, and its flush is over then.
    if inner.publishing_closed.load(SeqCst) {
        return Err(closed(operation));
    }
    let (tell, told) = oneshot::channel();
    let outgoing = Outgoing {
        operation,
        to: to.clone(),
        key: message.key().map(|key| key.as_bytes().clone()),
        payload: message.payload().cloned(),
        acks,
        deadline,
        tell,
        room,
        maybe_stored: false,
    };
    // As many fit as there is room for in the window.
    match inner.outgoing.try_send(outgoing) {
        Ok(()) => Ok(LegacyOutcome {
            told,
            to: to.clone(),
        }),
        Err(_) => Err(closed(operation)),
    }
}

fn too_large(operation: &'static str, to: &Destination, message: &Message, limit: usize) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        operation,
        "the message is over what this publisher may send",
    )
    .with("destination", to)
    .with("bytes", message.size())
    .with("limit", limit)
}

/// The outcome of one publish, once it is known: by the publish deadline and that of one request.
///
/// Dropping it does not recall the message.
#[must_use = "whether the message is stored is known only when this is awaited"]
pub struct LegacyOutcome {
    told: oneshot::Receiver<Result<Receipt>>,
    to: Destination,
}

impl Future for LegacyOutcome {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        Pin::new(&mut self.told).poll(cx).map(|told| {
            // The task that sends is gone with its runtime.
            told.unwrap_or_else(|_| {
                let text = "the runtime ended before the outcome was known";
                Err(Error::new(ErrorKind::Unknown, PUBLISH, text).with("destination", &self.to))
            })
        })
    }
}

impl fmt::Debug for LegacyOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyOutcome")
            .field("destination", &self.to)
            .finish_non_exhaustive()
    }
}

/// Hands records over with `acks=0`: the broker sends no answer, and nothing is sent again.
///
/// At most 900,000 bytes each: nobody would tell that a record is over its topic's limit, for which
/// this client cannot ask.
#[derive(Clone)]
pub struct LegacyUnconfirmed {
    inner: Arc<Inner>,
}

impl LegacyUnconfirmed {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

impl Unconfirmed for LegacyUnconfirmed {
    fn hand_over(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> impl Future<Output = Result<()>> + Send {
        let message = message.into();
        async move {
            record::check(HAND_OVER, to, &message)?;
            if message.size() > LARGEST_UNANSWERED {
                return Err(too_large(HAND_OVER, to, &message, LARGEST_UNANSWERED));
            }
            let acks = RequiredAcks::None;
            let handed = enqueue(&self.inner, HAND_OVER, to, &message, acks).await?;
            handed.await.map(drop)
        }
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }
}

impl fmt::Debug for LegacyUnconfirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyUnconfirmed").finish_non_exhaustive()
    }
}

/// The room that a message takes in the window, in KiB.
pub(super) fn room(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX)
}

/// Waits until everything that was enqueued has its outcome: until the whole window is free.
pub(super) async fn flush(window: &Semaphore, all: u32, deadline: Duration) -> Result<()> {
    match timeout(deadline, window.acquire_many(all)).await {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::new(
            ErrorKind::Timeout,
            PUBLISH,
            "some outcomes are still missing",
        )),
    }
}

const PUBLISH: &str = "publish";
const HAND_OVER: &str = "hand over";
const LARGEST_UNANSWERED: usize = 900_000;
