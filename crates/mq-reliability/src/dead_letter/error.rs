//! Why a message does not read as a dead letter.

use std::{error::Error, fmt};

/// A message does not read as a dead letter; names the header.
///
/// It holds no header value: those may come from strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// The header is not there.
    Missing(&'static str),
    /// The header is there, but is no text, or not of the form that its name stands for.
    Malformed(&'static str),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(header) => write!(f, "not a dead letter: header {header} is missing"),
            Self::Malformed(header) => {
                write!(f, "not a dead letter: header {header} is malformed")
            }
        }
    }
}

impl Error for Unreadable {}
