//! The life of one actor: its mailbox, its failures, its end.

use std::{future::Future, hash::Hash, panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use mq_core::BoxError;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Actor, ActorError,
    actors::Registry,
    error::{panic_text, shared},
    pace::{Streak, Window},
};

/// The way to an actor. Who holds it beside the registry has something for the actor.
pub(super) struct Slot<A: Actor> {
    pub(super) id: u64,
    pub(super) mailbox: mpsc::Sender<Envelope<A>>,
}

/// A message in a mailbox. It holds the slot, so that its actor does not leave before it is handled.
pub(super) struct Envelope<A: Actor> {
    message: A::Message,
    answer: Option<oneshot::Sender<Result<A::Reply, ActorError>>>,
    slot: Arc<Slot<A>>,
}

impl<A: Actor> Envelope<A> {
    pub(super) fn new(
        message: A::Message,
        answer: Option<oneshot::Sender<Result<A::Reply, ActorError>>>,
        slot: Arc<Slot<A>>,
    ) -> Self {
        Self {
            message,
            answer,
            slot,
        }
    }
}

/// Handles what comes, until nothing comes for a while.
///
/// The mailbox outlives a failure: what is behind the message that failed is for the next state.
pub(super) async fn live<K, A>(
    registry: Arc<Registry<K, A>>,
    key: K,
    id: u64,
    letters: mpsc::Receiver<Envelope<A>>,
) where
    K: Clone + Eq + Hash,
    A: Actor,
{
    let mut life = Life {
        left: Leave { registry, key, id },
        letters,
    };
    life.run().await;
}

struct Life<K: Eq + Hash, A: Actor> {
    left: Leave<K, A>,
    letters: mpsc::Receiver<Envelope<A>>,
}

/// Takes the actor out of the registry however its task ends.
struct Leave<K: Eq + Hash, A: Actor> {
    registry: Arc<Registry<K, A>>,
    key: K,
    id: u64,
}

impl<K: Eq + Hash, A: Actor> Drop for Leave<K, A> {
    fn drop(&mut self) {
        self.registry.leave(&self.key, self.id, false);
    }
}

/// An actor's state, and how it did so far.
struct Record<A> {
    actor: Option<A>,
    since: Instant,
    not_before: Instant,
    window: Window,
    streak: Streak,
    gave_up: bool,
}

impl<K: Clone + Eq + Hash, A: Actor> Life<K, A> {
    async fn run(&mut self) {
        let now = Instant::now();
        let mut record = Record {
            actor: None,
            since: now,
            not_before: now,
            window: Window::new(self.left.registry.intensity),
            streak: Streak::default(),
            gave_up: false,
        };
        while !record.gave_up {
            let Leave { registry, key, id } = &self.left;
            let letter = match timeout(registry.idle, self.letters.recv()).await {
                Ok(Some(letter)) => letter,
                Ok(None) => return,
                Err(_) if registry.leave(key, *id, true) => return,
                Err(_) => continue,
            };
            let result = record.handle(registry, key, letter.message).await;
            if let Some(answer) = letter.answer {
                let _ = answer.send(result); // the caller may have gone
            }
            drop(letter.slot);
        }
        self.give_up().await;
    }

    /// Refuses what is in the mailbox, and makes room for a new actor.
    async fn give_up(&mut self) {
        self.letters.close();
        let mut refused = 0_usize;
        while let Some(letter) = self.letters.recv().await {
            refused += 1;
            if let Some(answer) = letter.answer {
                let _ = answer.send(Err(ActorError::GaveUp));
            }
        }
        tracing::error!(refused, "an actor failed too often; what it had is refused");
    }
}

impl<A: Actor> Record<A> {
    async fn handle<K: Clone>(
        &mut self,
        registry: &Registry<K, A>,
        key: &K,
        message: A::Message,
    ) -> Result<A::Reply, ActorError> {
        let mut actor = match self.actor.take() {
            Some(actor) => actor,
            None => self.fresh(registry, key).await?,
        };
        match caught(async { actor.handle(message).await }).await {
            Ok(reply) => {
                self.actor = Some(actor);
                Ok(reply)
            }
            Err(error) => {
                self.failed(registry, &error);
                Err(error)
            }
        }
    }

    /// Makes a state, again and again as far as restarts go.
    async fn fresh<K: Clone>(
        &mut self,
        registry: &Registry<K, A>,
        key: &K,
    ) -> Result<A, ActorError> {
        loop {
            sleep_until(self.not_before).await;
            self.since = Instant::now();
            let key = key.clone();
            let error = match caught(async { (registry.start)(key).await }).await {
                Ok(actor) => return Ok(actor),
                Err(error) => error,
            };
            self.failed(registry, &error);
            if self.gave_up {
                return Err(error);
            }
        }
    }

    /// Counts a failure, and says when the next state may be made, if at all.
    fn failed<K>(&mut self, registry: &Registry<K, A>, error: &ActorError) {
        let now = Instant::now();
        let ran = now.duration_since(self.since);
        let wait = self
            .streak
            .failed(ran, registry.intensity, registry.backoff);
        self.not_before = now + wait;
        self.gave_up = !self.window.admits(now);
        tracing::warn!(
            error = mq_core::rejection::chain(error),
            actor = std::any::type_name::<A>(),
            "an actor failed"
        );
    }
}

/// What a future of the user's ends with; its panic is an error.
async fn caught<T>(future: impl Future<Output = Result<T, BoxError>>) -> Result<T, ActorError> {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ActorError::Failed(shared(error))),
        Err(panic) => Err(ActorError::Panicked(panic_text(&*panic))),
    }
}
