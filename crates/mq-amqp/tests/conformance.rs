//! The conformance suite, on the RabbitMQ that `MQ_RABBITMQ_URL` names.
#![allow(clippy::expect_used, reason = "helpers of tests that may panic")]

mod support;

use std::{process::ExitCode, time::Duration};

use lapin::types::AMQPValue;
use mq_amqp::{
    Amqp, QueueSettings, Recovery,
    core::{Broker, Destination, Error, ErrorKind, Message, Publisher, Result},
};
use mq_testkit::{
    Address, Fixture, Hook, Link, Suite, broker_address,
    proxy::{Direction, Fault, Proxy},
};
use support::{Bare, argument};
use tokio::sync::OnceCell;

struct Rabbit {
    url: String,
    /// The delay cascade is there.
    delays: OnceCell<()>,
}

impl Fixture for Rabbit {
    type Broker = Amqp;

    async fn connect(&self) -> Result<Amqp> {
        // A broker that is busy with many copies of the suite is slow, and that is no failure.
        let broker = Amqp::builder()
            .url(&self.url)?
            .connect_timeout(SLOW)
            .operation_timeout(SLOW)
            .connect()
            .await?;
        let declare = || async { broker.delays().declare().await };
        self.delays.get_or_try_init(declare).await?;
        Ok(broker)
    }

    async fn single_active_queue(&self, name: &str) -> Result<(Amqp, Destination)> {
        let settings = QueueSettings::quorum().single_active_consumer();
        let builder = Amqp::builder().url(&self.url)?.queue(name, settings);
        let builder = builder.connect_timeout(SLOW).operation_timeout(SLOW);
        let client = builder.connect().await?;
        let queue = Destination::queue(name);
        client.declare(&queue).await?;
        Ok((client, queue))
    }

    fn hooks(&self) -> &'static [Hook] {
        &[Hook::Link, Hook::RefusingQueue]
    }

    async fn connect_by_link(&self) -> Result<(Amqp, Box<dyn Link>)> {
        let parts = || {
            let parsed = url::Url::parse(&self.url).ok()?;
            let host = parsed.host_str()?.to_owned();
            Some(format!("{host}:{}", parsed.port().unwrap_or(5672)))
        };
        let upstream = parts().ok_or_else(|| unmade("the URL has no host"))?;
        let proxy = Proxy::start(&*upstream).await.map_err(unmade)?;
        let client = Amqp::builder()
            .url(&self.url)?
            .host(proxy.address().ip().to_string())
            .port(proxy.address().port())
            .connect_timeout(SLOW)
            .operation_timeout(DEADLINE)
            .publish_timeout(DEADLINE)
            // Its link stays cut.
            .recovery(Recovery::within(DEADLINE / 5))
            .connect()
            .await?;
        Ok((client, Box::new(ByProxy(proxy))))
    }

    async fn refusing_queue(&self, name: &str) -> Result<(Amqp, Destination)> {
        let bare = Bare::connect(&self.url).await.map_err(unmade)?;
        let settings = [
            ("x-queue-type", argument("quorum")),
            ("x-max-length", AMQPValue::LongInt(1)),
            ("x-overflow", argument("reject-publish")),
        ];
        bare.queue(name, &settings).await.map_err(unmade)?;
        let client = self.connect().await?;
        let queue = Destination::queue(name);
        // A quorum queue learns a little late that it is full.
        loop {
            match client.publisher().publish(&queue, Message::new("x")).await {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Rejected => return Ok((client, queue)),
                Err(error) => return Err(error),
            }
        }
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

fn unmade(why: impl ToString) -> Error {
    Error::new(ErrorKind::Connect, "fixture", why.to_string())
}

const SLOW: Duration = Duration::from_secs(60);
/// Well below the patience of the cases.
const DEADLINE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let address = broker_address("MQ_RABBITMQ_URL");
    let expected = match &address {
        Address::Here(url) if counts_releases(url) => include_str!("conformance-4.0.expected"),
        _ => include_str!("conformance.expected"),
    };
    Suite::new("conformance", "mq-amqp", address)
        .conformance(
            |url| Rabbit {
                url,
                delays: OnceCell::new(),
            },
            expected,
        )
        .run()
}

/// True for a broker before 4.3. One that does not answer is for the cases to find.
fn counts_releases(url: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let Ok(broker) = Amqp::connect(url).await else {
            return false;
        };
        let product = broker.product();
        let _ = broker.close().await;
        ["RabbitMQ 4.0.", "RabbitMQ 4.1.", "RabbitMQ 4.2."]
            .iter()
            .any(|old| product.starts_with(old))
    })
}
