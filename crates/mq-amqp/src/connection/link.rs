//! One connection, from its beginning to its loss.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_rs::{Tokio, traits::Reactor};
use futures::{FutureExt, Stream, StreamExt};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use mq_core::{Error, ErrorKind, Result};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Gate,
    events::{AmqpEvent, AmqpRole},
    greeting::Product,
    recovery::is_refusal,
    transport,
};
use crate::{
    config::{Address, Settings},
    error::{CONNECT, late, map, within},
    headers::Limits,
    topology::Named,
};

/// One connection. It is not used again once it is lost.
pub(crate) struct Link {
    connection: Connection,
    address: Address,
    fate: Arc<Fate>,
    closed: AtomicBool,
    wear: Wear,
    limit: Duration,
    named: Arc<Named>,
    /// Where reading is held back.
    gate: Option<Gate>,
    _events: AbortOnDropHandle<()>,
}

/// What became of a connection.
#[derive(Default)]
struct Fate {
    /// Why it was lost, in the client's words.
    why: OnceLock<lapin::Error>,
    /// Cancelled when it is lost: some of the client's calls do not return then.
    lost: CancellationToken,
}

/// How many channels there were. The client takes their numbers in turn, and begins again after the last one: but a channel that
/// ended by an error has left that error with its number, and whatever has the number next fails by it (lapin 4.12.3).
#[derive(Default)]
struct Wear {
    channels: AtomicU32,
    /// One of them ended by an error.
    failed: AtomicBool,
    /// The connection was given up for it.
    over: AtomicBool,
}

/// What the broker is and lets through, kept over the loss of a connection.
#[derive(Debug)]
pub(crate) struct Known {
    /// The largest payload the broker takes, as far as it has said so.
    largest: AtomicUsize,
    frame: AtomicUsize,
    product: Arc<Product>,
}

impl Known {
    /// Learns from a refusal how large a payload may be: the broker tells it in no other way.
    pub(crate) fn learn(&self, refusal: &Error) {
        if refusal.kind() == ErrorKind::TooLarge
            && let Some(limit) = refusal
                .context("limit")
                .and_then(|limit| limit.parse().ok())
        {
            self.largest.fetch_min(limit, Ordering::AcqRel);
        }
    }

    /// What the broker says it is.
    pub(crate) fn product(&self) -> &Product {
        &self.product
    }

    /// Bytes that a payload may have, and that properties and headers may take in the one frame
    /// they have.
    pub(crate) fn limits(&self, payload: usize) -> Limits {
        let frame = self.frame.load(Ordering::Acquire);
        Limits {
            payload: payload.min(self.largest.load(Ordering::Acquire)),
            headers: frame.saturating_sub(FRAME_OVERHEAD),
        }
    }
}

impl Default for Known {
    fn default() -> Self {
        Self {
            largest: AtomicUsize::new(usize::MAX),
            frame: AtomicUsize::new(0),
            product: Arc::default(),
        }
    }
}

impl Link {
    pub(crate) async fn open(
        settings: &Settings,
        role: AmqpRole,
        address: &Address,
        known: &Arc<Known>,
    ) -> Result<Self> {
        // Whether there is one.
        lapin::runtime::default_runtime().map_err(|error| map(CONNECT, error))?;
        Self::connect(settings, role, address, known, Tokio::current(), None).await
    }

