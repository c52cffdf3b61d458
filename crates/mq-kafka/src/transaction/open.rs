//! The transaction that is open: what it holds so far.

use std::{collections::HashMap, sync::Arc};

use futures::FutureExt;
use krafka::producer::{DeliveryHandle, TopicPartitionOffset};
use mq_core::{Error, Reason, Receipt, Received, Rejection, Result, Stored, flow::PublishFlow};

use crate::{
    error,
    metrics::{Counted, Counters},
    settle::{Condemned, Moved},
};

/// What a transaction holds.
#[derive(Default)]
pub(super) struct Open {
    /// Where it puts each partition.
    places: HashMap<i32, Moved>,
    /// How many source records it covers.
    pub(super) records: usize,
    sent: Vec<Sent>,
    flows: Vec<PublishFlow>,
    counted: Vec<Counted>,
    pub(super) dead: Vec<Received>,
}

/// A record that the client has taken.
pub(super) struct Sent {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// It is the copy of a rejected record.
    pub(super) dead: bool,
    pub(super) handle: DeliveryHandle,
}

impl Open {
    pub(super) fn place(&mut self, moved: Moved) {
        self.places.insert(moved.partition, moved);
    }

    pub(super) fn places(&self) -> impl Iterator<Item = &Moved> {
        self.places.values()
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

    pub(super) fn offsets(&self, topic: &str) -> Vec<TopicPartitionOffset> {
        let offset = |moved: &Moved| TopicPartitionOffset::new(topic, moved.partition, moved.next);
        self.places.values().map(offset).collect()
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
    /// What was refused is the copy of a rejected record.
    pub(super) fn aborted(mut self, why: &Error) -> Result<(Refusal, Vec<Condemned>)> {
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
                return Ok((Refusal::OneOfThem, Vec::new()));
            }
            if sent.dead {
                return Err(refused);
            }
            let why = Rejection::from_error(Reason::Permanent, &refused.into());
            let condemned = (sent.partition, sent.offset, Box::new(why));
            return Ok((Refusal::This, vec![condemned]));
        }
        Ok((Refusal::None, Vec::new()))
    }
}

/// What the broker refused for good of an aborted transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    None,
    /// The outputs of the only record.
    This,
    /// The outputs of one record, or of several together.
    OneOfThem,
}
