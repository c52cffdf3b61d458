//! What the broker tests share: names, a bare client for what this crate does not offer, a relay.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

pub mod management;
#[cfg(feature = "tls")]
pub mod pki;
pub mod relay;

use std::{
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{
        BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use mq_amqp::{
    Amqp,
    core::{Consumer, Delivery, Destination, Error, ErrorKind, Message, Publisher},
};
use mq_testkit::{Check, Failure};

/// A name that no other run uses.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_micros());
    format!(
        "test-{what}-{}-{now}-{}",
        process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A settings object for the broker under test.
pub fn builder(url: &str) -> Check<mq_amqp::AmqpBuilder> {
    Ok(Amqp::builder().url(url)?)
}

/// The same with long deadlines: a broker under load is slow, and that is no failure.
pub fn patient(url: &str) -> Check<mq_amqp::AmqpBuilder> {
    let slow = Duration::from_secs(60);
    let builder = builder(url)?.connect_timeout(slow);
    Ok(builder.operation_timeout(slow).publish_timeout(slow))
}

/// Ends a wait that should not be one.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> Check<T> {
    match tokio::time::timeout(Duration::from_secs(20), wait).await {
        Ok(done) => Ok(done),
        Err(_) => Err(Failure::new(format!("{what}: nothing came within 20 s"))),
    }
}

pub fn expect_kind<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind) -> Check<Error> {
    match result {
        Err(error) if error.kind() == kind => Ok(error),
        other => Err(Failure::new(format!("expected {kind:?}, got {other:?}"))),
    }
}

pub async fn next(consumer: &mut impl Consumer) -> Check<Delivery> {
    soon("a delivery", consumer.receive())
        .await??
        .ok_or_else(|| Failure::new("the consumer ended"))
}

pub async fn fill(broker: &Amqp, queue: &str, count: usize) -> Check {
    use mq_amqp::core::Broker;
    let messages = (0..count)
        .map(|i| Message::new(i.to_string()).build())
        .collect();
    for outcome in broker
        .publisher()
        .publish_batch(&Destination::queue(queue), messages)
        .await
    {
        outcome?;
    }
    Ok(())
}

pub fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.payload().map(AsRef::as_ref).unwrap_or_default()).into_owned()
}

/// The bare client, for what this crate does not declare.
pub struct Bare {
    connection: Connection,
    pub channel: Channel,
}

impl Bare {
    pub async fn connect(url: &str) -> Check<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok(Self {
            connection,
            channel,
        })
    }

    pub async fn queue(&self, name: &str, arguments: &[(&str, AMQPValue)]) -> Check {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        self.channel
            .queue_declare(name.into(), QueueDeclareOptions::durable(), table)
            .await?;
        Ok(())
    }

    /// A durable exchange of this kind; fails if one of another kind is there.
    pub async fn exchange(&self, name: &str, kind: &str) -> Check {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let kind = lapin::ExchangeKind::Custom(kind.into());
        let none = FieldTable::default();
        let declare = self
            .channel
            .exchange_declare(name.into(), kind, options, none);
        Ok(declare.await?)
    }

    /// Messages that are ready in a queue.
    pub async fn ready(&self, queue: &str) -> Check<u32> {
        Ok(self.look(queue).await?.message_count())
    }

    /// Consumers that read a queue.
    pub async fn consumers(&self, queue: &str) -> Check<u32> {
        Ok(self.look(queue).await?.consumer_count())
    }

    async fn look(&self, queue: &str) -> Check<lapin::Queue> {
        let options = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let none = FieldTable::default();
        Ok(self
            .channel
            .queue_declare(queue.into(), options, none)
            .await?)
    }

    /// Waits until the broker has done with what other connections sent: a message of our own has
    /// gone through the queue behind them.
    pub async fn until_settled(&self, queue: &str) -> Check {
        let before = self.ready(queue).await?;
        self.publish(queue, lapin::BasicProperties::default(), b"")
            .await?;
        let grown = async {
            while self.ready(queue).await? <= before {
                tokio::task::yield_now().await;
            }
            Check::Ok(())
        };
        soon("our own message", grown).await??;
        let get = lapin::options::BasicGetOptions { no_ack: true };
        self.channel.basic_get(queue.into(), get).await?;
        Ok(())
    }

    /// Waits until that many messages are ready.
    pub async fn until_ready(&self, queue: &str, count: u32) -> Check {
        let poll = async {
            loop {
                let found = self.ready(queue).await?;
                if found == count {
                    return Ok(());
                }
                // The count of a quorum queue is refreshed by its own clock; there is no event.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        soon(&format!("{count} ready messages in {queue}"), poll).await?
    }

    pub async fn publish(
        &self,
        queue: &str,
        properties: lapin::BasicProperties,
        body: &[u8],
    ) -> Check {
        let options = BasicPublishOptions::default();
        self.channel
            .basic_publish("".into(), queue.into(), options, body, properties)
            .await?
            .await?;
        Ok(())
    }

    pub async fn delete(&self, queue: &str) -> Check {
        self.channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await?;
        Ok(())
    }

    pub async fn delete_exchange(&self, name: &str) -> Check {
        let options = ExchangeDeleteOptions::default();
        self.channel.exchange_delete(name.into(), options).await?;
        Ok(())
    }

    /// Deletes a queue and makes it anew, without a pause between the two.
    pub async fn delete_and_declare(&self, name: &str) -> Check {
        let delete = self
            .channel
            .queue_delete(name.into(), QueueDeleteOptions::default());
        let table = FieldTable::default();
        let declare =
            self.channel
                .queue_declare(name.into(), QueueDeclareOptions::durable(), table);
        let (deleted, declared) = tokio::join!(delete, declare);
        deleted?;
        declared?;
        Ok(())
    }

    /// A new channel, after the broker closed the old one.
    pub async fn reopen(&mut self) -> Check {
        self.channel = self.connection.create_channel().await?;
        Ok(())
    }
}

pub fn argument(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}
