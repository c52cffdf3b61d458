//! Broken settlement.

use std::{
    collections::HashMap,
    mem,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures::FutureExt;
use mq_core::{
    Broker, Destination, ErrorKind, Publisher, Received, Rejection, Result, Settle, Settlement,
    Verdict, dead_letter_copy, stale,
};
use mq_memory::Memory;
use tokio::task::unconstrained;

use super::{Fault, broker::Broken, link::Line};

/// Passes verdicts on to the settlements of the inner consumer, wrongly.
#[derive(Debug)]
pub(super) struct BrokenSettle {
    broker: Memory,
    fault: Fault,
    home: Option<Destination>,
    open: Mutex<HashMap<u64, Settlement>>,
    /// Acknowledged, but nobody told the broker yet.
    late: Mutex<Vec<Settlement>>,
    closed: AtomicBool,
    line: Line,
    next: AtomicU64,
}

impl BrokenSettle {
    pub(super) fn new(broker: &Broken, home: Option<Destination>) -> Self {
        Self {
            broker: broker.inner.clone(),
            fault: broker.fault,
            home,
            open: Mutex::default(),
            late: Mutex::default(),
            closed: AtomicBool::new(false),
            line: broker.line.clone(),
            next: AtomicU64::new(0),
        }
    }

    pub(super) fn keep(&self, settlement: Settlement) -> u64 {
        let tag = self.next.fetch_add(1, Ordering::Relaxed);
        if self.fault == Fault::AcksOnReceive {
            settlement.ack().unwrap();
        } else {
            self.open.lock().unwrap().insert(tag, settlement);
        }
        tag
    }

    pub(super) fn ack_all(&self) {
        for (_, settlement) in mem::take(&mut *self.open.lock().unwrap()) {
            let _ = settlement.ack();
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.late.lock().unwrap().clear();
    }

    fn publish_dead_letter(&self, received: &Received, why: &Rejection, headers: bool) {
        let Some(home) = &self.home else { return };
        let message = match headers {
            true => dead_letter_copy(received, why),
            false => received.message().clone(),
        };
        let publisher = self.broker.publisher();
        // Without Tokio's budget: in this process the outcome is always there.
        let outcome = unconstrained(publisher.publish(home, message)).now_or_never();
        outcome.expect("in process").unwrap();
    }
}

impl Settle for BrokenSettle {
    fn settle(&self, tag: u64, verdict: Verdict, received: &Received) -> Result<()> {
        let Some(settlement) = self.open.lock().unwrap().remove(&tag) else {
            return Ok(());
        };
        if !self.line.is_open() && self.fault != Fault::TakesLateVerdicts {
            // Dropped here, the inner one gives the message back.
            return Err(stale(received.source()));
        }
        let result = match (self.fault, verdict) {
            (Fault::ForgetsAcks, Verdict::Ack) => {
                mem::forget(settlement);
                Ok(())
            }
            (Fault::AcksLate, Verdict::Ack) if !self.closed.load(Ordering::Relaxed) => {
                self.late.lock().unwrap().push(settlement);
                Ok(())
            }
            (Fault::RequeueLoses, Verdict::Requeue)
            | (Fault::DeferLoses, Verdict::Defer(_))
            | (Fault::RejectLoses, Verdict::Reject(_)) => settlement.ack(),
            (Fault::RequeueIsNotCounted, Verdict::Requeue)
            | (Fault::DeferIsNotCounted, Verdict::Defer(_)) => settlement.release(),
            (Fault::ReleaseIsCounted, Verdict::Release) => settlement.requeue(),
            (Fault::DefersAtOnce, Verdict::Defer(_)) => settlement.requeue(),
            (Fault::RejectsTwice, Verdict::Reject(why)) => {
                self.publish_dead_letter(received, &why, true);
                settlement.reject(*why)
            }
            (Fault::RejectsWithoutHeaders, Verdict::Reject(why)) => {
                self.publish_dead_letter(received, &why, false);
                settlement.ack()
            }
            (_, Verdict::Ack) => settlement.ack(),
            (_, Verdict::Requeue) => settlement.requeue(),
            (_, Verdict::Release) => settlement.release(),
            (_, Verdict::Defer(delay)) => settlement.defer(delay),
            (_, Verdict::Reject(why)) => settlement.reject(*why),
        };
        match (self.fault, result) {
            (Fault::TakesLateVerdicts, Err(error)) if error.kind() == ErrorKind::Stale => Ok(()),
            (Fault::RejectsWithoutHome, Err(error)) if error.kind() == ErrorKind::Unsupported => {
                Ok(())
            }
            (_, result) => result,
        }
    }
}
