//! A pipeline: stages that consume, transform and publish (EIP *Pipes and Filters*; each stage a
//! *Message Translator*, a *Message Filter* or a *Splitter*).
//!
//! A [`Stage`] reads one subscription and publishes to one destination. Its transform is an async
//! function of the decoded payload, and comes in three kinds:
//!
//! | | for each input | EIP |
//! |---|---|---|
//! | [`translate`](Stage::translate) | one output | *Message Translator* |
//! | [`filter`](Stage::filter) | one output, or none: **the input is then acknowledged and gone** | *Message Filter* |
//! | [`split`](Stage::split) | any number of outputs; **none acknowledges the input** | *Splitter* |
//!
//! What a transform makes is a handler for any [`Worker`](mq_core::Worker) on the stage's source, with
//! its concurrency, layers, order and guarantee. Stages in a row, each from the other's destination,
//! are a pipeline.
//!
//! # What it guarantees
//!
//! | | RabbitMQ | Kafka | in-process |
//! |---|---|---|---|
//! | an input is acknowledged | when every output is confirmed | when every output is confirmed | when every output is confirmed |
//! | an output cannot be confirmed for now | the input stays unacknowledged, and is tried again after a pause | the same | the same |
//! | an output can never be stored: its queue is missing, it is too large, it cannot be written | the input goes to the dead letters | the same | the same |
//! | each input's outputs are stored | at least once | at least once | at least once |
//! | an input that is run twice | makes outputs with equal ids | makes outputs with equal ids | makes outputs with equal ids |
//! | outputs of one key keep the order of their inputs | in one worker with `ordered_by_key` | with `ordered_by_key`, in all workers together | in one worker with `ordered_by_key` |
//!
//! Outputs keep the input's ordering key and correlation id. Their ids are name-based UUIDs (RFC 9562,
//! version 5) of the stage's name, the input's id and the output's index, so that whoever takes them can
//! tell a duplicate by its id.
//!
//! # What it does not
//!
//! A crash between the confirmation and the acknowledgement publishes all outputs of the input again.
//! They have the ids they had, and the same content only as far as the transform gives the same
//! outputs in the same order for the same input. Of several outputs some may be stored, and others
//! not, until the input is tried again. Other headers, the expiry and the priority of the input are
//! not carried over: [`envelope`](Stage::envelope) can. An input whose publisher gave it no id gets a
//! new one with each delivery on RabbitMQ, and its outputs with it. A tombstone has no payload to
//! decode and goes to the dead letters.
//!
//! # Tests
//!
//! `tests/pipeline.rs` on the in-process broker. On all three, in `tests/promises`:
//!
//! * `pipeline: an input whose output is not confirmed stays with the broker`
//! * `pipeline: an input that is run twice makes outputs with equal ids`
//! * `pipeline: an input whose output can never be stored goes to the dead letters`
//! * `pipeline: translates, filters and splits through three stages`
//!
//! # Example
//!
//! ```
//! use std::convert::Infallible;
//!
//! use mq_core::{Broker, Destination, Message, Publisher, Subscription};
//! use mq_memory::Memory;
//! use mq_patterns::pipeline::Stage;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Order {
//!     lines: Vec<u64>,
//! }
//!
//! #[derive(Serialize)]
//! struct Line {
//!     cents: u64,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq_core::Result<()> {
//! let broker = Memory::new();
//! let (orders, lines) = (Subscription::queue("orders"), Destination::queue("lines"));
//! let stage = Stage::new(&broker, "split-orders", orders, lines);
//! stage.declare().await?;
//!
//! let order = Message::json(&serde_json::json!({ "lines": [100, 250] }))?.key("alice");
//! broker.publisher().publish(&Destination::queue("orders"), order).await?;
//!
//! let mut made = broker.consumer(&Subscription::queue("lines"), Default::default()).await?;
//! let lines_of = |order: Order| async move {
//!     let lines = order.lines.into_iter().map(|cents| Line { cents });
//!     Ok::<_, Infallible>(lines.collect::<Vec<_>>())
//! };
//! stage
//!     .worker()
//!     .run(stage.split(lines_of))
//!     .with_graceful_shutdown(async move {
//!         use mq_core::Consumer;
//!         for expected in [&br#"{"cents":100}"#[..], br#"{"cents":250}"#] {
//!             let Ok(Some(line)) = made.receive().await else { return };
//!             assert_eq!(line.payload().map(|bytes| &bytes[..]), Some(expected));
//!             assert_eq!(line.key().and_then(|key| key.as_str()), Some("alice"));
//!             assert!(line.ack().is_ok());
//!         }
//!     })
//!     .await
//! # }
//! ```

mod output;
mod stage;

pub use stage::{Stage, Transformed};
