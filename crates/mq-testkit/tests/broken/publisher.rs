//! Broken publishing.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use futures::future::BoxFuture;
use mq_core::{
    Broker, Destination, Error, ErrorKind, Headers, Message, MessageId, PendingBatch, Publisher,
    Receipt, Result, Stored, Unconfirmed, headers::is_mapped,
};
use mq_memory::Memory;

use super::{Fault, broker::Broken, link::Line};

#[derive(Debug, Clone)]
pub(crate) struct BrokenPublisher {
    inner: Memory,
    fault: Fault,
    sent: Arc<AtomicU64>,
    /// An unroutable outcome that waits for the next message.
    blame: Arc<Mutex<Option<Error>>>,
    line: Line,
}

impl BrokenPublisher {
    pub(super) fn new(broker: &Broken) -> Self {
        let (sent, blame) = (Arc::default(), Arc::default());
        Self {
            inner: broker.inner.clone(),
            fault: broker.fault,
            sent,
            blame,
            line: broker.line.clone(),
        }
    }

    /// A publish whose answer never comes.
    fn unanswered(&self) -> BoxFuture<'static, Result<Receipt>> {
        let (line, fault) = (self.line.clone(), self.fault);
        Box::pin(async move {
            line.lost().await;
            match fault {
                Fault::ConfirmsWithoutAnAnswer => Ok(Receipt::new(Stored::Process)),
                Fault::LostLinkIsSilence => std::future::pending().await,
                _ => Err(Error::new(ErrorKind::Unknown, "publish", "no answer")),
            }
        })
    }

    async fn send(&self, to: &Destination, message: Message) -> Result<Receipt> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let fine = Ok(Receipt::new(Stored::Process));
        let (mut to, message) = (to.clone(), damaged(self.fault, message));
        let publisher = self.inner.publisher();
        match self.fault {
            Fault::LosesEveryTenth if number % 10 == 9 => return fine,
            Fault::SendsTwice => drop(publisher.publish(&to, message.clone()).await?),
            Fault::AsksForListenersAlways => to = to.mandatory(),
            Fault::MixesQueues => {
                to = match to.name().strip_suffix(".odd") {
                    Some(name) if to.is_queue() => Destination::queue(format!("{name}.even")),
                    Some(name) => Destination::topic(format!("{name}.even")),
                    None => to,
                }
            }
            _ => {}
        }
        if to.name().ends_with(".refusing") {
            return match self.fault {
                Fault::IgnoresNacks => fine,
                _ => Err(Error::new(ErrorKind::Rejected, "publish", "it is full")),
            };
        }
        let outcome = publisher.publish(&to, message).await;
        let kind = outcome.as_ref().err().map(Error::kind);
        match (self.fault, kind) {
            (Fault::ConfirmsUnroutable, Some(ErrorKind::Unroutable | ErrorKind::NotFound)) => fine,
            (Fault::TakesAnyName, Some(ErrorKind::InvalidName)) => fine,
            (Fault::TakesMessagesAfterClose, Some(ErrorKind::Closed)) => fine,
            (Fault::BlamesTheNextMessage, _) => {
                let mut blame = self.blame.lock().unwrap();
                let mine = outcome.as_ref().err().cloned();
                match std::mem::replace(&mut *blame, mine) {
                    Some(error) => Err(error),
                    None => fine,
                }
            }
            _ => outcome,
        }
    }
}

