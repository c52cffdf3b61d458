//! The broker as a whole: two connections, one for publishing and one for consuming.

mod gate;

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_rs::{Runtime, traits::RuntimeKit};
use futures::{FutureExt, Stream, StreamExt, future::join_all};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use mq_core::{
    Broker, Capabilities, ConsumePlan, Declaration, Error, ErrorKind, Result, Subscription,
    flow::Flow,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument;

pub(crate) use self::gate::{CHUNK, Gate};
use crate::{
    AmqpBuilder, AmqpConsumer, AmqpNoAckConsumer, AmqpPublisher, AmqpUnconfirmed, capabilities,
    config::Settings,
    error::{CONNECT, late, map, within},
    headers::Limits,
    topology::{self, Named},
};

/// A RabbitMQ broker, over two connections: a publisher that the broker blocks in an alarm does not
/// hold up acknowledgements. A clone shares them.
///
/// Dropping the last clone closes the connections; [`close`](Broker::close) waits for outcomes
/// first.
///
/// A lost connection ends it: pending publishes are [`Unknown`](ErrorKind::Unknown), consumers end
/// with [`Disconnected`](ErrorKind::Disconnected), and whatever comes later is refused with the
/// same kind. Connect again to go on.
#[derive(Clone)]
pub struct Amqp {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    publishing: Arc<Link>,
    consuming: Arc<Link>,
    publisher: AmqpPublisher,
    unconfirmed: AmqpUnconfirmed,
    /// The connections of consumers that acknowledge nothing.
    no_ack: Mutex<Vec<Weak<Link>>>,
}

/// One connection.
pub(crate) struct Link {
    connection: Connection,
    fate: Arc<Fate>,
    closed: AtomicBool,
    limit: Duration,
    named: Arc<Named>,
    /// Where reading is held back.
    gate: Option<Gate>,
    /// The largest payload the broker takes, as far as it has said so.
    largest: AtomicUsize,
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

impl Amqp {
    /// Connects to a URL such as `amqp://user:password@host:5672/vhost`, with the defaults of
    /// [`AmqpBuilder`] for all the rest.
    ///
    /// # Errors
    /// As [`AmqpBuilder::url`] and [`AmqpBuilder::connect`].
    ///
    /// # Cancel safety
    /// Dropped, nothing stays connected.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder().url(url)?.connect().await
    }

    /// Settings, to be changed and then connected.
    pub fn builder() -> AmqpBuilder {
        AmqpBuilder::new()
    }

    pub(crate) async fn open(settings: Settings) -> Result<Self> {
        let (publishing, consuming) = tokio::try_join!(
            Link::open(&settings, "publish"),
            Link::open(&settings, "consume")
        )?;
        let (publishing, consuming) = (Arc::new(publishing), Arc::new(consuming));
        let publisher = AmqpPublisher::start(&settings, Arc::clone(&publishing)).await?;
        let unconfirmed = AmqpUnconfirmed::new(&settings, Arc::clone(&publishing));
        let inner = Inner {
            settings,
            publishing,
            consuming,
            publisher,
            unconfirmed,
            no_ack: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Opens a consumer that acknowledges nothing: for the broker a message is done once it is
    /// sent. `buffer` is about how many messages may wait in this process, at least 1.
    ///
    /// See [`AmqpNoAckConsumer`] for what is lost, and when. It has a connection of its own.
    ///
    /// # Errors
    /// As [`Broker::consumer`] and [`AmqpBuilder::connect`].
    ///
    /// # Cancel safety
    /// Dropped, nothing stays open. What the broker had sent by then is lost.
    pub async fn no_ack_consumer(
        &self,
        subscription: &Subscription,
        buffer: usize,
    ) -> Result<AmqpNoAckConsumer> {
        let inner = &self.inner;
        let consumer = AmqpNoAckConsumer::open(&inner.settings, subscription, buffer).await?;
        let mut opened = inner.no_ack.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock, so that a `close` sees the consumer or is seen here.
        if inner.consuming.is_closed() {
            return Err(inner
                .consuming
                .gone("consume")
                .with("subscription", subscription));
        }
        opened.retain(|link| link.strong_count() > 0);
        opened.push(Arc::downgrade(consumer.link()));
        drop(opened);
        Ok(consumer)
    }
}

impl Broker for Amqp {
    type Publisher = AmqpPublisher;
    type Unconfirmed = AmqpUnconfirmed;
    type Consumer = AmqpConsumer;

    fn capabilities(&self) -> Capabilities {
        capabilities::CAPABILITIES
    }

    /// `RabbitMQ`, without a version: the client library keeps to itself what the broker told it.
    fn product(&self) -> String {
        "RabbitMQ".into()
    }

    fn flow(&self) -> Flow {
        self.inner.settings.flow.clone()
    }

    fn publisher(&self) -> AmqpPublisher {
        self.inner.publisher.clone()
    }

    fn unconfirmed(&self) -> AmqpUnconfirmed {
        self.inner.unconfirmed.clone()
    }

    /// # Errors
    /// Beside those of [`Broker::consumer`]: [`Config`](ErrorKind::Config) if the plan's attempts
    /// go beyond the queue's delivery limit, since the broker would dead-letter the message first, and
    /// for a durable subscription whose queue is set to be exclusive.
    async fn consumer(
        &self,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<AmqpConsumer> {
        let link = Arc::clone(&self.inner.consuming);
        let (publisher, subscription) = (self.inner.publisher.clone(), subscription.clone());
        whole("consume", async move {
            AmqpConsumer::open(&link, publisher, &subscription, plan).await
        })
        .await
    }

    /// Creating a quorum queue, and so a queue with a home that is one, takes 2 s longer: a younger
    /// one can lose confirmed messages when its whole cluster is killed.
    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        let (link, what) = (Arc::clone(&self.inner.consuming), what.into());
        whole(
            "declare",
            async move { topology::declare(&link, what).await },
        )
        .await
    }

    /// The settings of queues and exchanges are compared. AMQP has no way to look at bindings, so a
    /// subscription's filter is not.
    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        let (link, what) = (Arc::clone(&self.inner.consuming), what.into());
        whole("verify", async move { topology::verify(&link, what).await }).await
    }

    async fn close(&self) -> Result<()> {
        let flushed = mq_core::Publisher::close(&self.inner.publisher).await;
        let (publishing, consuming) =
            tokio::join!(self.inner.publishing.close(), self.inner.consuming.close());
        let opened = std::mem::take(
            &mut *self
                .inner
                .no_ack
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let opened = opened.iter().filter_map(Weak::upgrade);
        let no_ack = join_all(opened.map(|link| async move { link.close().await })).await;
        let no_ack = no_ack.into_iter().collect::<Result<()>>();
        flushed.and(publishing).and(consuming).and(no_ack)
    }
}

/// Goes on to its end if the caller stops waiting; every step has a deadline of its own.
///
/// The client frees the number of a channel that is dropped in the middle of a question. The answer
/// then hits the next channel of that number, or opens a consumer that nobody has.
async fn whole<T: Send + 'static>(
    operation: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result,
        Err(error) => {
            let text = "it ended without an answer";
            Err(Error::new(ErrorKind::Bug, operation, text).caused_by(error))
        }
    }
}

impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp")
            .field("settings", &self.inner.settings)
            .field("publishing", &self.inner.publishing)
            .field("consuming", &self.inner.consuming)
            .finish()
    }
}