    /// Tries each address once, in their order. A gate holds its reading back.
    ///
    /// # Errors
    /// The error of the last address that was tried, or at once a refusal that no other address
    /// would change.
    pub(crate) async fn any(
        settings: &Settings,
        role: AmqpRole,
        known: &Arc<Known>,
        gate: Option<&Gate>,
    ) -> Result<Self> {
        let mut failed = None;
        for address in settings.addresses() {
            let linked = match gate {
                None => Self::open(settings, role, &address, known).await,
                Some(gate) => {
                    let (reactor, held) = (gate.reactor(), Some(gate.clone()));
                    Self::connect(settings, role, &address, known, reactor, held).await
                }
            };
            match linked {
                Ok(link) => return Ok(link),
                Err(error) if is_refusal(&error) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        let none = || Error::new(ErrorKind::Config, CONNECT, "there is no address");
        Err(failed.unwrap_or_else(none))
    }

    async fn connect<R: Reactor + Clone + fmt::Debug + Send + Sync + 'static>(
        settings: &Settings,
        role: AmqpRole,
        address: &Address,
        known: &Arc<Known>,
        reactor: R,
        gate: Option<Gate>,
    ) -> Result<Self> {
        let name = &settings.name;
        let properties =
            ConnectionProperties::default().with_connection_name(format!("{name} {role}").into());
        let connector = settings.connector()?;
        let product = Arc::clone(&known.product);
        let connecting =
            transport::connect(settings, address, connector, properties, reactor, product);
        // A TLS handshake has a large future, and there are two connections in each future that connects.
        let connecting = Box::pin(connecting);
        let limit = settings.connect_timeout;
        let connection = match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected.map_err(|error| map(CONNECT, error)),
            Err(_) => Err(late(CONNECT, limit)),
        };
        let connection = connection.map_err(|error| {
            error
                .with("address", address)
                .with("virtual_host", settings.virtual_host())
                .with("user", settings.user())
        })?;
        let frame = connection.configuration().frame_max() as usize;
        known.frame.store(frame, Ordering::Release);
        let fate = Arc::<Fate>::default();
        let (told, counters) = (settings.events.clone(), Arc::clone(&settings.counters));
        let tell = move |event: AmqpEvent| {
            match event {
                AmqpEvent::Blocked { .. } => counters.blocked(),
                AmqpEvent::Unblocked { .. } => counters.unblocked(),
                _ => {}
            }
            told.tell(event);
        };
        let listener = connection.events_listener();
        let watching = watch(listener, Arc::clone(&fate), tell, role);
        Ok(Self {
            connection,
            address: address.clone(),
            fate,
            closed: AtomicBool::new(false),
            wear: Wear::default(),
            limit: settings.operation_timeout,
            named: Arc::clone(&settings.named),
            gate,
            _events: AbortOnDropHandle::new(tokio::spawn(watching)),
        })
    }

    /// The most time for an answer.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// True once it was closed by this side.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// What both sides agreed on; `None` if they send none.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        let seconds = self.connection.configuration().heartbeat();
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// What the settings say about exchanges and queues.
    pub(crate) fn named(&self) -> &Named {
        &self.named
    }

