//! Flow events: what became of each message, told to a sink as it happens.
//!
//! A broker that is built with a [`FlowSink`] tells it every step: a publish and its outcome, a
//! delivery, the handler's decision, the settlement, and what a group gives and takes. A sink can
//! count them, write them down, or draw them; `mq-testkit` has one that draws a Mermaid sequence
//! diagram. Without a sink each step costs one branch, and nothing is allocated.
//!
//! ```
//! use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
//! use mq_core::{Broker, Destination, Message, Publisher};
//! use mq_core::flow::{FlowEvent, FlowKind, FlowSink};
//!
//! #[derive(Default)]
//! struct Confirmed(AtomicUsize);
//!
//! impl FlowSink for Confirmed {
//!     fn record(&self, event: &FlowEvent<'_>) {
//!         if event.kind == FlowKind::Confirmed {
//!             self.0.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq_core::Result<()> {
//! let confirmed = Arc::new(Confirmed::default());
//! let broker = mq_memory::Memory::builder().name("shop").flow(confirmed.clone()).build();
//! let orders = Destination::queue("orders");
//! broker.declare(&orders).await?;
//! broker.publisher().publish(&orders, Message::new("7")).await?;
//! assert_eq!(confirmed.0.load(Ordering::Relaxed), 1);
//! # Ok(())
//! # }
//! ```

use std::{fmt, sync::Arc, time::SystemTime};

use crate::{
    Decision, Destination, ErrorKind, Key, Message, MessageId, Position, Receipt, Received, Result,
    Subscription, trace::Sending,
};

/// Takes the flow events of a broker.
pub trait FlowSink: Send + Sync + 'static {
    /// Takes one event.
    ///
    /// It is called where the step happens, on the path of every message, and a backend may hold a
    /// lock of its own around it. So it must not block, must not call the broker, and must not
    /// panic. Events of one publish, and those of one delivery, come in their order; all others as
    /// they happen, from whichever thread they happen on.
    fn record(&self, event: &FlowEvent<'_>);
}

/// One step of a message, or of a consumer.
///
/// Everything in it is borrowed for the call.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct FlowEvent<'a> {
    /// What happened.
    pub kind: FlowKind,
    /// When, by the clock of this process.
    pub time: SystemTime,
    /// The name that the program gave its client.
    pub client: &'a str,
    /// What the broker calls it.
    pub words: &'static Vocabulary,
    /// The message's id; `None` for a step of a consumer.
    pub id: Option<&'a MessageId>,
    /// The message's ordering key.
    pub key: Option<&'a Key>,
    /// Where it is published; for [`DeadLettered`](FlowKind::DeadLettered) its new home.
    pub destination: Option<&'a Destination>,
    /// The subscription of a delivery or consumer.
    pub source: Option<&'a Subscription>,
    /// The number of the attempt, from 1, of a delivery.
    pub attempt: Option<u32>,
    /// Where in a log: of a message; for [`Assigned`](FlowKind::Assigned) and
    /// [`Committed`](FlowKind::Committed) the partition and the offset that is read next. For
    /// [`Revoked`](FlowKind::Revoked) and [`Lost`](FlowKind::Lost) likewise.
    pub position: Option<Position>,
    /// The broker's number of a delivery on its channel, where it has one.
    pub delivery: Option<u64>,
    /// What the handler decided.
    pub decision: Option<&'a Decision>,
}

