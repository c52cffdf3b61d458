//! Publishing: idempotent, acknowledged by all in-sync replicas, with exact outcomes.

mod line;

use std::{
    collections::BTreeSet,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::try_join_all;
use krafka::{
    KrafkaError, Record,
    admin::OffsetSpec,
    producer::{DeliveryConfirmation, DeliveryHandle, Producer, RecordMetadata},
};
use mq_core::{
    Destination, Error, ErrorKind, Message, PendingBatch, Position, Publisher, Receipt, Result,
    Stored, Unconfirmed, flow::PublishFlow, trace::Sending,
};
use tokio::sync::oneshot;

use self::line::is_lost;
pub(crate) use self::line::{Line, build};
use crate::{
    config::Compression,
    connection::Inner,
    error::{self, Stage, closed},
    headers,
    metrics::Counted,
    topology::{Known, describe, edges},
};

/// Publishes with the answer of the leader and all in-sync replicas (`acks=all`), or with that of
/// the leader alone where [`leader_only`](Self::leader_only) is asked for.
///
/// The window is counted in bytes ([`KafkaBuilder::window`](crate::KafkaBuilder::window)). The
/// client resends by itself until the publish deadline; within the life of this connection the
/// broker drops what comes twice.
#[derive(Clone)]
pub struct KafkaPublisher {
    inner: Arc<Inner>,
    /// Where every message goes; by key without it.
    partition: Option<u32>,
    level: Level,
}

/// Whose answer confirms a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    InSync,
    Leader,
}

