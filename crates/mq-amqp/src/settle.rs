//! Settlements: marks made by anyone, carried to the broker by one task.

mod ledger;
mod task;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use lapin::Channel;
use mq_core::{
    Delivery, Destination, Error, ErrorKind, Received, Result, Settle, Subscription, Verdict,
    dead_letter_copy,
    flow::{Flow, FlowKind, PublishFlow},
    stale,
    trace::Tracer,
};
use tokio::sync::Notify;

use self::ledger::{Frame, Ledger, Mark};
pub(crate) use self::task::{Command, Task};
use crate::{
    headers::{self, Letter, Limits, Outbound},
    metrics::Held,
    topology::cascade::Later,
};

/// The settlements of one consumer. Its generation is its channel: a new consumer has a new sink.
pub(crate) struct Sink {
    channel: Channel,
    source: Subscription,
    flow: Flow,
    tracer: Tracer,
    held: Held,
    /// What is handed out and not settled, as far as its flow is told.
    told: Mutex<BTreeMap<u64, Received>>,
    /// Where rejected messages go.
    home: Option<Destination>,
    /// The queue itself, for copies of failed messages where it does not count.
    queue: Destination,
    /// Why no message can be delayed for this queue, if so.
    undeferrable: Option<Error>,
    /// The queue is a classic one, so a failure has to be counted in a copy.
    uncounted: AtomicBool,
    limits: Limits,
    /// Marks that are sent together.
    batch: usize,
    ledger: Mutex<Ledger>,
    gone: AtomicBool,
    /// A verdict was given for which the broker has not answered since.
    unheard: AtomicBool,
    /// Why the consumer is over, if a verdict could not be carried out.
    failure: Mutex<Option<Error>>,
    failed: Notify,
    wake: Notify,
}

/// A copy to be confirmed before its original is settled.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) letter: Letter,
    pub(crate) outbound: Outbound,
    pub(crate) why: Why,
    pub(crate) flow: Option<Box<PublishFlow>>,
}

/// What a copy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The next attempt, where the queue does not count.
    Retry,
    /// The next attempt, after a delay.
    Defer,
    /// The dead-letter home.
    Dead,
}

/// What a sink needs to know of its consumer.
pub(crate) struct Origin {
    pub(crate) source: Subscription,
    pub(crate) flow: Flow,
    pub(crate) tracer: Tracer,
    pub(crate) held: Held,
    pub(crate) queue: Destination,
    pub(crate) home: Option<Destination>,
    pub(crate) undeferrable: Option<Error>,
    pub(crate) counted: bool,
    pub(crate) prefetch: u16,
    pub(crate) limits: Limits,
}

impl Sink {
    pub(crate) fn new(channel: Channel, origin: Origin) -> Self {
        Self {
            channel,
            source: origin.source,
            flow: origin.flow,
            tracer: origin.tracer,
            held: origin.held,
            told: Mutex::default(),
            home: origin.home.map(Destination::mandatory),
            queue: origin.queue,
            undeferrable: origin.undeferrable,
            uncounted: AtomicBool::new(!origin.counted),
            limits: origin.limits,
            batch: usize::from(origin.prefetch / 4).clamp(1, MAX_BATCH),
            ledger: Mutex::new(Ledger::new()),
            gone: AtomicBool::new(false),
            unheard: AtomicBool::new(false),
            failure: Mutex::new(None),
            failed: Notify::new(),
            wake: Notify::new(),
        }
    }

    /// Takes note of a delivery that is handed out.
    pub(crate) fn opened(&self, tag: u64, counted: bool) {
        if !counted {
            self.uncounted.store(true, Ordering::Relaxed);
        }
        self.ledger().open(tag);
    }

    /// Tells that a delivery is handed out.
    pub(crate) fn delivered(&self, tag: u64, received: &Received) {
        if self.flow.is_on() {
            lock(&self.told).insert(tag, received.clone());
            let (kind, source) = (FlowKind::Delivered, &self.source);
            self.flow.delivery(kind, source, received, Some(tag));
        }
    }

    /// Counts what `receive` hands out, and gives it its span.
    pub(crate) fn handed_out(&self, deliveries: &[Delivery]) {
        let again = |one: &&Delivery| one.received().redelivered() == Some(true);
        let redelivered = deliveries.iter().filter(again).count();
        self.held.delivered(deliveries.len(), redelivered);
        let received = deliveries.iter().map(Delivery::received);
        self.tracer.received(&self.source, received);
    }

    /// Tells the settlements of a frame that goes to the broker.
    fn settling(&self, frame: Frame) {
        if !self.flow.is_on() {
            return;
        }
        let tell = |kind, tag, received: Option<Received>| {
            // Nobody was told of a delivery that nobody saw.
            if let Some(received) = received {
                let number = Some(tag);
                self.flow.delivery(kind, &self.source, &received, number);
            }
        };
        let mut told = lock(&self.told);
        match frame {
            Frame::AckUpTo(last) => {
                while let Some(first) = told.first_entry().filter(|first| *first.key() <= last) {
                    let (tag, received) = first.remove_entry();
                    tell(FlowKind::Acked, tag, Some(received));
                }
            }
            Frame::Ack(tag) => tell(FlowKind::Acked, tag, told.remove(&tag)),
            Frame::Requeue(tag) => tell(FlowKind::Requeued, tag, told.remove(&tag)),
            Frame::Release(tag) => tell(FlowKind::Released, tag, told.remove(&tag)),
        }
    }

