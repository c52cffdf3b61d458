//! The conformance suite on the legacy client, on a cluster up to Kafka 3.9 named by
//! `MQ_KAFKA_LEGACY_SERVERS`.

#[path = "legacy/cluster.rs"]
mod cluster;

use std::{process::ExitCode, time::Duration};

use cluster::older_cluster;
use mq_kafka::{
    Kafka, KafkaBuilder,
    core::{
        Broker, Capabilities, ConsumePlan, DeadLetters, Declaration, Deletion, Error, ErrorKind,
        Result, Subscription, SubscriptionKind,
    },
    legacy::{LegacyBuilder, LegacyConsumer, LegacyKafka, LegacyPublisher, LegacyUnconfirmed},
};
use mq_testkit::{
    Fixture, Hook, Link, Suite,
    proxy::{Direction, Fault, Proxy},
};

/// The legacy client, with the default client for what it cannot do beside it: create and delete.
#[derive(Clone)]
struct Beside {
    legacy: LegacyKafka,
    topology: Kafka,
}

impl Broker for Beside {
    type Publisher = LegacyPublisher;
    type Unconfirmed = LegacyUnconfirmed;
    type Consumer = LegacyConsumer;

    fn capabilities(&self) -> Capabilities {
        self.legacy.capabilities()
    }

    fn product(&self) -> String {
        self.legacy.product()
    }

    fn publisher(&self) -> LegacyPublisher {
        self.legacy.publisher()
    }

    fn unconfirmed(&self) -> LegacyUnconfirmed {
        self.legacy.unconfirmed()
    }

    /// There are no dead letters, which the client wants to be said.
    async fn consumer(
        &self,
        subscription: &Subscription,
        mut plan: ConsumePlan,
    ) -> Result<LegacyConsumer> {
        if plan.dead_letters == DeadLetters::Default {
            plan.dead_letters = DeadLetters::None;
        }
        self.legacy.consumer(subscription, plan).await
    }

    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        match what.into() {
            Declaration::Subscription(view) if !is_queue(&view) => self.legacy.declare(view).await,
            what => self.topology.declare(what).await,
        }
    }

    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.topology.verify(what).await
    }

    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        self.topology.delete(what).await
    }

    async fn close(&self) -> Result<()> {
        self.legacy.close().await?;
        self.topology.close().await
    }
}

fn is_queue(subscription: &Subscription) -> bool {
    matches!(subscription.kind(), SubscriptionKind::Queue { .. })
}

struct Servers(String);

async fn beside(legacy: LegacyBuilder, topology: KafkaBuilder) -> Result<Beside> {
    Ok(Beside {
        legacy: legacy.read_uncommitted().connect().await?,
        topology: topology.partitions(4).connect().await?,
    })
}

impl Fixture for Servers {
    type Broker = Beside;

    async fn connect(&self) -> Result<Beside> {
        let legacy = LegacyKafka::builder(&self.0).request_timeout(SLOW * 2);
        beside(legacy, Kafka::builder(&self.0).connect_timeout(SLOW)).await
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn quiet(&self) -> Duration {
        // Longer than a fetch waits for records.
        Duration::from_secs(1)
    }

    /// No queue that refuses: the broker's code for it is one that the client does not know.
    fn hooks(&self) -> &'static [Hook] {
        &[Hook::Link]
    }

    async fn connect_by_link(&self) -> Result<(Beside, Box<dyn Link>)> {
        let proxy = Proxy::start_kafka(&self.0).await.map_err(unmade)?;
        let legacy = LegacyKafka::builder(proxy.servers())
            .request_timeout(DEADLINE)
            .publish_timeout(DEADLINE)
            .unreachable_after(DEADLINE);
        let topology = Kafka::builder(proxy.servers())
            .connect_timeout(DEADLINE / 2)
            .publish_timeout(DEADLINE);
        let client = beside(legacy, topology).await?;
        Ok((client, Box::new(ByProxy(proxy))))
    }
}

struct ByProxy(Proxy);

impl Link for ByProxy {
    fn freeze(&self) {
        self.0.set(Direction::Both, Fault::BlackHole);
    }

    fn cut(&self) {
        self.0.set(Direction::Both, Fault::Refuse);
        self.0.cut();
    }
}

const SLOW: Duration = Duration::from_secs(10);
/// Well below the patience of the cases.
const DEADLINE: Duration = Duration::from_secs(6);

fn unmade(why: impl ToString) -> Error {
    Error::new(ErrorKind::Connect, "fixture", why.to_string())
}

fn main() -> ExitCode {
    let address = older_cluster();
    mq_testkit::run([Suite::new("legacy", "mq-kafka's legacy client", address)
        .deadline(Duration::from_secs(120))
        .conformance(Servers, include_str!("legacy_conformance.expected"))])
}
