//! Workers and other tasks that are kept running, as an OTP supervisor does it; one actor per key.
//!
//! A [`Supervisor`] runs *children*: functions that make a worker, a consumer's loop, another
//! supervisor or any other future, each in a task of its own. What ends and should not have is
//! made anew: at the pace of a backoff, alone or together with others, and not for ever. An
//! [`Actor`] is a state that handles its messages one at a time; [`Actors`] hold one for each key.
//! [Supervision for those who come from OTP](https://github.com/mq-rs/mq/blob/main/docs/guides/supervision.md)
//! compares.
//!
//! | strategy | who is started again with a child |
//! |---|---|
//! | [`one_for_one`](Supervisor::one_for_one) | nobody else |
//! | [`one_for_all`](Supervisor::one_for_all) | all others |
//! | [`rest_for_one`](Supervisor::rest_for_one) | those added after it |
//!
//! | a child that is | starts again after a normal end | after an error or a panic | with others of its strategy |
//! |---|---|---|---|
//! | permanent (default) | yes | yes | yes |
//! | [`transient`](Child::transient) | no | yes | yes, even if it had ended |
//! | [`temporary`](Child::temporary) | no | no | no: stopped with them, and gone |
//!
//! # Promise
//!
//! * Children start in the order in which they were added. They stop in reverse, one after the
//!   other, each within its deadline; one that is not done by then is aborted, with an event.
//! * Between a failure and the restart lies at least half of the backoff's limit, which doubles
//!   from 100 ms up to 10 s by default. There is no hot loop.
//! * One restart more than the [intensity](Supervisor::intensity) allows, 10 within 60 s by
//!   default, and the supervisor stops its children and ends with [`GaveUp`]. Under a parent it is
//!   a failed child; outermost, its program decides. An error that no restart can help, such as a
//!   wrong password, ends every level at once, unless the child [says
//!   otherwise](Child::fatal_if).
//! * Nothing of it outlives it: dropped, the supervisor aborts its children, and so do [`Actors`].
//! * One actor of a key is at work at a time. A call ends with the reply or with a typed error, at
//!   the latest at its deadline. Mailboxes and the number of actors are bounded.
//!
//! A handler that panics is no matter for a supervisor: the worker takes it as a failed attempt,
//! with its ceiling and its dead letter. A worker ends only when its consumer or its connection is
//! lost, and as a permanent child it is made anew by its function, which may connect anew as well.
//!
//! # What can still go wrong
//!
//! * The start of a child is not waited for: one that cannot start has failed like any other. A
//!   child that needs another has to fail, or to wait, until that one is there.
//! * A task is dropped where it waits. A child that blocks its thread can be aborted only when it
//!   waits again: the supervisor goes on without it after 1 s when it stops, and gives up instead
//!   of starting a second one beside it.
//! * With the defaults an outage of more than about half a minute ends the supervisor. Raise the
//!   intensity to wait longer in the process; leave it to let whatever started the program decide.
//! * An actor's state is memory. It is gone when the actor fails, when it was idle for long, and
//!   with the process; what has to last is stored before `handle` returns. An actor that has left
//!   and one that failed often forget their failures as well.
//! * The message over which an actor fails is not handled again: its caller is told. Those behind
//!   it wait for the next state, other than in OTP, where they are gone with the process. When an
//!   actor gives up, they are refused.
//! * A call without an answer may be handled still. Under a worker its message comes again:
//!   handlers have to be idempotent.
//!
//! # What it asks of the broker
//!
//! Nothing. What a worker had in hand when it was lost, the broker delivers again.
//!
//! # Cost
//!
//! A supervisor: a task for each child. An actor: about 3 KB while it is idle, its state apart, of
//! which a mailbox takes room for 32 messages at a time; measured with 10,000 of them and messages
//! of 16 bytes by `cargo test -p mq-reliability --features supervise --test actors memory --
//! --ignored --nocapture`. A call: two small allocations, and the way to another task and back.
//!
//! # Tests
//!
//! `tests/supervise_model.rs` compares the supervisor with a model: random children, strategies,
//! ends, times and stops. `tests/supervise.rs` has the corners, `tests/actors.rs` the actors. On
//! each broker the cases `supervise: …` of `tests/promises.rs`.
//!
//! # Example
//!
//! ```
//! use mq_core::{BoxError, Broker, Destination, Json, Message, Publisher, State, Subscription, Worker};
//! use mq_memory::Memory;
//! use mq_reliability::supervise::{Actor, ActorError, Actors, Child, Supervisor};
//! # use tokio::sync::oneshot;
//!
//! /// One customer's points.
//! struct Points(u64);
//!
//! impl Actor for Points {
//!     type Message = u64;
//!     type Reply = u64;
//!
//!     async fn handle(&mut self, points: u64) -> Result<u64, BoxError> {
//!         self.0 += points;
//!         Ok(self.0)
//!     }
//! }
//!
//! type Customers = Actors<String, Points>;
//!
//! /// The order is acknowledged when its customer's actor has done it.
//! async fn reward(
//!     State(customers): State<Customers>,
//!     Json((customer, points)): Json<(String, u64)>,
//! ) -> Result<(), ActorError> {
//!     customers.call(&customer, points).await?;
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let broker = Memory::new();
//! let orders = Destination::queue("orders");
//! broker.declare(&orders).await?;
//! let order = Message::json(&("alice", 3))?;
//! broker.publisher().publish(&orders, order).await?;
//!
//! let customers: Customers = Actors::builder(|_customer| async { Ok(Points(0)) }).build();
//! let (actors, state) = (customers.clone(), customers.clone());
//! let supervisor = Supervisor::rest_for_one("shop")
//!     .child(Child::new("customers", move |stop| actors.run_until(stop)))
//!     .child(Child::new("orders", move |stop| {
//!         Worker::new(&broker, Subscription::queue("orders"))
//!             .state(state.clone())
//!             .run(reward)
//!             .with_graceful_shutdown(stop)
//!     }));
//! # let (stop, stopped) = oneshot::channel::<()>();
//! # let signal = async { drop(stopped.await) };
//! let shop = tokio::spawn(supervisor.run_until(signal));
//! # while customers.call(&"alice".to_owned(), 0).await? < 3 { tokio::task::yield_now().await; }
//! # drop(stop);
//! shop.await??;
//! # Ok(())
//! # }
//! ```

mod actor;
mod actors;
mod child;
mod error;
mod event;
mod mailbox;
mod pace;
mod run;
mod stop;
mod supervisor;

pub use actor::{Actor, ActorError};
pub use actors::{Actors, ActorsBuilder, Undrained};
pub use child::{Child, IntoExit};
pub use error::{Cause, ChildError, GaveUp};
pub use event::{Event, What};
pub use stop::Stop;
pub use supervisor::Supervisor;
