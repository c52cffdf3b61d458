//! Retries in place and after delays, by policy, with a ceiling and a place to go.
//!
//! [`Retry`] is a layer for a [`Worker`](mq_core::Worker). A message whose handler fails is
//! attempted again in the same worker: at once, or after an exponential backoff with full jitter.
//! Where the policy has delays, a message whose attempts in place are used up waits at the broker and
//! comes again for another round, `fast × (delays + 1)` attempts in all.
//! The handler says what kind of failure it was with [`Classify`](mq_core::Classify):
//!
//! | failure | what happens |
//! |---|---|
//! | *permanent* (`.permanent()?`) | rejected at once |
//! | *transient* (`.transient()?`), or any plain error, a panic, the error of an inner layer such as a timeout | attempted again, in place and then later, up to the ceiling, then rejected |
//! | payload that cannot be decoded | rejected at once, without an attempt |
//! | *infrastructure*: a guarantee could not open or close its scope | handed on to the worker, which gives the message back |
//!
//! # Promise
//!
//! * A delivery is attempted at most as often as the policy's ceiling says, less the attempts that
//!   the message already has behind it, as far as the broker counts them.
//! * None is dropped: a rejected message goes to the dead-letter home, with the last error, the
//!   number of attempts and the time of the first failure.
//! * The handler sees the number of its attempt as [`Attempt`](mq_core::Attempt).
//! * No round begins before its delay is over. While a message waits it is stored at the broker, with
//!   its attempts, so a restart of the service loses neither.
//!
//! # What can still go wrong
//!
//! * Whatever a failed attempt did before it failed is done again: handlers have to be idempotent.
//! * The broker does not see attempts in place: a crash in the middle of them counts as one. So
//!   the handler may run up to ceiling times before each crash.
//! * While a message waits in place, it holds one slot of the worker's concurrency, and with order by key
//!   the later messages of its key.
//! * A crash that the broker counts moves a message one attempt on, also over the end of a round, whose
//!   delay is then left out. A crash between a stored copy and the settlement of its original forks
//!   the message: each of the two has the attempts that are left.
//! * A dead letter tells the first failure of its last round.
//! * A message that waits is overtaken by later ones. A worker that is `ordered_by_key` holds those of
//!   its key instead, and is refused where the broker cannot (`Capability::DeferInPlace`).
//! * With `AtMostOnce` the message is already acknowledged: when its attempts are used up it is
//!   gone.
//!
//! # What it asks of the broker
//!
//! A home for dead letters, and a ceiling that is not above the broker's own delivery limit
//! (RabbitMQ: 20), since a worker with a higher one is refused. Attempts in place never reach the
//! broker. Delays ask for [`Capability::Defer`](mq_core::Capability::Defer), and on RabbitMQ for the
//! delay cascade; without them the worker ends with a typed error before it takes a message.
//!
//! # Cost
//!
//! One allocation for each message; no round trip. A delay costs a confirmed copy of the message.
//!
//! # Order of layers
//!
//! The last layer added is outermost. A timeout added *before* the retry limits each attempt; one
//! added *after* it limits all of them together.
//!
//! # Tests
//!
//! `tests/retry.rs` in process, on a paused clock; on each broker the cases `retry: …` of
//! `tests/promises.rs`.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use mq_core::{Attempt, Broker, Destination, Message, Publisher, Subscription, Worker};
//! use mq_memory::Memory;
//! use mq_reliability::retry::{Policy, Retry};
//! use tokio::sync::mpsc;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> mq_core::Result<()> {
//! let broker = Memory::new();
//! let orders = Destination::queue("orders");
//! broker.declare(&orders).await?;
//! broker.publisher().publish(&orders, Message::new("tea")).await?;
//!
//! let (done, mut attempts) = mpsc::channel(1);
//! Worker::new(&broker, Subscription::queue("orders"))
//!     .layer(Retry::new(
//!         Policy::fast(3).backoff(Duration::from_millis(10), Duration::from_secs(1)),
//!     ))
//!     .run(move |Attempt(attempt): Attempt| {
//!         let done = done.clone();
//!         async move {
//!             if attempt < 3 {
//!                 return Err("the warehouse does not answer");
//!             }
//!             done.try_send(attempt).map_err(|_| "nobody listens")
//!         }
//!     })
//!     .with_graceful_shutdown(async move { assert_eq!(attempts.recv().await, Some(3)) })
//!     .await
//! # }
//! ```

mod layer;
mod policy;
mod service;

pub use layer::{Retry, RetryLayer};
pub use policy::Policy;
pub use service::{RetryFuture, RetryService};
