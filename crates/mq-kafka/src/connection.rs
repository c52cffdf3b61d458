//! The connection: one krafka handle for publishing and administration, one more per consumer.

use std::{
    fmt,
    future::Future,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use krafka::{
    CloseOptions, KrafkaError,
    admin::{AdminClient, DescribeFeaturesOptions},
    producer::{Acks, Producer, TransactionalProducer},
};
use mq_core::{
    Broker, Capabilities, ConsumePlan, Declaration, Deletion, Error, ErrorKind, Result,
    Subscription, flow::Flow, trace::Tracer,
};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{
    capabilities::{CAPABILITIES, SHARED},
    config::{GroupProtocol, KafkaBuilder},
    consumer::{ConsumerProgress, Events, KafkaConsumer, KafkaEvents, KafkaReader, progress_of},
    error::{self, Stage},
    metrics::KafkaMetrics,
    metrics::Watch,
    publisher::{KafkaPublisher, KafkaUnconfirmed, Line, build},
    settle::Ledger,
    topology::{self, At, Groups, Topics},
    transaction::Brokers,
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
    pub(crate) watch: Watch,
    pub(crate) admin: AdminClient,
    in_sync: Arc<Line>,
    /// These two are made when they are first used: most programs never do.
    leader_only: OnceCell<Arc<Line>>,
    unconfirmed: OnceCell<Producer>,
    kafka: krafka::Kafka,
    pub(crate) topics: Topics,
    product: String,
    /// Where consumers tell what happens to them.
    pub(crate) events: Events,
    /// The consumers that are open, as far as they were not dropped, each with what it reads.
    ledgers: Mutex<Vec<Vec<Weak<Ledger>>>>,
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

    /// What was done since it connected, and what is held now. It takes a few loads, and waits for
    /// nothing.
    pub fn metrics(&self) -> KafkaMetrics {
        self.inner.watch.counters.snapshot()
    }

    /// How consumers of this connection share the partitions of their groups, as it was set by
    /// [`KafkaBuilder::group_protocol`].
    pub fn group_protocol(&self) -> GroupProtocol {
        self.inner.config.group_protocol
    }

    /// What happens to the consumers of this connection from now on: what their groups give and
    /// take, and what stands still. A [`Worker`](mq_core::Worker)'s consumer is one of them.
    pub fn events(&self) -> KafkaEvents {
        self.inner.events.watch()
    }

    /// How far each open consumer of this connection is, in the order of their opening: lag and
    /// oldest message of each partition. It asks nobody, and waits for nothing.
    pub fn progress(&self) -> Vec<ConsumerProgress> {
        let ledgers = self.inner.ledgers.lock();
        let ledgers = ledgers.unwrap_or_else(PoisonError::into_inner);
        let open = ledgers.iter().filter_map(|consumer| {
            let logs: Option<Vec<Arc<Ledger>>> = consumer.iter().map(Weak::upgrade).collect();
            let logs = logs?;
            let (source, _) = logs.split_first()?;
            let ended = logs.iter().any(|ledger| ledger.has_ended());
            let logs = logs.iter().map(|ledger| &**ledger);
            (!ended).then(|| progress_of(source.source_name(), logs))
        });
        open.collect()
    }

    /// Declares a queue or a durable subscription, as [`declare`](Broker::declare) does, that starts
    /// at this place instead: it is committed on every partition before this returns.
    ///
    /// Without it a queue starts at its beginning, and a durable subscription where its topic ends
    /// when it is declared. One that has a place already keeps it. Partitions that are added later
    /// are read from their beginning.
    ///
    /// # Errors
    /// As [`declare`](Broker::declare); [`Config`](ErrorKind::Config) for an ephemeral subscription
    /// and for an offset or partition that is not there.
    ///
    /// # Cancel safety
    /// Dropped, the subscription may be declared without a place, or with one; calling it again
    /// goes on from there.
    pub async fn declare_from(&self, subscription: &Subscription, start: At) -> Result<()> {
        topology::declare_from(&self.inner, subscription, &start).await
    }

    /// Reads a window of a queue or topic again, by nobody's group: from one place to another,
    /// partition by partition. The end is not part of it.
    ///
    /// ```no_run
    /// # async fn replay(kafka: mq_kafka::Kafka) -> mq_kafka::core::Result<()> {
    /// use std::time::{Duration, SystemTime};
    ///
    /// use mq_kafka::At;
    ///
    /// let hour_ago = SystemTime::now() - Duration::from_hours(1);
    /// let mut reader = kafka.reader("orders", At::Time(hour_ago)..At::LiveTail).await?;
    /// while let Some(order) = reader.next().await? {
    ///     println!("{:?}", order.position());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Config`](ErrorKind::Config) for an offset or partition
    /// that is not there; those of a connection.
    ///
    /// # Cancel safety
    /// Dropped, nothing stays open.
    pub async fn reader(&self, topic: &str, window: Range<At>) -> Result<KafkaReader> {
        KafkaReader::open(Arc::clone(&self.inner), topic, window).await
    }

    /// The groups of the cluster.
    pub fn groups(&self) -> Groups {
        Groups::new(Arc::clone(&self.inner))
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
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
        let product = product(&admin, config.group_protocol).await?;
        let in_sync = Line::open(&kafka, &config, Acks::All, "connect").await?;
        Ok(Self {
            watch: config.watch(),
            config,
            admin,
            in_sync,
            leader_only: OnceCell::new(),
            unconfirmed: OnceCell::new(),
            kafka,
            topics: Topics::default(),
            product,
            events: Events::new(),
            ledgers: Mutex::default(),
            publishing_closed: AtomicBool::new(false),
            closing: CancellationToken::new(),
        })
    }

    /// Counts a consumer among those whose progress can be asked for.
    pub(crate) fn watch_over<'a>(&self, logs: impl Iterator<Item = &'a Arc<Ledger>>) {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        ledgers.retain(|consumer| consumer.iter().all(|log| log.strong_count() > 0));
        ledgers.push(logs.map(Arc::downgrade).collect());
    }

    /// The producers that ask for the answer of all replicas in sync.
    pub(crate) fn in_sync(&self) -> &Arc<Line> {
        &self.in_sync
    }

    /// Those that ask for the leader's answer alone.
    pub(crate) async fn leader_only(&self) -> Result<&Arc<Line>> {
        let open = || Line::open(&self.kafka, &self.config, Acks::Leader, "publish");
        self.leader_only.get_or_try_init(open).await
    }

    /// The same, if they were ever used.
    pub(crate) fn used_leader_only(&self) -> Option<&Arc<Line>> {
        self.leader_only.get()
    }

    /// All that ask for an answer, as far as they were ever used.
    pub(crate) fn used_confirmed(&self) -> impl Iterator<Item = &Arc<Line>> {
        std::iter::once(&self.in_sync).chain(self.leader_only.get())
    }

    /// The producer that asks for no answer.
    pub(crate) async fn unconfirmed(&self) -> Result<&Producer> {
        let build = || build(&self.kafka, &self.config, Acks::None);
        let built = self.unconfirmed.get_or_try_init(build).await;
        built.map_err(|e| error::map("hand over", Stage::Before, e))
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
        for line in self.used_confirmed() {
            closed = closed.and(line.close(options).await);
        }
        if let Some(producer) = self.used_unconfirmed() {
            closed = closed.and(producer.close_with(options).await);
        }
        closed.map_err(|e| error::map("close", Stage::Before, e))
    }
}

