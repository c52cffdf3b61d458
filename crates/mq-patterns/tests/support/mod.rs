//! What the tests on the in-process broker share: workers beside a test, reports of handlers, dead
//! letters.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "each test program uses a part of it, and a test that cannot go on has failed"
)]

use std::{fmt::Debug, time::Duration};

use mq_core::{
    Broker, ConsumePlan, Consumer, ErrorKind, Outcomes, Received, Result, Run, Subscription,
};
use mq_memory::Memory;
use serde::{Serialize, Serializer, ser::Error as _};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

pub const DEADLINE: Duration = Duration::from_secs(30);

/// A worker beside the test.
pub struct Running(oneshot::Sender<()>, JoinHandle<Result<()>>);

/// Runs a worker beside the test.
pub fn start(run: Run) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let run = run.with_graceful_shutdown(async move {
        let _ = stopped.await;
    });
    Running(stop, tokio::spawn(run.into_future()))
}

impl Running {
    /// Stops it; it has to end without an error.
    pub async fn stop(self) {
        self.0.send(()).expect("the worker waits");
        timeout(DEADLINE, self.1)
            .await
            .expect("an end in time")
            .expect("no panic")
            .expect("a clean end");
    }

    /// Ends it in the middle of whatever it does.
    pub async fn abort(self) {
        self.1.abort();
        self.1.await.expect_err("it was still running");
    }
}

/// A channel for what handlers report.
pub fn reports<T>() -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
    mpsc::channel(10_000)
}

/// The next so many reports.
pub async fn take<T: Debug>(from: &mut mpsc::Receiver<T>, count: usize) -> Vec<T> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        let report = timeout(DEADLINE, from.recv()).await;
        taken.push(report.expect("a report in time").expect("a report"));
    }
    taken
}

/// Takes so many messages of a subscription, acknowledged.
pub async fn drain(broker: &Memory, from: &Subscription, count: usize) -> Vec<Received> {
    let mut consumer = broker
        .consumer(from, ConsumePlan::new())
        .await
        .expect("a consumer");
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        let delivery = timeout(DEADLINE, consumer.receive())
            .await
            .expect("a message in time")
            .expect("no error")
            .expect("a message");
        taken.push(delivery.received().clone());
        delivery.ack().expect("in time");
    }
    consumer.close().await.expect("closed");
    taken
}

/// Takes so many messages of a queue, acknowledged.
pub async fn queue(broker: &Memory, name: &str, count: usize) -> Vec<Received> {
    drain(broker, &Subscription::queue(name), count).await
}

/// Nothing is in the queue: the wait for a message does not end. To be used with a paused clock.
pub async fn nothing(broker: &Memory, name: &str) {
    let mut consumer = broker
        .consumer(&Subscription::queue(name), ConsumePlan::new())
        .await
        .expect("a consumer");
    let next = timeout(Duration::from_hours(1), consumer.receive()).await;
    assert!(next.is_err(), "{next:?}");
}

/// The bytes of a message.
pub fn bytes(received: &Received) -> Option<&[u8]> {
    received.payload().map(|payload| &payload[..])
}

/// A value that can be written or not.
#[derive(Debug, Clone, Copy)]
pub struct Fickle(pub Option<usize>);

impl Serialize for Fickle {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(number) => to.serialize_u64(number as u64),
            None => Err(S::Error::custom("unwritable")),
        }
    }
}

/// One value for each flag, which says whether it can be written.
pub fn fickle(writable: &[bool]) -> Vec<Fickle> {
    let numbered = writable.iter().enumerate();
    numbered.map(|(i, w)| Fickle(w.then_some(i))).collect()
}

/// Checks the outcomes of values that were published to a log of one partition: it gives each stored
/// one its offset, which tells them apart.
pub fn in_order(values: &[Fickle], outcomes: Outcomes) {
    assert_eq!(outcomes.len(), values.len());
    let all = outcomes
        .clone()
        .all_confirmed()
        .map(|receipts| receipts.len());
    match values.iter().all(|value| value.0.is_some()) {
        true => assert_eq!(all.expect("all were confirmed"), values.len()),
        false => assert_eq!(all.expect_err("one was not").kind(), ErrorKind::Codec),
    }
    let mut offset = 0;
    for (value, outcome) in values.iter().zip(outcomes) {
        match (value.0, outcome) {
            (Some(_), Ok(receipt)) => {
                assert_eq!(receipt.position().map(|p| p.offset), Some(offset));
                offset += 1;
            }
            (None, Err(error)) => assert_eq!(error.kind(), ErrorKind::Codec),
            (value, outcome) => panic!("{value:?}: {outcome:?}"),
        }
    }
}
