//! A group: members that share the partitions of a log.

use std::{collections::HashMap, sync::Arc, time::Duration};

use mq_core::{Filter, Received};
use tokio::{sync::Notify, time::Instant};

use super::{
    cursor::Cursor,
    log::Partition,
    ready::{Entry, Ready},
    source::{Held, Place},
};

/// The readers of one subscription of a log.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    pub(crate) filter: Filter,
    cursors: Vec<Cursor>,
    /// In the order they joined.
    members: Vec<Member>,
    /// Deferred copies: they lie beside the log, for this group alone.
    retries: Ready,
}

#[derive(Debug)]
struct Member {
    id: u64,
    wake: Arc<Notify>,
    /// It found nothing, so a new record has to wake it.
    waits: bool,
    /// The partition it looks at first, so that none starves.
    first: usize,
}

impl Group {
    pub(crate) fn new(name: Arc<str>, filter: Filter, starts: impl Iterator<Item = u64>) -> Self {
        Self {
            name,
            filter,
            cursors: starts.map(Cursor::at).collect(),
            members: Vec::new(),
            retries: Ready::default(),
        }
    }

    /// The lowest offset of a partition that this group still needs.
    pub(crate) fn committed(&self, partition: usize) -> u64 {
        self.cursors[partition].committed()
    }

    /// True if a consumer reads it.
    pub(crate) fn is_read(&self) -> bool {
        !self.members.is_empty()
    }

    /// True if there is a record that its next consumer would get, or a deferred one.
    pub(crate) fn holds_any(&mut self, partitions: &[Partition]) -> bool {
        let filter = &self.filter;
        self.retries.holds_any()
            || partitions
                .iter()
                .zip(&self.cursors)
                .any(|(records, cursor)| {
                    let mut rest = cursor.committed()..records.end();
                    rest.any(|offset| {
                        !cursor.is_done(offset) && records.worth(offset, filter).is_some()
                    })
                })
    }

    /// Who has to be woken for a new record of a partition.
    pub(crate) fn waiting_for(&mut self, partition: usize) -> Option<Arc<Notify>> {
        let cursor = &self.cursors[partition];
        let owner = cursor.owner.filter(|_| cursor.heir.is_none())?;
        let member = self
            .members
            .iter_mut()
            .find(|member| member.id == owner && member.waits)?;
        member.waits = false;
        Some(Arc::clone(&member.wake))
    }

    pub(crate) fn join(&mut self, id: u64, wake: Arc<Notify>) {
        self.members.push(Member {
            id,
            wake,
            waits: false,
            first: 0,
        });
        self.rebalance();
    }

    pub(crate) fn leave(&mut self, id: u64, held: Vec<Held>, failed: bool) {
        for Held { entry, place } in held {
            match place {
                Some(place) if failed && self.is_open(place, entry.seq) => {
                    self.cursors[place.partition()].failed(entry.seq);
                }
                Some(_) => {}
                None => self.retries.put_back(entry, failed),
            }
        }
        self.members.retain(|member| member.id != id);
        self.rebalance();
    }

    /// Hands out up to `max` records; if there are none, says when to look again.
    pub(crate) fn take(
        &mut self,
        id: u64,
        partitions: &[Partition],
        max: usize,
        mut each: impl FnMut(Held),
    ) -> Result<usize, Option<Instant>> {
        let overdue = self.inherit_overdue();
        let Some(at) = self.members.iter().position(|member| member.id == id) else {
            return Err(None);
        };
        let mut taken = 0;
        while taken < max
            && let Some(entry) = self.retries.take()
        {
            each(Held { entry, place: None });
            taken += 1;
        }
        let count = self.cursors.len();
        let first = self.members[at].first;
        for index in (0..count).map(|step| (first + step) % count) {
            if taken == max {
                break;
            }
            self.members[at].first = (index + 1) % count;
            let cursor = &mut self.cursors[index];
            if cursor.owner != Some(id) || cursor.heir.is_some() {
                continue;
            }
            let records = &partitions[index];
            while taken < max
                && let Some((offset, failures)) = cursor.take(records.end())
            {
                match records.worth(offset, &self.filter) {
                    Some(record) => {
                        let received = sourced(&record.received, &self.name);
                        let expires = record.expires;
                        let entry = Entry {
                            received,
                            seq: offset,
                            failures,
                            redelivered: false,
                            expires,
                        };
                        let place = Some(Place::new(index, cursor.epoch()));
                        each(Held { entry, place });
                        taken += 1;
                    }
                    None => cursor.done(offset),
                }
            }
        }
        self.members[at].waits = taken == 0;
        if taken == 0 {
            Err(self.next_time(overdue))
        } else {
            Ok(taken)
        }
    }