/// A connected krafka handle: a pool of its own, so that a long poll of one consumer never stands
/// before another consumer's or a publisher's requests.
pub(crate) async fn handle(config: &KafkaBuilder) -> Result<krafka::Kafka> {
    let connected = handle_of(config).await;
    connected.map_err(|e| error::map("connect", Stage::Before, e))
}

pub(crate) async fn handle_of(config: &KafkaBuilder) -> Result<krafka::Kafka, KrafkaError> {
    let mut builder = krafka::Kafka::builder(&config.servers)
        .client_id(&config.name)
        .connect_timeout(config.connect_timeout)
        .request_timeout(config.request_timeout())
        .allow_auto_create_topics(false);
    if let Some(security) = config.security() {
        builder = builder.security(security);
    }
    builder.connect().await
}

/// What is known of the product. Kafka tells no version, only the levels of its features, which
/// releases raise. Fails where the cluster has not the group protocol that was asked for.
async fn product(admin: &AdminClient, protocol: GroupProtocol) -> Result<String> {
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
    check_protocol(protocol, level("group.version"), level("share.version"))?;
    let (version, name) = (level("metadata.version"), protocol.name());
    Ok(format!(
        "Apache Kafka (metadata.version {version}, group protocol {name})"
    ))
}

/// Fails where a cluster of these feature levels has not the group protocol that was asked for.
fn check_protocol(protocol: GroupProtocol, groups: i16, shared: i16) -> Result<()> {
    if protocol == GroupProtocol::Consumer && groups < 1 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "connect",
            "this cluster does not have the group protocol `consumer` (KIP-848)",
        )
        .with("group.version", groups)
        .help("take GroupProtocol::Classic, or raise the cluster's feature group.version to 1"));
    }
    if protocol == GroupProtocol::Share && shared < 1 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "connect",
            "this cluster does not have share groups (KIP-932)",
        )
        .with("share.version", shared)
        .help(
            "take another GroupProtocol, or Kafka 4.2 or later with its feature share.version at 1",
        ));
    }
    Ok(())
}

