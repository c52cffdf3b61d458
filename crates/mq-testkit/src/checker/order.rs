//! Order: first effects of a key come in the order of their numbers.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
};

use super::messages::Id;

/// The highest number that each group had of each producer and key.
///
/// A key is kept as its hash (64 bits): two keys that share one would show as a finding whose
/// evidence has two keys; with ten million keys the chance is about one in 400,000.
#[derive(Debug, Default)]
pub(super) struct Order(HashMap<(u32, u32, u64), u64>);

/// A key, hashed; `None` for a message that has no order.
pub(super) fn key(key: &str) -> Option<u64> {
    if key.is_empty() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    Some(hasher.finish())
}

impl Order {
    /// A first effect; returns the message that should have come after it and came before.
    pub(super) fn first_effect(&mut self, group: u32, id: Id, key: u64) -> Option<Id> {
        match self.0.entry((group, id.producer, key)) {
            Entry::Vacant(entry) => {
                entry.insert(id.seq);
                None
            }
            Entry::Occupied(entry) if id.seq < *entry.get() => Some(Id {
                producer: id.producer,
                seq: *entry.get(),
            }),
            Entry::Occupied(mut entry) => {
                entry.insert(id.seq);
                None
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * 28
    }
}
