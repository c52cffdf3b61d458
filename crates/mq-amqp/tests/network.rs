//! The network between client and broker fails, in eight ways, at four moments.

use std::{process::ExitCode, time::Duration};

use mq_amqp::{Amqp, core};
use mq_testkit::{
    Suite, broker_address,
    network::Proxied,
    proxy::{Proxy, ProxyError},
};

struct Broker {
    url: String,
    /// The broker's `host:port` in the URL.
    address: String,
}

impl Proxied for Broker {
    type Broker = Amqp;

    async fn proxy(&self) -> Result<Proxy, ProxyError> {
        Proxy::start(self.address.as_str()).await
    }

    async fn connect(&self, proxy: &Proxy) -> core::Result<Amqp> {
        let url = self
            .url
            .replacen(&self.address, &proxy.address().to_string(), 1);
        Amqp::builder()
            .url(&url)?
            .connect_timeout(Duration::from_secs(8))
            .operation_timeout(Duration::from_secs(8))
            .publish_timeout(Duration::from_secs(12))
            .heartbeat(Duration::from_secs(5))
            .connect()
            .await
    }
}

fn main() -> ExitCode {
    let address = broker_address("MQ_RABBITMQ_URL");
    Suite::new("network", "mq-amqp", address)
        .deadline(Duration::from_secs(120))
        .network(|url| {
            let address = url
                .split(['@', '/', '?'])
                .find(|part| part.contains(':') && part.ends_with(|c: char| c.is_ascii_digit()));
            let address = address.unwrap_or_default().to_owned();
            Broker { url, address }
        })
        .run()
}
