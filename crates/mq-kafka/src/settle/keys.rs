//! The order of keys: one delivery of a key is out at a time, the later ones wait behind it.

use std::collections::{HashMap, VecDeque};

use mq_core::{Key, Received};

use super::book::{Ready, Tag};

/// The keys that have a delivery out, given back or deferred, each with what waits behind it.
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<(i32, Key), Lane>);

#[derive(Debug)]
struct Lane {
    /// The slot of the one that is first of its key.
    first: u64,
    /// In the order of the log.
    behind: VecDeque<Ready>,
}

impl Keys {
    /// Gives the delivery back if it is the first of its key, or has none; else it waits.
    pub(super) fn enter(&mut self, tag: Tag, received: Received) -> Option<Received> {
        let Some(key) = received.key() else {
            return Some(received);
        };
        let new = || Lane {
            first: tag.seq,
            behind: VecDeque::new(),
        };
        let lane = self.0.entry((tag.partition, key.clone()));
        let lane = lane.or_insert_with(new);
        if lane.first == tag.seq {
            return Some(received);
        }
        lane.behind.push_back(Ready { tag, received });
        None
    }

    /// The first one of a key is done: the next one is first from now on.
    pub(super) fn leave(&mut self, tag: Tag, received: &Received) -> Option<Ready> {
        let at = (tag.partition, received.key()?.clone());
        let lane = self.0.get_mut(&at).filter(|lane| lane.first == tag.seq)?;
        let next = lane.behind.pop_front();
        match &next {
            Some(next) => lane.first = next.tag.seq,
            None => drop(self.0.remove(&at)),
        }
        next
    }

    pub(super) fn forget(&mut self, partitions: &[i32]) {
        self.0.retain(|(at, _), _| !partitions.contains(at));
    }
}

#[cfg(test)]
mod tests {
    use mq_core::Message;

    use super::*;

    fn tag(seq: u64) -> Tag {
        Tag {
            partition: 0,
            assignment: 1,
            seq,
        }
    }

    fn of(key: &'static str) -> Received {
        let message = match key {
            "" => Message::new("x").build(),
            key => Message::new("x").key(key).build(),
        };
        Received::new(message, "q".into(), None)
    }

    #[test]
    fn the_later_ones_of_a_key_wait_in_order_and_no_other() {
        let mut keys = Keys::default();
        assert!(keys.enter(tag(0), of("a")).is_some());
        assert!(keys.enter(tag(1), of("a")).is_none());
        assert!(keys.enter(tag(2), of("b")).is_some());
        assert!(keys.enter(tag(3), of("a")).is_none());
        assert!(keys.enter(tag(4), of("")).is_some());
        assert!(keys.enter(tag(5), of("")).is_some());
        // Given back, it is still the first.
        assert!(keys.enter(tag(0), of("a")).is_some());
        assert!(keys.leave(tag(1), &of("a")).is_none());
        let next = keys.leave(tag(0), &of("a")).map(|ready| ready.tag.seq);
        assert_eq!(next, Some(1));
        assert!(keys.enter(tag(1), of("a")).is_some());
        assert_eq!(keys.leave(tag(1), &of("a")).map(|r| r.tag.seq), Some(3));
        assert!(keys.leave(tag(3), &of("a")).is_none());
        assert!(keys.leave(tag(2), &of("b")).is_none());
        assert!(keys.0.is_empty());
    }

    #[test]
    fn a_partition_that_is_gone_takes_its_keys_along() {
        let mut keys = Keys::default();
        assert!(keys.enter(tag(0), of("a")).is_some());
        assert!(keys.enter(tag(1), of("a")).is_none());
        keys.forget(&[0]);
        assert!(keys.enter(tag(0), of("a")).is_some());
    }
}
