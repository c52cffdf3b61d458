//! The worker: opens a consumer, runs the handler, settles.

mod batch;
mod builder;
mod intake;
mod lanes;
mod run;
mod runner;

pub use batch::{BatchHandler, BatchOutcome, BatchSize, IntoBatchOutcome};
pub use builder::Worker;
pub use run::Run;
