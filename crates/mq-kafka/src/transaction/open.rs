//! The transaction that is open: what it holds so far.

use std::collections::HashMap;

use futures::FutureExt;
use krafka::producer::{DeliveryHandle, TopicPartitionOffset};
use mq_core::{
    Error, ErrorKind, Reason, Receipt, Received, Rejection, Result, Stored, flow::PublishFlow,
};

use crate::{
    error::{self, Stage},
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
    flows: Vec<Box<PublishFlow>>,
    pub(super) dead: Vec<Received>,
}

/// A record that the client has taken.
struct Sent {
    partition: i32,
    offset: i64,
    /// It is the copy of a rejected record.
    dead: bool,
    handle: DeliveryHandle,
}

impl Open {
    pub(super) fn place(&mut self, moved: Moved) {
        self.places.insert(moved.partition, moved);
    }

    pub(super) fn places(&self) -> impl Iterator<Item = &Moved> {
        self.places.values()
    }

    pub(super) fn sent(&mut self, partition: i32, offset: i64, dead: bool, handle: DeliveryHandle) {
        self.sent.push(Sent {
            partition,
            offset,
            dead,
            handle,
        });
    }

    pub(super) fn flow(&mut self, flow: Option<Box<PublishFlow>>) {
        if let Some(flow) = flow {
            flow.begin();
            self.flows.push(flow);
        }
    }

    pub(super) fn offsets(&self, topic: &str) -> Vec<TopicPartitionOffset> {
        let offset = |moved: &Moved| TopicPartitionOffset::new(topic, moved.partition, moved.next);
        self.places.values().map(offset).collect()
    }

    /// It is committed: tells of every output.
    pub(super) fn committed(&mut self) {
        for flow in self.flows.drain(..) {
            flow.end(&Ok(Receipt::new(Stored::InSync)));
        }
    }

    /// It is aborted: tells of every output, and finds the records whose outputs no transaction can hold.
    ///
    /// # Errors
    /// The broker refused for good what is no single message's fault, or the copy of a rejected one.
    pub(super) fn aborted(mut self, why: &Error) -> Result<Vec<Condemned>> {
        for flow in self.flows.drain(..) {
            flow.end(&Err(why.clone()));
        }
        let mut condemned = Vec::new();
        for sent in self.sent {
            // After an abort each of them has its outcome.
            let Some(Err(error)) = sent.handle.now_or_never() else {
                continue;
            };
            let error = error::map("publish", Stage::Handed, error);
            match error.kind() {
                ErrorKind::Permission | ErrorKind::Auth => return Err(error),
                ErrorKind::Rejected | ErrorKind::TooLarge | ErrorKind::NotFound
                    if !error.is_retryable() =>
                {
                    if sent.dead {
                        return Err(error);
                    }
                    let why = Rejection::from_error(Reason::Permanent, &error.into());
                    condemned.push((sent.partition, sent.offset, Box::new(why)));
                }
                _ => {}
            }
        }
        Ok(condemned)
    }
}