    /// Tells that the copy of a message is confirmed.
    fn copied(&self, tag: u64, why: Why, to: &Destination) {
        match why {
            Why::Retry => {}
            Why::Defer => self.held.deferred(),
            Why::Dead => self.held.dead_lettered(),
        }
        if let Some(received) = lock(&self.told).get(&tag) {
            let (source, number) = (&self.source, Some(tag));
            match why {
                Why::Retry => {}
                Why::Defer => {
                    let kind = FlowKind::Deferred;
                    self.flow.delivery(kind, source, received, number);
                }
                Why::Dead => self.flow.dead_lettered(source, received, number, to),
            }
        }
    }

    /// Tells that the consumer has ended.
    pub(crate) fn closed(&self) {
        self.flow.consumer(FlowKind::Closed, &self.source, None);
    }

    /// Hands back a delivery that nobody saw.
    pub(crate) fn release(&self, tag: u64) {
        let mut ledger = self.ledger();
        ledger.open(tag);
        ledger.mark(tag, Mark::Unseen);
    }

    /// Makes every settlement from now on stale.
    pub(crate) fn end(&self) {
        self.gone.store(true, Ordering::Release);
        self.held.end();
        self.wake.notify_one();
    }

    /// True if a verdict may not have reached the broker.
    pub(crate) fn is_unheard(&self) -> bool {
        self.unheard.load(Ordering::Acquire)
    }

    /// The verdicts so far have reached the broker, or it was told that they may not have; true if
    /// there were any.
    pub(crate) fn hear(&self) -> bool {
        self.unheard.swap(false, Ordering::AcqRel)
    }

    fn unheard(&self) {
        self.unheard.store(true, Ordering::Release);
    }

    /// Ends the consumer with an error.
    pub(crate) fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.end();
        self.failed.notify_waiters();
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        lock(&self.failure).clone()
    }

    /// Resolves when the consumer is over because of a verdict.
    pub(crate) async fn failed(&self) -> Error {
        loop {
            let waiting = self.failed.notified();
            if let Some(error) = self.failure() {
                return error;
            }
            waiting.await;
        }
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire) || !self.channel.status().connected()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// What a verdict means on the wire.
    fn mark(&self, verdict: Verdict, received: &Received) -> Result<Mark> {
        let copy = |letter: Letter, why| {
            let outbound = letter.outbound(self.limits)?;
            let original = received.message();
            let sending = self.tracer.send_copy(&letter.to, original);
            let flow = self.flow.sending(original, &letter.to, sending);
            Ok(Mark::Copy(Box::new(Copy {
                letter,
                outbound,
                why,
                flow,
            })))
        };
        match verdict {
            Verdict::Ack => Ok(Mark::Ack),
            Verdict::Release => Ok(Mark::Release),
            Verdict::Requeue if self.uncounted.load(Ordering::Relaxed) => {
                copy(headers::retry_copy(received, &self.queue), Why::Retry)
            }
            Verdict::Requeue => Ok(Mark::Requeue),
            Verdict::Defer(delay) => {
                if let Some(why) = &self.undeferrable {
                    return Err(why.clone());
                }
                let later = Later::after("settle", self.queue.name(), delay)?;
                copy(
                    headers::deferred_copy(received, &self.queue, later),
                    Why::Defer,
                )
            }
            Verdict::Reject(rejection) => {
                let Some(home) = &self.home else {
                    return Err(unsupported("this consumer has no dead-letter home"));
                };
                let letter = dead_letter_copy(received, &rejection);
                copy(Letter::new(home.clone(), letter), Why::Dead)
            }
        }
    }
}

impl Settle for Sink {
    fn settle(&self, tag: u64, verdict: Verdict, received: &Received) -> Result<()> {
        if self.is_gone() {
            return Err(stale(self.source.name()));
        }
        let mark = match self.mark(verdict, received) {
            Ok(mark) => mark,
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                return Err(error.with("source", self.source.name()));
            }
            // The copy cannot be made, so the original must not be settled: the consumer is over,
            // and the broker's own delivery limit takes the message out of the way in the end.
            Err(error) => {
                self.fail(error.clone());
                return Err(error);
            }
        };
        let mut ledger = self.ledger();
        let clean = !ledger.is_dirty();
        self.unheard.store(true, Ordering::Release);
        if !ledger.mark(tag, mark) {
            return Err(stale(self.source.name()));
        }
        // The task is woken to start its clock, and again when it need not wait for it.
        let wake = clean || ledger.is_urgent() || ledger.acks() >= self.batch;
        drop(ledger);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }
}

fn unsupported(text: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, "settle", text)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Acknowledgements that wait for each other at the most.
const MAX_BATCH: usize = 64;
