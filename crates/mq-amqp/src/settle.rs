//! Settlements: marks made by anyone, carried to the broker by one task.

mod ledger;
mod task;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use lapin::Channel;
use mq_core::{
    Destination, Error, ErrorKind, Received, Result, Settle, Verdict, dead_letter_copy, stale,
};
use tokio::sync::Notify;

use self::ledger::{Ledger, Mark};
pub(crate) use self::task::{Command, Task};
use crate::headers::{self, Limits, Outbound};

/// The settlements of one consumer. Its generation is its channel: a new consumer has a new sink.
pub(crate) struct Sink {
    channel: Channel,
    source: Arc<str>,
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
}

/// What a sink needs to know of its consumer.
pub(crate) struct Origin {
    pub(crate) source: Arc<str>,
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
        let copy = |to: &Destination, message: Result<Outbound>| {
            message.map(|message| {
                Mark::Copy(Box::new(Copy {
                    to: to.clone(),
                    message,
                }))
            })
        };
        match verdict {
            Verdict::Ack => Ok(Mark::Ack),
            Verdict::Release => Ok(Mark::Release),
            Verdict::Requeue if self.uncounted.load(Ordering::Relaxed) => copy(
                &self.queue,
                headers::retry_copy(received, &self.queue, self.limits),
            ),
            Verdict::Requeue => Ok(Mark::Requeue),
            Verdict::Defer(_) => Err(unsupported("this backend cannot delay a message yet")),
            Verdict::Reject(rejection) => {
                let Some(home) = &self.home else {
                    return Err(unsupported("this consumer has no dead-letter home"));
                };
                let letter = dead_letter_copy(received, &rejection);
                copy(home, Outbound::new(home, &letter, self.limits))
            }
        }
    }
}

impl Settle for Sink {
    fn settle(&self, tag: u64, verdict: Verdict, received: &Received) -> Result<()> {
        if self.is_gone() {
            return Err(stale(&self.source));
        }
        let mark = match self.mark(verdict, received) {
            Ok(mark) => mark,
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                return Err(error.with("source", &self.source));
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
            return Err(stale(&self.source));
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
