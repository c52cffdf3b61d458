//! The deliveries of a share group's members: each is locked for us by the broker, until it hears a
//! verdict or the lock ends.

mod settling;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use krafka::{ConsumerRecord, share_consumer::ShareConsumer};
use mq_core::{
    Delivery, Error, Received, Rejection, Settle, Subscription, flow::FlowKind, rejection::Reason,
};
use tokio::{sync::Notify, time::Instant};

use super::{
    book::Tag,
    copier::Homes,
    ledger::{Taken, Window},
    moves::{Move, What},
};
use crate::{
    consumer::{Events, KafkaEvent},
    metrics::Watch,
};

/// Shared by a consumer, its members and its deliveries. No call waits for the network.
pub(crate) struct Locks {
    state: Mutex<State>,
    /// The members, each of which is asked for records once it has none.
    pub(crate) lanes: OnceLock<Vec<ShareConsumer>>,
    moving: Notify,
    /// Something was settled, lost, copied or ended.
    pub(crate) progress: Notify,
    pub(crate) source: Subscription,
    watch: Watch,
    events: Events,
    window: Arc<Window>,
    homes: Homes,
}

/// What the broker says of a share group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How often it delivers a record (`share.delivery.count.limit`); then it archives it.
    pub(crate) deliveries: u32,
    /// How long a lock lasts.
    pub(crate) lock: Duration,
    /// It prolongs locks (KIP-1222).
    pub(crate) renews: bool,
}

/// The number of a member within its consumer.
pub(crate) type Lane = usize;

#[derive(Debug)]
struct State {
    limits: Limits,
    held: BTreeMap<u64, Held>,
    next: u64,
    /// Not handed out yet, the next one first.
    ready: VecDeque<u64>,
    moves: Vec<Move>,
    moves_open: usize,
    /// Those of the moves that may not be delivered once more by the broker.
    condemned: HashSet<u64>,
    /// On their last delivery, and not copied: to be tried again.
    late: Vec<Move>,
    /// A verdict was given that did not reach the broker.
    lost: bool,
    /// Given up here, and given back without knowing whether the lock is still ours: whatever the
    /// broker says to that, it was told.
    given_up: HashSet<(Lane, u32, u64)>,
    ended: Option<Option<Error>>,
    /// What each member is assigned.
    assigned: BTreeMap<Lane, Vec<i32>>,
}

/// A record whose lock is ours.
#[derive(Debug)]
struct Held {
    lane: Lane,
    received: Received,
    /// The broker's count, this delivery included.
    deliveries: u32,
    /// When the lock ends, as far as we know.
    until: Instant,
    /// A longer lock was asked for then, last.
    asked: Option<Instant>,
    /// To that there is no answer yet.
    unanswered: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ready,
    /// With its handler since then; true once that was told to be long.
    Out(Instant, bool),
    /// Its copy is under way.
    Moving,
}

/// A record that is with its handler for long.
#[derive(Debug)]
pub(crate) struct Overdue {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) time: Duration,
}

