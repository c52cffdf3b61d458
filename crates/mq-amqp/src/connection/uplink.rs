//! A connection that comes back: it holds the link of the moment, and makes a new one when that is lost.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mq_core::{Error, ErrorKind, Result, Subscription};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    events::{AmqpEvent, AmqpRole},
    link::{Known, Link, closed},
    recovery::Refusals,
};
use crate::{
    config::{Address, Settings},
    error::CONNECT,
    topology::Declared,
};

/// A connection to whichever node answers. While it is lost its users wait for the next link.
pub(crate) struct Uplink {
    shared: Arc<Shared>,
    _keeper: AbortOnDropHandle<()>,
}

struct Shared {
    settings: Settings,
    role: AmqpRole,
    state: watch::Sender<State>,
    closing: CancellationToken,
    known: Arc<Known>,
    declared: Mutex<Vec<Declared>>,
}

#[derive(Debug, Clone)]
enum State {
    Up(Arc<Link>),
    /// Lost for this reason; a new one is on its way.
    Down(Error),
    /// Given up or closed.
    Over(Error),
}

impl Uplink {
    /// Connects for the first time, to the first address that answers.
    ///
    /// # Errors
    /// The error of the last address that was tried, or at once a refusal that no other address
    /// would change.
    pub(crate) async fn open(settings: &Settings, role: AmqpRole) -> Result<Self> {
        let known = Arc::<Known>::default();
        let link = Link::any(settings, role, &known, None).await?;
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            role,
            state: watch::Sender::new(State::Up(Arc::new(link))),
            closing: CancellationToken::new(),
            known,
            declared: Mutex::default(),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&shared)));
        Ok(Self {
            shared,
            _keeper: AbortOnDropHandle::new(keeper),
        })
    }

    /// The link of the moment; while there is none, waits for the next one up to the limit of an
    /// operation.
    ///
    /// # Errors
    /// `Disconnected` if none came in time or the connection is given up, `Closed` after `close`.
    pub(crate) async fn link(&self, operation: &'static str) -> Result<Arc<Link>> {
        self.link_within(operation, self.shared.settings.operation_timeout)
            .await
    }

    pub(crate) async fn link_within(
        &self,
        operation: &'static str,
        limit: Duration,
    ) -> Result<Arc<Link>> {
        match timeout(limit, self.up(operation)).await {
            Ok(link) => link,
            Err(_) => Err(self.down(operation, limit)),
        }
    }

    /// Waits for a link, as long as there is hope.
    ///
    /// # Errors
    /// As [`link`](Self::link), but for the time.
    pub(crate) async fn up(&self, operation: &'static str) -> Result<Arc<Link>> {
        let mut state = self.shared.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up(link) if link.is_connected() && link.is_worn() => link.give_up(),
                State::Up(link) if link.is_connected() => return Ok(Arc::clone(link)),
                State::Over(why) => return Err(over(operation, why)),
                // Lost, which its keeper is about to notice, or known to be.
                State::Up(_) | State::Down(_) => {}
            }
            // The sender is in `self`.
            let _ = state.changed().await;
        }
    }

    /// The link of the moment, if it is one that works.
    pub(crate) fn current(&self) -> Option<Arc<Link>> {
        match &*self.shared.state.borrow() {
            State::Up(link) if link.is_connected() => Some(Arc::clone(link)),
            _ => None,
        }
    }

    /// Fails if there is no hope for another link.
    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        match &*self.shared.state.borrow() {
            State::Over(why) => Err(over(operation, why)),
            State::Up(_) | State::Down(_) => Ok(()),
        }
    }

    /// True while an alarm of the broker keeps the client from writing.
    pub(crate) fn is_blocked(&self) -> bool {
        self.current().is_some_and(|link| link.is_blocked())
    }

    /// True once it was closed by this side.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closing.is_cancelled()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// What the broker lets through.
    pub(crate) fn known(&self) -> &Known {
        &self.shared.known
    }

    /// Takes note of something that is declared, to be declared again on a new link.
    pub(crate) fn remember(&self, what: Declared) {
        let mut declared = self.shared.declared();
        // Names that an application makes up without end must not fill the memory.
        if !declared.contains(&what) && declared.len() < MAX_DECLARED {
            declared.push(what);
        }
    }

    /// It was deleted, and shall not come again.
    pub(crate) fn forget(&self, what: &Declared) {
        self.shared.declared().retain(|one| one != what);
    }

    /// What this client declared that makes the queue of a subscription.
    pub(crate) fn declared_for(&self, subscription: &Subscription) -> Option<Declared> {
        let declared = self.shared.declared();
        declared
            .iter()
            .find(|what| what.makes(subscription))
            .cloned()
    }

    /// No new link from now on; closes the one of the moment.
    pub(crate) async fn close(&self) -> Result<()> {
        self.shared.closing.cancel();
        // The keeper hears of the closing at once, so the link is taken in the same step that ends all.
        match self.shared.state.send_replace(State::Over(closed(CONNECT))) {
            State::Up(link) => link.close().await,
            State::Down(_) | State::Over(_) => Ok(()),
        }
    }

    /// The error of whoever waited in vain.
    fn down(&self, operation: &'static str, limit: Duration) -> Error {
        let text = "the connection is lost, and did not come back in time";
        let error = Error::new(ErrorKind::Disconnected, operation, text)
            .with("seconds", limit.as_secs_f32())
            .help("it is tried again and again: see why, and publish or open again later");
        match &*self.shared.state.borrow() {
            State::Down(why) => error.with("why", why).caused_by(why.clone()),
            State::Up(_) | State::Over(_) => error,
        }
    }
}

