//! One item with the right to settle it.

use std::ops::Deref;

use mq_core::{Failure, FailureClass, Reason, Received, Rejection, Result, Settlement};

/// An item as it was received, and its settlement. It dereferences to the item.
///
/// Dropped without a verdict, it is delivered again and the attempt counts as failed.
///
/// Every verb fails with [`Stale`](mq_core::ErrorKind::Stale) if the channel or assignment that it
/// came from is gone: the broker delivers it again.
#[derive(Debug)]
#[must_use = "an unsettled item is given back and counted as a failure"]
pub struct Item<T> {
    value: T,
    settlement: Settlement,
    max_attempts: u32,
}

impl<T> Item<T> {
    pub(super) fn new(value: T, settlement: Settlement, max_attempts: u32) -> Self {
        Self {
            value,
            settlement,
            max_attempts,
        }
    }

    /// The message it came in, with headers, key and attempt.
    pub fn received(&self) -> &Received {
        self.settlement.received()
    }

    /// It is done: it will not be delivered again.
    ///
    /// # Errors
    /// [`Stale`](mq_core::ErrorKind::Stale).
    pub fn ack(self) -> Result<()> {
        self.settlement.ack()
    }

    /// The attempt failed: it is delivered again until the plan's `max_attempts` are used up, then
    /// goes to the dead-letter home; at once if the failure is permanent.
    ///
    /// # Errors
    /// [`Stale`](mq_core::ErrorKind::Stale).
    pub fn fail(self, failure: impl Into<Failure>) -> Result<()> {
        let failure = failure.into();
        let reason = match failure.class() {
            FailureClass::Infrastructure => return self.settlement.release(),
            FailureClass::Permanent => Reason::Permanent,
            _ if self.received().attempt() >= self.max_attempts => Reason::Exhausted,
            _ => return self.settlement.requeue(),
        };
        self.settlement
            .reject(Rejection::from_error(reason, failure.error()))
    }

    /// The item and its settlement, to go separate ways.
    pub fn into_parts(self) -> (T, Settlement) {
        (self.value, self.settlement)
    }
}

impl<T> Deref for Item<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
