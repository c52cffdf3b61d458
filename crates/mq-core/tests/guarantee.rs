//! The guarantee seam: at least once, at most once, and what a guarantee with a scope can rely on.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{Bench, run_until, soon};
use mq_core::{
    AtLeastOnce, AtMostOnce, Broker, Classify, ConsumePlan, Decision, Destination, Error,
    ErrorKind, Failure, FromReceived, Guarantee, Message, MessageId, Outcome, Received, Result,
    Settlement, Worker,
    extract::{Context, Lease},
    guarantee::{Entry, Undone},
};
use tokio::sync::{Notify, mpsc};

#[tokio::test]
async fn at_most_once_never_handles_a_failed_message_again() {
    let bench = Bench::new().await;
    for n in 0..10_u32 {
        bench.publish(Message::json(&n).expect("JSON")).await;
    }
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .guarantee(AtMostOnce)
        .run(move |received: Received| {
            let sent = tx.send(received.id().to_string());
            async move {
                sent.transient()?;
                Err::<(), _>(Failure::from("each one fails"))
            }
        });
    let mut seen = run_until(run, rx, 10).await;
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10);
    assert!(bench.is_empty("orders").await && bench.is_empty("orders.dead").await);
}

#[tokio::test]
async fn at_most_once_acknowledges_before_it_handles() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (started, mut running) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .guarantee(AtMostOnce)
        .run(move || {
            let _ = started.send(());
            std::future::pending::<()>()
        });
    tokio::select! {
        ended = run.into_future() => panic!("ended: {ended:?}"),
        started = soon(running.recv()) => assert!(started.is_some()),
    }
    // The worker is gone in the middle of its handler: the message is lost, as promised.
    assert!(bench.is_empty("orders").await);
}

