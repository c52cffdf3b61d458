//! The connection: a thread for what is published, one for each consumer, and one for questions.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use mq_core::{
    Broker, Capabilities, ConsumePlan, Declaration, Deletion, Error, ErrorKind, Result,
    Subscription, SubscriptionKind,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    capabilities::CAPABILITIES,
    config::LegacyBuilder,
    consumer::LegacyConsumer,
    error::{self, unsupported},
    publisher::{self, LegacyPublisher, LegacyUnconfirmed},
    sender,
    thread::{ClientThread, Failed, Threads},
};
use crate::topology::topic_name;

/// A connection to a cluster up to Kafka 3.9, by the requests that the oldest brokers know. A clone
/// shares it.
///
/// See the [module](crate::legacy) for what it can do, and what it cannot. Dropping the last clone
/// without [`close`](Broker::close) still sends what was enqueued, in the background, as long as the
/// runtime lives.
#[derive(Clone)]
pub struct LegacyKafka {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: LegacyBuilder,
    pub(super) threads: Arc<Threads>,
    /// For questions about topics.
    asking: tokio::sync::Mutex<ClientThread>,
    pub(super) outgoing: mpsc::Sender<sender::Outgoing>,
    /// The publishers' window, and how many KiB it has.
    pub(super) room: Arc<Semaphore>,
    pub(super) window: u32,
    pub(super) publishing_closed: AtomicBool,
    pub(super) closing: CancellationToken,
    /// The queues that have their consumer, and what stops it.
    reading: Mutex<HashMap<Arc<str>, CancellationToken>>,
}

impl LegacyKafka {
    /// Connects with the defaults named at [`LegacyBuilder`].
    ///
    /// `servers` are `host:port`, separated by commas, with or without `kafka://` before them.
    ///
    /// # Errors
    /// As [`LegacyBuilder::connect`].
    ///
    /// # Cancel safety
    /// Dropped, nothing stays open once the call that is under way has ended.
    pub async fn connect(servers: impl Into<String>) -> Result<Self> {
        Self::builder(servers).connect().await
    }

    /// A connection with settings of its own.
    pub fn builder(servers: impl Into<String>) -> LegacyBuilder {
        LegacyBuilder::new(servers)
    }

    pub(super) async fn open(config: LegacyBuilder) -> Result<Self> {
        let threads = Threads::new(&config);
        let mut asking = ClientThread::new(&threads);
        let found = asking.call(config.request_timeout, |_| Ok(())).await;
        found.map_err(|failed| error::map("connect", failed).with("servers", &config.servers))?;
        let window = publisher::room(config.window);
        let (outgoing, enqueued) = mpsc::channel(window as usize);
        // With a bound of its own for what hangs: consumers that hang keep no publisher from going on.
        let sending = ClientThread::new(&Threads::new(&config));
        tokio::spawn(sender::run(sending, enqueued, config.request_timeout));
        let inner = Inner {
            config,
            threads,
            asking: tokio::sync::Mutex::new(asking),
            outgoing,
            room: Arc::new(Semaphore::new(window as usize)),
            window,
            publishing_closed: AtomicBool::new(false),
            closing: CancellationToken::new(),
            reading: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    /// Waits until everything that was enqueued has its outcome.
    pub(super) async fn flush(&self) -> Result<()> {
        let deadline = self.config.publish_timeout + self.config.request_timeout * 2;
        publisher::flush(&self.room, self.window, deadline).await
    }

    /// The partitions of a topic; `None` if it is not there.
    pub(super) async fn partitions(
        &self,
        operation: &'static str,
        topic: &Arc<str>,
    ) -> Result<Option<usize>> {
        topic_name(operation, topic)?;
        let name = Arc::clone(topic);
        let Ok(mut asking) = timeout(self.config.request_timeout, self.asking.lock()).await else {
            return Err(error::map(operation, Failed::Hung).with("topic", topic));
        };
        let asked = asking.call(self.config.request_timeout, move |client| {
            client.load_metadata_all()?;
            Ok(client.topics().partitions(&name).map(|found| found.len()))
        });
        let found = asked.await;
        found.map_err(|failed| error::map(operation, failed).with("topic", topic))
    }

    /// Takes a queue for one consumer. One that was dropped before may still have its last commit to
    /// make, which is waited for.
    pub(super) async fn take(
        self: &Arc<Self>,
        queue: &Arc<str>,
        stop: &CancellationToken,
    ) -> Result<Reading> {
        let late = Instant::now() + self.config.request_timeout * 2;
        while !self.try_take(queue, stop, Instant::now() >= late)? {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Reading {
            inner: Arc::clone(self),
            queue: Arc::clone(queue),
        })
    }

    fn try_take(&self, queue: &Arc<str>, stop: &CancellationToken, late: bool) -> Result<bool> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        match reading.get(queue) {
            None => {
                reading.insert(Arc::clone(queue), stop.clone());
                Ok(true)
            }
            Some(before) if before.is_cancelled() && !late => Ok(false),
            Some(_) => Err(Error::new(
                ErrorKind::InUse,
                "consume",
                "this connection has a consumer of the queue, and with this client there is one",
            )
            .with("queue", queue)),
        }
    }

    /// The queue that is declared, verified or deleted; nothing else is one here.
    async fn found(&self, operation: &'static str, what: &Declaration) -> Result<bool> {
        let name = match what {
            Declaration::Destination(to) => to.name(),
            Declaration::Subscription(from) => match from.kind() {
                SubscriptionKind::Queue { queue } => queue,
                _ => {
                    return Err(unsupported(
                        operation,
                        "the legacy client reads queues, and has no subscriptions of topics",
                    )
                    .with("subscription", from));
                }
            },
        };
        self.partitions(operation, name)
            .await
            .map(|found| found.is_some())
    }
}

/// That a queue has its consumer.
pub(super) struct Reading {
    inner: Arc<Inner>,
    queue: Arc<str>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let reading = self.inner.reading.lock();
        let mut reading = reading.unwrap_or_else(PoisonError::into_inner);
        reading.remove(&self.queue);
    }
}

