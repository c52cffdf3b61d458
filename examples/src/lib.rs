//! What the programs in the folders beside this one share: the command line, the connection, a
//! worker in the background, and the error that a program ends with.

mod args;
mod background;
mod clients;
#[cfg(doctest)]
mod docs;
mod error;

pub use args::Args;
pub use background::Background;
pub use clients::Clients;
pub use error::{Error, Result, within};
