//! A topic as a log: partitions that keep their records, and groups that read them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mq_core::{Filter, Message, Position, Received};
use tokio::{sync::Notify, time::Instant};

use crate::{
    error::Kept,
    headers::{attempt, expires},
};

use super::{group::Group, partition, source::Held};

/// A topic or queue whose records stay after they were read (Kafka's shape).
#[derive(Debug)]
pub(crate) struct Log {
    name: Arc<str>,
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    partitions: Vec<Partition>,
    groups: BTreeMap<u64, Group>,
    next_group: u64,
    /// Where the next record without a key goes.
    next_partition: usize,
}

/// The records of one partition; the first one has the offset `start`.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    start: u64,
    records: VecDeque<Record>,
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) received: Received,
    pub(crate) expires: Option<Instant>,
}

impl Partition {
    /// The offset of the next record.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }

    /// A record, unless it has expired or the filter leaves it out.
    pub(crate) fn worth(&self, offset: u64, filter: &Filter) -> Option<&Record> {
        let index = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let record = self.records.get(index)?;
        let expired = record.expires.is_some_and(|at| at <= Instant::now());
        let taken = filter.takes(record.received.routing_key(), record.received.headers());
        (taken && !expired).then_some(record)
    }
}

impl Log {
    pub(crate) fn new(name: Arc<str>, partitions: usize, limit: usize) -> Self {
        let state = State {
            partitions: std::iter::repeat_with(Partition::default)
                .take(partitions)
                .collect(),
            groups: BTreeMap::new(),
            next_group: 0,
            next_partition: 0,
        };
        Self {
            name,
            limit,
            state: Mutex::new(state),
        }
    }

    /// Appends records, in order, and wakes those who wait for them; `outcome` hears where each
    /// one lies, or `None` if its partition was full.
    pub(crate) fn push(
        &self,
        messages: impl IntoIterator<Item = Message>,
        routing_key: Option<&str>,
        mut outcome: impl FnMut(Option<Position>),
    ) {
        let routing_key: Option<Arc<str>> = routing_key.map(Into::into);
        let mut waiting = Vec::new();
        let mut state = self.lock();
        for message in messages {
            let partition = state.partition_of(&message);
            if !state.make_room(partition, self.limit) {
                outcome(None);
                continue;
            }
            // The time of the publish, not that of the first look at it.
            message.time();
            let (attempt, expires) = (attempt(&message), expires(&message));
            let records = &mut state.partitions[partition];
            let position = Position {
                partition: partition as u32,
                offset: records.end(),
            };
            let received = Received::new(message, Arc::clone(&self.name), routing_key.clone())
                .with_attempt(attempt)
                .with_position(position);
            records.records.push_back(Record { received, expires });
            let groups = state.groups.values_mut();
            waiting.extend(groups.filter_map(|group| group.waiting_for(partition)));
            outcome(Some(position));
        }
        drop(state);
        waiting.iter().for_each(|wake| wake.notify_one());
    }

    /// A new group, at the beginning of the log or at its end.
    pub(crate) fn add_group(&self, name: Arc<str>, filter: Filter, from_start: bool) -> u64 {
        let mut state = self.lock();
        let start = |p: &Partition| if from_start { p.start } else { p.end() };
        let group = Group::new(name, filter, state.partitions.iter().map(start));
        let id = state.next_group;
        state.next_group += 1;
        state.groups.insert(id, group);
        id
    }

    /// The group of a durable subscription or queue, and its filter.
    pub(crate) fn find_group(&self, name: &str) -> Option<(u64, Filter)> {
        let state = self.lock();
        let (id, group) = state
            .groups
            .iter()
            .find(|(_, group)| *group.name == *name)?;
        Some((*id, group.filter.clone()))
    }

    /// What keeps a group from being deleted.
    pub(crate) fn kept(&self, name: &str, with_messages: bool) -> Option<Kept> {
        let state = &mut *self.lock();
        let group = state
            .groups
            .values_mut()
            .find(|group| *group.name == *name)?;
        if group.is_read() {
            return Some(Kept::Consumers);
        }
        (!with_messages && group.holds_any(&state.partitions)).then_some(Kept::Messages)
    }

    pub(crate) fn has_groups(&self) -> bool {
        !self.lock().groups.is_empty()
    }

    pub(crate) fn remove_group(&self, group: u64) {
        self.lock().groups.remove(&group);
    }

    pub(crate) fn join(&self, group: u64, member: u64, wake: &Arc<Notify>) {
        self.with(group, |group, _| group.join(member, Arc::clone(wake)));
    }

    pub(crate) fn leave(&self, group: u64, member: u64, held: Vec<Held>, failed: bool) {
        self.with(group, |group, _| group.leave(member, held, failed));
    }

    pub(crate) fn take(
        &self,
        group: u64,
        member: u64,
        max: usize,
        each: impl FnMut(Held),
    ) -> Result<usize, Option<Instant>> {
        self.with(group, |group, partitions| {
            group.take(member, partitions, max, each)
        })
        .unwrap_or(Err(None))
    }

    pub(crate) fn owns(&self, group: u64, held: &Held) -> bool {
        let Some(place) = held.place else { return true };
        self.with(group, |group, _| group.is_open(place, held.entry.seq))
            .unwrap_or_default()
    }

    pub(crate) fn done(&self, group: u64, held: &Held) {
        if let Some(place) = held.place {
            self.with(group, |group, _| group.done(place, held.entry.seq));
        }
    }

    pub(crate) fn back(&self, group: u64, held: Held, failed: bool) {
        self.with(group, |group, _| group.back(held, failed));
    }

    pub(crate) fn later(&self, group: u64, held: &Held, copy: Received, due: Instant) {
        self.with(group, |group, _| group.later(copy, held.entry.expires, due));
        self.done(group, held);
    }

    pub(crate) fn wake_all(&self, group: u64) {
        self.with(group, |group, _| group.wake_all());
    }

    fn with<T>(&self, group: u64, act: impl FnOnce(&mut Group, &[Partition]) -> T) -> Option<T> {
        let state = &mut *self.lock();
        Some(act(state.groups.get_mut(&group)?, &state.partitions))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn partition_of(&mut self, message: &Message) -> usize {
        let count = self.partitions.len();
        match message.key() {
            Some(key) => partition::of_key(key.as_bytes(), count),
            None => {
                self.next_partition = (self.next_partition + 1) % count;
                self.next_partition
            }
        }
    }

    /// Forgets the oldest record of a full partition if every group has it behind it.
    fn make_room(&mut self, partition: usize, limit: usize) -> bool {
        let records = &mut self.partitions[partition];
        if records.records.len() < limit {
            return true;
        }
        let needed = self
            .groups
            .values()
            .map(|group| group.committed(partition))
            .min();
        let forget = needed.is_none_or(|needed| records.start < needed);
        if forget {
            records.records.pop_front();
            records.start += 1;
        }
        forget
    }
}