impl Broker for LegacyKafka {
    type Publisher = LegacyPublisher;
    type Unconfirmed = LegacyUnconfirmed;
    type Consumer = LegacyConsumer;

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn product(&self) -> String {
        "Apache Kafka up to 3.9 (legacy client)".into()
    }

    fn publisher(&self) -> LegacyPublisher {
        LegacyPublisher::new(Arc::clone(&self.inner))
    }

    fn unconfirmed(&self) -> LegacyUnconfirmed {
        LegacyUnconfirmed::new(Arc::clone(&self.inner))
    }

    async fn consumer(
        &self,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<LegacyConsumer> {
        LegacyConsumer::open(&self.inner, subscription, &plan).await
    }

    /// Only looks: the client has no request that creates anything.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) if it is not there.
    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        let what = what.into();
        match self.inner.found("declare", &what).await? {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Unsupported,
                "declare",
                "the topic is not there, and the legacy client cannot create it",
            )
            .with("topic", named(&what))
            .help("create it with the cluster's own tools, or by `mq_kafka::Kafka`")),
        }
    }

    /// Checks that the topic is there. Its settings cannot be asked for.
    fn verify(
        &self,
        what: impl Into<Declaration> + Send,
    ) -> impl Future<Output = Result<()>> + Send {
        let what = what.into();
        async move {
            match self.inner.found("verify", &what).await? {
                true => Ok(()),
                false => Err(
                    Error::new(ErrorKind::NotFound, "verify", "the topic is not there")
                        .with("topic", named(&what)),
                ),
            }
        }
    }

    /// Only looks: the client has no request that deletes anything.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) if it is there.
    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        let what = what.into();
        match self.inner.found("delete", what.what()).await? {
            false => Ok(()),
            true => Err(Error::new(
                ErrorKind::Unsupported,
                "delete",
                "the legacy client cannot delete anything",
            )
            .with("topic", named(what.what()))
            .help("delete it with the cluster's own tools, or by `mq_kafka::Kafka`")),
        }
    }

    async fn close(&self) -> Result<()> {
        self.inner.publishing_closed.store(true, SeqCst);
        self.inner.closing.cancel();
        self.inner.flush().await
    }
}

fn named(what: &Declaration) -> String {
    match what {
        Declaration::Destination(to) => to.to_string(),
        Declaration::Subscription(from) => from.to_string(),
    }
}

impl fmt::Debug for LegacyKafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyKafka")
            .field("servers", &self.inner.config.servers)
            .finish_non_exhaustive()
    }
}