#[tokio::test]
async fn at_most_once_handles_what_it_acknowledged_before_it_stops() {
    let bench = Bench::new().await;
    for n in 0..10_u32 {
        bench.publish(Message::json(&n).expect("JSON")).await;
    }
    let handled = Arc::new(AtomicU32::new(0));
    let (started, mut running) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .guarantee(AtMostOnce)
        .run({
            let handled = Arc::clone(&handled);
            move || {
                let (started, handled) = (started.clone(), Arc::clone(&handled));
                async move {
                    let _ = started.send(());
                    tokio::task::yield_now().await;
                    handled.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    let signal = async move {
        running.recv().await;
    };
    soon(run.with_graceful_shutdown(signal))
        .await
        .expect("ends well");
    let rest = bench.rest("orders").await.len();
    assert_eq!(
        usize::try_from(handled.load(Ordering::Relaxed)).expect("fits") + rest,
        10
    );
}

/// A scope that notes how it ended, as a database transaction would.
#[derive(Debug)]
struct Transaction {
    log: Arc<Mutex<Vec<&'static str>>>,
    ended: bool,
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            self.log.lock().expect("no panic").push("dropped");
        }
    }
}

/// A guarantee with a scope, which can be made to fail.
#[derive(Debug, Clone, Default)]
struct Transactional {
    log: Arc<Mutex<Vec<&'static str>>>,
    open_fails: Arc<AtomicU32>,
    close_fails: Arc<AtomicU32>,
    done: bool,
    settled: Arc<Notify>,
    for_ever: bool,
}

impl Transactional {
    fn fault(&self, left: &AtomicU32) -> Result<()> {
        let fails = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        let kind = if self.for_ever {
            ErrorKind::Auth
        } else {
            ErrorKind::Timeout
        };
        match fails {
            Ok(_) => Err(Error::new(kind, "database", "it is not there")),
            Err(_) => Ok(()),
        }
    }
}

impl<B: Broker> Guarantee<B> for Transactional {
    type Scope = Transaction;
    type Session = B::Publisher;

    fn plan(&self, _plan: &mut ConsumePlan) {}

    async fn start(&self, broker: &B, _: &mut B::Consumer) -> Result<B::Publisher> {
        Ok(broker.publisher())
    }

    async fn open(&self, _: &Received) -> Result<Entry<Transaction>> {
        self.fault(&self.open_fails)?;
        if self.done {
            return Ok(Entry::Done(Outcome::ack()));
        }
        Ok(Entry::Run(Transaction {
            log: Arc::clone(&self.log),
            ended: false,
        }))
    }

    async fn close(&self, mut scope: Transaction, outcome: Outcome) -> Result<Outcome> {
        self.fault(&self.close_fails)?;
        scope.ended = true;
        let end = match outcome.decision() {
            Decision::Ack => "committed",
            _ => "rolled back",
        };
        self.log.lock().expect("no panic").push(end);
        Ok(outcome)
    }

    async fn settle(
        &self,
        session: &B::Publisher,
        settlement: Settlement,
        outcome: Outcome,
    ) -> Result<(), Undone> {
        let settled = Guarantee::<B>::settle(&AtLeastOnce, session, settlement, outcome).await;
        self.settled.notify_one();
        settled
    }
}

struct Tx(Lease<Transaction>);

impl<S> FromReceived<S, Transaction> for Tx {
    fn from_received(context: &Context<'_, S, Transaction>) -> Result<Self, Outcome> {
        let twice = || Error::new(ErrorKind::Config, "extract", "Tx is taken twice");
        context
            .scope()
            .lease()
            .map(Tx)
            .ok_or_else(|| Outcome::retry(Failure::infrastructure(twice())))
    }
}

async fn attempts_with(guarantee: &Transactional, count: usize) -> (Bench, Vec<u32>) {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .guarantee(guarantee.clone())
        .run(move |lease: Tx, received: Received| {
            let sent = tx.send(received.attempt());
            async move {
                assert!(!lease.0.ended);
                sent.transient()?;
                match received.attempt() {
                    1 => Err(Failure::from("the first attempt")),
                    _ => Ok(()),
                }
            }
        });
    let seen = run_until(run, rx, count).await;
    (bench, seen)
}

#[tokio::test]
async fn each_attempt_has_a_scope_that_is_closed_with_its_outcome() {
    let guarantee = Transactional::default();
    let (bench, seen) = attempts_with(&guarantee, 2).await;
    assert_eq!(seen, [1, 2]);
    assert_eq!(
        *guarantee.log.lock().expect("no panic"),
        ["rolled back", "committed"]
    );
    assert!(bench.is_empty("orders").await);
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_cannot_be_opened_is_not_held_against_the_message() {
    let guarantee = Transactional::default();
    guarantee.open_fails.store(30, Ordering::SeqCst);
    // In-process deadlines are on the paused clock too: 30 pauses of a second pass at once.
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (tx, mut rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .max_attempts(1)
        .guarantee(guarantee.clone())
        .run(move |Tx(_): Tx, received: Received| {
            let sent = tx.send(received.attempt());
            async move { sent.transient() }
        });
    let start = tokio::time::Instant::now();
    let signal = async move {
        assert_eq!(rx.recv().await, Some(1));
    };
    run.with_graceful_shutdown(signal).await.expect("ends well");
    assert!(
        start.elapsed() >= Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    assert!(bench.is_empty("orders").await && bench.is_empty("orders.dead").await);
}

#[tokio::test(start_paused = true)]
async fn with_order_by_key_no_later_message_overtakes_one_whose_scope_cannot_be_opened() {
    let guarantee = Transactional::default();
    guarantee.open_fails.store(3, Ordering::SeqCst);
    let bench = Bench::new().await;
    for number in 0..3 {
        bench
            .publish(Message::new("x").key("k").id(id(number)))
            .await;
    }
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .ordered_by_key()
        .guarantee(guarantee)
        .run(move |Tx(_): Tx, received: Received| {
            let sent = tx.send((received.id().to_string(), received.attempt()));
            async move { sent.transient() }
        });
    let seen = run_until(run, rx, 3).await;
    let expected = [0, 1, 2].map(|number| (id(number).to_string(), 1));
    assert_eq!(seen, expected);
    assert!(bench.is_empty("orders").await);
}

#[tokio::test(start_paused = true)]
async fn with_order_by_key_a_message_that_is_held_goes_back_uncounted_when_the_worker_stops() {
    let guarantee = Transactional::default();
    guarantee.open_fails.store(u32::MAX, Ordering::SeqCst);
    let bench = Bench::new().await;
    bench.publish(Message::new("x").key("k")).await;
    Worker::new(&bench.broker, bench.source())
        .ordered_by_key()
        .guarantee(guarantee)
        .run(never_called)
        .with_graceful_shutdown(tokio::time::sleep(Duration::from_secs(5)))
        .await
        .expect("ends well");
    assert_eq!(bench.take("orders").await.attempt(), 1);
}

fn id(number: u32) -> MessageId {
    MessageId::new(format!("m-{number}")).expect("a good id")
}

#[tokio::test]
async fn a_scope_that_can_never_be_opened_ends_the_worker() {
    let guarantee = Transactional {
        for_ever: true,
        ..Transactional::default()
    };
    guarantee.open_fails.store(1, Ordering::SeqCst);
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let run = Worker::new(&bench.broker, bench.source())
        .guarantee(guarantee)
        .run(async || {});
    let error = soon(run).await.expect_err("ends");
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert_eq!(bench.take("orders").await.attempt(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_cannot_be_closed_never_acknowledges() {
    let guarantee = Transactional::default();
    guarantee.close_fails.store(1, Ordering::SeqCst);
    let (bench, seen) = attempts_with(&guarantee, 3).await;
    // The failed close hides the failed attempt; both are made again.
    assert_eq!(seen, [1, 1, 2]);
    let log = guarantee.log.lock().expect("no panic").clone();
    assert_eq!(log, ["dropped", "rolled back", "committed"]);
    assert!(bench.is_empty("orders").await);
}

async fn never_called(_: Tx) {
    panic!("called");
}

#[tokio::test]
async fn a_message_that_is_done_does_not_reach_the_handler() {
    let guarantee = Transactional {
        done: true,
        ..Transactional::default()
    };
    let settled = Arc::clone(&guarantee.settled);
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let run = Worker::new(&bench.broker, bench.source())
        .guarantee(guarantee)
        .run(never_called);
    let signal = async move { settled.notified().await };
    soon(run.with_graceful_shutdown(signal))
        .await
        .expect("ends well");
    assert!(bench.is_empty("orders").await && bench.is_empty("orders.dead").await);
}

#[tokio::test]
async fn a_handler_that_keeps_its_scope_fails_and_can_change_nothing() {
    let guarantee = Transactional::default();
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let (keep, kept) = std::sync::mpsc::channel();
    let run = Worker::new(&bench.broker, bench.source())
        .max_attempts(1)
        .guarantee(guarantee.clone())
        .run(move |lease: Tx| {
            let sent = tx.send(());
            keep.send(lease).expect("kept");
            async move { sent.transient() }
        });
    run_until(run, rx, 1).await;
    let dead = bench.take("orders.dead").await;
    let error = dead
        .headers()
        .text(mq_core::headers::DEAD_ERROR)
        .expect("an error");
    assert!(error.contains("past its own end"), "{error}");
    assert!(guarantee.log.lock().expect("no panic").is_empty());
    drop(kept);
    assert_eq!(*guarantee.log.lock().expect("no panic"), ["dropped"]);
}

#[tokio::test]
async fn a_panic_rolls_its_scope_back() {
    let guarantee = Transactional::default();
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .max_attempts(1)
        .guarantee(guarantee.clone())
        .run(move |lease: Tx| {
            let sent = tx.send(());
            async move {
                let _lease = lease;
                sent.expect("sent");
                panic!("in the middle");
                #[allow(unreachable_code, reason = "it gives the block its type")]
                ()
            }
        });
    run_until(run, rx, 1).await;
    assert_eq!(*guarantee.log.lock().expect("no panic"), ["rolled back"]);
    assert!(!bench.is_empty("orders.dead").await);
}

#[tokio::test]
async fn outputs_are_stored_before_the_message_is_settled() {
    let bench = Bench::new().await;
    let out = Destination::queue("out");
    bench.broker.declare(&out).await.expect("declares");
    bench.publish(Message::new("x")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .max_attempts(2)
        .run(move |received: Received| {
            let sent = tx.send(received.attempt());
            let out = out.clone();
            async move {
                sent.transient()?;
                let outcome = match received.attempt() {
                    1 => Outcome::retry("outputs of a failed attempt are not published"),
                    _ => Outcome::reject("done with it"),
                };
                Ok::<_, Failure>(outcome.publish(&out, Message::new("copy")))
            }
        });
    run_until(run, rx, 2).await;
    assert_eq!(bench.rest("out").await.len(), 1);
    assert_eq!(bench.rest("orders.dead").await.len(), 1);
}
