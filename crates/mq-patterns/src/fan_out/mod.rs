//! Fan-out: every event goes to every subscriber (EIP *Publish-Subscribe Channel* with *Durable
//! Subscribers*; one type of event, so a *Datatype Channel*, and each event an *Event Message*).
//!
//! [`FanOut`] publishes events of one type to a topic. A **subscriber** has a name: it gets every
//! event since it was declared, also those that came while it was away, and the workers of one
//! name share them. A **listener** has none: it gets what comes while it is open.
//!
//! # What it guarantees
//!
//! | | RabbitMQ | Kafka | in-process |
//! |---|---|---|---|
//! | a confirmed event | is stored by the quorum queue of each subscriber | is stored by the topic's in-sync replicas | is stored while the process lives |
//! | each subscriber gets it | at least once | at least once, within the topic's retention | at least once |
//! | a subscriber that is away | finds its events in its queue | finds its events behind its offset | finds its events kept |
//! | each subscriber's copy | is settled, failed and dead-lettered apart | the same | the same |
//! | a listener gets an event | at most once; it ends with an error when its connection is lost | at most once | at most once |
//! | an event that nobody takes | is confirmed and gone | is confirmed and stays in the log | is confirmed and gone |
//! | a slow subscriber holds up | its own events | its own events | its own events |
//!
//! An event whose attempts are used up, or that cannot be decoded, goes to the dead-letter home of
//! that subscriber alone, `<topic>.<subscriber>.dead`. A listener has no such home, since nobody
//! would look there once it is gone: it is handed what cannot be decoded, with the error.
//!
//! # What it does not
//!
//! A subscriber gets nothing from before it was declared, on any broker. Declare it before the
//! first event that matters, and before it runs: one that was not declared is
//! [`NotFound`](mq_core::ErrorKind::NotFound), never an empty subscription. What a subscriber does
//! not take piles up for it on the broker. An event can come twice, after a crash or a publish
//! whose outcome was unknown.
//!
//! Names with dots may share a dead-letter home: `eu.bills` of the topic `shop`, and `bills` of
//! `shop.eu`. The header `mq-dead-origin` tells their letters apart. On Kafka such a home also takes
//! its name away: there a topic `shop.eu.bills` is then refused, since `shop.eu.bills.dead` marks a
//! queue.
//!
//! # Tests
//!
//! `tests/fan_out.rs` on the in-process broker. On all three, in `tests/promises`:
//!
//! * `fan_out: every subscriber gets every event, also those that came while it was away`
//! * `fan_out: a listener gets what comes after it opened`
//! * `fan_out: what one subscriber rejects the others still get`
//! * `fan_out: a slow subscriber holds up no other`
//! * `fan_out: names with dots may share a dead-letter home, where the origin tells them apart`
//! * `fan_out: a subscriber that was not declared is not found`
//!
//! # Example
//!
//! ```
//! use mq_core::Json;
//! use mq_memory::Memory;
//! use mq_patterns::fan_out::FanOut;
//! use serde::{Deserialize, Serialize};
//! use tokio::sync::mpsc;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Paid {
//!     order: String,
//!     cents: u64,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq_core::Result<()> {
//! let broker = Memory::new();
//! let payments = FanOut::new(&broker, "payments")
//!     .envelope(|paid: &Paid, message| message.key(&paid.order));
//! payments.declare().await?;
//! let accounting = payments.subscriber("accounting");
//! accounting.declare().await?;
//! let mut dashboard = payments.listener().await?;
//!
//! payments.publish(&Paid { order: "a-17".into(), cents: 4200 }).await?;
//!
//! // Gone when it is closed: nothing is kept for it.
//! if let Some(heard) = dashboard.next().await? {
//!     assert_eq!(heard.event()?.cents, 4200);
//! }
//! // Durable: it would find the event tomorrow.
//! let (booked, mut done) = mpsc::channel(1);
//! accounting
//!     .worker()
//!     .run(move |Json(paid): Json<Paid>| {
//!         let booked = booked.clone();
//!         async move { booked.send(paid.cents).await }
//!     })
//!     .with_graceful_shutdown(async move { assert_eq!(done.recv().await, Some(4200)) })
//!     .await
//! # }
//! ```

mod listener;
mod subscriber;
mod topic;

pub use listener::{Heard, Listener};
pub use subscriber::Subscriber;
pub use topic::FanOut;
