//! One actor per key, on demand.

use std::{
    collections::HashMap,
    fmt,
    future::{Future, IntoFuture},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mq_core::BoxError;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Actor, ActorError,
    child::BoxFuture,
    mailbox::{Envelope, Slot, live},
    pace::{Backoff, Intensity},
};

/// The actors of one kind, by key. Clones are handles of the same actors.
///
/// An actor is started by the first message to its key, in a task of its own, and leaves when it
/// was idle for a while. Messages to one key are handled one at a time, those of one sender in its
/// order.
///
/// Dropped, the last handle aborts all actors: each is dropped where it waits.
pub struct Actors<K, A: Actor>(Arc<Owner<K, A>>);

struct Owner<K, A: Actor> {
    registry: Arc<Registry<K, A>>,
    /// Apart from the registry, which the tasks hold: dropped with the last handle, it aborts them.
    tasks: Mutex<JoinSet<()>>,
    deadline: Duration,
    stop_within: Duration,
}

/// What the actors share.
pub(super) struct Registry<K, A: Actor> {
    map: Mutex<Map<K, A>>,
    pub(super) start: Start<K, A>,
    pub(super) idle: Duration,
    pub(super) intensity: Intensity,
    pub(super) backoff: Backoff,
    mailbox: usize,
    limit: usize,
}

type Start<K, A> = Box<dyn Fn(K) -> BoxFuture<Result<A, BoxError>> + Send + Sync>;

struct Map<K, A: Actor> {
    slots: HashMap<K, Arc<Slot<A>>>,
    next: u64,
    closed: bool,
}

/// Settings of [`Actors`].
#[must_use = "it makes the actors when it is built"]
pub struct ActorsBuilder<K, A: Actor> {
    registry: Registry<K, A>,
    deadline: Duration,
    stop_within: Duration,
}

impl<K, A> Actors<K, A>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    A: Actor,
{
    /// Actors whose state a function makes for a key: at the first message, after the actor has
    /// left, and after it has failed. It may wait, for a database for example; an error or a panic
    /// of it is a failure of the actor, and it is called again after the backoff.
    pub fn builder<F, Fut>(start: F) -> ActorsBuilder<K, A>
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: IntoFuture<Output = Result<A, BoxError>, IntoFuture: Send + 'static>,
    {
        ActorsBuilder {
            registry: Registry {
                map: Mutex::new(Map {
                    slots: HashMap::new(),
                    next: 0,
                    closed: false,
                }),
                start: Box::new(move |key| Box::pin(start(key).into_future())),
                idle: Duration::from_secs(60),
                intensity: Intensity::new(3, Duration::from_secs(60)),
                backoff: Backoff::default(),
                mailbox: 64,
                limit: 10_000,
            },
            deadline: Duration::from_secs(5),
            stop_within: Duration::from_secs(30),
        }
    }