impl Broker for Kafka {
    type Publisher = KafkaPublisher;
    type Unconfirmed = KafkaUnconfirmed;
    type Consumer = KafkaConsumer;

    fn capabilities(&self) -> Capabilities {
        match self.inner.config.group_protocol {
            GroupProtocol::Share => SHARED,
            GroupProtocol::Classic | GroupProtocol::Consumer => CAPABILITIES,
        }
    }

    fn product(&self) -> String {
        self.inner.product.clone()
    }

    fn flow(&self) -> Flow {
        self.inner.watch.flow.clone()
    }

    fn tracer(&self) -> Tracer {
        self.inner.watch.tracer.clone()
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

    /// A durable subscription is a group, and so is the reader of a queue: they hold what lies behind
    /// their committed offsets, also what a filter would leave out, and the marks that end
    /// transactions. A topic goes with its records; Kafka does not tell who reads one without a
    /// group, as an ephemeral subscription does.
    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        topology::delete(&self.inner, &what.into()).await
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

/// A producer that writes in transactions, over a handle of its own, and that handle's view of the brokers. Its predecessor under
/// this id is fenced, and what that left open is aborted, before this returns.
pub(crate) async fn transactional(
    config: &KafkaBuilder,
    id: &str,
    timeout: Duration,
) -> Result<(TransactionalProducer, Brokers), KrafkaError> {
    let mut config = config.clone();
    let max_block = config.publish_timeout.min(timeout * 2 / 3);
    // What is not stored by then is aborted by us, before the broker does it: that would fence us. An abort after half of the time
    // waits for no more than that again.
    config.publish_timeout = config.publish_timeout.min(timeout / 3);
    // And what a request may take fits into that.
    config.linger = config.linger.min(config.publish_timeout / 2);
    config.connect_timeout = config.connect_timeout.min(config.request_timeout());
    let kafka = handle_of(&config).await?;
    let brokers = Brokers::new(kafka.admin(), timeout, config.unreachable_after);
    let producer = kafka
        .producer()
        .batch_size(config.batch_size())
        .linger(config.linger)
        .compression(config.compression.setting())
        .buffer_memory(config.window)
        .max_block(max_block)
        .delivery_timeout(config.publish_timeout)
        .transaction_timeout(timeout)
        .metrics_push(false)
        .build_transactional(id);
    let producer = brokers.looked_at(producer).await?;
    Ok((producer, brokers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_without_the_protocol_is_refused_with_what_to_do() {
        use GroupProtocol::{Classic, Consumer, Share};
        for (protocol, groups, shared) in [(Classic, 0, 0), (Consumer, 1, 0), (Share, 0, 1)] {
            assert!(
                check_protocol(protocol, groups, shared).is_ok(),
                "{protocol:?}"
            );
        }
        for (protocol, named) in [(Consumer, "group.version"), (Share, "share.version")] {
            let error = check_protocol(protocol, 0, 0).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.context(named), Some("0"));
            assert!(format!("{error:?}").contains("Kafka") || protocol == Consumer);
        }
    }
}
