//! A consumer group: the members of one group share a topic's messages, and every group gets all of
//! them (EIP *Competing Consumers* behind a *Publish-Subscribe Channel*, each group a *Durable
//! Subscriber*).
//!
//! [`ConsumerGroup`] is one group of a topic. Its members handle the messages of one ordering key
//! one after the other, in order. Where the broker has partitions, a key belongs to one member at a
//! time, so that the order holds over all members.
//!
//! # What it guarantees
//!
//! | | RabbitMQ | Kafka | in-process |
//! |---|---|---|---|
//! | a confirmed message | is stored by the quorum queue of each group | is stored by the topic's in-sync replicas | is stored while the process lives |
//! | each group gets it | at least once | at least once, within the topic's retention | at least once |
//! | messages of one key | in order within one member | in order in all members together: one member has a partition | in order within one member; in the shape of a log as Kafka |
//! | members at a time | any number | as many as the topic has partitions; others stand by | any number; in the shape of a log as Kafka |
//! | a member dies | its unsettled messages go to others when its connection ends | its partitions go to others when its session ends | its unsettled messages go to others at once |
//! | a member comes or goes | nothing moves | partitions move; what was in work there and is not settled in 5 s comes again | nothing moves; in the shape of a log partitions move |
//! | a slow member holds up | at most its prefetch | the partitions it has | at most its prefetch; in the shape of a log its partitions |
//! | a failed message | is attempted again in place while later ones of its key wait | the same | the same |
//!
//! A message whose attempts are used up, or that cannot be decoded, goes to the dead-letter home of
//! the group, `<topic>.<group>.dead`, and the later ones of its key go on.
//!
//! # What it does not
//!
//! On RabbitMQ two members can have messages of one key at the same time: run one member where order
//! over all of them matters, and give it a higher concurrency. A message that comes again after a
//! crash or a move of its partition can come behind later ones of its key that were already handled.
//! Messages without a key have no order. A group gets nothing from before it was declared.
//!
//! # Tests
//!
//! `tests/consumer_group.rs` on the in-process broker. On all three, in `tests/promises`:
//!
//! * `consumer_group: every group gets every message, and its members share them`
//! * `consumer_group: the messages of a key are handled in order, also when one fails`
//! * `consumer_group: a key stays with one member where the broker has partitions`
//! * `consumer_group: the messages of a member that dies go to the others`
//! * `consumer_group: what never succeeds goes to the dead letters, and its key goes on`
//!
//! # Example
//!
//! ```
//! use mq_core::Json;
//! use mq_memory::Memory;
//! use mq_patterns::consumer_group::ConsumerGroup;
//! use serde::{Deserialize, Serialize};
//! use tokio::sync::mpsc;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Booking {
//!     account: String,
//!     cents: i64,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq_core::Result<()> {
//! let broker = Memory::builder().log(6).build();
//! let balances = ConsumerGroup::new(&broker, "bookings", "balances")
//!     .envelope(|booking: &Booking, message| message.key(&booking.account));
//! balances.declare().await?;
//! for cents in [500, -200] {
//!     balances.publish(&Booking { account: "alice".into(), cents }).await?;
//! }
//!
//! let (booked, mut done) = mpsc::channel(2);
//! balances
//!     .member(4)
//!     .run(move |Json(booking): Json<Booking>| {
//!         let booked = booked.clone();
//!         async move { booked.send(booking.cents).await }
//!     })
//!     .with_graceful_shutdown(async move {
//!         assert_eq!((done.recv().await, done.recv().await), (Some(500), Some(-200)));
//!     })
//!     .await
//! # }
//! ```

mod group;

pub use group::ConsumerGroup;
