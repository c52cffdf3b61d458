//! The conformance cases, by what they are about.

mod cancellation;
mod case;
mod competing;
mod dead_letters;
mod defer;
mod ephemeral;
mod failing;
mod filters;
mod headers;
mod lifecycle;
mod links;
mod load;
mod messages;
mod ordering;
mod outcomes;
mod payloads;
mod publishing;
mod receiving;
mod redelivery;
mod settlement;
mod subscriptions;
mod topology;

pub(crate) use case::planned;
pub use case::{Case, cases};