impl Locks {
    pub(crate) fn new(
        source: Subscription,
        window: Arc<Window>,
        homes: Homes,
        limits: Limits,
        watch: Watch,
        events: Events,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(limits)),
            lanes: OnceLock::new(),
            moving: Notify::new(),
            progress: Notify::new(),
            source,
            watch,
            events,
            window,
            homes,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below leaves the state whole, also if a later line should panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, lane: Lane) -> Option<&ShareConsumer> {
        self.lanes.get()?.get(lane)
    }

    fn tell(&self, kind: FlowKind, received: &Received) {
        self.watch.flow.delivery(kind, &self.source, received, None);
    }

    /// Tells a step of the consumer.
    pub(crate) fn tell_consumer(&self, kind: FlowKind) {
        self.watch.flow.consumer(kind, &self.source, None);
    }

    /// The span of what `receive` hands out.
    pub(crate) fn handed_out(&self, deliveries: &[Delivery]) {
        let received = deliveries.iter().map(Delivery::received);
        self.watch.tracer.received(&self.source, received);
    }

    /// Takes in what a member got. One whose next delivery would be the last is not handed out: it
    /// has ended every process or lock that had it. Its copy leaves now, while one delivery is left
    /// if that fails. Its lock began after `asked`, when the member asked for records.
    pub(crate) fn take_in(&self, lane: Lane, records: Vec<(Received, u32)>, asked: Instant) {
        let state = &mut *self.lock();
        let until = asked + state.limits.lock;
        for (received, deliveries) in records {
            let key = state.next;
            state.next += 1;
            let condemned = state.limits.ends_at(deliveries);
            let held = Held {
                lane,
                received: received.clone(),
                deliveries,
                until,
                asked: None,
                unanswered: false,
                phase: match condemned {
                    true => Phase::Moving,
                    false => Phase::Ready,
                },
            };
            state.held.insert(key, held);
            if condemned {
                self.condemn(state, key, received);
            } else {
                state.ready.push_back(key);
            }
        }
        self.window.deliverable.notify_one();
    }

    /// Has one copied that is not handed out any more.
    fn condemn(&self, state: &mut State, key: u64, received: Received) {
        state.condemned.insert(key);
        self.window.out(1);
        self.watch.counters.going_on(1);
        let made = received.attempt().saturating_sub(1);
        let why = "delivered as often as the broker does, and never settled";
        // A close has no time for two homes.
        let deliveries = state.held.get(&key).map_or(0, |held| held.deliveries);
        let at_once = state.ended.is_some() && deliveries >= state.limits.deliveries;
        let what = match self.homes.dead {
            Some(_) if !at_once => {
                let why = Rejection::new(Reason::Exhausted, why).attempts(made);
                What::Reject(Box::new(why))
            }
            _ => What::Again { attempts: made },
        };
        self.push_move(state, key, received, what);
    }

    /// Goes by these from now on. What waits here, and was taken in with more deliveries to come, is
    /// copied where only one is left.
    pub(crate) fn limit(&self, limits: Limits) {
        let state = &mut *self.lock();
        let now = Instant::now();
        state.limits = limits;
        let mut condemned = Vec::new();
        for (key, held) in &mut state.held {
            if limits.renews {
                // A lock that is shorter now may have begun before we heard of it.
                held.until = held.until.min(now + limits.lock);
            }
            if held.phase == Phase::Ready && limits.ends_at(held.deliveries) {
                held.phase = Phase::Moving;
                condemned.push((*key, held.received.clone()));
            }
        }
        for (key, received) in condemned {
            state.ready.retain(|ready| *ready != key);
            self.condemn(state, key, received);
        }
    }

    /// It counts as handed out until its copy is confirmed.
    fn push_move(&self, state: &mut State, key: u64, received: Received, what: What) {
        let partition = received
            .position()
            .and_then(|at| i32::try_from(at.partition).ok());
        let tag = Tag {
            partition: partition.unwrap_or_default(),
            assignment: 0,
            seq: key,
        };
        state.moves.push(Move {
            received,
            what,
            tag,
        });
        state.moves_open += 1;
        self.moving.notify_one();
    }

    /// Hands out what is at hand, within the prefetch.
    pub(crate) fn take(self: &Arc<Self>, into: &mut Vec<Delivery>, max: usize) -> Taken {
        let state = &mut *self.lock();
        if let Some(end) = &state.ended {
            return Taken::Ended(end.clone());
        }
        if !state.condemned.is_empty() {
            // It may have come here by a neighbour that ends processes, and so may this one: what is handed out now could end it
            // before the last copies are there.
            return Taken::Nothing;
        }
        let room = max.min(self.window.room());
        let (mut taken, mut redelivered) = (0, 0);
        let now = Instant::now();
        let mut gone = Vec::new();
        while taken < room {
            let Some(key) = state.ready.pop_front() else {
                break;
            };
            let Some(held) = state.held.get_mut(&key) else {
                continue;
            };
            if held.until <= now {
                // Others may have it.
                gone.push(key);
                continue;
            }
            held.phase = Phase::Out(now, false);
            taken += 1;
            redelivered += usize::from(held.received.attempt() > 1);
            self.tell(FlowKind::Delivered, &held.received);
            let sink = Arc::clone(self) as Arc<dyn Settle>;
            into.push(Delivery::new(held.received.clone(), sink, key));
        }
        self.window.out(taken);
        // Under the lock, so that nothing of it is given up before.
        self.watch.counters.delivered(taken, redelivered);
        self.lose(state, &gone);
        match taken {
            0 => Taken::Nothing,
            n => Taken::Some(n),
        }
    }

    /// How many records there were so far, if none of them is held.
    pub(crate) fn had(&self) -> Option<u64> {
        let state = self.lock();
        state.held.is_empty().then_some(state.next)
    }

    /// How many records there were so far.
    pub(crate) fn total(&self) -> u64 {
        self.lock().next
    }

    /// True if the member has no record, and may be asked for more.
    pub(crate) fn is_free(&self, lane: Lane) -> bool {
        !self.lock().held.values().any(|held| held.lane == lane)
    }

    /// Asks for longer locks where a third of the time is over, and gives up those that ended.
    /// Tries late copies again.
    pub(crate) fn keep(&self, lane: Lane) {
        let Some(consumer) = self.lane(lane) else {
            return;
        };
        let state = &mut *self.lock();
        let limits = state.limits;
        let now = Instant::now();
        let mut gone = Vec::new();
        for (key, held) in &mut state.held {
            if held.lane != lane {
                continue;
            }
            if held.until <= now {
                gone.push(*key);
            } else if limits.renews
                && held.until <= now + limits.lock * 2 / 3
                // One at a time: an answer counts from when its question was asked.
                && !held.unanswered
                && held.asked.is_none_or(|at| now >= at + limits.lock / 4)
            {
                held.asked = Some(now);
                held.unanswered = true;
                // An error: the partition went to another member, and the lock with it.
                if consumer.renew(&mark(&held.received)).is_err() {
                    gone.push(*key);
                }
            }
        }
        self.lose(state, &gone);
        if !state.late.is_empty() {
            state.moves.append(&mut state.late);
            self.moving.notify_one();
        }
    }

    /// What the broker says to acknowledgements of one partition: for those that are still open it
    /// is its answer to a renewal.
    pub(crate) fn answered(
        &self,
        lane: Lane,
        partition: i32,
        offsets: &[RangeInclusive<i64>],
        taken: bool,
    ) {
        let state = &mut *self.lock();
        let limits = state.limits;
        self.watch.counters.committed(taken);
        let partition = u32::try_from(partition).unwrap_or_default();
        let told = |offset: u64| {
            let offset = i64::try_from(offset).unwrap_or_default();
            offsets.iter().any(|range| range.contains(&offset))
        };
        let mut open = HashSet::new();
        for held in state.held.values_mut().filter(|held| held.lane == lane) {
            let Some(at) = held.received.position() else {
                continue;
            };
            if at.partition == partition && told(at.offset) {
                open.insert(at.offset);
                let answered = std::mem::take(&mut held.unanswered);
                // One that was not taken is asked for again until the lock is over.
                if let (true, true, Some(asked)) = (answered, taken, held.asked) {
                    held.until = asked + limits.lock;
                }
            }
        }
        let gone = |&(l, p, o): &(Lane, u32, u64)| l == lane && p == partition && told(o);
        let given_up: HashSet<u64> = state.given_up.extract_if(gone).map(|(.., o)| o).collect();
        if !taken {
            // The rest were verdicts. No member is ever asked for more than a few hundred records.
            let all = offsets.iter().cloned().flatten();
            let all = all.filter_map(|offset| u64::try_from(offset).ok());
            let lost: Vec<u64> = all
                .filter(|offset| !open.contains(offset) && !given_up.contains(offset))
                .take(TOLD)
                .collect();
            if !lost.is_empty() {
                state.lost = true;
                self.tell_lost(partition, lost);
            }
        }
        self.progress.notify_waiters();
    }

    fn tell_lost(&self, partition: u32, offsets: Vec<u64>) {
        self.events.tell(KafkaEvent::LockLost {
            subscription: Arc::clone(self.source.name()),
            partition,
            offsets,
        });
    }

    /// These are not ours any more: a verdict on them is stale.
    fn lose(&self, state: &mut State, keys: &[u64]) {
        let mut lost: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for key in keys {
            state.condemned.remove(key);
            let Some(held) = state.held.remove(key) else {
                continue;
            };
            if matches!(held.phase, Phase::Out(..)) {
                self.window.back(1);
                self.watch.counters.given_up(1);
            }
            if let Some(at) = held.received.position() {
                // The client has it on its list. An error: no more, since its partition has moved.
                let released = self
                    .lane(held.lane)
                    .map(|lane| lane.release(&mark(&held.received)));
                if let Some(Ok(())) = released {
                    state.given_up.insert((held.lane, at.partition, at.offset));
                }
                lost.entry(at.partition).or_default().push(at.offset);
            }
        }
        for (partition, offsets) in lost {
            self.tell_lost(partition, offsets);
        }
        if !keys.is_empty() {
            self.window.deliverable.notify_one();
            self.progress.notify_waiters();
        }
    }

    /// Records that are with their handlers for longer than this; each once.
    pub(crate) fn newly_overdue(&self, after: Duration) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        for held in self.lock().held.values_mut() {
            if let (Phase::Out(since, told @ false), Some(at)) =
                (&mut held.phase, held.received.position())
                && since.elapsed() > after
            {
                *told = true;
                overdue.push(Overdue {
                    partition: at.partition,
                    offset: at.offset,
                    time: since.elapsed(),
                });
            }
        }
        overdue
    }

    /// What a member is assigned now; the partitions of all of them if that has changed. Of a
    /// partition that has left it the client knows no record any more.
    pub(crate) fn assigned(&self, lane: Lane, mut now: Vec<i32>) -> Option<Assignments> {
        now.sort_unstable();
        let state = &mut *self.lock();
        let is_left = |held: &Held| {
            let at = held.received.position();
            let at = at.and_then(|at| i32::try_from(at.partition).ok());
            held.lane == lane && at.is_some_and(|at| now.binary_search(&at).is_err())
        };
        let held = state.held.iter();
        let left: Vec<u64> = held
            .filter(|(_, held)| is_left(held))
            .map(|(key, _)| *key)
            .collect();
        self.lose(state, &left);
        if state
            .assigned
            .get(&lane)
            .map_or(now.is_empty(), |had| *had == now)
        {
            return None;
        }
        let all = |state: &State| -> Vec<i32> {
            let mut all: Vec<i32> = state.assigned.values().flatten().copied().collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let before = all(state);
        state.assigned.insert(lane, now);
        let after = all(state);
        let only = |these: &[i32], those: &[i32]| -> Vec<i32> {
            these
                .iter()
                .filter(|p| !those.contains(p))
                .copied()
                .collect()
        };
        let (new, gone) = (only(&after, &before), only(&before, &after));
        for _ in &new {
            self.watch.counters.partition(FlowKind::Assigned);
        }
        for _ in &gone {
            self.watch.counters.partition(FlowKind::Revoked);
        }
        (!new.is_empty() || !gone.is_empty()).then_some(Assignments { after, new, gone })
    }

    /// Hands out nothing more, for ever. The first end counts.
    pub(crate) fn end(&self, error: Option<Error>) {
        self.lock().ended.get_or_insert(error);
        self.window.deliverable.notify_one();
        self.progress.notify_waiters();
    }

    /// The error that ended it.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().ended.clone().flatten()
    }

    /// True if it ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().ended.is_some()
    }

    /// True while a record is neither copied nor given up.
    pub(crate) fn is_copying(&self) -> bool {
        self.lock().moves_open > 0
    }

    /// True if a verdict did not reach the broker since this was asked last.
    pub(crate) fn take_lost(&self) -> bool {
        std::mem::take(&mut self.lock().lost)
    }

    /// Gives back at its end what nobody settled, or copies it if one more delivery could be its
    /// last: the broker counts it whatever became of it.
    pub(crate) fn give_back(&self) {
        let state = &mut *self.lock();
        // The last chance of those whose copies failed.
        state.moves.append(&mut state.late);
        self.moving.notify_one();
        let mut moving = Vec::new();
        let mut back = Vec::new();
        for (key, held) in &state.held {
            match held.phase {
                Phase::Moving => {}
                phase if state.limits.ends_at(held.deliveries + 1) => {
                    moving.push((*key, matches!(phase, Phase::Out(..))));
                }
                _ => back.push(*key),
            }
        }
        for (key, handed) in moving {
            let Some(held) = state.held.get_mut(&key) else {
                continue;
            };
            held.phase = Phase::Moving;
            let received = held.received.clone();
            let attempts = received.attempt() - u32::from(!handed);
            if !handed {
                self.window.out(1);
                self.watch.counters.going_on(1);
            }
            self.push_move(state, key, received, What::Again { attempts });
        }
        for key in back {
            let Some(held) = state.held.remove(&key) else {
                continue;
            };
            if matches!(held.phase, Phase::Out(..)) {
                self.window.back(1);
                self.watch.counters.given_up(1);
            }
            if let Some(lane) = self.lane(held.lane) {
                // An error: the lock is gone already.
                let _ = lane.release(&mark(&held.received));
            }
        }
    }
}

