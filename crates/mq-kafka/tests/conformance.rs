//! The conformance suite on a running Kafka, named by `MQ_KAFKA_SERVERS`, under each protocol of groups. Where the cluster does
//! not serve one, that it is refused is all there is of its suite.

#![allow(clippy::expect_used, reason = "helpers of tests that may panic")]

mod support;

use std::{process::ExitCode, time::Duration};

use mq_kafka::{
    GroupProtocol, Kafka,
    core::{Destination, Error, ErrorKind, Result},
};
use mq_testkit::{
    Fixture, Hook, Link, Suite, broker_address,
    proxy::{Direction, Fault, Proxy},
};
use support::{
    Bare,
    release::{is_served, kip_848_is_refused, share_groups_are_refused},
};

struct Servers {
    address: String,
    protocol: GroupProtocol,
}

fn classic(address: String) -> Servers {
    let protocol = GroupProtocol::Classic;
    Servers { address, protocol }
}

fn kip_848(address: String) -> Servers {
    let protocol = GroupProtocol::Consumer;
    Servers { address, protocol }
}

fn share(address: String) -> Servers {
    let protocol = GroupProtocol::Share;
    Servers { address, protocol }
}

impl Fixture for Servers {
    type Broker = Kafka;

    async fn connect(&self) -> Result<Kafka> {
        // A broker that is busy with many copies of the suite is slow, and that is no failure.
        let builder = Kafka::builder(&self.address)
            .group_protocol(self.protocol)
            .delays([Duration::from_secs(1)])
            .connect_timeout(SLOW);
        let builder = match self.protocol {
            // One, as it is without a word.
            GroupProtocol::Share => builder,
            // Few: each case makes topics of its own, which stay on the broker.
            _ => builder.partitions(4),
        };
        builder.connect().await
    }

    /// Under KIP-848 a member that joins waits for two heartbeats of the group, 5 s each unless the
    /// broker is told otherwise, and the first of four waits for all of them.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    fn quiet(&self) -> Duration {
        // Longer than a fetch waits for records.
        Duration::from_secs(1)
    }

    fn hooks(&self) -> &'static [Hook] {
        match self.protocol {
            // The proxy does not know the version of their requests that takes a limit of records.
            GroupProtocol::Share => &[Hook::RefusingQueue],
            _ => &[Hook::Link, Hook::RefusingQueue],
        }
    }

    async fn connect_by_link(&self) -> Result<(Kafka, Box<dyn Link>)> {
        let proxy = Proxy::start_kafka(&self.address).await.map_err(unmade)?;
        let client = Kafka::builder(proxy.servers())
            .group_protocol(self.protocol)
            .partitions(4)
            .connect_timeout(DEADLINE / 2)
            .publish_timeout(DEADLINE)
            .unreachable_after(DEADLINE)
            .connect()
            .await?;
        Ok((client, Box::new(ByProxy(proxy))))
    }

    async fn refusing_queue(&self, name: &str) -> Result<(Kafka, Destination)> {
        let bare = Bare::connect(&self.address).await.map_err(unmade)?;
        // A compacted topic refuses records without a key.
        bare.create(name, 1, &[("cleanup.policy", "compact")])
            .await
            .map_err(unmade)?;
        // The brokers themselves hear of it a moment later.
        while bare.ends(name, 1).await.is_err() {
            tokio::task::yield_now().await;
        }
        Ok((self.connect().await?, Destination::queue(name)))
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
    let address = broker_address("MQ_KAFKA_SERVERS");
    let suite = |name, broker| {
        Suite::new(name, broker, address.clone())
            // Above the patience, so that a case can say what did not come.
            .deadline(Duration::from_secs(120))
    };
    let grouped = include_str!("conformance.expected");
    let shared = include_str!("conformance-share.expected");
    let newer = suite("conformance-kip-848", "mq-kafka over KIP-848");
    let sharing = suite("conformance-share", "mq-kafka over share groups");
    mq_testkit::run([
        suite("conformance", "mq-kafka").conformance(classic, grouped),
        match is_served(&address, GroupProtocol::Consumer) {
            true => newer.conformance(kip_848, grouped),
            false => newer.case("kip_848_is_refused_with_help", kip_848_is_refused),
        },
        match is_served(&address, GroupProtocol::Share) {
            true => sharing.conformance(share, shared),
            false => sharing.case(
                "share_groups_are_refused_with_help",
                share_groups_are_refused,
            ),
        },
    ])
}
