//! A smaller client for brokers up to Kafka 3.9, over the `kafka` crate (feature `legacy`).
//!
//! It is for clusters that the default client does not reach, which needs Kafka 3.9: of these brokers it
//! asks nothing newer than 0.10. Kafka 4.0 removed the versions of the protocol that it speaks
//! ([KIP-896]). There `connect` is [`Unsupported`](mq_core::ErrorKind::Unsupported) and says so.
//!
//! ```no_run
//! use mq_kafka::core::{Broker, ConsumePlan, Consumer, DeadLetters};
//! use mq_kafka::core::{Destination, Message, Publisher, Result, Subscription};
//! use mq_kafka::legacy::LegacyKafka;
//!
//! # async fn run() -> Result<()> {
//! let kafka = LegacyKafka::builder("broker-1:9092,broker-2:9092")
//!     .read_uncommitted() // nobody writes to `orders` in transactions
//!     .connect()
//!     .await?;
//! let orders = Destination::queue("orders");
//! kafka.publisher().publish(&orders, Message::new("7").key("customer-1")).await?;
//!
//! let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
//! let mut consumer = kafka.consumer(&Subscription::queue("orders"), plan).await?;
//! if let Some(order) = consumer.receive().await? {
//!     order.ack()?;
//! }
//! consumer.close().await?;
//! kafka.close().await
//! # }
//! ```
//!
//! # What it promises
//!
//! At least once. A confirmed message is stored by all in-sync replicas, or by the leader where
//! [`leader_only`](LegacyPublisher::leader_only) is asked for. Keys go to the partitions of Java's client
//! and of [`Kafka`](crate::Kafka). A consumer commits the offset below which everything is done, for the
//! group that the default client has too, so either takes over from the other.
//!
//! # What it cannot do
//!
//! - A record has a key and a payload (no [`WholeMessages`](mq_core::Capability::WholeMessages)). A header,
//!   content type, correlation id, reply address, expiry, priority or routing key is *unsupported*, and
//!   nothing is sent. Id and time are not sent, set or not: what is received has its place in the log as
//!   its id, and the time of its receipt.
//! - Received, a tombstone is an empty payload, and an empty key is none: the client library does not tell
//!   them apart. Both are sent as they are.
//! - There are no dead letters: they could not say why they are. A consumer wants
//!   [`DeadLetters::None`](mq_core::DeadLetters::None), and `reject` is *unsupported*.
//! - Records of aborted and open transactions are read like others; see
//!   [`LegacyBuilder::read_uncommitted`].
//! - One consumer reads a queue, all of its partitions (no
//!   [`SharedQueues`](mq_core::Capability::SharedQueues)). A second one of the same connection is *in use*,
//!   and so is a group that has members of the group protocol; of two processes with this client the
//!   cluster knows nothing, and both get every message.
//! - The cluster stores an offset and nothing beside it (no
//!   [`KeptVerdicts`](mq_core::Capability::KeptVerdicts)): an acknowledged message behind an open one comes
//!   again after a restart, and attempts are counted anew. What the default client stored beside an offset
//!   is lost at the first commit.
//! - A publish whose answer is missing is *unknown* and not sent again. One whose leader is relieved may be
//!   stored, and is sent again; the broker does not tell what comes twice. Nor is a refusal told from other answers if Kafka made it after 0.10: it is *unknown*.
//! - It creates and deletes nothing, and has no subscriptions of topics, no `defer`, TLS or login, no LZ4
//!   (a record with it ends the consumer as *unsupported*) or zstd, no spans, metrics or flow events.
//!
//! # Waits
//!
//! The library blocks, on threads of its own, and waits 120 s for an answer, which cannot be set. Here
//! every call has a deadline, and a thread whose call is late is left to it; see
//! [`LegacyBuilder::request_timeout`]. No call blocks the runtime.
//!
//! [KIP-896]: https://cwiki.apache.org/confluence/display/KAFKA/KIP-896%3A+Remove+old+client+protocol+API+versions+in+Kafka+4.0

mod capabilities;
mod config;
mod connection;
mod consumer;
mod error;
mod fetch;
mod handshake;
mod intake;
mod publisher;
mod record;
mod sender;
mod thread;

pub use config::LegacyBuilder;
pub use connection::LegacyKafka;
pub use consumer::LegacyConsumer;
pub use publisher::{LegacyOutcome, LegacyPublisher, LegacyUnconfirmed};