    /// Sends a message to the actor of a key and waits for its reply (*GenServer.call*). Needs a
    /// Tokio runtime.
    ///
    /// # Errors
    /// Why there is none, at the latest at the [deadline](ActorsBuilder::deadline).
    ///
    /// # Cancel safety
    /// Dropped, the message is handled still if it was in the mailbox already.
    pub async fn call(&self, key: &K, message: A::Message) -> Result<A::Reply, ActorError> {
        let deadline = Instant::now() + self.0.deadline;
        let (answer, answered) = oneshot::channel();
        self.send(key, message, Some(answer), deadline).await?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ActorError::Stopped),
            Err(_) => Err(ActorError::NoAnswer),
        }
    }

    /// Sends a message and does not wait for its end (*GenServer.cast*), but for room in the
    /// mailbox. What comes of it, only the log tells.
    ///
    /// # Errors
    /// [`MailboxFull`](ActorError::MailboxFull) at the [deadline](ActorsBuilder::deadline), or why
    /// there is no actor.
    ///
    /// # Cancel safety
    /// Dropped before it returns, the message is not sent.
    pub async fn cast(&self, key: &K, message: A::Message) -> Result<(), ActorError> {
        let deadline = Instant::now() + self.0.deadline;
        self.send(key, message, None, deadline).await
    }

    /// As [`cast`](Self::cast), without waiting.
    ///
    /// # Errors
    /// [`MailboxFull`](ActorError::MailboxFull) if there is no room now, or why there is no actor.
    pub fn try_cast(&self, key: &K, message: A::Message) -> Result<(), ActorError> {
        let slot = self.slot(key)?;
        let mailbox = slot.mailbox.clone();
        let sent = mailbox.try_send(Envelope::new(message, None, slot));
        sent.map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => ActorError::MailboxFull,
            mpsc::error::TrySendError::Closed(_) => ActorError::Stopped,
        })
    }

    /// How many actors there are now.
    pub fn count(&self) -> usize {
        self.0.registry.lock().slots.len()
    }

    /// Runs until the signal, then stops the actors: no new message is taken, each actor handles
    /// what is in its mailbox, and what is not done at the
    /// [deadline](ActorsBuilder::stop_within) is dropped. For a child of a supervisor:
    /// `Child::new("accounts", move |stop| accounts.run_until(stop))`.
    ///
    /// Started again after that, as a supervisor does it, the actors take messages again.
    ///
    /// # Errors
    /// Some were not done in time.
    ///
    /// # Cancel safety
    /// Dropped, all actors are aborted, and messages are refused.
    pub fn run_until<S>(
        &self,
        stop: S,
    ) -> impl Future<Output = Result<(), Undrained>> + Send + use<K, A, S>
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let running = Running(Self(Arc::clone(&self.0)));
        async move {
            running.0.0.registry.lock().closed = false;
            stop.await;
            running.0.drain().await
        }
    }

    /// Closes, and waits for those that are at work.
    async fn drain(&self) -> Result<(), Undrained> {
        let mut tasks = self.close();
        let deadline = Instant::now() + self.0.stop_within;
        while let Ok(Some(_)) = timeout_at(deadline, tasks.join_next()).await {}
        let actors = tasks.len();
        if actors == 0 {
            return Ok(());
        }
        // One that blocks its thread is not waited for.
        let _ = timeout(ABORT, tasks.shutdown()).await;
        Err(Undrained { actors })
    }

    /// Refuses what comes from now on, and hands out the tasks.
    fn close(&self) -> JoinSet<()> {
        let mut map = self.0.registry.lock();
        map.closed = true;
        // An actor ends when its mailbox is empty and nobody is left who could fill it.
        map.slots.clear();
        std::mem::take(&mut *self.0.tasks())
    }

    async fn send(
        &self,
        key: &K,
        message: A::Message,
        answer: Option<oneshot::Sender<Result<A::Reply, ActorError>>>,
        deadline: Instant,
    ) -> Result<(), ActorError> {
        let slot = self.slot(key)?;
        let mailbox = slot.mailbox.clone();
        let room = match timeout_at(deadline, mailbox.reserve()).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return Err(ActorError::Stopped),
            Err(_) => return Err(ActorError::MailboxFull),
        };
        room.send(Envelope::new(message, answer, slot));
        Ok(())
    }

    /// The mailbox of a key's actor, which is started if there is none. While the slot is held,
    /// the actor does not leave.
    fn slot(&self, key: &K) -> Result<Arc<Slot<A>>, ActorError> {
        let registry = &self.0.registry;
        let mut map = registry.lock();
        if map.closed {
            return Err(ActorError::Stopped);
        }
        match map.slots.get(key) {
            // A closed one has ended, and is on its way out.
            Some(slot) if !slot.mailbox.is_closed() => return Ok(Arc::clone(slot)),
            Some(_) => {}
            None if map.slots.len() >= registry.limit => map.evict()?,
            None => {}
        }
        let id = map.next;
        map.next += 1;
        let (mailbox, letters) = mpsc::channel(registry.mailbox);
        let slot = Arc::new(Slot { id, mailbox });
        map.slots.insert(key.clone(), Arc::clone(&slot));
        let mut tasks = self.0.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(live(Arc::clone(registry), key.clone(), id, letters));
        Ok(slot)
    }
}

