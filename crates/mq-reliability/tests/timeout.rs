//! The timeout on Tokio's paused clock: what is ended, what is not, and what is left of it.

#![allow(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use mq_core::{
    Attempt, Broker, ConsumePlan, Consumer, Decision, Destination, Error, ErrorKind, FailureClass,
    Message, Outcome, Publisher, Reason, Received, Subscription, Worker,
};
use mq_memory::Memory;
use mq_reliability::{
    dead_letter::DeadLetter,
    retry::{Policy, Retry},
    timeout::Timeout,
};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

const DEADLINE: Duration = Duration::from_secs(600);
const LIMIT: Duration = Duration::from_secs(5);

fn received() -> Received {
    Received::new(Message::new("x").build(), "orders".into(), None)
}

async fn call(took: Duration) -> (Outcome, Duration) {
    let mut service = Timeout::new(LIMIT).layer(service_fn(move |_: Received| async move {
        sleep(took).await;
        Ok::<_, Error>(Outcome::ack())
    }));
    let start = Instant::now();
    let ready = service.ready().await.expect("ready");
    let outcome = ready.call(received()).await.expect("an outcome");
    (outcome, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_call_within_its_limit_is_left_alone() {
    let (outcome, took) = call(LIMIT - Duration::from_millis(1)).await;
    assert!(matches!(outcome.decision(), Decision::Ack), "{outcome:?}");
    assert!(took < LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_call_over_its_limit_is_a_transient_failure_that_says_so() {
    let (outcome, took) = call(LIMIT + Duration::from_secs(60)).await;
    assert!(took < LIMIT + Duration::from_secs(1), "{took:?}");
    let Decision::Retry(failure) = outcome.decision() else {
        panic!("not a failure: {outcome:?}");
    };
    assert_eq!(failure.class(), FailureClass::Transient);
    let error = failure.error().downcast_ref::<Error>().expect("our error");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.context("seconds"), Some("5"));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_ends_is_dead_lettered_and_the_next_message_is_handled() {
    let broker = Memory::new();
    let orders = Destination::queue("orders");
    broker.declare(&orders).await.expect("declares");
    for payload in ["stuck", "good"] {
        let message = Message::new(payload);
        let receipt = broker.publisher().publish(&orders, message).await;
        receipt.expect("confirmed");
    }
    let stuck = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&stuck);
    let handled = Arc::new(tokio::sync::Notify::new());
    let done = Arc::clone(&handled);
    let worker = Worker::new(&broker, Subscription::queue("orders"))
        .layer(Timeout::new(LIMIT))
        .layer(Retry::new(Policy::fast(3)))
        .run(move |received: Received, Attempt(_): Attempt| {
            let (count, done) = (Arc::clone(&count), Arc::clone(&done));
            async move {
                if received.payload().is_some_and(|p| p == "stuck") {
                    count.fetch_add(1, Ordering::SeqCst);
                    pending::<()>().await;
                }
                done.notify_one();
            }
        })
        .with_graceful_shutdown(async move { handled.notified().await });
    timeout(DEADLINE, worker.into_future())
        .await
        .expect("in time")
        .expect("ends well");
    assert_eq!(stuck.load(Ordering::SeqCst), 3, "attempts");

    let dead = Subscription::queue("orders.dead");
    let mut dead = broker
        .consumer(&dead, ConsumePlan::new())
        .await
        .expect("opens");
    let letter = dead.receive().await.expect("receives").expect("a letter");
    let told = DeadLetter::of(letter.received()).expect("a dead letter");
    assert_eq!((told.reason(), told.attempts()), (Reason::Exhausted, 3));
    assert!(
        told.error().contains("the handler did not end in time"),
        "{}",
        told.error()
    );
    letter.ack().expect("settles");
}
