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
    Destination, Error, ErrorKind, Received, Result, Settle, Subscription, Verdict,
    dead_letter_copy,
    flow::{Flow, FlowKind, PublishFlow},
    stale,
};
use tokio::sync::Notify;

use self::ledger::{Frame, Ledger, Mark};
pub(crate) use self::task::{Command, Task};
use crate::headers::{self, Limits, Outbound};

/// The settlements of one consumer. Its generation is its channel: a new consumer has a new sink.
pub(crate) struct Sink {
    channel: Channel,
    source: Subscription,
    flow: Flow,
    /// What is handed out and not settled, as far as its flow is told.
    told: Mutex<BTreeMap<u64, Received>>,
    /// Where rejected messages go.
    home: Option<Destination>,
    /// The queue itself, for copies of failed messages where it does not count.
    queue: Destination,
    /// The queue is a classic one, so a failure has to be counted in a copy.
    uncounted: AtomicBool,
    limits: Limits,
    /// Marks that are sent together.
    batch: usize,
    ledger: Mutex<Ledger>,
    gone: AtomicBool,
    /// Why the consumer is over, if a verdict could not be carried out.
    failure: Mutex<Option<Error>>,
    failed: Notify,
    wake: Notify,
}

/// A copy to be confirmed before its original is settled.
#[derive(Debug)]
pub(crate) struct Copy {
    pub(crate) to: Destination,
    pub(crate) message: Outbound,
    /// It goes to the dead-letter home.
    pub(crate) dead: bool,
    pub(crate) flow: Option<Box<PublishFlow>>,
}

/// What a sink needs to know of its consumer.
pub(crate) struct Origin {
    pub(crate) source: Subscription,
    pub(crate) flow: Flow,
    pub(crate) queue: Destination,
    pub(crate) home: Option<Destination>,
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
            told: Mutex::default(),
            home: origin.home.map(Destination::mandatory),
            queue: origin.queue,
            uncounted: AtomicBool::new(!origin.counted),
            limits: origin.limits,
            batch: usize::from(origin.prefetch / 4).clamp(1, MAX_BATCH),
            ledger: Mutex::new(Ledger::new()),
            gone: AtomicBool::new(false),
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

    /// Tells that the copy of a rejected message is confirmed.
    fn dead_lettered(&self, tag: u64, home: &Destination) {
        if let Some(received) = lock(&self.told).get(&tag) {
            let number = Some(tag);
            self.flow
                .dead_lettered(&self.source, received, number, home);
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
        ledger.mark(tag, Mark::Release);
    }

    /// Makes every settlement from now on stale.
    pub(crate) fn end(&self) {
        self.gone.store(true, Ordering::Release);
        self.wake.notify_one();
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
        let copy = |to: &Destination, dead, message: Result<Outbound>| {
            message.map(|message| {
                Mark::Copy(Box::new(Copy {
                    to: to.clone(),
                    message,
                    dead,
                    flow: self.flow.publish(received.message(), to),
                }))
            })
        };
        match verdict {
            Verdict::Ack => Ok(Mark::Ack),
            Verdict::Release => Ok(Mark::Release),
            Verdict::Requeue if self.uncounted.load(Ordering::Relaxed) => copy(
                &self.queue,
                false,
                headers::retry_copy(received, &self.queue, self.limits),
            ),
            Verdict::Requeue => Ok(Mark::Requeue),
            Verdict::Defer(_) => Err(unsupported("this backend cannot delay a message yet")),
            Verdict::Reject(rejection) => {
                let Some(home) = &self.home else {
                    return Err(unsupported("this consumer has no dead-letter home"));
                };
                let letter = dead_letter_copy(received, &rejection);
                copy(home, true, Outbound::new(home, &letter, self.limits))
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