/// The kinds of [`FlowEvent`].
///
/// A message that is *published* has exactly one end: *confirmed*, *unroutable*, *rejected* or
/// *unknown*, unless this process ends first. A message that is *delivered* is settled at most
/// once: *acked*, *requeued* or *released*. One that is not was with a consumer that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FlowKind {
    /// The message leaves for the broker. Where a backend knows before that its queue is not
    /// there, the end follows at once and nothing was sent.
    Published,
    /// The message was handed over, and no answer will come.
    HandedOver,
    /// The broker answered that it stored the message.
    Confirmed,
    /// The broker, or a backend that looked, knows no queue that takes the message.
    Unroutable,
    /// The message was refused, by the broker or on its way there: it is not stored, save that on
    /// a topic other queues may have it.
    Rejected,
    /// The answer did not come: the message may be stored.
    Unknown,
    /// A consumer is open.
    Opened,
    /// A message was handed out by its consumer.
    Delivered,
    /// A worker's handler, with its layers, came to a decision. Not told for messages that never
    /// reach it.
    Handled,
    /// The message is done. Told when the acknowledgement goes to the broker (RabbitMQ, which does
    /// not answer it), or when it is marked here (Kafka, whose answer is
    /// [`Committed`](Self::Committed); in-process).
    Acked,
    /// The attempt failed and the message is delivered again: told when that goes to the broker, or
    /// is marked here. Where a copy carries the count, that copy is *published* and the original
    /// *acked* instead.
    Requeued,
    /// The message was handed back unattempted: told as for [`Requeued`](Self::Requeued).
    Released,
    /// A copy of the message is stored for later; the original is *acked* next. Held
    /// [in place](crate::Deferred::InPlace), it has no copy, and nothing is *acked*.
    Deferred,
    /// The copy in the dead-letter home is confirmed; the original is *acked* next.
    DeadLettered,
    /// The broker answered that it has the group's offset, which moved.
    Committed,
    /// A consumer reads a partition from here on.
    Assigned,
    /// A consumer has given a partition up: its settlements are stale from here on.
    Revoked,
    /// A consumer's partition is somebody else's already.
    Lost,
    /// A consumer has ended.
    Closed,
}

impl FlowKind {
    /// Its name as a word: `dead-lettered`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::HandedOver => "handed over",
            Self::Confirmed => "confirmed",
            Self::Unroutable => "unroutable",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
            Self::Opened => "opened",
            Self::Delivered => "delivered",
            Self::Handled => "handled",
            Self::Acked => "acked",
            Self::Requeued => "requeued",
            Self::Released => "released",
            Self::Deferred => "deferred",
            Self::DeadLettered => "dead-lettered",
            Self::Committed => "committed",
            Self::Assigned => "assigned",
            Self::Revoked => "revoked",
            Self::Lost => "lost",
            Self::Closed => "closed",
        }
    }
}

/// What a broker calls the things and steps of a flow. Each backend has one.
#[derive(Debug)]
#[allow(
    clippy::exhaustive_structs,
    reason = "a backend fills it in; a further word is a further thing to be said by all"
)]
pub struct Vocabulary {
    /// The broker's name.
    pub broker: &'static str,
    /// What a queue is there.
    pub queue: &'static str,
    /// What a topic is there.
    pub topic: &'static str,
    /// What a subscription of a topic is there, if it is a thing of its own that holds messages;
    /// `None` where it is a place in the topic.
    pub subscription: Option<&'static str>,
    /// What is said to the broker, or heard from it, at a step; `None` if the step stays in this
    /// process.
    pub step: fn(FlowKind) -> Option<&'static str>,
}

/// A client's way to its sink; what a backend holds and tells its events to.
///
/// Its default is off.
#[derive(Clone, Default)]
pub struct Flow(Option<Arc<Inner>>);

struct Inner {
    client: Box<str>,
    words: &'static Vocabulary,
    sink: Arc<dyn FlowSink>,
}

impl Flow {
    /// Events of the client of this name go to a sink.
    pub fn new(client: &str, words: &'static Vocabulary, sink: Arc<dyn FlowSink>) -> Self {
        Self(Some(Arc::new(Inner {
            client: client.into(),
            words,
            sink,
        })))
    }

    /// The same sink, for a client of another name.
    #[must_use]
    pub fn renamed(&self, client: &str) -> Self {
        match &self.0 {
            Some(inner) => Self::new(client, inner.words, Arc::clone(&inner.sink)),
            None => Self(None),
        }
    }

    /// True if there is a sink.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A publish that is about to begin; `None` if there is no sink.
    #[inline]
    pub fn publish(&self, message: &Message, to: &Destination) -> Option<Box<PublishFlow>> {
        self.sending(message, to, Sending::none())
    }

    /// A publish that is about to begin in this span; `None` if there is no sink and nobody wants
    /// the span.
    #[inline]
    pub fn sending(
        &self,
        message: &Message,
        to: &Destination,
        sending: Sending,
    ) -> Option<Box<PublishFlow>> {
        (self.is_on() || sending.is_on()).then(|| {
            let told = self.is_on().then(|| Told {
                flow: self.clone(),
                id: message.id().clone(),
                key: message.key().cloned(),
                to: to.clone(),
            });
            Box::new(PublishFlow { told, sending })
        })
    }