impl KafkaPublisher {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            partition: None,
            level: Level::InSync,
        }
    }

    /// A publisher of the same connection that is answered by the leader of the partition alone
    /// (`acks=1`); its receipts say [`Stored::Leader`].
    ///
    /// A confirmed message is lost when the leader fails before its followers have it. It is sent
    /// again until the publish deadline while no answer comes, and, since only the answer of all
    /// makes resends detectable (KIP-98), it may then be stored twice. What it saves is the time in
    /// which the followers fetch a message. It has a window of its own; closing one publisher of
    /// a connection closes all.
    ///
    /// Nothing that is built over a [`Broker`](mq_core::Broker) uses it: a worker publishes with
    /// the answer of all.
    #[must_use]
    pub fn leader_only(&self) -> Self {
        Self {
            level: Level::Leader,
            ..self.clone()
        }
    }

    /// A publisher of the same connection that puts every message into this partition.
    ///
    /// The key travels with the message and decides nothing: the messages of a key stay in order
    /// as far as all of them go to this partition. Window, deadline and idempotence are the
    /// connection's, as those of [`publisher`](mq_core::Broker::publisher) are; closing one
    /// publisher closes all.
    ///
    /// # Errors
    /// A message to a queue or topic that has no such partition is a [`Config`](ErrorKind::Config)
    /// error that names the topic, the partition and how many there are; nothing is sent.
    /// Partitions that were added later are found.
    #[must_use]
    pub fn partition(&self, partition: u32) -> Self {
        Self {
            partition: Some(partition),
            ..self.clone()
        }
    }

    /// Enqueues the copy of a delivered message.
    pub(crate) async fn enqueue_to(
        &self,
        to: &Destination,
        message: &Message,
    ) -> Result<PublishOutcome> {
        let sending = self.inner.watch.tracer.send_copy(to, message);
        self.enqueue_in(to, message, sending).await
    }

    async fn enqueue_in(
        &self,
        to: &Destination,
        message: &Message,
        sending: Sending,
    ) -> Result<PublishOutcome> {
        let sent = self.send(to, message).await;
        let watch = &self.inner.watch;
        match sent {
            Ok((handle, number)) => {
                let mut outcome = self.outcome(State::Sent(handle, number), to);
                outcome.counted = Counted::new(&watch.counters);
                if watch.flow.is_on()
                    && let Some(flow) = watch.flow.sending(message, to, sending.clone())
                {
                    return Ok(self.watched(outcome, flow));
                }
                outcome.sending = sending.is_on().then(|| Box::new(sending));
                Ok(outcome)
            }
            Err(Refused::Missing) => {
                let error = no_topic(PUBLISH, to);
                let missing = Err(error.clone());
                sending.end(&missing);
                if to.is_queue() {
                    Counted::new(&watch.counters).end(&missing);
                    if let Some(flow) = watch.flow.publish(message, to) {
                        flow.begin();
                        flow.end(&missing);
                    }
                }
                Ok(self.outcome(State::Missing(error), to))
            }
            Err(Refused::Error(error)) => {
                let refused = Err(error);
                sending.failed(&refused);
                refused
            }
        }
    }

    /// The outcome by way of a task, so that its flow is told also where nobody waits for it. The
    /// task ends by the publish deadline.
    fn watched(&self, sent: PublishOutcome, flow: Box<PublishFlow>) -> PublishOutcome {
        flow.begin();
        let (tell, told) = oneshot::channel();
        let to = sent.to.clone();
        tokio::spawn(async move {
            let outcome = sent.await;
            flow.end(&outcome);
            // Nobody may be waiting any more.
            let _ = tell.send(outcome);
        });
        self.outcome(State::Watched(told), &to)
    }

    /// Hands it to the client; the number is that of the client's producer.
    async fn send(
        &self,
        to: &Destination,
        message: &Message,
    ) -> Result<(DeliveryHandle, u64), Refused> {
        let inner = &*self.inner;
        let record = self.prepare(to, message).await?;
        let line = match self.level {
            Level::InSync => inner.in_sync(),
            Level::Leader => inner.leader_only().await.map_err(Refused::Error)?,
        };
        let serving = line.serving().await;
        let serving = serving.map_err(|e| not_enqueued(inner, PUBLISH, to, e))?;
        let producer = &serving.producer;
        let record = match self.partition {
            Some(partition) => record.partition(number(partition)),
            None => record,
        };
        match (producer.enqueue(record).await, self.partition) {
            (Ok(handle), _) => Ok((handle, serving.number)),
            // The client looked at what it knows of the topic, which may be some minutes old.
            (Err(KrafkaError::Config { .. }), Some(partition)) => {
                in_range(inner, to, partition).await?;
                let record = self.prepare(to, message).await?;
                let enqueued = producer.enqueue(record.partition(number(partition)));
                let handle = enqueued
                    .await
                    .map_err(|e| not_enqueued(inner, PUBLISH, to, e))?;
                Ok((handle, serving.number))
            }
            (Err(error), _) => Err(not_enqueued(inner, PUBLISH, to, error)),
        }
    }

    async fn prepare(&self, to: &Destination, message: &Message) -> Result<Record, Refused> {
        let inner = &*self.inner;
        let (record, known) = prepare(inner, PUBLISH, to, message).await?;
        if self.level == Level::InSync {
            let check = inner.topics.check(inner, PUBLISH, to.name(), known);
            check.await.map_err(|error| Refused::by(inner, to, error))?;
        }
        Ok(record)
    }

    /// A message as a record that somebody else sends, with everything checked that can be checked before.
    pub(crate) async fn record(&self, to: &Destination, message: &Message) -> Result<Record> {
        match self.prepare(to, message).await {
            Ok(record) => Ok(record),
            Err(Refused::Missing) => Err(no_topic(PUBLISH, to)),
            Err(Refused::Error(error)) => Err(error),
        }
    }

    /// Has these topics looked at again before their next use.
    pub(crate) fn forget_topics(&self, names: &BTreeSet<String>) {
        for name in names {
            self.inner.topics.forget(name);
        }
    }

    fn outcome(&self, state: State, to: &Destination) -> PublishOutcome {
        PublishOutcome {
            state,
            to: to.clone(),
            partition: self.partition,
            level: self.level,
            counted: Counted::default(),
            sending: None,
            inner: Arc::clone(&self.inner),
        }
    }
}