impl Link {
    async fn open(settings: &Settings, role: &str) -> Result<Self> {
        let runtime = lapin::runtime::default_runtime().map_err(|error| map(CONNECT, error))?;
        Self::connect(settings, role, runtime, None).await
    }

    /// A connection whose reading a gate holds back.
    pub(crate) async fn gated(settings: &Settings, role: &str, gate: &Gate) -> Result<Self> {
        Self::connect(settings, role, gate.runtime(), Some(gate.clone())).await
    }

    async fn connect<K: RuntimeKit + Clone + Send + Sync + 'static>(
        settings: &Settings,
        role: &str,
        runtime: Runtime<K>,
        gate: Option<Gate>,
    ) -> Result<Self> {
        let name = &settings.name;
        let properties =
            ConnectionProperties::default().with_connection_name(format!("{name} {role}").into());
        let connecting = Connection::connect_uri_with_config(
            settings.uri(),
            properties,
            settings.tls_config(),
            runtime,
        );
        let limit = settings.connect_timeout;
        let connection = match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected.map_err(|error| map(CONNECT, error)),
            Err(_) => Err(late(CONNECT, limit)),
        };
        let connection = connection.map_err(|error| {
            error
                .with("address", settings.address())
                .with("virtual_host", settings.virtual_host())
                .with("user", settings.user())
        })?;
        let fate = Arc::<Fate>::default();
        let events = connection.events_listener();
        let events = watch(events, Arc::clone(&fate), role.to_owned());
        Ok(Self {
            connection,
            fate,
            closed: AtomicBool::new(false),
            limit: settings.operation_timeout,
            named: Arc::clone(&settings.named),
            gate,
            largest: AtomicUsize::new(usize::MAX),
            _events: AbortOnDropHandle::new(tokio::spawn(events)),
        })
    }

    /// The most time for an answer.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// True once it was closed by this side.
    fn is_closed(&self) -> bool {
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
        tokio::select! {
            biased;
            answer = within(self.limit, operation, answer) => answer,
            () = self.fate.lost.cancelled() => Err(self.gone(operation)),
        }
    }

    /// A new channel.
    pub(crate) async fn channel(&self, operation: &'static str) -> Result<Channel> {
        if !self.is_connected() {
            return Err(self.gone(operation));
        }
        self.answer(operation, self.connection.create_channel())
            .await
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// True while an alarm of the broker keeps the client from writing.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// The error of an operation on a connection that is gone, with what is known about why.
    pub(crate) fn gone(&self, operation: &'static str) -> Error {
        if self.is_closed() {
            return Error::new(ErrorKind::Closed, operation, "the connection was closed");
        }
        let text = "the connection was lost";
        let error = Error::new(ErrorKind::Disconnected, operation, text).help("connect again");
        match self.fate.why.get() {
            Some(why) => {
                let cause = map(operation, why.clone());
                error.with("why", &cause).caused_by(cause)
            }
            None => error,
        }
    }

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

    /// Bytes that a payload may have, and that properties and headers may take in the one frame
    /// they have.
    pub(crate) fn limits(&self, payload: usize) -> Limits {
        let frame = self.connection.configuration().frame_max() as usize;
        Limits {
            payload: payload.min(self.largest.load(Ordering::Acquire)),
            headers: frame.saturating_sub(FRAME_OVERHEAD),
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
        match within(self.limit, "close", close).await {
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
            .field("connected", &self.is_connected())
            .field("blocked", &self.is_blocked())
            .finish_non_exhaustive()
    }
}

/// Tells of alarms, and keeps why the connection was lost.
async fn watch(events: impl Stream<Item = Event>, fate: Arc<Fate>, role: String) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(why) => {
                tracing::warn!(role, why, "the broker blocks this connection");
            }
            Event::ConnectionUnblocked => {
                tracing::info!(role, "the broker unblocks this connection");
            }
            // A soft error ends one channel, and is told where that channel is used.
            Event::Error(error) if !error.is_amqp_soft_error() => {
                tracing::warn!(role, %error, "the connection is lost");
                let _ = fate.why.set(error);
                fate.lost.cancel();
            }
            _ => {}
        }
    }
}

/// Frame header and end, class, weight, body size and property flags (AMQP 0-9-1, section 4.2.6).
const FRAME_OVERHEAD: usize = 8 + 14;
