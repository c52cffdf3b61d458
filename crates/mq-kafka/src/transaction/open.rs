//! The transaction that is open: what it holds so far.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use futures::FutureExt;
use krafka::{KrafkaError, producer::DeliveryHandle};
use mq_core::{Error, Reason, Receipt, Rejection, Result, Stored, flow::PublishFlow};

use super::search::Suspects;
use crate::{
    error,
    metrics::{Counted, Counters},
    settle::{Condemned, Move, Moved, Room, Slice},
};

/// What a transaction holds.
#[derive(Default)]
pub(super) struct Open {
    /// The client has begun it. Without an output and an offset there is nothing to end: the coordinator knows of none, and before
    /// transactions V2 takes the abort of none for a mistake.
    pub(super) begun: bool,
    /// What it covers of each log, by its number.
    covered: BTreeMap<usize, Covered>,
    /// How many source records it covers, and the size of what goes with them.
    pub(super) records: usize,
    bytes: usize,
    /// Where its outputs and copies go.
    pub(super) topics: BTreeSet<String>,
    sent: Vec<Sent>,
    flows: Vec<PublishFlow>,
    counted: Vec<Counted>,
    /// Records whose copies it holds, each with the number of its log.
    pub(super) copied: Vec<(usize, Move)>,
}

/// What a transaction covers of one log.
#[derive(Default)]
struct Covered {
    /// Where it puts each partition.
    places: HashMap<i32, Moved>,
    records: usize,
}

/// A record that the client has taken.
pub(super) struct Sent {
    pub(super) source: Source,
    /// It is the copy of the source, for another topic.
    pub(super) is_copy: bool,
    pub(super) handle: DeliveryHandle,
}

/// The record that something comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// The number of its log.
    pub(super) log: usize,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

impl Open {
    /// It covers these records from the moment that they are taken: if it is aborted before all of them are sent, all come again.
    pub(super) fn cover(&mut self, log: usize, slice: &Slice) {
        let covered = self.covered.entry(log).or_default();
        covered.places.insert(slice.partition, Moved::from(slice));
        covered.records += slice.staged.len();
        self.records += slice.staged.len();
        self.bytes += slice.bytes();
    }

    /// What it may still take where so many records are the limit.
    pub(super) fn room(&self, limit: usize) -> Room {
        Room::new(limit.saturating_sub(self.records), self.bytes)
    }

    /// True if it has something of another log than this one.
    pub(super) fn is_of_another(&self, log: usize) -> bool {
        self.covered.keys().any(|covered| *covered != log)
    }

    /// What it covers of each log.
    pub(super) fn covered(&self) -> Vec<Suspects> {
        let suspects = |(log, covered): (&usize, &Covered)| Suspects {
            log: *log,
            records: covered.records,
            places: covered
                .places
                .values()
                .map(|at| (at.partition, at.next))
                .collect(),
        };
        self.covered.iter().map(suspects).collect()
    }

    /// Where it puts the partitions of each log that it has something of.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, &HashMap<i32, Moved>)> {
        let covered = self.covered.iter();
        covered.map(|(log, covered)| (*log, &covered.places))
    }

    pub(super) fn goes_to(&mut self, topic: &str) {
        if !self.topics.contains(topic) {
            self.topics.insert(topic.to_owned());
        }
    }

    pub(super) fn sent(&mut self, sent: Sent, counters: &Arc<Counters>) {
        self.counted.push(Counted::new(counters));
        self.sent.push(sent);
    }

    pub(super) fn flow(&mut self, flow: Option<Box<PublishFlow>>) {
        if let Some(flow) = flow {
            flow.begin();
            self.flows.push(*flow);
        }
    }

    /// What ended the client, if that is an output of this transaction.
    pub(super) fn failure(&mut self) -> Option<KrafkaError> {
        let mut answers = self.sent.iter_mut();
        answers.find_map(|sent| (&mut sent.handle).now_or_never()?.err())
    }

    /// It is committed: tells of every output.
    pub(super) fn committed(&mut self) {
        let stored = Ok(Receipt::new(Stored::InSync));
        for mut counted in self.counted.drain(..) {
            counted.end(&stored);
        }
        for flow in self.flows.drain(..) {
            flow.end(&stored);
        }
    }

    /// It is aborted: tells of every output, and whether the broker refused one for good. The client does not say which one of its
    /// batch: where the transaction covers one record alone, that is the one.
    ///
    /// # Errors
    /// What was refused is the copy of a record that leaves for another topic.
    pub(super) fn aborted(mut self, why: &Error) -> Result<(Refusal, Option<(usize, Condemned)>)> {
        let aborted = Err(why.clone());
        for mut counted in self.counted.drain(..) {
            counted.end(&aborted);
        }
        for flow in self.flows.drain(..) {
            flow.end(&aborted);
        }
        for sent in self.sent {
            // After an abort each of them has its outcome.
            let Some(Err(error)) = sent.handle.now_or_never() else {
                continue;
            };
            let Some(refused) = error::refused_in_transaction(error) else {
                continue;
            };
            if self.records > 1 {
                return Ok((Refusal::OneOfThem, None));
            }
            if sent.is_copy {
                return Err(refused);
            }
            let why = Rejection::from_error(Reason::Permanent, &refused.into());
            let Source {
                log,
                partition,
                offset,
            } = sent.source;
            let condemned = (partition, offset, Box::new(why));
            return Ok((Refusal::This(log), Some((log, condemned))));
        }
        Ok((Refusal::None, None))
    }
}

/// What the broker refused for good of an aborted transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    None,
    /// The outputs of the only record, which is of this log.
    This(usize),
    /// The outputs of one record, or of several together.
    OneOfThem,
}
