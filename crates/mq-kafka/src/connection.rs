//! The connection: one krafka handle for publishing and administration, one more per consumer.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use krafka::{
    CloseOptions,
    admin::{AdminClient, DescribeFeaturesOptions},
    producer::{Acks, Producer},
};
use mq_core::{
    Broker, Capabilities, ConsumePlan, Declaration, Error, ErrorKind, Result, Subscription,
    flow::Flow,
};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{
    capabilities::CAPABILITIES,
    config::{GroupProtocol, KafkaBuilder, LINGER},
    consumer::KafkaConsumer,
    error::{self, Stage},
    publisher::{KafkaPublisher, KafkaUnconfirmed},
    topology::{self, Topics},
};

/// A connection to a Kafka cluster. A clone shares it.
///
/// Dropping the last clone without [`close`](Broker::close) still sends what was enqueued, in the
/// background, as long as the runtime lives.
#[derive(Clone)]
pub struct Kafka {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: KafkaBuilder,
    pub(crate) admin: AdminClient,
    pub(crate) producer: Producer,
    /// These two are made when they are first used: most programs never do.
    leader_only: OnceCell<Producer>,
    unconfirmed: OnceCell<Producer>,
    kafka: krafka::Kafka,
    pub(crate) topics: Topics,
    product: String,
    pub(crate) protocol: GroupProtocol,
    /// Set by the publisher's `close`: clones refuse further messages.
    pub(crate) publishing_closed: AtomicBool,
    /// Cancelled by the connection's `close`: consumers end.
    pub(crate) closing: CancellationToken,
}

impl Kafka {
    /// Connects with the defaults named at [`KafkaBuilder`]: no TLS, no password.
    ///
    /// `servers` are `host:port`, separated by commas, with or without `kafka://` before them; a
    /// few of the cluster's brokers are enough.
    ///
    /// # Errors
    /// As [`KafkaBuilder::connect`].
    ///
    /// # Cancel safety
    /// Dropped, nothing stays open.
    pub async fn connect(servers: impl Into<String>) -> Result<Self> {
        Self::builder(servers).connect().await
    }

    /// A connection with settings of its own.
    pub fn builder(servers: impl Into<String>) -> KafkaBuilder {
        KafkaBuilder::new(servers)
    }

    pub(crate) async fn open(config: KafkaBuilder) -> Result<Self> {
        let config = config.check()?;
        // Each step is bounded by krafka; the whole is bounded here.
        let deadline = config.connect_timeout + config.request_timeout();
        let inner = tokio::time::timeout(deadline, Inner::open(config.clone()))
            .await
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Timeout,
                    "connect",
                    "no answer in time",
                ))
            })
            .map_err(|error| error.with("servers", &config.servers))?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    async fn open(config: KafkaBuilder) -> Result<Self> {
        let kafka = handle(&config).await?;
        let admin = kafka.admin().default_api_timeout(config.request_timeout());
        let (product, protocol) = product(&admin, config.group_protocol).await?;
        let producer = build(&kafka, &config, Acks::All, "connect").await?;
        Ok(Self {
            config,
            admin,
            producer,
            leader_only: OnceCell::new(),
            unconfirmed: OnceCell::new(),
            kafka,
            topics: Topics::default(),
            product,
            protocol,
            publishing_closed: AtomicBool::new(false),
            closing: CancellationToken::new(),
        })
    }

    /// The producer that asks for the leader's answer alone.
    pub(crate) async fn leader_only(&self) -> Result<&Producer> {
        let build = || build(&self.kafka, &self.config, Acks::Leader, "publish");
        self.leader_only.get_or_try_init(build).await
    }

    /// The producers that ask for an answer, as far as they were ever used.
    pub(crate) fn used_confirmed(&self) -> impl Iterator<Item = &Producer> {
        std::iter::once(&self.producer).chain(self.leader_only.get())
    }

    /// The producer that asks for no answer.
    pub(crate) async fn unconfirmed(&self) -> Result<&Producer> {
        let build = || build(&self.kafka, &self.config, Acks::None, "hand over");
        self.unconfirmed.get_or_try_init(build).await
    }

    /// The producer that asks for no answer, if it was ever used.
    pub(crate) fn used_unconfirmed(&self) -> Option<&Producer> {
        self.unconfirmed.get()
    }

    async fn close(&self) -> Result<()> {
        self.publishing_closed.store(true, Ordering::SeqCst);
        self.closing.cancel();
        let options = CloseOptions::new().timeout(self.config.publish_timeout);
        let mut closed = Ok(());
        for producer in self.used_confirmed().chain(self.used_unconfirmed()) {
            let result = producer.close_with(options).await;
            closed = closed.and(result);
        }
        closed.map_err(|e| error::map("close", Stage::Before, e))
    }
}

