//! An end for a handler that does not end by itself.
//!
//! [`Timeout`] is a layer for a [`Worker`](mq_core::Worker). A call that takes longer than its limit
//! is dropped, and is a failed attempt with a typed error: kind
//! [`Timeout`](mq_core::ErrorKind::Timeout), with the limit and what to do. It is *transient*: it is
//! attempted again up to the worker's ceiling, then goes to the dead-letter home, whose letter has
//! that error.
//!
//! # Promise
//!
//! * No attempt lasts longer than the limit, as long as the handler yields: one message cannot hold
//!   a slot of the worker for ever.
//! * The message is not lost: it comes again, or is dead-lettered.
//!
//! # What can still go wrong
//!
//! * A future is dropped where it waits. A handler that blocks its thread, or computes without an
//!   `await`, does not stop: move such work to
//!   [`spawn_blocking`](https://docs.rs/tokio/latest/tokio/task/fn.spawn_blocking.html), and know
//!   that the thread goes on after the timeout.
//! * What the handler did before it was dropped stays done. What it had begun elsewhere, such as a
//!   request to another service, may still have its effect.
//!
//! # What it asks of the broker
//!
//! Nothing. Keep the limit, times the attempts in place, below the broker's own: RabbitMQ closes
//! the channel of a consumer that keeps a message for 30 minutes (`consumer_timeout`), which ends
//! the worker with [`Lost`](mq_core::ErrorKind::Lost).
//!
//! # Cost
//!
//! One timer for each call, and one allocation.
//!
//! # Order of layers
//!
//! The last layer added is outermost. Added *before* [`retry`](crate::retry), it limits each
//! attempt; added *after*, all of them together.
//!
//! # Tests
//!
//! `tests/timeout.rs` in process; on each broker `tests/promises.rs`:
//! `timeout: a handler that never ends is ended, and its message dead-lettered`.
//!
//! # Example
//!
//! ```
//! use std::{future::pending, time::Duration};
//!
//! use mq_core::{Broker, ConsumePlan, Consumer, Destination, Message, Publisher, Subscription, Worker};
//! use mq_memory::Memory;
//! use mq_reliability::timeout::Timeout;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq_core::Result<()> {
//! let broker = Memory::new();
//! let orders = Destination::queue("orders");
//! broker.declare(&orders).await?;
//! broker.publisher().publish(&orders, Message::new("tea")).await?;
//!
//! let worker = Worker::new(&broker, Subscription::queue("orders"))
//!     .max_attempts(2)
//!     .layer(Timeout::new(Duration::from_millis(20)))
//!     .run(|| pending::<()>());
//! let worker = tokio::spawn(worker.into_future());
//!
//! let dead = Subscription::queue("orders.dead");
//! let mut dead = broker.consumer(&dead, ConsumePlan::new()).await?;
//! let letter = dead.receive().await?.expect("the consumer is open");
//! assert_eq!(letter.payload().map(|p| &p[..]), Some(&b"tea"[..]));
//! letter.ack()?;
//! worker.abort();
//! # Ok(())
//! # }
//! ```

mod layer;
mod service;

pub use layer::Timeout;
pub use service::{TimeoutFuture, TimeoutService};
