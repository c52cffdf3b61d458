//! The broker as a whole: two connections, one for publishing and one for consuming.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use mq_core::{
    Broker, Capabilities, ConsumePlan, Declaration, Error, ErrorKind, Result, Subscription,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    AmqpBuilder, AmqpConsumer, AmqpPublisher, AmqpUnconfirmed, capabilities,
    config::Settings,
    error::{CONNECT, late, map, within},
    headers::Limits,
    topology,
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
}

/// One connection.
pub(crate) struct Link {
    connection: Connection,
    fate: Arc<Fate>,
    closed: AtomicBool,
    limit: Duration,
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
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
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

    fn publisher(&self) -> AmqpPublisher {
        self.inner.publisher.clone()
    }

    fn unconfirmed(&self) -> AmqpUnconfirmed {
        self.inner.unconfirmed.clone()
    }

    /// # Errors
    /// Beside those of [`Broker::consumer`]: [`Config`](ErrorKind::Config) if the plan's attempts
    /// go beyond the delivery limit of 20, since the broker would dead-letter the message first.
    async fn consumer(
        &self,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<AmqpConsumer> {
        let inner = &self.inner;
        AmqpConsumer::open(
            &inner.consuming,
            inner.publisher.clone(),
            subscription,
            plan,
        )
        .await
    }

    /// Creating a quorum queue takes 2 s longer: a younger one can lose confirmed messages when its
    /// whole cluster is killed.
    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        topology::declare(&self.inner.consuming, what.into()).await
    }

    /// The settings of queues and exchanges are compared. AMQP has no way to look at bindings, so a
    /// subscription's filter is not.
    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        topology::verify(&self.inner.consuming, what.into()).await
    }

    async fn close(&self) -> Result<()> {
        let flushed = mq_core::Publisher::close(&self.inner.publisher).await;
        let (publishing, consuming) =
            tokio::join!(self.inner.publishing.close(), self.inner.consuming.close());
        flushed.and(publishing).and(consuming)
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
        let name = settings.name.as_deref().unwrap_or("mq-amqp");
        let properties =
            ConnectionProperties::default().with_connection_name(format!("{name} {role}").into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| map(CONNECT, error))?;
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
            _events: AbortOnDropHandle::new(tokio::spawn(events)),
        })
    }

    /// The most time for an answer.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
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
        if self.closed.load(Ordering::Acquire) {
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

    /// Bytes that properties and headers may take in the one frame they have.
    pub(crate) fn limits(&self, payload: usize) -> Limits {
        let frame = self.connection.configuration().frame_max() as usize;
        Limits {
            payload,
            headers: frame.saturating_sub(FRAME_OVERHEAD),
        }
    }

    async fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) || !self.is_connected() {
            return Ok(());
        }
        within(
            self.limit,
            "close",
            self.connection
                .close(200, "closed by the application".into()),
        )
        .await
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
