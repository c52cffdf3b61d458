//! Outputs on their way to the ledger of their record: a verdict has no room for them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::staging::Output;

/// Outputs whose verdict follows at once, by the tag of the delivery: of all ledgers of one consumer, in which a tag names one
/// delivery.
#[derive(Debug, Default)]
pub(crate) struct Announced(Mutex<HashMap<u64, Vec<Output>>>);

impl Announced {
    /// Hands over the outputs of the delivery whose verdict is about to be given.
    pub(crate) fn put(&self, tag: u64, outputs: Vec<Output>) {
        self.lock().insert(tag, outputs);
    }

    /// The outputs of a delivery, with its verdict; or back again, if that was not taken.
    pub(crate) fn take(&self, tag: u64) -> Vec<Output> {
        self.lock().remove(&tag).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Vec<Output>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
