//! The network between the processes and the broker: direct, or through proxies that make faults.

use mq_testkit::proxy::{Proxy, ProxyError};

use crate::{broker::Kind, process::Role};

/// One proxy for the producers and one for the consumers.
pub(crate) struct Links {
    kind: Kind,
    producers: Proxy,
    consumers: Proxy,
}

impl Links {
    /// Starts both in front of the broker.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub(crate) async fn start(kind: Kind, host: &str) -> Result<Self, ProxyError> {
        let proxy = async || match kind {
            Kind::RabbitMq => Proxy::start(host).await,
            Kind::Kafka => Proxy::start_kafka(host).await,
        };
        Ok(Self {
            kind,
            producers: proxy().await?,
            consumers: proxy().await?,
        })
    }

    pub(crate) fn of(&self, role: Role) -> &Proxy {
        match role {
            Role::Producer => &self.producers,
            Role::Consumer => &self.consumers,
        }
    }

    /// Both.
    pub(crate) fn all(&self) -> [&Proxy; 2] {
        [&self.producers, &self.consumers]
    }

    /// Where the processes of a role connect.
    pub(crate) fn address(&self, role: Role) -> String {
        self.kind.address_at(&self.of(role).address().to_string())
    }
}
