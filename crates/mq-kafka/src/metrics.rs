//! Counts of what a connection did, and what it holds: atomics on the paths of the messages, and a
//! snapshot of them.

mod watch;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use mq_core::{Error, ErrorKind, Receipt, Result, flow::FlowKind};

pub(crate) use self::watch::Watch;

/// What a [`Kafka`](crate::Kafka) has done since it connected, and what it holds now.
///
/// Each number only grows, save the three that say what is held. They are read one after the other
/// while messages go on, so two of them may be a message apart. All of them count as the flow events
/// of the same name do ([`mq_core::flow`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KafkaMetrics {
    /// Records that the client library took, copies of delivered ones among them.
    pub published: u64,
    /// Records that left by the publisher that waits for no answer.
    pub handed_over: u64,
    /// Publishes that the broker confirmed.
    pub confirmed: u64,
    /// Publishes to a queue that is not there.
    pub unroutable: u64,
    /// Publishes that were refused.
    pub rejected: u64,
    /// Publishes whose answer did not come: the record may be stored.
    pub unknown: u64,
    /// Publishes whose handle was dropped before their outcome was there.
    pub unheard: u64,
    /// Publishes whose outcome was not taken from their handle so far.
    pub in_flight: u64,
    /// Records handed out by consumers.
    pub delivered: u64,
    /// Those of them whose attempt is not the first: the attempts that a record or its group's
    /// offset tells of, and those of this process.
    pub redelivered: u64,
    /// Records marked as done, the originals of copies among them.
    pub acked: u64,
    /// Records given back as failed.
    pub requeued: u64,
    /// Records given back unattempted.
    pub released: u64,
    /// Records whose copy in the dead-letter home is confirmed.
    pub dead_lettered: u64,
    /// Records whose copy for later is confirmed, and those that wait in place.
    pub deferred: u64,
    /// Records that are handed out and not settled now, and those on their way from one retry topic
    /// to the next.
    pub unsettled: u64,
    /// Commits of offsets that the broker took.
    pub commits: u64,
    /// Commits that it did not take, or not in time.
    pub failed_commits: u64,
    /// Partitions that consumers got.
    pub assigned: u64,
    /// Partitions that they gave up in order, at their end too.
    pub revoked: u64,
    /// Partitions that were somebody else's already when they heard of it.
    pub lost: u64,
    /// Changes of what a group's members have that took partitions from a consumer of this
    /// connection, or gave it some. One change may be told in two steps, each of which counts.
    pub rebalances: u64,
    /// Partitions that consumers have now.
    pub partitions: u64,
}

/// The numbers behind [`KafkaMetrics`], shared by everything of one [`Kafka`](crate::Kafka).
///
/// The groups are written by different tasks and lie apart, so that publishers and consumers do not
/// take the same cache line from each other.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    publishing: Publishing,
    consuming: Consuming,
    group: Group,
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
    unheard: AtomicU64,
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
struct Group {
    commits: AtomicU64,
    failed_commits: AtomicU64,
    assigned: AtomicU64,
    revoked: AtomicU64,
    lost: AtomicU64,
    rebalances: AtomicU64,
}

impl Counters {
    /// A record is with the client library. Counted before its outcome can be.
    pub(crate) fn published(&self) {
        add(&self.publishing.published, 1);
    }

    /// A record left, and no answer will come.
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

    /// Nobody waits for the outcome of a publish any more.
    pub(crate) fn unheard(&self) {
        add(&self.publishing.unheard, 1);
    }

    /// So many records are handed out, so many of them not for the first time.
    pub(crate) fn delivered(&self, records: usize, again: usize) {
        add(&self.consuming.delivered, records);
        add(&self.consuming.redelivered, again);
        add(&self.consuming.unsettled, records);
    }

    /// So many records are held, to go on to another retry topic.
    pub(crate) fn going_on(&self, records: usize) {
        add(&self.consuming.unsettled, records);
    }

    /// A record is settled.
    pub(crate) fn settled(&self, kind: FlowKind) {
        self.ended(kind);
        self.given_up(1);
    }

