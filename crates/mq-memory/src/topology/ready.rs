//! What waits in a queue: in order, by priority, until its time, while it is worth delivering.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
    mem,
};

use mq_core::Received;
use tokio::time::Instant;

/// A message in a queue or in the hands of a consumer.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The message, with the attempt that it carries.
    pub(crate) received: Received,
    /// Its place: a message that comes back takes the place it had.
    pub(crate) seq: u64,
    /// Deliveries that failed, apart from the attempts that the message carries.
    pub(crate) failures: u32,
    pub(crate) redelivered: bool,
    pub(crate) expires: Option<Instant>,
}

/// The messages of a queue that no consumer holds.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    /// One line per priority in use, highest first; nearly always there is one.
    lines: Vec<(u8, VecDeque<Entry>)>,
    /// Deferred ones, soonest first.
    later: BinaryHeap<Reverse<Deferred>>,
    len: usize,
    /// Entries in `lines` that can expire: 0 saves reading the clock.
    mortal: usize,
    expired: u64,
    next_seq: u64,
}

#[derive(Debug)]
struct Deferred {
    due: Instant,
    entry: Entry,
}

impl Ready {
    /// True if a message waits for its time.
    pub(crate) fn has_deferred(&self) -> bool {
        !self.later.is_empty()
    }

    /// How many have expired since this was asked.
    pub(crate) fn take_expired(&mut self) -> u64 {
        mem::take(&mut self.expired)
    }

    /// True if nothing waits that could be taken now.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.tick();
        self.len == 0
    }

    /// True if there is a message to be taken now or later; what has expired at the front is none.
    pub(crate) fn holds_any(&mut self) -> bool {
        !self.is_idle() || !self.later.is_empty()
    }

    /// Puts a new message behind all others of its priority.
    pub(crate) fn push(&mut self, received: Received, expires: Option<Instant>) {
        let seq = self.seq();
        self.insert(Entry {
            received,
            seq,
            failures: 0,
            redelivered: false,
            expires,
        });
    }

    /// Keeps a message back until `due`; then it is the newest one.
    pub(crate) fn push_later(
        &mut self,
        received: Received,
        expires: Option<Instant>,
        due: Instant,
    ) {
        let seq = self.seq();
        let entry = Entry {
            received,
            seq,
            failures: 0,
            redelivered: false,
            expires,
        };
        self.later.push(Reverse(Deferred { due, entry }));
    }

    /// Gives back what a consumer had: it goes in front of those published after it.
    pub(crate) fn put_back(&mut self, mut entry: Entry, failed: bool) {
        entry.redelivered = true;
        entry.failures = entry.failures.saturating_add(u32::from(failed));
        self.insert(entry);
    }

    /// The next message that is worth delivering.
    pub(crate) fn take(&mut self) -> Option<Entry> {
        self.tick();
        let (_, line) = self.lines.iter_mut().find(|(_, line)| !line.is_empty())?;
        let entry = line.pop_front()?;
        self.len -= 1;
        self.mortal -= usize::from(entry.expires.is_some());
        Some(entry)
    }

    /// When the next deferred message is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.later.peek().map(|Reverse(next)| next.due)
    }

    /// Lets deferred messages in whose time has come, and drops expired ones from the front.
    ///
    /// An expired one behind a living one stays until it is at the front, as on RabbitMQ.
    fn tick(&mut self) {
        if self.mortal == 0 && self.later.is_empty() {
            return;
        }
        let now = Instant::now();
        while self.next_due().is_some_and(|due| due <= now) {
            let Some(Reverse(Deferred { mut entry, .. })) = self.later.pop() else {
                break;
            };
            entry.seq = self.seq();
            self.insert(entry);
        }
        let Self {
            lines,
            len,
            mortal,
            expired,
            ..
        } = self;
        for (_, line) in lines {
            while line
                .front()
                .is_some_and(|entry| entry.expires.is_some_and(|at| at <= now))
            {
                line.pop_front();
                *len -= 1;
                *mortal -= 1;
                *expired += 1;
            }
        }
    }

    fn insert(&mut self, entry: Entry) {
        self.len += 1;
        self.mortal += usize::from(entry.expires.is_some());
        let priority = entry.received.priority().unwrap_or_default();
        let at = match self.lines.binary_search_by(|(p, _)| priority.cmp(p)) {
            Ok(at) => at,
            Err(at) => {
                self.lines.insert(at, (priority, VecDeque::new()));
                at
            }
        };
        let line = &mut self.lines[at].1;
        if line.back().is_none_or(|last| last.seq < entry.seq) {
            line.push_back(entry);
        } else {
            let at = line.partition_point(|other| other.seq < entry.seq);
            line.insert(at, entry);
        }
    }

    fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }
}

impl Ord for Deferred {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.entry.seq).cmp(&(other.due, other.entry.seq))
    }
}

impl PartialOrd for Deferred {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Deferred {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Deferred {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mq_core::Message;

    use super::*;

    fn received(message: impl Into<Message>) -> Received {
        Received::new(message.into(), "q".into(), None)
    }

    fn text(entry: &Entry) -> String {
        String::from_utf8_lossy(entry.received.payload().expect("a payload")).into_owned()
    }

    fn push(ready: &mut Ready, payload: &str, priority: u8) {
        let message = Message::new(payload.to_owned()).priority(priority);
        ready.push(received(message), None);
    }

    fn drain(ready: &mut Ready) -> Vec<String> {
        std::iter::from_fn(|| ready.take())
            .map(|entry| text(&entry))
            .collect()
    }

    #[test]
    fn higher_priorities_go_first_and_each_keeps_its_order() {
        let mut ready = Ready::default();
        for (payload, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 9), ("e", 5)] {
            push(&mut ready, payload, priority);
        }
        assert_eq!(drain(&mut ready), ["d", "b", "e", "a", "c"]);
    }

    #[test]
    fn what_comes_back_takes_the_place_it_had() {
        let mut ready = Ready::default();
        for payload in ["a", "b", "c", "d"] {
            push(&mut ready, payload, 0);
        }
        let (a, b, c) = (ready.take(), ready.take(), ready.take());
        for entry in [b, c, a].into_iter().flatten() {
            ready.put_back(entry, true);
        }
        assert_eq!(drain(&mut ready), ["a", "b", "c", "d"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deferred_message_is_not_there_before_it_is_due_and_the_newest_one_then() {
        let mut ready = Ready::default();
        let due = Instant::now() + Duration::from_secs(1);
        ready.push_later(received(Message::new("deferred")), None, due);
        push(&mut ready, "a", 0);
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(drain(&mut ready), ["a"]);
        push(&mut ready, "b", 0);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(drain(&mut ready), ["b", "deferred"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_message_is_never_taken_even_behind_a_living_one() {
        let mut ready = Ready::default();
        let second = Duration::from_secs(1);
        push(&mut ready, "lives", 0);
        ready.push(
            received(Message::new("expires")),
            Some(Instant::now() + second),
        );
        tokio::time::advance(second).await;
        assert_eq!(drain(&mut ready), ["lives"]);
        assert!(ready.is_idle());
        assert_eq!((ready.take_expired(), ready.take_expired()), (1, 0));
    }
}