impl Publisher for KafkaPublisher {
    type Pending = PublishOutcome;

    fn enqueue(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> impl Future<Output = Result<PublishOutcome>> + Send {
        let mut message = message.into();
        async move {
            let sending = self.inner.watch.tracer.send(to, &mut message);
            self.enqueue_in(to, &message, sending).await
        }
    }

    async fn enqueue_batch(&self, to: &Destination, mut messages: Vec<Message>) -> PendingBatch {
        let sending = self.inner.watch.tracer.send_batch(to, &mut messages);
        let mut pending = Vec::with_capacity(messages.len());
        for message in messages {
            pending.push(self.enqueue_in(to, &message, sending.clone()).await);
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

    async fn flush(&self) -> Result<()> {
        let deadline = self.inner.config.publish_timeout;
        let all = self.inner.used_confirmed();
        let flushed = all.map(|line| async move {
            let producer = line.producer().await;
            let producer = producer.map_err(|e| error::map(PUBLISH, Stage::Before, e))?;
            flush(&producer, deadline, PUBLISH).await
        });
        try_join_all(flushed).await.map(drop)
    }

    async fn close(&self) -> Result<()> {
        self.inner.publishing_closed.store(true, Ordering::SeqCst);
        self.flush().await
    }
}

impl fmt::Debug for KafkaPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaPublisher")
            .field("partition", &self.partition)
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

/// The outcome of one publish, once it is known. It ends by the publish deadline.
///
/// Dropping it does not recall the message.
#[must_use = "whether the message is stored is known only when this is awaited"]
pub struct PublishOutcome {
    state: State,
    to: Destination,
    partition: Option<u32>,
    level: Level,
    /// Until the outcome is counted, where this handle is what hears of it.
    counted: Counted,
    /// The span, if somebody wants it.
    sending: Option<Box<Sending>>,
    inner: Arc<Inner>,
}

enum State {
    /// With the number of the client's producer.
    Sent(DeliveryHandle, u64),
    /// A task waits for the outcome, and tells it.
    Watched(oneshot::Receiver<Result<Receipt>>),
    /// The queue or topic is not there, so nothing was sent.
    Missing(Error),
}

impl Future for PublishOutcome {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        let (result, number) = match &mut self.state {
            State::Sent(handle, number) => {
                let result = ready!(Pin::new(handle).poll(cx));
                (result, *number)
            }
            State::Watched(told) => {
                let told = ready!(Pin::new(told).poll(cx));
                return Poll::Ready(told.unwrap_or_else(|_| Err(unanswered(&self.to))));
            }
            State::Missing(error) => return Poll::Ready(Err(error.clone())),
        };
        let outcome = match result {
            Ok(stored) => receipt(&stored, self.level, &self.to),
            Err(error) => {
                if is_lost(&error) {
                    self.lost(number);
                }
                let error = error::map(PUBLISH, Stage::Handed, error);
                if error.kind() == ErrorKind::NotFound {
                    self.inner.topics.forget(self.to.name());
                    let missing = no_topic(PUBLISH, &self.to);
                    // It may be there again with fewer partitions.
                    Err(match self.partition {
                        Some(partition) => missing.with("partition", partition),
                        None => missing,
                    })
                } else {
                    Err(error.with("destination", &self.to))
                }
            }
        };
        self.counted.end(&outcome);
        if let Some(sending) = self.sending.take() {
            sending.end(&outcome);
        }
        Poll::Ready(outcome)
    }
}

impl PublishOutcome {
    /// Of the client's producer of this number.
    fn lost(&self, number: u64) {
        let line = match self.level {
            Level::InSync => Some(self.inner.in_sync()),
            Level::Leader => self.inner.used_leader_only(),
        };
        if let Some(line) = line {
            line.lost(number);
        }
    }
}

impl fmt::Debug for PublishOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishOutcome")
            .field("destination", &self.to)
            .finish_non_exhaustive()
    }
}

