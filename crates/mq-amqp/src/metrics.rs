//! Counts of what a connection did, and what it holds: atomics on the paths of the messages, and a
//! snapshot of them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use mq_core::{Error, ErrorKind, Receipt, Result};

/// What an [`Amqp`](crate::Amqp) has done since it connected, and what it holds now.
///
/// Each number only grows, save the three that say what is held. They are read one after the other
/// while messages go on, so two of them may be a message apart. All of them count as the flow events
/// of the same name do ([`mq_core::flow`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AmqpMetrics {
    /// Messages given to the client library to be written, copies of delivered ones among them.
    pub published: u64,
    /// Messages that left by the publisher that waits for no answer.
    pub handed_over: u64,
    /// Publishes that the broker confirmed.
    pub confirmed: u64,
    /// Publishes that the broker returned: no queue took the message.
    pub unroutable: u64,
    /// Publishes that a queue refused.
    pub rejected: u64,
    /// Publishes whose answer did not come: the message may be stored.
    pub unknown: u64,
    /// Publishes whose outcome is missing now: what is used of the publish window.
    pub in_flight: u64,
    /// Deliveries handed out by consumers.
    pub delivered: u64,
    /// Those of them that the broker had delivered before, by its own word.
    pub redelivered: u64,
    /// Deliveries whose acknowledgement was given to the client library, the originals of copies
    /// among them.
    pub acked: u64,
    /// Deliveries given back as failed. Where a copy carries the count, it is counted as published
    /// and the original as acked instead.
    pub requeued: u64,
    /// Deliveries given back unattempted.
    pub released: u64,
    /// Deliveries whose copy in the dead-letter home is confirmed.
    pub dead_lettered: u64,
    /// Deliveries whose copy for later is confirmed.
    pub deferred: u64,
    /// Deliveries that are handed out and not settled now.
    pub unsettled: u64,
    /// Connections that came back after they were lost.
    pub reconnects: u64,
    /// True while an alarm of the broker blocks a connection.
    pub blocked: bool,
    /// For how long one was blocked, all times together and the present one included.
    pub blocked_time: Duration,
}