/// A producer of a connection. Only with the answer of all in-sync replicas can the broker tell a
/// record that comes twice (idempotence).
async fn build(
    kafka: &krafka::Kafka,
    config: &KafkaBuilder,
    acks: Acks,
    operation: &'static str,
) -> Result<Producer> {
    kafka
        .producer()
        .acks(acks)
        .idempotent(acks == Acks::All)
        .batch_size(BATCH)
        .linger(LINGER)
        .buffer_memory(config.window)
        .max_block(config.publish_timeout)
        .delivery_timeout(config.publish_timeout)
        .metrics_push(false)
        .build()
        .await
        .map_err(|e| error::map(operation, Stage::Before, e))
}

/// A connected krafka handle: a pool of its own, so that a long poll of one consumer never stands
/// before another consumer's or a publisher's requests.
pub(crate) async fn handle(config: &KafkaBuilder) -> Result<krafka::Kafka> {
    let mut builder = krafka::Kafka::builder(&config.servers)
        .client_id(&config.name)
        .connect_timeout(config.connect_timeout)
        .request_timeout(config.request_timeout())
        .allow_auto_create_topics(false);
    if let Some(security) = config.security() {
        builder = builder.security(security);
    }
    builder
        .connect()
        .await
        .map_err(|e| error::map("connect", Stage::Before, e))
}

/// The product and the group protocol. Kafka tells no version, only the levels of its features,
/// which releases raise.
async fn product(
    admin: &AdminClient,
    wanted: Option<GroupProtocol>,
) -> Result<(String, GroupProtocol)> {
    let features = admin
        .describe_features(DescribeFeaturesOptions::default())
        .await
        .map_err(|e| error::map("connect", Stage::Before, e))?;
    let level = |name: &str| {
        let found = features
            .finalized
            .iter()
            .find(|feature| feature.name == name);
        found.map_or(0, |feature| feature.max_version_level)
    };
    let (protocol, name) = match (wanted, level("group.version")) {
        (Some(GroupProtocol::Classic), _) | (None, ..=0) => (GroupProtocol::Classic, "classic"),
        (Some(GroupProtocol::Consumer) | None, _) => (GroupProtocol::Consumer, "consumer"),
    };
    let version = level("metadata.version");
    let product = format!("Apache Kafka (metadata.version {version}, group protocol {name})");
    Ok((product, protocol))
}

impl Broker for Kafka {
    type Publisher = KafkaPublisher;
    type Unconfirmed = KafkaUnconfirmed;
    type Consumer = KafkaConsumer;

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn product(&self) -> String {
        self.inner.product.clone()
    }

    fn flow(&self) -> Flow {
        self.inner.config.flow.clone()
    }

    fn publisher(&self) -> KafkaPublisher {
        KafkaPublisher::new(Arc::clone(&self.inner))
    }

    fn unconfirmed(&self) -> KafkaUnconfirmed {
        KafkaUnconfirmed::new(Arc::clone(&self.inner))
    }

    async fn consumer(
        &self,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<KafkaConsumer> {
        KafkaConsumer::open(Arc::clone(&self.inner), subscription, plan).await
    }

    fn declare(
        &self,
        what: impl Into<Declaration> + Send,
    ) -> impl Future<Output = Result<()>> + Send {
        let what = what.into();
        async move { topology::declare(&self.inner, &what).await }
    }

    fn verify(
        &self,
        what: impl Into<Declaration> + Send,
    ) -> impl Future<Output = Result<()>> + Send {
        let what = what.into();
        async move { topology::verify(&self.inner, &what).await }
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("servers", &self.inner.config.servers)
            .field("product", &self.inner.product)
            .finish_non_exhaustive()
    }
}

/// Bytes of a batch: krafka has one batch per partition on its way, so this over the round trip is
/// what a partition can take.
const BATCH: usize = 512 * 1024;
