//! Transactions: what waits for their end.

use super::{messages::Id, names::Names};

/// The transactions of a history.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    pub(super) names: Names,
    ends: Vec<End>,
    waiting: Vec<Vec<Waiting>>,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Not recorded: either way.
    Open,
    Committed,
    Aborted,
}

/// What counts once its transaction is committed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waiting {
    Send(Id),
    Effect(EffectOf),
    Commit(CommitOf),
}

/// An effect.
#[derive(Debug, Clone, Copy)]
pub(super) struct EffectOf {
    pub(super) group: u32,
    pub(super) id: Id,
    pub(super) key: Option<u64>,
    /// The event.
    pub(super) number: u64,
}

/// A commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommitOf {
    pub(super) group: u32,
    pub(super) partition: u32,
    pub(super) epoch: super::offsets::Epoch,
    pub(super) next: u64,
    /// The event.
    pub(super) number: u64,
}

impl Waiting {
    /// In which order a transaction's parts count: an effect before the commit that covers it.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Send(_) => 0,
            Self::Effect(_) => 1,
            Self::Commit(_) => 2,
        }
    }
}

impl Transactions {
    /// The number of a transaction.
    pub(super) fn number(&mut self, name: &str) -> u32 {
        let number = self.names.number(name);
        if self.ends.len() < self.names.len() {
            self.ends.push(End::Open);
            self.waiting.push(Vec::new());
        }
        number
    }

    pub(super) fn end_of(&self, transaction: u32) -> End {
        self.ends[transaction as usize]
    }

    pub(super) fn wait(&mut self, transaction: u32, what: Waiting) {
        self.waiting[transaction as usize].push(what);
    }

    /// Ends a transaction and returns what waited. The first end counts.
    pub(super) fn end(&mut self, transaction: u32, end: End) -> Vec<Waiting> {
        let index = transaction as usize;
        if self.ends[index] == End::Open {
            self.ends[index] = end;
        }
        std::mem::take(&mut self.waiting[index])
    }

    /// What waits for the end of a transaction that has none.
    pub(super) fn unresolved(&mut self) -> Vec<Waiting> {
        self.waiting.iter_mut().flat_map(std::mem::take).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(Vec::capacity).sum();
        self.names.bytes() + waiting * size_of::<Waiting>() + self.waiting.capacity() * 25
    }
}
