//! The network between client and broker fails, in eight ways, at four moments.

use std::{process::ExitCode, time::Duration};

use mq_kafka::{GroupProtocol, Kafka, core};
use mq_testkit::{
    Suite, broker_address,
    network::Proxied,
    proxy::{Proxy, ProxyError},
};

struct Cluster(String);

impl Proxied for Cluster {
    type Broker = Kafka;

    async fn proxy(&self) -> Result<Proxy, ProxyError> {
        Proxy::start_kafka(&self.0).await
    }

    /// Under the classic protocol the client says how long a member that is gone keeps its
    /// partitions; under the newer one the broker does, and there it is 45 s.
    async fn connect(&self, proxy: &Proxy) -> core::Result<Kafka> {
        Kafka::builder(proxy.servers())
            .connect_timeout(Duration::from_secs(5))
            .publish_timeout(Duration::from_secs(12))
            .unreachable_after(Duration::from_secs(8))
            .group_protocol(GroupProtocol::Classic)
            .session_timeout(Duration::from_secs(6))
            .connect()
            .await
    }

    /// krafka looks for idle connections once a minute, and that timer ends at its next tick.
    fn timers_left(&self) -> usize {
        1
    }
}

fn main() -> ExitCode {
    Suite::new("network", "mq-kafka", broker_address("MQ_KAFKA_SERVERS"))
        .deadline(Duration::from_secs(120))
        .network(Cluster)
        .run()
}
