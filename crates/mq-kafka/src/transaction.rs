//! Exactly once from Kafka to Kafka: outputs and offsets in one transaction.
//!
//! * [`guarantee`] is what a worker is given; [`level`] is what the cluster can do for it.
//! * [`session`] takes what handlers decide. It waits in `settle::staging`.
//! * [`transactor`] makes the transactions, on a clock of its own; [`open`] is the one that is open,
//!   [`search`] finds what no transaction can hold, [`brokers`] sees to it that a coordinator is found again.
//! * [`status`] is what can be seen of it.

mod brokers;
mod guarantee;
mod level;
mod open;
mod search;
mod session;
mod status;
mod transactor;

pub(crate) use brokers::Brokers;
pub use guarantee::ExactlyOnce;
pub use level::TransactionLevel;
pub use session::ExactlyOnceSession;
pub use status::Transactions;