impl State {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            held: BTreeMap::new(),
            next: 0,
            ready: VecDeque::new(),
            moves: Vec::new(),
            moves_open: 0,
            condemned: HashSet::new(),
            late: Vec::new(),
            lost: false,
            given_up: HashSet::new(),
            ended: None,
            assigned: BTreeMap::new(),
        }
    }
}

/// How the assignment of a consumer changed.
pub(crate) struct Assignments {
    pub(crate) after: Vec<i32>,
    pub(crate) new: Vec<i32>,
    pub(crate) gone: Vec<i32>,
}

impl Limits {
    /// True for a delivery that is not handed out any more, since only one is left after it.
    pub(crate) fn ends_at(self, deliveries: u32) -> bool {
        deliveries.saturating_add(1) >= self.deliveries
    }
}

impl std::fmt::Debug for Locks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Locks")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// What names a record to the client.
fn mark(received: &Received) -> ConsumerRecord {
    let at = received.position().unwrap_or(mq_core::Position {
        partition: 0,
        offset: 0,
    });
    let partition = i32::try_from(at.partition).unwrap_or_default();
    let offset = i64::try_from(at.offset).unwrap_or_default();
    // The source of a queue is its topic.
    ConsumerRecord::new(Arc::clone(received.source()), partition, offset, None, None)
}

/// The most offsets that one event tells.
const TOLD: usize = 1000;