    /// Waits for an answer, but no longer than the limit or the life of the connection.
    pub(crate) async fn answer<T>(
        &self,
        operation: &'static str,
        answer: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T> {
        let answer = tokio::select! {
            biased;
            answer = within(self.limit, operation, answer) => answer,
            () = self.fate.lost.cancelled() => Err(self.gone(operation)),
        };
        if let Err(error) = &answer
            && ended_channel(error)
        {
            self.wear.failed.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// A new channel.
    pub(crate) async fn channel(&self, operation: &'static str) -> Result<Channel> {
        if !self.is_connected() {
            return Err(self.gone(operation));
        }
        self.wear.channels.fetch_add(1, Ordering::Relaxed);
        let opened = self.answer(operation, self.connection.create_channel());
        match opened.await {
            // No broker answers an opening so: it is the error of an earlier channel of this number.
            Err(error) if ended_channel(&error) => {
                self.give_up();
                Err(self.gone(operation))
            }
            opened => opened,
        }
    }

    /// True if the numbers of its channels are about to begin again, and one of them ended by an error.
    pub(crate) fn is_worn(&self) -> bool {
        let made = self.wear.channels.load(Ordering::Relaxed);
        let most = self.connection.configuration().channel_max();
        self.wear.failed.load(Ordering::Relaxed) && used_up(made, most)
    }

    /// Takes it for lost, so that another one takes its place.
    pub(crate) fn give_up(&self) {
        self.wear.over.store(true, Ordering::Release);
        self.fate.lost.cancel();
        // It is on its way with the first poll; nobody waits for the answer.
        let closing = self
            .connection
            .close(200, "its channel numbers are used up".into());
        drop(closing.now_or_never());
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.status().connected() && !self.fate.lost.is_cancelled()
    }

    /// Waits until it is lost or closed.
    pub(crate) async fn lost(&self) {
        // A second line of defence, should the client not tell.
        while tokio::time::timeout(LOOK, self.fate.lost.cancelled())
            .await
            .is_err()
        {
            if !self.connection.status().connected() {
                self.fate.lost.cancel();
            }
        }
    }

    /// True while an alarm of the broker keeps the client from writing.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// The error of an operation on a connection that is gone, with what is known about why.
    pub(crate) fn gone(&self, operation: &'static str) -> Error {
        if self.is_closed() {
            return closed(operation);
        }
        let text = match self.wear.over.load(Ordering::Acquire) {
            true => "too many channels have failed on the connection, so it is made anew",
            false => "the connection was lost",
        };
        let error = Error::new(ErrorKind::Disconnected, operation, text);
        match self.fate.why.get() {
            Some(why) => {
                let cause = map(operation, why.clone());
                error.with("why", &cause).caused_by(cause)
            }
            None => error,
        }
    }

    pub(crate) async fn close(&self) -> Result<()> {
        // The answer is behind what nobody is going to take.
        if let Some(gate) = &self.gate {
            gate.free();
        }
        if self.closed.swap(true, Ordering::AcqRel) || !self.is_connected() {
            return Ok(());
        }
        let close = self
            .connection
            .close(200, "closed by the application".into());
        let closed = within(self.limit, "close", close).await;
        self.fate.lost.cancel();
        match closed {
            // A channel that was dropped just before takes the connection with it: it is over.
            Err(error) if error.kind() == ErrorKind::Disconnected => Ok(()),
            closed => closed,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(gate) = &self.gate {
            // Its last answer is behind what nobody takes, and the client keeps what its consumer
            // with a delegate hangs on. The closing is on its way with the first poll.
            gate.free();
            let closing = self.connection.close(200, "dropped".into());
            drop(closing.now_or_never());
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address)
            .field("connected", &self.is_connected())
            .field("blocked", &self.is_blocked())
            .finish_non_exhaustive()
    }
}

/// True of an error by which the broker ended a channel, and not the connection.
fn ended_channel(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<lapin::Error>());
    matches!(
        cause.map(lapin::Error::kind),
        Some(lapin::ErrorKind::ProtocolError(error))
            if matches!(error.kind(), lapin::protocol::AMQPErrorKind::Soft(_))
    )
}

/// True if hardly a number is left that no channel had, of so many as a connection has; 0 is no limit but that of the number itself.
/// A broker may allow few: half of them are used in any case, or one failure after the other would cost a connection.
fn used_up(made: u32, most: u16) -> bool {
    let most = match most {
        0 => u32::from(u16::MAX),
        most => u32::from(most),
    };
    made >= most - FRESH.min(most / 2)
}

/// Channels that one operation may need.
const FRESH: u32 = 128;

/// The error of whatever comes after `close`.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(ErrorKind::Closed, operation, "the connection was closed")
}

/// Tells of alarms, and keeps why the connection was lost.
async fn watch(
    events: impl Stream<Item = Event>,
    fate: Arc<Fate>,
    tell: impl Fn(AmqpEvent),
    role: AmqpRole,
) {
    let mut events = std::pin::pin!(events);
    let mut blocked = None;
    let unblock = |blocked: &mut Option<Instant>| {
        if let Some(since) = blocked.take() {
            let blocked = since.elapsed();
            tell(AmqpEvent::Unblocked { role, blocked });
        }
    };
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) if blocked.is_none() => {
                blocked = Some(Instant::now());
                tell(AmqpEvent::Blocked { role, reason });
            }
            Event::ConnectionUnblocked => unblock(&mut blocked),
            // A soft error ends one channel, and is told where that channel is used.
            Event::Error(error) if !error.is_amqp_soft_error() => {
                unblock(&mut blocked);
                let _ = fate.why.set(error);
                fate.lost.cancel();
            }
            _ => {}
        }
    }
    // Nothing more will be told of it.
    unblock(&mut blocked);
    fate.lost.cancel();
}

/// How often a connection that nothing is heard of is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Frame header and end, class, weight, body size and property flags (AMQP 0-9-1, section 4.2.6).
const FRAME_OVERHEAD: usize = 8 + 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_used_up_shortly_before_its_numbers_begin_again() {
        assert!(!used_up(1_918, 2_047) && used_up(1_919, 2_047));
        // Few channels, and no limit.
        assert!(!used_up(4, 10) && used_up(5, 10));
        assert!(!used_up(0, 1) && used_up(1, 1));
        assert!(!used_up(60_000, 0) && used_up(65_500, 0));
    }
}