impl<K: Clone + Eq + Hash, A: Actor> Map<K, A> {
    /// Makes room by letting an idle actor go.
    fn evict(&mut self) -> Result<(), ActorError> {
        let mut slots = self.slots.iter_mut();
        // Nobody else holds the slot: nothing is in its mailbox, in its hand, or on the way there.
        let idle = slots.find_map(|(key, slot)| Arc::get_mut(slot).map(|_| key.clone()));
        let key = idle.ok_or(ActorError::TooManyActors)?;
        self.slots.remove(&key);
        Ok(())
    }
}

impl<K: Eq + Hash, A: Actor> Registry<K, A> {
    /// Takes an actor out. With `only_idle`, and if somebody has something for it, it stays.
    pub(super) fn leave(&self, key: &K, id: u64, only_idle: bool) -> bool {
        let mut map = self.lock();
        let Some(slot) = map.slots.get_mut(key).filter(|slot| slot.id == id) else {
            return true; // it was taken out before
        };
        if only_idle && Arc::get_mut(slot).is_none() {
            return false;
        }
        map.slots.remove(key);
        true
    }
}

impl<K, A: Actor> Registry<K, A> {
    fn lock(&self) -> MutexGuard<'_, Map<K, A>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, A: Actor> Owner<K, A> {
    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Aborts the actors when the future that ran them is dropped.
struct Running<K, A>(Actors<K, A>)
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    A: Actor;

impl<K, A> Drop for Running<K, A>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    A: Actor,
{
    fn drop(&mut self) {
        drop(self.0.close());
    }
}

impl<K, A> ActorsBuilder<K, A>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    A: Actor,
{
    /// Sets how many messages may wait for an actor; at least 1. Default 64.
    pub fn mailbox(mut self, messages: usize) -> Self {
        self.registry.mailbox = messages.max(1);
        self
    }

    /// Sets how many actors there may be; at least 1. Default 10,000.
    ///
    /// One more lets some idle one go, as if its time had come. If none is idle, the message is
    /// refused.
    pub fn limit(mut self, actors: usize) -> Self {
        self.registry.limit = actors.max(1);
        self
    }

    /// Sets after how long without a message an actor leaves. Default 60 s. Its state is dropped:
    /// what has to last is stored before [`handle`](Actor::handle) returns.
    pub fn idle(mut self, idle: Duration) -> Self {
        self.registry.idle = idle;
        self
    }

    /// Sets how many restarts within a period an actor has. Default 3 within 60 s. One more
    /// failure, and it gives up: what is in its mailbox is refused. The message after that finds a
    /// new actor.
    ///
    /// It counts for each key by itself, so that one bad key does not end the others. The waits
    /// between restarts are those of a supervisor by default.
    pub fn restarts(mut self, restarts: usize, period: Duration) -> Self {
        self.registry.intensity = Intensity::new(restarts, period);
        self
    }

    /// Sets how long a call waits for its reply, and a cast for room. Default 5 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how long the actors may work on their mailboxes when they are stopped. Default 30 s.
    pub fn stop_within(mut self, deadline: Duration) -> Self {
        self.stop_within = deadline;
        self
    }

    /// The actors, of which there is none yet.
    #[must_use]
    pub fn build(self) -> Actors<K, A> {
        Actors(Arc::new(Owner {
            registry: Arc::new(self.registry),
            tasks: Mutex::new(JoinSet::new()),
            deadline: self.deadline,
            stop_within: self.stop_within,
        }))
    }
}

/// Actors that had not handled all of their messages when the time to stop was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Undrained {
    /// How many.
    pub actors: usize,
}

impl fmt::Display for Undrained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} actors were not done in time to stop", self.actors)
    }
}

impl std::error::Error for Undrained {}

impl<K, A: Actor> Clone for Actors<K, A> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, A: Actor> fmt::Debug for Actors<K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.registry.lock().slots.len();
        f.debug_struct("Actors")
            .field("count", &count)
            .finish_non_exhaustive()
    }
}

impl<K, A: Actor> fmt::Debug for ActorsBuilder<K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorsBuilder")
            .field("mailbox", &self.registry.mailbox)
            .field("limit", &self.registry.limit)
            .field("idle", &self.registry.idle)
            .finish_non_exhaustive()
    }
}

/// How long an aborted actor may take until it is gone.
const ABORT: Duration = Duration::from_secs(1);