fn receipt(stored: &RecordMetadata, level: Level, to: &Destination) -> Result<Receipt> {
    let receipt = Receipt::new(match level {
        Level::InSync => Stored::InSync,
        Level::Leader => Stored::Leader,
    });
    match stored.delivery {
        DeliveryConfirmation::Offset => Ok(
            match (
                u32::try_from(stored.partition),
                u64::try_from(stored.offset),
            ) {
                (Ok(partition), Ok(offset)) => receipt.at(Position { partition, offset }),
                _ => receipt,
            },
        ),
        // An earlier try of this batch had been stored; its offset is not known any more.
        DeliveryConfirmation::Deduplicated => Ok(receipt),
        _ => Err(unanswered(to)),
    }
}

fn unanswered(to: &Destination) -> Error {
    Error::new(ErrorKind::Unknown, PUBLISH, "the broker did not confirm it").with("destination", to)
}

/// Hands records over with `acks=0`: the broker sends no answer, and nothing is sent again.
#[derive(Clone)]
pub struct KafkaUnconfirmed {
    inner: Arc<Inner>,
}

impl KafkaUnconfirmed {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    async fn write(&self, to: &Destination, message: &Message) -> Result<()> {
        let refused = |refused| match refused {
            Refused::Missing => no_topic(HAND_OVER, to),
            Refused::Error(error) => error,
        };
        let (record, _) = prepare(&self.inner, HAND_OVER, to, message)
            .await
            .map_err(refused)?;
        let producer = self.inner.unconfirmed().await?;
        match producer.enqueue(record).await {
            // Nobody waits for an answer that the broker does not give.
            Ok(handle) => {
                drop(handle);
                Ok(())
            }
            Err(e) => Err(refused(not_enqueued(&self.inner, HAND_OVER, to, e))),
        }
    }
}

impl Unconfirmed for KafkaUnconfirmed {
    fn hand_over(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> impl Future<Output = Result<()>> + Send {
        let mut message = message.into();
        async move {
            let watch = &self.inner.watch;
            let sending = watch.tracer.send(to, &mut message);
            let handed = self.write(to, &message).await;
            sending.failed(&handed);
            handed?;
            watch.counters.handed_over();
            if let Some(flow) = watch.flow.sending(&message, to, sending) {
                flow.handed_over();
            }
            Ok(())
        }
    }

    async fn flush(&self) -> Result<()> {
        match self.inner.used_unconfirmed() {
            Some(producer) => flush(producer, self.inner.config.publish_timeout, HAND_OVER).await,
            None => Ok(()),
        }
    }
}

impl fmt::Debug for KafkaUnconfirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaUnconfirmed").finish_non_exhaustive()
    }
}

/// Why a record was not sent.
enum Refused {
    /// The queue or topic is not there: the outcome of this publish.
    Missing,
    Error(Error),
}

impl Refused {
    /// Whichever question tells that it is not there: between two of them it may be deleted.
    fn by(inner: &Inner, to: &Destination, error: Error) -> Self {
        if error.kind() == ErrorKind::NotFound {
            inner.topics.forget(to.name());
            return Self::Missing;
        }
        Self::Error(error)
    }
}

