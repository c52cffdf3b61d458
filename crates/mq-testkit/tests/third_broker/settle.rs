//! Settlement: a mark that waits for nothing, and a task that tells the broker.

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mq_core::{
    Destination, Error, Message, Publisher, Received, Result, Settle, Verdict, dead_letter_copy,
    stale,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    connection::Link,
    error,
    publisher::CourierPublisher,
    server::{Ask, Fate},
};

/// A verdict on its way.
#[allow(clippy::large_enum_variant, reason = "one at a time is on its way")]
pub(crate) enum Mark {
    Settle(u64, Fate),
    /// The copy first; when it is confirmed, the original.
    Copy(u64, Message),
}

/// Where the deliveries of one consumer are settled.
pub(crate) struct Sink {
    link: Arc<Link>,
    source: Arc<str>,
    home: Option<Destination>,
    /// What was handed out and is not settled; `None` once the consumer is over.
    open: Mutex<Option<HashSet<u64>>>,
    marks: mpsc::Sender<Mark>,
}

// guide: settle
impl Settle for Sink {
    fn settle(&self, tag: u64, verdict: Verdict, received: &Received) -> Result<()> {
        let mut open = self.lock();
        let late = || stale(&self.source);
        // The channel it came from is gone: the broker delivers it again, and no ack may follow.
        if self.link.state.check("settle").is_err() {
            return Err(late());
        }
        let tags = open.as_mut().ok_or_else(late)?;
        let mark = match verdict {
            Verdict::Ack => Mark::Settle(tag, Fate::Done),
            Verdict::Requeue => Mark::Settle(tag, Fate::Again),
            Verdict::Release => Mark::Settle(tag, Fate::AgainUncounted),
            Verdict::Defer(_) => return Err(error::unsupported("settle", "it cannot delay")),
            Verdict::Reject(why) => match &self.home {
                Some(_) => Mark::Copy(tag, dead_letter_copy(received, &why)),
                None => return Err(error::unsupported("settle", "there is no dead-letter home")),
            },
        };
        if !tags.remove(&tag) {
            return Err(late());
        }
        // It has room for the whole prefetch, and the broker sends no more until these are told.
        self.marks.try_send(mark).map_err(|_| late())
    }
}
// guide: end

impl Sink {
    pub(crate) fn new(
        link: Arc<Link>,
        source: Arc<str>,
        home: Option<Destination>,
        marks: mpsc::Sender<Mark>,
    ) -> Self {
        Self {
            link,
            source,
            home,
            open: Mutex::new(Some(HashSet::new())),
            marks,
        }
    }

    pub(crate) fn handed_out(&self, tag: u64) {
        if let Some(open) = self.lock().as_mut() {
            open.insert(tag);
        }
    }

    /// Takes no verdict any more; what was handed out and is not settled.
    pub(crate) fn end(&self) -> Vec<u64> {
        mem::take(&mut *self.lock()).into_iter().flatten().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashSet<u64>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the broker what was marked, until the consumer is gone.
pub(crate) async fn tell(
    link: Arc<Link>,
    consumer: u64,
    home: Option<Destination>,
    mut marks: mpsc::Receiver<Mark>,
    mut asked: mpsc::Receiver<oneshot::Sender<Result<()>>>,
) {
    let mut failed: Option<Error> = None;
    loop {
        let mark = tokio::select! {
            biased;
            mark = marks.recv() => mark,
            reply = asked.recv() => {
                let Some(reply) = reply else { return };
                let told = link.ask("settle", Ask::Ping).await.map(drop);
                let _ = reply.send(failed.take().map_or(told, Err));
                continue;
            }
        };
        match mark {
            None => return,
            Some(Mark::Settle(tag, fate)) => link.tell(Ask::Settle(consumer, tag, fate)).await,
            Some(Mark::Copy(tag, copy)) => {
                let Some(home) = &home else { continue };
                let stored = CourierPublisher(Arc::clone(&link))
                    .publish(home, copy)
                    .await;
                let fate = if stored.is_ok() {
                    Fate::Done
                } else {
                    Fate::Again
                };
                failed = stored.err().or(failed);
                link.tell(Ask::Settle(consumer, tag, fate)).await;
            }
        }
    }
}
