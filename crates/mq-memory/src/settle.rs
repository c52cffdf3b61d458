//! A consumer's deliveries: what it holds, and what its settlements do.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mq_core::{
    Delivery, Destination, Error, Message, Received, Rejection, Result, Settle, Subscription,
    SubscriptionKind, Verdict, dead_letter_copy, flow::FlowKind, headers, stale,
};
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use crate::{
    connection::Shared,
    error,
    topology::{Held, Source, Wait},
};

/// What a consumer and its deliveries share.
pub(crate) struct Channel {
    pub(crate) shared: Arc<Shared>,
    pub(crate) source: Source,
    pub(crate) member: u64,
    pub(crate) subscription: Subscription,
    pub(crate) prefetch: usize,
    pub(crate) home: Option<Destination>,
    /// Wakes this consumer alone.
    pub(crate) wake: Arc<Notify>,
    pub(crate) state: Mutex<State>,
}

/// The unsettled deliveries, each in a slot; a tag is the slot's index.
///
/// A settlement is used up with its verdict, so no tag outlives what its slot holds.
#[derive(Default)]
pub(crate) struct State {
    slots: Vec<Option<Held>>,
    free: Vec<usize>,
    held: usize,
    over: Option<Error>,
    left: bool,
}

impl Channel {
    /// Appends up to `max` deliveries of those at hand; where there is none this consumer listens with its `ear` from then on.
    ///
    /// # Errors
    /// `Ok(Err(…))` is what to wait for; `Err` ends the consumer.
    pub(crate) fn fill(
        self: &Arc<Self>,
        into: &mut Vec<Delivery>,
        max: usize,
        ear: Option<Pin<&mut Notified<'_>>>,
    ) -> Result<Result<usize, Wait>> {
        let mut state = self.lock();
        if let Some(error) = &state.over {
            return Err(error.clone());
        }
        let room = self.prefetch - state.held;
        if room == 0 {
            return Ok(Err(Wait::Room));
        }
        let before = into.len();
        let taken = self.source.take(self.member, room.min(max), ear, |held| {
            let received = self.source.deliver(&held);
            let tag = state.put(held);
            into.push(Delivery::new(
                received,
                Arc::clone(self) as Arc<dyn Settle>,
                tag,
            ));
        });
        drop(state);
        let handed = into[before..].iter().map(Delivery::received);
        self.shared.tracer.received(&self.subscription, handed);
        if self.shared.flow.is_on() {
            for delivery in &into[before..] {
                self.tell(FlowKind::Delivered, delivery.received());
            }
        }
        Ok(taken)
    }

    /// Tells a step of a delivery.
    fn tell(&self, kind: FlowKind, received: &Received) {
        let flow = &self.shared.flow;
        flow.delivery(kind, &self.subscription, received, None);
    }

    /// The full name of the subscription.
    fn name(&self) -> &Arc<str> {
        self.subscription.name()
    }

