//! Routing: each subscriber gets the events that its filter takes (EIP *Message Router* in the
//! publisher's routing key, *Selective Consumer* and *Message Filter* in the subscription).
//!
//! [`Routing`] publishes events of one type to a topic, each with a routing key made from the
//! event. A subscriber names a [`Filter`](mq_core::Filter): the exact key, a pattern of words
//! (`eu.*.paid`, `eu.#`), or header values, all or any. An event goes to every subscriber whose
//! filter takes it, and the workers of one name share theirs.
//!
//! # What it guarantees
//!
//! | | RabbitMQ | Kafka | in-process |
//! |---|---|---|---|
//! | the filter runs | in the broker: a topic exchange, and a headers exchange behind it | in the consumer, which fetches every event and passes over the others by offset | in the broker |
//! | a confirmed event | is stored by each queue that takes it | is stored by the topic's in-sync replicas | is stored while the process lives |
//! | each subscriber whose filter takes it gets it | at least once | at least once, within the topic's retention | at least once |
//! | an event that nobody takes | is confirmed and gone; with `mandatory` it is *unroutable* | is confirmed and kept in the log; `mandatory` is *unsupported* | as RabbitMQ; in the shape of a log as Kafka |
//! | a subscriber declared with one filter and run with another | gets what it was declared with | gets what it is run with | is refused: *mismatch* |
//! | a subscriber declared again with another filter | gets what either takes | gets what it is run with | is refused: *mismatch* |
//!
//! An event whose attempts are used up, or that cannot be decoded, goes to the dead-letter home of
//! that subscriber alone, `<topic>.<subscriber>.dead`.
//!
//! # What it does not
//!
//! A subscriber gets nothing from before it was declared. To change a filter, take a new name for
//! the subscriber, and delete the old one on the broker when it has run dry. Who takes an event is
//! decided when it is published on RabbitMQ, when it is read on Kafka. A filter that a broker cannot
//! keep is refused with [`Config`](mq_core::ErrorKind::Config): on every one a key of more than 255
//! bytes, on RabbitMQ more than two `#` in a pattern too.
//!
//! # Tests
//!
//! `tests/routing.rs` on the in-process broker. On all three, in `tests/promises`:
//!
//! * `routing: an exact key and a pattern take what they name`
//! * `routing: headers are matched all or any`
//! * `routing: an event that nobody takes is unroutable where that is asked for and can be told`
//! * `routing: a subscriber run with another filter than declared gets what the page says`
//! * `routing: a subscriber declared again with another filter gets what the page says`
//! * `routing: a subscriber that was not declared is not found`
//!
//! # Example
//!
//! ```
//! use mq_core::{ErrorKind, Filter, Json};
//! use mq_memory::Memory;
//! use mq_patterns::routing::Routing;
//! use serde::{Deserialize, Serialize};
//! use tokio::sync::mpsc;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Order {
//!     region: String,
//!     state: String,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq_core::Result<()> {
//! let broker = Memory::new();
//! let orders = Routing::new(&broker, "orders")
//!     .route(|order: &Order| format!("{}.{}", order.region, order.state))
//!     .mandatory();
//! orders.declare().await?;
//! let shipping = orders.subscriber("shipping", Filter::pattern("*.paid"));
//! shipping.declare().await?;
//!
//! orders.publish(&Order { region: "eu".into(), state: "paid".into() }).await?;
//! let nobody = orders.publish(&Order { region: "eu".into(), state: "lost".into() }).await;
//! assert_eq!(nobody.map_err(|error| error.kind()), Err(ErrorKind::Unroutable));
//!
//! let (shipped, mut done) = mpsc::channel(1);
//! shipping
//!     .worker()
//!     .run(move |Json(order): Json<Order>| {
//!         let shipped = shipped.clone();
//!         async move { shipped.send(order.region).await }
//!     })
//!     .with_graceful_shutdown(async move { assert_eq!(done.recv().await.as_deref(), Some("eu")) })
//!     .await
//! # }
//! ```

mod subscriber;
mod topic;

pub use subscriber::Subscriber;
pub use topic::Routing;
