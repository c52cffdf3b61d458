//! The containers of `compose/`: started fresh, killed, stopped, frozen and started again, and taken down at the end.

mod engine;
mod node;
mod project;

pub use node::{Node, now};
pub use project::{Project, Setup};