    /// Ends the intake; everything unsettled goes back and its settlement is stale from here on.
    pub(crate) fn leave(&self, failed: bool) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.left, true) {
            return;
        }
        let held = state.drain();
        drop(state);
        self.source.leave(self.member, held, failed);
        if let SubscriptionKind::Ephemeral { topic } = self.subscription.kind() {
            self.shared.hub.topology.forget(topic, &self.source);
        }
        let flow = &self.shared.flow;
        flow.consumer(FlowKind::Closed, &self.subscription, None);
    }

    /// Ends the consumer with an error, as the end of its connection does.
    pub(crate) fn end(&self, error: Error) {
        self.lock().over.get_or_insert(error);
        self.leave(false);
        self.wake.notify_one();
        self.source.wake_all();
    }

    /// The error that ended the consumer, if one did.
    pub(crate) fn over(&self) -> Result<()> {
        self.lock().over.clone().map_or(Ok(()), Err)
    }

    /// Copy, confirm, settle: to the dead-letter home.
    fn reject(&self, held: Held, rejection: &Rejection, received: &Received, home: &Destination) {
        let copy = dead_letter_copy(received, rejection);
        match self.shared.store_copy(home, copy) {
            Ok(_) => {
                let flow = &self.shared.flow;
                flow.dead_lettered(&self.subscription, received, None, home);
                self.tell(FlowKind::Acked, received);
                self.source.done(&held);
            }
            Err(error) => {
                let error = error.with("dead_letter_of", self.name());
                let mut state = self.lock();
                state.over.get_or_insert(error);
                if state.left {
                    drop(state);
                    self.source.back(held, true);
                } else {
                    // Unsettled, it goes back with the rest of what this consumer holds.
                    state.put(held);
                    drop(state);
                    self.wake.notify_one();
                    self.source.wake_all();
                }
            }
        }
    }

    /// Copy, confirm, settle: to this subscription's own delay.
    fn defer(&self, held: Held, delay: Duration, received: &Received) {
        let mut copied = received.headers().clone();
        copied.insert(headers::ATTEMPT, u64::from(received.attempt()));
        let message: Message = received.message().clone().edit().headers(copied).into();
        let routing_key = received.routing_key().map(Into::into);
        let copy = Received::new(message, Arc::clone(self.name()), routing_key)
            .with_attempt(received.attempt().saturating_add(1));
        let now = Instant::now();
        let due = now.checked_add(delay).unwrap_or(now + FAR);
        self.tell(FlowKind::Deferred, received);
        self.tell(FlowKind::Acked, received);
        self.source.later(&held, copy, due);
    }

    fn made_room(&self, was_full: bool) {
        if was_full {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settle for Channel {
    fn settle(&self, tag: u64, verdict: Verdict, received: &Received) -> Result<()> {
        let mut state = self.lock();
        let was_full = state.held == self.prefetch;
        let Some(held) = state.slot(tag).and_then(|slot| slot.as_ref()) else {
            return Err(stale(self.name()));
        };
        if !self.source.owns(held) {
            state.remove(tag);
            drop(state);
            self.made_room(was_full);
            return Err(stale(self.name()));
        }
        if matches!(verdict, Verdict::Reject(_)) && self.home.is_none() {
            return Err(error::no_dead_letters(self.name()));
        }
        let Some(held) = state.remove(tag) else {
            return Err(stale(self.name()));
        };
        drop(state);
        match (verdict, &self.home) {
            (Verdict::Reject(why), Some(home)) => self.reject(held, &why, received, home),
            (Verdict::Ack, _) => {
                self.tell(FlowKind::Acked, received);
                self.source.done(&held);
            }
            (Verdict::Requeue | Verdict::Reject(_), _) => {
                self.tell(FlowKind::Requeued, received);
                self.source.back(held, true);
            }
            (Verdict::Release, _) => {
                self.tell(FlowKind::Released, received);
                self.source.back(held, false);
            }
            (Verdict::Defer(delay), _) => self.defer(held, delay, received),
        }
        self.made_room(was_full);
        Ok(())
    }
}

impl State {
    fn put(&mut self, held: Held) -> u64 {
        self.held += 1;
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[index] = Some(held);
        index as u64
    }

    fn slot(&mut self, tag: u64) -> Option<&mut Option<Held>> {
        self.slots.get_mut(usize::try_from(tag).ok()?)
    }

    fn remove(&mut self, tag: u64) -> Option<Held> {
        let held = self.slot(tag)?.take()?;
        // The slot's index came from a usize.
        self.free.push(tag as usize);
        self.held -= 1;
        Some(held)
    }

    /// Takes everything out; no tag given so far is good any more.
    fn drain(&mut self) -> Vec<Held> {
        self.held = 0;
        self.slots.drain(..).flatten().collect()
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("subscription", &self.subscription)
            .field("prefetch", &self.prefetch)
            .finish_non_exhaustive()
    }
}

/// Further away than any process lives; added to now, it is a time that every clock has.
const FAR: Duration = Duration::from_hours(24 * 365 * 30);