    /// A record is settled that is not held any more.
    pub(crate) fn ended(&self, kind: FlowKind) {
        let consuming = &self.consuming;
        add(
            match kind {
                FlowKind::Requeued => &consuming.requeued,
                FlowKind::Released => &consuming.released,
                _ => &consuming.acked,
            },
            1,
        );
    }

    /// So many records are not held any more: settled, or with their partition somebody else's.
    pub(crate) fn given_up(&self, records: usize) {
        self.consuming.unsettled.fetch_sub(records as u64, Relaxed);
    }

    /// The copy of a record is confirmed, in the dead-letter home.
    pub(crate) fn dead_lettered(&self) {
        add(&self.consuming.dead_lettered, 1);
    }

    /// The copy of a record is confirmed, in its place for later; or it waits where it is.
    pub(crate) fn deferred(&self) {
        add(&self.consuming.deferred, 1);
    }

    /// A commit was answered.
    pub(crate) fn committed(&self, taken: bool) {
        match taken {
            true => add(&self.group.commits, 1),
            false => add(&self.group.failed_commits, 1),
        }
    }

    /// A partition is ours, or is not any more.
    pub(crate) fn partition(&self, how: FlowKind) {
        match how {
            FlowKind::Assigned => add(&self.group.assigned, 1),
            FlowKind::Revoked => add(&self.group.revoked, 1),
            FlowKind::Lost => add(&self.group.lost, 1),
            _ => {}
        }
    }

    /// The group changed what a consumer has.
    pub(crate) fn rebalanced(&self) {
        add(&self.group.rebalances, 1);
    }

    /// What the numbers are now.
    pub(crate) fn snapshot(&self) -> KafkaMetrics {
        let Self {
            publishing: p,
            consuming: c,
            group: g,
        } = self;
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let ends = [
            &p.confirmed,
            &p.unroutable,
            &p.rejected,
            &p.unknown,
            &p.unheard,
        ]
        .map(get);
        let [confirmed, unroutable, rejected, unknown, unheard] = ends;
        // After the outcomes: what ends in between is in flight rather than less than nothing.
        let published = get(&p.published);
        let [revoked, lost] = [&g.revoked, &g.lost].map(get);
        let assigned = get(&g.assigned);
        KafkaMetrics {
            published,
            handed_over: get(&p.handed_over),
            confirmed,
            unroutable,
            rejected,
            unknown,
            unheard,
            in_flight: published.saturating_sub(ends.iter().sum()),
            delivered: get(&c.delivered),
            redelivered: get(&c.redelivered),
            acked: get(&c.acked),
            requeued: get(&c.requeued),
            released: get(&c.released),
            dead_lettered: get(&c.dead_lettered),
            deferred: get(&c.deferred),
            unsettled: get(&c.unsettled),
            commits: get(&g.commits),
            failed_commits: get(&g.failed_commits),
            assigned,
            revoked,
            lost,
            rebalances: get(&g.rebalances),
            partitions: assigned.saturating_sub(revoked + lost),
        }
    }
}

/// One publish that is counted, until its outcome is: exactly one, whatever becomes of it. Its
/// default counts nothing.
#[derive(Debug, Default)]
pub(crate) struct Counted(Option<Arc<Counters>>);

impl Counted {
    pub(crate) fn new(counters: &Arc<Counters>) -> Self {
        counters.published();
        Self(Some(Arc::clone(counters)))
    }

    /// The outcome is there.
    pub(crate) fn end(&mut self, outcome: &Result<Receipt>) {
        if let Some(counters) = self.0.take() {
            counters.outcome(outcome);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(counters) = self.0.take() {
            counters.unheard();
        }
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
    fn a_publish_ends_once_as_its_outcome_or_unheard() {
        let counters = Arc::<Counters>::default();
        let mut heard = Counted::new(&counters);
        let dropped = Counted::new(&counters);
        assert_eq!(counters.snapshot().in_flight, 2);
        heard.end(&Ok(Receipt::new(Stored::InSync)));
        heard.end(&Err(Error::new(ErrorKind::Unknown, "publish", "test")));
        drop((heard, dropped));
        let now = counters.snapshot();
        assert_eq!((now.confirmed, now.unknown, now.unheard), (1, 0, 1));
        assert_eq!((now.published, now.in_flight), (2, 0));
    }
}