impl Shared {
    /// What is over stays so, also for a link that comes up at the last moment.
    fn set(&self, next: State) {
        self.state.send_if_modified(|state| {
            let goes_on = !matches!(state, State::Over(_));
            if goes_on {
                *state = next;
            }
            goes_on
        });
    }

    fn declared(&self) -> MutexGuard<'_, Vec<Declared>> {
        // A list is whole after any panic.
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: AmqpEvent) {
        self.settings.events.tell(event);
    }

    /// Declares again what this client declared: exclusive queues went with the link, and others may
    /// have gone with their node.
    ///
    /// # Errors
    /// Only those of a link that is lost again.
    async fn restore(&self, link: &Link) -> Result<()> {
        let declared = self.declared().clone();
        for what in declared {
            match what.declare(link).await {
                Ok(()) => {}
                Err(error) if !link.is_connected() => return Err(error),
                Err(why) => {
                    let what = what.to_string();
                    self.tell(AmqpEvent::DeclareFailed { what, why });
                }
            }
        }
        Ok(())
    }
}

/// Waits for each loss of the link, and makes a new one, until there is no hope.
async fn keep(shared: Arc<Shared>) {
    let mut current = match &*shared.state.borrow() {
        State::Up(link) => Arc::clone(link),
        State::Down(_) | State::Over(_) => return,
    };
    loop {
        tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            () = current.lost() => {}
        }
        let why = current.gone(CONNECT);
        let was = current.address().clone();
        drop(current);
        let role = shared.role;
        shared.set(State::Down(why.clone()));
        shared.tell(AmqpEvent::Disconnected {
            role,
            why: why.clone(),
        });
        let again = tokio::select! {
            biased;
            () = shared.closing.cancelled() => return,
            again = reconnect(&shared, &was, why) => again,
        };
        match again {
            Ok(link) => current = link,
            Err(why) => {
                shared.set(State::Over(why.clone()));
                shared.tell(AmqpEvent::GivenUp { role, why });
                return;
            }
        }
    }
}

/// A new link, with all that was declared.
async fn reconnect(shared: &Shared, was: &Address, mut why: Error) -> Result<Arc<Link>> {
    let (settings, role) = (&shared.settings, shared.role);
    let recovery = settings.recovery;
    let since = Instant::now();
    let mut refusals = Refusals::default();
    // The node that was lost comes last.
    let addresses = settings.addresses();
    let at = addresses.iter().position(|address| address == was);
    let mut next = addresses.iter().cycle().skip(at.map_or(0, |at| at + 1));
    for attempt in 1.. {
        if recovery.is_over(since.elapsed()) {
            break;
        }
        sleep(recovery.pause(attempt)).await;
        let Some(address) = next.next() else { break };
        let linked = match Link::open(settings, role, address, &shared.known).await {
            Ok(link) => shared.restore(&link).await.map(|()| link),
            Err(error) => Err(error),
        };
        match linked {
            Ok(link) => {
                let link = Arc::new(link);
                shared.set(State::Up(Arc::clone(&link)));
                settings.counters.reconnected();
                shared.tell(AmqpEvent::Reconnected {
                    role,
                    address: address.to_string(),
                    attempt,
                    outage: since.elapsed(),
                });
                return Ok(link);
            }
            Err(error) => {
                shared.tell(AmqpEvent::ConnectFailed {
                    role,
                    address: address.to_string(),
                    attempt,
                    why: error.clone(),
                });
                shared.set(State::Down(error.clone()));
                if refusals.is_last(&error) {
                    return Err(error);
                }
                why = error;
            }
        }
    }
    let text = "the connection was lost and is given up";
    Err(Error::new(ErrorKind::Disconnected, CONNECT, text)
        .with("seconds", since.elapsed().as_secs_f32())
        .with("why", &why)
        .help("connect again, or set `AmqpBuilder::recovery`")
        .caused_by(why))
}

/// The error of an operation after the end, with what ended it.
fn over(operation: &'static str, why: &Error) -> Error {
    if why.kind() == ErrorKind::Closed {
        return closed(operation);
    }
    let kind = match why.kind() {
        kind @ (ErrorKind::Auth | ErrorKind::Permission) => kind,
        _ => ErrorKind::Disconnected,
    };
    Error::new(kind, operation, "the connection was lost and is given up")
        .with("why", why)
        .help("connect again")
        .caused_by(why.clone())
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Uplink");
        match &*self.shared.state.borrow() {
            State::Up(link) => shown.field("link", link),
            State::Down(why) => shown.field("lost", why),
            State::Over(why) => shown.field("over", why),
        };
        shown.finish_non_exhaustive()
    }
}

/// What is declared again at the most.
const MAX_DECLARED: usize = 10_000;
