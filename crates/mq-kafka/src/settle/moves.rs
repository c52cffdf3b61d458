//! Records that leave for another topic: copy, confirm, settle.

use mq_core::{Received, Rejection};

use super::book::Tag;

/// A record on its way to another topic.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub(crate) received: Received,
    pub(crate) what: What,
    pub(super) tag: Tag,
}

/// Why it goes, and so where to.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// It was rejected: to the dead-letter home.
    Reject(Box<Rejection>),
    /// It was deferred: to a retry topic. The time is in milliseconds since 1970.
    Defer { due: u64, attempts: u32 },
    /// It was given back, and one more delivery could be the broker's last: to the end of its own queue.
    Again { attempts: u32 },
    /// It has waited for as long as its retry topic says, and is due later: to a retry topic.
    GoOn { due: u64, attempts: u32 },
}
