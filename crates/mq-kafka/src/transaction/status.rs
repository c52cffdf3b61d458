//! What can be seen of the transactions of one guarantee, and asked of them.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use super::level::TransactionLevel;

/// How many transactions there were; from [`ExactlyOnce::transactions`](crate::ExactlyOnce::transactions).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transactions {
    /// Committed ones.
    pub committed: u64,
    /// Aborted ones. Their records came again.
    pub aborted: u64,
    /// Verdicts that came while a transaction was committing: the next batch, handled meanwhile.
    pub handled_meanwhile: u64,
}

/// Shared by the clones of a guarantee and its running session.
#[derive(Debug, Default)]
pub(super) struct Status {
    running: AtomicBool,
    abort: AtomicBool,
    committed: AtomicU64,
    aborted: AtomicU64,
    handled_meanwhile: AtomicU64,
    level: Mutex<Option<TransactionLevel>>,
}

impl Status {
    /// Takes the transactional id for one session; `None` if another one has it. Dropping what is returned gives it back.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Running> {
        let was = self.running.swap(true, SeqCst);
        (!was).then(|| Running(Arc::clone(self)))
    }

    pub(super) fn read(&self) -> Transactions {
        Transactions {
            committed: self.committed.load(Relaxed),
            aborted: self.aborted.load(Relaxed),
            handled_meanwhile: self.handled_meanwhile.load(Relaxed),
        }
    }

    pub(super) fn level(&self) -> Option<TransactionLevel> {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_level(&self, level: TransactionLevel) {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = Some(level);
    }

    pub(super) fn ask_abort(&self) {
        self.abort.store(true, SeqCst);
    }

    pub(super) fn take_abort(&self) -> bool {
        self.abort.swap(false, SeqCst)
    }

    pub(super) fn committed(&self, handled_meanwhile: u64) {
        self.committed.fetch_add(1, Relaxed);
        self.handled_meanwhile.fetch_add(handled_meanwhile, Relaxed);
    }

    pub(super) fn aborted(&self) {
        self.aborted.fetch_add(1, Relaxed);
    }
}

/// The one session of a transactional id in this process.
#[derive(Debug)]
pub(super) struct Running(pub(super) Arc<Status>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.store(false, SeqCst);
    }
}