    /// True while a settlement from this place still counts.
    pub(crate) fn is_open(&self, place: Place, offset: u64) -> bool {
        self.cursors[place.partition()].is_open(place.epoch(), offset)
    }

    pub(crate) fn done(&mut self, place: Place, offset: u64) {
        if self.is_open(place, offset) {
            self.cursors[place.partition()].done(offset);
            self.inherit_idle(place.partition());
        }
    }

    pub(crate) fn back(&mut self, held: Held, failed: bool) {
        match held.place {
            Some(place) if self.is_open(place, held.entry.seq) => {
                self.cursors[place.partition()].back(held.entry.seq, failed);
                self.inherit_idle(place.partition());
                if let Some(wake) = self.waiting_for(place.partition()) {
                    wake.notify_one();
                }
            }
            Some(_) => {}
            None => {
                self.retries.put_back(held.entry, failed);
                self.wake_all();
            }
        }
    }

    pub(crate) fn later(&mut self, copy: Received, expires: Option<Instant>, due: Instant) {
        self.retries.push_later(copy, expires, due);
        self.wake_all();
    }

    pub(crate) fn wake_all(&self) {
        self.members
            .iter()
            .for_each(|member| member.wake.notify_one());
    }

    /// Shares the partitions evenly, and leaves them where they are as far as that allows.
    ///
    /// A partition with open records stays with its owner, who gets nothing new from it, until they
    /// are settled or [`DRAIN`] is over.
    fn rebalance(&mut self) {
        let targets = self.targets();
        let deadline = Instant::now() + DRAIN;
        for (cursor, target) in self.cursors.iter_mut().zip(targets) {
            let alive = cursor
                .owner
                .is_some_and(|id| self.members.iter().any(|m| m.id == id));
            if alive && cursor.owner == target {
                cursor.heir = None;
            } else if alive && !cursor.is_idle() {
                let until = cursor.heir.map_or(deadline, |(_, until)| until);
                cursor.heir = target.map(|heir| (heir, until));
            } else if cursor.owner != target {
                cursor.pass_to(target);
            }
        }
        self.wake_all();
    }

    fn targets(&self) -> Vec<Option<u64>> {
        let members = self.members.len().max(1);
        let (each, mut extra) = (self.cursors.len() / members, self.cursors.len() % members);
        let mut counts: HashMap<u64, usize> = self.members.iter().map(|m| (m.id, 0)).collect();
        let mut targets: Vec<Option<u64>> = Vec::with_capacity(self.cursors.len());
        for cursor in &self.cursors {
            let current = cursor.heir.map(|(heir, _)| heir).or(cursor.owner);
            targets.push(current.filter(|id| match counts.get_mut(id) {
                Some(count) if *count < each => {
                    *count += 1;
                    true
                }
                Some(count) if *count == each && extra > 0 => {
                    *count += 1;
                    extra -= 1;
                    true
                }
                _ => false,
            }));
        }
        for target in targets.iter_mut().filter(|target| target.is_none()) {
            let count = |member: &&Member| counts.get(&member.id).copied().unwrap_or_default();
            *target = self
                .members
                .iter()
                .min_by_key(count)
                .map(|member| member.id);
            if let Some(count) = target.and_then(|id| counts.get_mut(&id)) {
                *count += 1;
            }
        }
        targets
    }

    /// The heir of a partition gets it once nothing is open there.
    fn inherit_idle(&mut self, partition: usize) {
        let cursor = &mut self.cursors[partition];
        if let Some((heir, _)) = cursor.heir.filter(|_| cursor.is_idle()) {
            cursor.pass_to(Some(heir));
            if let Some(member) = self.members.iter().find(|member| member.id == heir) {
                member.wake.notify_one();
            }
        }
    }

    /// Heirs get what is overdue; returns the next deadline.
    fn inherit_overdue(&mut self) -> Option<Instant> {
        let mut next = None;
        for cursor in &mut self.cursors {
            let Some((heir, deadline)) = cursor.heir else {
                continue;
            };
            if deadline <= Instant::now() {
                cursor.pass_to(Some(heir));
            } else {
                next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
            }
        }
        next
    }

    fn next_time(&self, overdue: Option<Instant>) -> Option<Instant> {
        [overdue, self.retries.next_due()]
            .into_iter()
            .flatten()
            .min()
    }
}

/// The record as this group's: its source is the group's full name.
fn sourced(received: &Received, name: &Arc<str>) -> Received {
    if received.source() == name {
        return received.clone();
    }
    let routing_key = received.routing_key().map(Into::into);
    let own = Received::new(received.message().clone(), Arc::clone(name), routing_key)
        .with_attempt(received.attempt());
    match received.position() {
        Some(position) => own.with_position(position),
        None => own,
    }
}

/// How long a member may finish what it has of a partition that goes to another one.
const DRAIN: Duration = Duration::from_secs(30);