/// Checks all that can be checked before anything is sent.
async fn prepare(
    inner: &Inner,
    operation: &'static str,
    to: &Destination,
    message: &Message,
) -> Result<(Record, Known), Refused> {
    let refuse = |error| Err(Refused::Error(error));
    if inner.publishing_closed.load(Ordering::SeqCst) {
        return refuse(closed(operation));
    }
    if to.is_mandatory() && !to.is_queue() {
        return refuse(
            Error::new(
                ErrorKind::Unsupported,
                operation,
                "Kafka does not know who reads a topic, so it cannot tell that nobody does",
            )
            .with("destination", to),
        );
    }
    let record = headers::to_record(to.name(), to, message).map_err(Refused::Error)?;
    let known = inner.topics.known(inner, operation, to.name()).await;
    let Some(known) = known.map_err(|error| Refused::by(inner, to, error))? else {
        return Err(Refused::Missing);
    };
    // What is compressed may fit though it is over the limit here: only the broker can say.
    let limit = match inner.config.compression {
        Compression::None => known.limit,
        _ => usize::MAX,
    };
    // krafka's estimate holds the name of the topic and 64 bytes for a share of the batch, and up
    // to 6 bytes for numbers that may be shorter. What is left is surely on the wire.
    let surely = record.estimated_size() - to.name().len() - 64 - 6 + BATCH_HEADER;
    if surely > limit || record.estimated_size() > inner.config.window {
        return refuse(
            Error::new(
                ErrorKind::TooLarge,
                operation,
                "the message is over the topic's max.message.bytes or the publisher's window",
            )
            .with("destination", to)
            .with("bytes", surely)
            .with("limit", limit.min(inner.config.window))
            .help("send a smaller message or raise the limit"),
        );
    }
    Ok((record, known))
}

/// Asks the cluster whether the topic has this partition, and lets the client know of it.
async fn in_range(inner: &Inner, to: &Destination, partition: u32) -> Result<(), Refused> {
    let found = describe(inner, PUBLISH, &[to.name()]).await;
    let found = found.map_err(|error| Refused::by(inner, to, error))?;
    let Some(topic) = found.into_iter().next().flatten() else {
        inner.topics.forget(to.name());
        return Err(Refused::Missing);
    };
    if partition as usize >= topic.partitions {
        return Err(Refused::Error(
            Error::new(ErrorKind::Config, PUBLISH, "there is no such partition")
                .with("destination", to)
                .with("partition", partition)
                .with("partitions", topic.partitions)
                .help("partitions are numbered from 0"),
        ));
    }
    // The look for the partition's leader makes the client read the topic anew.
    let new = [number(partition)];
    let known = edges(&inner.admin, PUBLISH, to.name(), &new, OffsetSpec::Latest);
    let known = known.await.map(drop);
    known.map_err(|error| Refused::by(inner, to, error))
}

/// Kafka counts partitions in 31 bits; what is over them is out of any topic's range.
fn number(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// The error of a record that the client did not take: it was never sent.
fn not_enqueued(
    inner: &Inner,
    operation: &'static str,
    to: &Destination,
    error: KrafkaError,
) -> Refused {
    let error = error::map(operation, Stage::Before, error);
    if error.kind() == ErrorKind::NotFound {
        inner.topics.forget(to.name());
        return Refused::Missing;
    }
    Refused::Error(error.with("destination", to))
}

/// A queue that is not there makes a message unroutable; a topic that is not there is not found.
fn no_topic(operation: &'static str, to: &Destination) -> Error {
    let (kind, text) = if to.is_queue() {
        (
            ErrorKind::Unroutable,
            "the queue is not there; the message is stored nowhere",
        )
    } else {
        (
            ErrorKind::NotFound,
            "the topic is not there; the message is stored nowhere",
        )
    };
    Error::new(kind, operation, text)
        .with("destination", to)
        .help("declare it first")
}

async fn flush(producer: &Producer, deadline: Duration, operation: &'static str) -> Result<()> {
    // Each record ends by the same deadline, counted from its own start; so does all of them.
    match tokio::time::timeout(deadline, producer.flush()).await {
        Ok(flushed) => flushed.map_err(|e| error::map(operation, Stage::Before, e)),
        Err(_) => Err(Error::new(
            ErrorKind::Timeout,
            operation,
            "some outcomes are still missing",
        )),
    }
}

const PUBLISH: &str = "publish";
const HAND_OVER: &str = "hand over";
/// Bytes of a record batch before its records.
const BATCH_HEADER: usize = 61;
