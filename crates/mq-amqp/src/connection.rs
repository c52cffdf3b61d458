//! The broker as a whole: two connections, one for publishing and one for consuming.

mod events;
mod gate;
mod greeting;
mod link;
mod login;
mod recovery;
mod transport;
mod uplink;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures::future::join_all;
use mq_core::{
    Broker, Capabilities, ConsumePlan, Declaration, Deletion, Error, ErrorKind, Result,
    Subscription, flow::Flow, trace::Tracer,
};
use tracing::Instrument;

pub(crate) use self::{
    events::Events,
    gate::{CHUNK, Gate},
    greeting::Product,
    link::Link,
    login::PLACEHOLDER,
    recovery::is_refusal,
    uplink::Uplink,
};
pub use self::{
    events::{AmqpEvent, AmqpEvents, AmqpRole},
    recovery::Recovery,
};
use crate::{
    AmqpBuilder, AmqpConsumer, AmqpMetrics, AmqpNoAckConsumer, AmqpPublisher, AmqpUnconfirmed,
    capabilities,
    config::Settings,
    topology::{self, Delays},
};

/// A RabbitMQ broker, over two connections: a publisher that the broker blocks in an alarm does not
/// hold up acknowledgements. A clone shares them.
///
/// Dropping the last clone closes the connections; [`close`](Broker::close) waits for outcomes
/// first.
///
/// A lost connection comes back by itself, as [`Recovery`] has it: with what this client declared,
/// its consumers, and the publishes that had no answer, which are sent again with their ids. What is
/// called meanwhile waits, and ends as [`Disconnected`](ErrorKind::Disconnected) or
/// [`Timeout`](ErrorKind::Timeout) at its deadline. [`events`](Self::events) tells all of it.
#[derive(Clone)]
pub struct Amqp {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    publishing: Arc<Uplink>,
    consuming: Arc<Uplink>,
    publisher: AmqpPublisher,
    unconfirmed: AmqpUnconfirmed,
    /// The connections of consumers that acknowledge nothing.
    no_ack: Mutex<Vec<Weak<Link>>>,
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

    /// What happens to its connections and consumers from now on.
    ///
    /// Listening is not needed for anything to come back.
    pub fn events(&self) -> AmqpEvents {
        self.inner.settings.events.listen()
    }

    pub(crate) async fn open(mut settings: Settings) -> Result<Self> {
        // Those of another connection of the same builder are not this one's.
        settings.events = Events::new();
        let (publishing, consuming) = tokio::try_join!(
            Uplink::open(&settings, AmqpRole::Publish),
            Uplink::open(&settings, AmqpRole::Consume)
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

    /// The delay cascade of this virtual host, to be declared once before anyone delays.
    pub fn delays(&self) -> Delays {
        Delays::new(Arc::clone(&self.inner.consuming))
    }

    /// What was done since it connected, and what is held now. It takes a few loads, and waits for
    /// nothing.
    pub fn metrics(&self) -> AmqpMetrics {
        self.inner.settings.counters.snapshot()
    }

    pub(crate) fn consuming(&self) -> &Arc<Uplink> {
        &self.inner.consuming
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
            return Err(link::closed("consume").with("subscription", subscription));
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
        capabilities::of(self.inner.consuming.known().product())
    }

    /// Such as `RabbitMQ 4.3.6`, as the node says that it is connected to for consuming.
    fn product(&self) -> String {
        self.inner.consuming.known().product().to_string()
    }

    fn flow(&self) -> Flow {
        self.inner.settings.flow.clone()
    }

    fn tracer(&self) -> Tracer {
        self.inner.settings.tracer.clone()
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
        let uplink = Arc::clone(&self.inner.consuming);
        let (publisher, subscription) = (self.inner.publisher.clone(), subscription.clone());
        whole("consume", async move {
            AmqpConsumer::open(uplink, publisher, subscription, plan).await
        })
        .await
    }

    /// Creating a quorum queue, and so a queue with a home that is one, takes 2 s longer: a younger
    /// one can lose confirmed messages when its whole cluster is killed.
    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        let (uplink, what) = (Arc::clone(&self.inner.consuming), what.into());
        whole("declare", async move {
            let link = uplink.link("declare").await?;
            topology::declare(&link, what.clone()).await?;
            uplink.remember(what.into());
            Ok(())
        })
        .await
    }

    /// The settings of queues and exchanges are compared. AMQP has no way to look at bindings, so a
    /// subscription's filter is not.
    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        let (uplink, what) = (Arc::clone(&self.inner.consuming), what.into());
        whole("verify", async move {
            let link = uplink.link("verify").await?;
            topology::verify(&link, what).await
        })
        .await
    }

    /// Looking whether a queue is empty and unread, and deleting it, are two steps: a quorum queue
    /// knows no deletion with a condition. What a consumer holds that was cancelled, and whose channel
    /// is still open, is not seen.
    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        let (uplink, what) = (Arc::clone(&self.inner.consuming), what.into());
        whole("delete", async move {
            let link = uplink.link("delete").await?;
            let gone = what.what().clone();
            topology::delete(&link, what).await?;
            uplink.forget(&gone.into());
            Ok(())
        })
        .await
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
pub(crate) async fn whole<T: Send + 'static>(
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
