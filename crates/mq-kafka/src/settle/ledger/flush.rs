//! Verdicts that somebody waits for.

use super::Ledger;

/// Verdicts that a caller waits for: partition, assignment, number.
pub(crate) type Awaited = Vec<(i32, u64, u64)>;

impl Ledger {
    /// True if a commit should not wait for the clock.
    pub(crate) fn wants_flush(&self) -> bool {
        let state = self.lock();
        state.flush || state.done - state.asked >= self.commit_after
    }

    /// Asks for a commit; returns the verdicts to wait for.
    pub(crate) fn request_flush(&self) -> Awaited {
        let state = &mut *self.lock();
        state.flush = true;
        for entry in state.partitions.values_mut() {
            entry.wanted = entry.tracker.low_water();
        }
        self.due.notify_one();
        let open = state
            .partitions
            .iter()
            .filter(|(_, p)| p.verdicts > p.confirmed);
        open.map(|(at, p)| (*at, p.assignment, p.verdicts))
            .collect()
    }

    /// True if the broker has these verdicts, or never will.
    pub(crate) fn is_confirmed(&self, awaited: &Awaited) -> bool {
        let state = self.lock();
        awaited.iter().all(|(partition, assignment, verdicts)| {
            let entry = state.partitions.get(partition);
            entry.is_none_or(|p| p.assignment != *assignment || p.confirmed >= *verdicts)
        })
    }

    /// True once if a verdict could not reach the broker.
    pub(crate) fn take_lost(&self) -> bool {
        std::mem::take(&mut self.lock().lost)
    }
}