/// The numbers behind [`AmqpMetrics`], shared by everything of one [`Amqp`](crate::Amqp).
///
/// The groups are written by different tasks and lie apart, so that the writer of a publisher and
/// the readers of its consumers do not take the same cache line from each other.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    publishing: Publishing,
    consuming: Consuming,
    link: Link,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Publishing {
    published: AtomicU64,
    handed_over: AtomicU64,
    confirmed: AtomicU64,
    unroutable: AtomicU64,
    rejected: AtomicU64,
    unknown: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Consuming {
    delivered: AtomicU64,
    redelivered: AtomicU64,
    acked: AtomicU64,
    requeued: AtomicU64,
    released: AtomicU64,
    dead_lettered: AtomicU64,
    deferred: AtomicU64,
    unsettled: AtomicU64,
}

#[derive(Debug, Default)]
struct Link {
    reconnects: AtomicU64,
    alarms: Mutex<Alarms>,
}

#[derive(Debug, Default)]
struct Alarms {
    /// Connections that are blocked now.
    blocked: usize,
    since: Option<Instant>,
    before: Duration,
}

impl Counters {
    /// So many messages are given to the client library. Counted before their outcomes can be.
    pub(crate) fn published(&self, messages: usize) {
        add(&self.publishing.published, messages);
    }

    /// A message left, and no answer will come.
    pub(crate) fn handed_over(&self) {
        add(&self.publishing.handed_over, 1);
    }

    /// The outcome of one publish that was counted as published; before anybody hears of it.
    pub(crate) fn outcome(&self, outcome: &Result<Receipt>) {
        let publishing = &self.publishing;
        let counter = match outcome.as_ref().map_err(Error::kind) {
            Ok(_) => &publishing.confirmed,
            Err(ErrorKind::Unroutable) => &publishing.unroutable,
            Err(ErrorKind::Unknown) => &publishing.unknown,
            Err(_) => &publishing.rejected,
        };
        add(counter, 1);
    }

    /// A message is handed out that nobody settles.
    pub(crate) fn received(&self, redelivered: bool) {
        add(&self.consuming.delivered, 1);
        add(&self.consuming.redelivered, usize::from(redelivered));
    }

    /// A connection came back after it was lost.
    #[allow(dead_code, reason = "a lost connection ends its client so far")]
    pub(crate) fn reconnected(&self) {
        add(&self.link.reconnects, 1);
    }

    /// The broker blocks a connection. Once for each connection until it is unblocked.
    pub(crate) fn blocked(&self) {
        let mut alarms = self.alarms();
        alarms.blocked += 1;
        alarms.since.get_or_insert_with(Instant::now);
    }

    /// The broker unblocks a connection, or a connection that was blocked is gone.
    pub(crate) fn unblocked(&self) {
        let mut alarms = self.alarms();
        alarms.blocked = alarms.blocked.saturating_sub(1);
        if alarms.blocked == 0
            && let Some(since) = alarms.since.take()
        {
            alarms.before += since.elapsed();
        }
    }

    /// What the numbers are now.
    pub(crate) fn snapshot(&self) -> AmqpMetrics {
        let Self {
            publishing: p,
            consuming: c,
            link,
        } = self;
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let [confirmed, unroutable, rejected, unknown] =
            [&p.confirmed, &p.unroutable, &p.rejected, &p.unknown].map(get);
        // After the outcomes: what ends in between is in flight rather than less than nothing.
        let published = get(&p.published);
        let (blocked, blocked_time) = {
            let alarms = self.alarms();
            let now = alarms.since.map_or(Duration::ZERO, |since| since.elapsed());
            (alarms.blocked > 0, alarms.before + now)
        };
        AmqpMetrics {
            published,
            handed_over: get(&p.handed_over),
            confirmed,
            unroutable,
            rejected,
            unknown,
            in_flight: published.saturating_sub(confirmed + unroutable + rejected + unknown),
            delivered: get(&c.delivered),
            redelivered: get(&c.redelivered),
            acked: get(&c.acked),
            requeued: get(&c.requeued),
            released: get(&c.released),
            dead_lettered: get(&c.dead_lettered),
            deferred: get(&c.deferred),
            unsettled: get(&c.unsettled),
            reconnects: get(&link.reconnects),
            blocked,
            blocked_time,
        }
    }

    fn alarms(&self) -> MutexGuard<'_, Alarms> {
        // Every change leaves the alarms whole.
        self.link
            .alarms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of one consumer, which knows what it has handed out and not settled: with its end that
/// is not held any more.
#[derive(Debug)]
pub(crate) struct Held {
    counters: Arc<Counters>,
    unsettled: AtomicU64,
}

/// How many deliveries a flush settled, by verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) acked: usize,
    pub(crate) requeued: usize,
    pub(crate) released: usize,
}

impl Held {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self {
            counters,
            unsettled: AtomicU64::new(0),
        }
    }

    /// So many deliveries are handed out, of which the broker says so many that it had before.
    pub(crate) fn delivered(&self, deliveries: usize, redelivered: usize) {
        add(&self.counters.consuming.delivered, deliveries);
        add(&self.counters.consuming.redelivered, redelivered);
        add(&self.counters.consuming.unsettled, deliveries);
        add(&self.unsettled, deliveries);
    }

    /// So many deliveries are settled.
    pub(crate) fn settled(&self, settled: Settled) {
        let consuming = &self.counters.consuming;
        add(&consuming.acked, settled.acked);
        add(&consuming.requeued, settled.requeued);
        add(&consuming.released, settled.released);
        self.less(settled.acked + settled.requeued + settled.released);
    }

    /// The copy of a delivery is confirmed, in the dead-letter home.
    pub(crate) fn dead_lettered(&self) {
        add(&self.counters.consuming.dead_lettered, 1);
    }

    /// The copy of a delivery is confirmed, in its place for later.
    #[allow(dead_code, reason = "this backend does not delay messages yet")]
    pub(crate) fn deferred(&self) {
        add(&self.counters.consuming.deferred, 1);
    }

    /// The consumer is over: the broker has everything back.
    pub(crate) fn end(&self) {
        let left = self.unsettled.swap(0, Relaxed);
        self.counters.consuming.unsettled.fetch_sub(left, Relaxed);
    }

    /// What is settled after the end was given up by it already.
    fn less(&self, settled: usize) {
        let settled = settled as u64;
        let before = self
            .unsettled
            .fetch_update(Relaxed, Relaxed, |held| Some(held.saturating_sub(settled)));
        let held = before.unwrap_or_else(|held| held);
        let less = settled.min(held);
        self.counters.consuming.unsettled.fetch_sub(less, Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end();
    }
}

/// Nothing is written where there is nothing to add: a shared line stays where it is.
fn add(counter: &AtomicU64, more: usize) {
    if more > 0 {
        counter.fetch_add(more as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use mq_core::Stored;

    use super::*;

    #[test]
    fn each_outcome_has_its_counter_and_ends_one_in_flight() {
        let counters = Counters::default();
        counters.published(5);
        assert_eq!(counters.snapshot().in_flight, 5);
        counters.outcome(&Ok(Receipt::new(Stored::Queues)));
        for kind in [
            ErrorKind::Unroutable,
            ErrorKind::Rejected,
            ErrorKind::Unknown,
        ] {
            counters.outcome(&Err(Error::new(kind, "publish", "test")));
        }
        let now = counters.snapshot();
        let ends = [now.confirmed, now.unroutable, now.rejected, now.unknown];
        assert_eq!((ends, now.in_flight), ([1; 4], 1));
    }

    #[test]
    fn the_end_of_a_consumer_gives_up_what_it_held_and_no_more() {
        let counters = Arc::<Counters>::default();
        let (one, other) = (
            Held::new(Arc::clone(&counters)),
            Held::new(Arc::clone(&counters)),
        );
        one.delivered(5, 2);
        other.delivered(3, 0);
        let (acked, requeued, released) = (1, 1, 0);
        let settled = Settled {
            acked,
            requeued,
            released,
        };
        one.settled(settled);
        assert_eq!(counters.snapshot().unsettled, 6);
        one.end();
        assert_eq!(counters.snapshot().unsettled, 3);
        // A last flush comes behind the end.
        one.settled(settled);
        drop(one);
        let now = counters.snapshot();
        assert_eq!((now.unsettled, now.delivered, now.redelivered), (3, 8, 2));
        assert_eq!((now.acked, now.requeued), (2, 2));
    }

    #[test]
    fn blocked_time_counts_once_however_many_connections_are_blocked() {
        let counters = Counters::default();
        counters.blocked();
        counters.blocked();
        counters.unblocked();
        assert!(counters.snapshot().blocked);
        std::thread::sleep(Duration::from_millis(20));
        let during = counters.snapshot().blocked_time;
        assert!(during >= Duration::from_millis(20), "{during:?}");
        counters.unblocked();
        let after = counters.snapshot();
        assert!(!after.blocked && after.blocked_time >= during);
        assert_eq!(counters.snapshot().blocked_time, after.blocked_time);
    }
}
