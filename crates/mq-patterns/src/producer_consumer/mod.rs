//! One side produces, the other consumes, and neither waits for the other (EIP *Point-to-Point
//! Channel* or *Publish-Subscribe Channel*, with a *Polling Consumer*; one type of item, so a
//! *Datatype Channel*).
//!
//! [`Producer`] publishes a stream of items: pipelined, each confirmed, in bounded memory, with the
//! failed ones named at the end. [`Consumer`] takes items one at a time at its own pace. For a
//! handler that runs on its own, with concurrency and layers, take a
//! [`Worker`](mq_core::Worker) as the consuming side.
//!
//! # What it guarantees
//!
//! | | RabbitMQ | Kafka | in-process |
//! |---|---|---|---|
//! | an item counted as confirmed | is stored by the quorum queue | is stored by the topic's in-sync replicas | is stored while the process lives |
//! | an item is received | at least once | at least once | at least once |
//! | items of one key reach one consumer in the order sent | yes, save those delivered again | yes | yes, save those delivered again |
//! | a consumer that takes its time | holds up at most its prefetch | holds up its partitions | holds up at most its prefetch |
//!
//! What cannot be decoded goes to the dead-letter home, and so does what failed as often as the
//! plan's `max_attempts` says.
//!
//! # What it does not
//!
//! The producer is not slowed down by a consumer that falls behind: items pile up on the broker.
//! An item that failed with an *unknown* outcome may be stored; sent again, it may be received
//! twice, with the same message id.
//!
//! # Tests
//!
//! `tests/producer_consumer.rs` and `tests/producer_window.rs` on the in-process broker. On all
//! three, in `tests/promises`:
//!
//! * `producer_consumer: every confirmed item is received`
//! * `producer_consumer: items of one key are received in the order sent`
//! * `producer_consumer: what cannot be decoded goes to the dead letters byte for byte, and the
//!   consumer goes on`
//!
//! # Example
//!
//! ```
//! use mq_core::{Broker, ConsumePlan, Destination, Subscription};
//! use mq_memory::Memory;
//! use mq_patterns::producer_consumer::{Consumer, Producer};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Reading {
//!     sensor: String,
//!     celsius: f64,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq_core::Result<()> {
//! let broker = Memory::new();
//! let readings = Destination::queue("readings");
//! broker.declare(&readings).await?;
//!
//! let mut producer = Producer::new(&broker, readings)
//!     .envelope(|reading: &Reading, message| message.key(&reading.sensor));
//! for celsius in [20.5, 21.0, 21.5] {
//!     producer.send(&Reading { sensor: "attic".into(), celsius }).await?;
//! }
//! let sent = producer.finish().await;
//! assert_eq!((sent.confirmed, sent.failed.len()), (3, 0));
//!
//! let readings = Subscription::queue("readings");
//! let mut consumer = Consumer::<Reading, _>::open(&broker, &readings, ConsumePlan::new()).await?;
//! for expected in [20.5, 21.0, 21.5] {
//!     let Some(reading) = consumer.next().await? else { break };
//!     assert_eq!(reading.celsius, expected);
//!     reading.ack()?;
//! }
//! consumer.close().await
//! # }
//! ```

mod consumer;
mod item;
mod producer;

pub use consumer::Consumer;
pub use item::Item;
pub use producer::{Failed, Producer, Sent};