/// The message as the fault leaves it.
fn damaged(fault: Fault, message: Message) -> Message {
    let kept: Headers = message
        .headers()
        .iter()
        .filter(|(name, _)| !is_mapped(name))
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    let millis = mq_core::time::to_millis(message.time());
    let seconds = mq_core::time::from_millis(millis - millis % 1000).unwrap();
    let payload = message.payload().cloned();
    let again = |payload: Option<bytes::Bytes>, properties: bool, key: bool| {
        let mut copy = match payload {
            Some(payload) => Message::new(payload),
            None => Message::tombstone(),
        };
        copy = copy.id(message.id().clone()).time(message.time());
        copy = copy
            .headers(message.headers().clone())
            .expires_in(message.expires_in());
        if let Some(key) = message.key().filter(|_| key) {
            copy = copy.key(key.as_bytes().clone());
        }
        if let Some(text) = message.content_type().filter(|_| properties) {
            copy = copy.content_type(text.to_owned());
        }
        if let Some(text) = message.correlation_id().filter(|_| properties) {
            copy = copy.correlation_id(text);
        }
        if let Some(text) = message.reply_to().filter(|_| properties) {
            copy = copy.reply_to(text);
        }
        if let Some(priority) = message.priority().filter(|_| properties) {
            copy = copy.priority(priority);
        }
        copy
    };
    let edited = match fault {
        Fault::LosesHeaders => message.clone().edit().headers(Headers::new()),
        Fault::MakesUpHeaders => message.clone().edit().header("x-broker", "was here"),
        Fault::LosesProperties => again(payload, false, true),
        Fault::MakesUpProperties => {
            let text = message
                .content_type()
                .unwrap_or("application/octet-stream")
                .to_owned();
            message.clone().edit().content_type(text)
        }
        Fault::LosesKeys => again(payload, true, false),
        Fault::GivesNewIds => message.clone().edit().id(MessageId::unique()),
        Fault::CutsTimeToSeconds => message.clone().edit().time(seconds),
        Fault::MakesTombstonesEmpty => again(Some(payload.unwrap_or_default()), true, true),
        Fault::CutsAtTheFirstZero => {
            let cut = |bytes: bytes::Bytes| {
                let end = bytes
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(bytes.len());
                bytes.slice(..end)
            };
            let key = message.key().map(|key| cut(key.as_bytes().clone()));
            let copy = again(payload.map(cut), true, false);
            match key {
                Some(key) => copy.key(key),
                None => copy,
            }
        }
        Fault::TakesMappedHeaders => message.clone().edit().headers(kept),
        Fault::TakesRepeatedHeaders => {
            let mut once = Headers::new();
            for (name, value) in message.headers().iter() {
                once.insert(name.to_owned(), value.clone());
            }
            message.clone().edit().headers(once)
        }
        Fault::TakesHugeMessages => {
            let part = payload.map(|payload| payload.slice(..payload.len().min(1_000_000)));
            again(part, true, true)
        }
        Fault::ForgetsExpiry => message.clone().edit().expires_in(None),
        _ => message.clone().edit(),
    };
    edited.build()
}

impl Publisher for BrokenPublisher {
    type Pending = BoxFuture<'static, Result<Receipt>>;

    async fn enqueue(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> Result<Self::Pending> {
        let message = message.into();
        if self.fault != Fault::LostLinkIsSilence {
            self.line.check()?;
        }
        if !self.line.is_open() {
            return Ok(self.unanswered());
        }
        if self.fault == Fault::SendsWhenTheHandleIsAwaited {
            let (publisher, to) = (self.clone(), to.clone());
            return Ok(Box::pin(async move {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                publisher.send(&to, message).await
            }));
        }
        let outcome = self.send(to, message).await;
        if self.fault == Fault::SendsWhatWasDropped {
            tokio::task::yield_now().await;
        }
        match &outcome {
            Err(error) if error.kind() == ErrorKind::Closed => Err(error.clone()),
            _ => Ok(Box::pin(std::future::ready(outcome))),
        }
    }

    async fn enqueue_batch(&self, to: &Destination, messages: Vec<Message>) -> PendingBatch {
        let mut outcomes = Vec::new();
        if self.fault == Fault::AnswersEmptyBatches && messages.is_empty() {
            outcomes.push(Ok(Receipt::new(Stored::Process)));
        }
        for message in messages {
            outcomes.push(self.send(to, message).await);
            if self.fault == Fault::StopsAtTheFirstBadMessage
                && outcomes.last().is_some_and(Result::is_err)
            {
                break;
            }
        }
        PendingBatch::new(std::future::ready(outcomes))
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        match self.fault {
            Fault::ClosesNothing => Ok(()),
            _ => self.inner.publisher().close().await,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct BrokenUnconfirmed {
    inner: Memory,
    fault: Fault,
}

impl BrokenUnconfirmed {
    pub(super) fn new(broker: &Broken) -> Self {
        Self {
            inner: broker.inner.clone(),
            fault: broker.fault,
        }
    }
}

impl Unconfirmed for BrokenUnconfirmed {
    async fn hand_over(&self, to: &Destination, message: impl Into<Message> + Send) -> Result<()> {
        match self.fault {
            Fault::HandsOverNothing => Ok(()),
            _ => self.inner.unconfirmed().hand_over(to, message).await,
        }
    }

    async fn flush(&self) -> Result<()> {
        self.inner.unconfirmed().flush().await
    }
}
