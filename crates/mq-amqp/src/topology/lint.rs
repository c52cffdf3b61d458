//! What a topology may do, and what loses messages without an error.
//!
//! What the broker would punish, or has given up, cannot be said at all: see the tests.

use std::fmt;

use super::QueueSettings;

/// Something in a [`Topology`](crate::Topology) that can lose messages without an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lint {
    /// Nothing is bound to the exchange: what is published there goes nowhere.
    Unbound {
        /// Its name.
        exchange: String,
    },
    /// A dead-letter home counts deliveries, and has no home: a letter that ends its reader's
    /// process too often is dropped.
    LettersDropped {
        /// Its name.
        queue: String,
    },
    /// What the broker itself dead-letters from the queue is sent once, and lost with a crash in
    /// between: only a quorum queue that refuses at its limit confirms it.
    LettersUnconfirmed {
        /// Its name.
        queue: String,
    },
    /// The queue is deleted with all that it holds when it is not used for a while.
    Expires {
        /// Its name.
        queue: String,
    },
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbound { exchange } => write!(
                f,
                "nothing is bound to exchange {exchange}: what is published there goes nowhere"
            ),
            Self::LettersDropped { queue } => write!(
                f,
                "queue {queue} is a dead-letter home: a letter over its delivery limit is dropped; \
                 name a place with `broker_dead_letters`"
            ),
            Self::LettersUnconfirmed { queue } => write!(
                f,
                "what the broker dead-letters from queue {queue} is sent once, unconfirmed; a \
                 quorum queue that refuses at its limit confirms it"
            ),
            Self::Expires { queue } => write!(
                f,
                "queue {queue} is deleted with its messages when it is not used for a while"
            ),
        }
    }
}

pub(super) fn queue(name: &str, settings: &QueueSettings) -> Vec<Lint> {
    let queue = || name.to_owned();
    let home = mq_core::Destination::queue(name).dead_letter_home();
    let letters = settings.letters(home).is_some();
    [
        (
            settings.is_quorum() && !letters,
            Lint::LettersDropped { queue: queue() },
        ),
        (
            letters && settings.sends_letters_once(),
            Lint::LettersUnconfirmed { queue: queue() },
        ),
        (settings.has_expiry(), Lint::Expires { queue: queue() }),
    ]
    .into_iter()
    .filter_map(|(applies, lint)| applies.then_some(lint))
    .collect()
}

#[cfg(test)]
mod tests;
