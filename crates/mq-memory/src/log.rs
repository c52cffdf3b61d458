//! A topic as a log: partitions that keep their records, and groups that read them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use mq_core::{Message, filter::Filter};
use tokio::{sync::Notify, time::Instant};

use crate::{
    group::{Group, Taken},
    partition,
    ready::Entry,
};

/// A topic whose records stay after they were read (Kafka's shape).
#[derive(Debug)]
pub(crate) struct Log {
    state: Mutex<State>,
    /// One permit for each group wakes one member, which wakes the next one if more is there.
    pub(crate) changed: Notify,
    next: AtomicUsize,
    limit: usize,
}

#[derive(Debug)]
struct State {
    partitions: Vec<Partition>,
    groups: BTreeMap<Arc<str>, Group>,
    closed: bool,
}

/// The records of one partition; the first one has the offset `start`.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    start: u64,
    records: VecDeque<Record>,
}

#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) message: Arc<Message>,
    pub(crate) routing_key: Option<Arc<str>>,
    pub(crate) expires: Option<Instant>,
}