    /// Tells a step of a delivery; `number` is the broker's own, where it has one.
    #[inline]
    pub fn delivery(
        &self,
        kind: FlowKind,
        source: &Subscription,
        received: &Received,
        number: Option<u64>,
    ) {
        self.tell(kind, |event| {
            event.set(source, received);
            event.delivery = number;
        });
    }

    /// Tells that a delivery has its copy in a dead-letter home.
    #[inline]
    pub fn dead_lettered(
        &self,
        source: &Subscription,
        received: &Received,
        number: Option<u64>,
        home: &Destination,
    ) {
        self.tell(FlowKind::DeadLettered, |event| {
            event.set(source, received);
            event.delivery = number;
            event.destination = Some(home);
        });
    }

    /// Tells what a handler decided.
    #[inline]
    pub fn handled(&self, source: &Subscription, received: &Received, decision: &Decision) {
        self.tell(FlowKind::Handled, |event| {
            event.set(source, received);
            event.decision = Some(decision);
        });
    }

    /// Tells a step of a consumer, with the partition and the offset that is next there.
    #[inline]
    pub fn consumer(&self, kind: FlowKind, source: &Subscription, position: Option<Position>) {
        self.tell(kind, |event| {
            event.source = Some(source);
            event.position = position;
        });
    }

    #[inline]
    fn tell<'a>(&'a self, kind: FlowKind, fill: impl FnOnce(&mut FlowEvent<'a>)) {
        if let Some(inner) = &self.0 {
            let mut event = FlowEvent {
                kind,
                time: SystemTime::now(),
                client: &inner.client,
                words: inner.words,
                id: None,
                key: None,
                destination: None,
                source: None,
                attempt: None,
                position: None,
                delivery: None,
                decision: None,
            };
            fill(&mut event);
            inner.sink.record(&event);
        }
    }
}

impl<'a> FlowEvent<'a> {
    fn set(&mut self, source: &'a Subscription, received: &'a Received) {
        self.source = Some(source);
        self.id = Some(received.id());
        self.key = received.key();
        self.attempt = Some(received.attempt());
        self.position = received.position();
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = self.0.as_ref().map(|inner| &inner.client);
        f.debug_tuple("Flow").field(&client).finish()
    }
}

/// What has to be known of a publish until its outcome is: for the sink, and for its span.
///
/// Dropped unended, its end is not told.
#[derive(Debug)]
pub struct PublishFlow {
    told: Option<Told>,
    sending: Sending,
}

#[derive(Debug)]
struct Told {
    flow: Flow,
    id: MessageId,
    key: Option<Key>,
    to: Destination,
}

impl PublishFlow {
    /// Tells that the message leaves.
    pub fn begin(&self) {
        self.tell(FlowKind::Published, None);
    }

    /// Tells that the message left, and that no answer will come.
    pub fn handed_over(self) {
        self.tell(FlowKind::HandedOver, None);
    }

    /// The message never left: its span ends with that, and no step is told.
    pub fn never_left(self, outcome: &Result<Receipt>) {
        self.sending.end(outcome);
    }

    /// Tells the outcome. Any error that says neither *unroutable* nor *unknown* is a refusal.
    pub fn end(self, outcome: &Result<Receipt>) {
        self.sending.end(outcome);
        let kind = match outcome {
            Ok(_) => FlowKind::Confirmed,
            Err(error) => match error.kind() {
                ErrorKind::Unroutable => FlowKind::Unroutable,
                ErrorKind::Unknown => FlowKind::Unknown,
                _ => FlowKind::Rejected,
            },
        };
        let position = outcome.as_ref().ok().and_then(Receipt::position);
        self.tell(kind, position);
    }

    fn tell(&self, kind: FlowKind, position: Option<Position>) {
        if let Some(told) = &self.told {
            told.flow.tell(kind, |event| {
                event.id = Some(&told.id);
                event.key = told.key.as_ref();
                event.destination = Some(&told.to);
                event.position = position;
            });
        }
    }
}
