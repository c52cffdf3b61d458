//! Retries on Tokio's paused clock: how often, how soon, and how it ends.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use mq_core::{
    Attempt, BoxError, Broker, Capabilities, Classify, ConsumePlan, Consumer, Decision,
    Destination, Error, ErrorKind, Failure, FailureClass, IntoOutcome, Json, Message, Outcome,
    Publisher, Reason, Received, Rejection, Subscription, Worker, layer::PlanLayer,
};
use mq_memory::Memory;
use mq_reliability::{
    dead_letter::DeadLetter,
    retry::{Policy, Retry, RetryLayer},
};
use proptest::prelude::*;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn, timeout::TimeoutLayer};

/// On a paused clock it has to be longer than all delays.
const DEADLINE: Duration = Duration::from_hours(1);
const MS: Duration = Duration::from_millis(1);

fn received() -> Received {
    Received::new(Message::new("x").build(), "orders".into(), None)
}

fn rejection(outcome: Outcome) -> Rejection {
    match outcome.into_parts().0 {
        Decision::Reject(rejection) => rejection,
        other => panic!("not rejected: {other:?}"),
    }
}

/// When each attempt began, and its number.
type Calls = Arc<Mutex<Vec<(u32, Instant)>>>;

/// Runs a message whose every attempt ends as `fail` says.
async fn run(
    policy: &Policy,
    received: Received,
    fail: impl Fn() -> Result<Outcome, BoxError> + Clone + Send + 'static,
) -> (Outcome, Vec<(u32, Instant)>) {
    let calls = Calls::default();
    let seen = Arc::clone(&calls);
    let service = RetryLayer::new(policy.clone()).layer(service_fn(move |received: Received| {
        let mut seen = seen.lock().unwrap();
        seen.push((received.attempt(), Instant::now()));
        assert!(seen.len() <= 1000, "it never ends");
        std::future::ready(fail())
    }));
    let outcome = service.oneshot(received).await.expect("an outcome");
    let calls = calls.lock().unwrap().clone();
    (outcome, calls)
}

fn fails() -> Result<Outcome, BoxError> {
    Ok(Outcome::retry("boom"))
}

fn on_paused_clock<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}

proptest! {
    #[test]
    fn makes_as_many_calls_as_the_ceiling_with_every_wait_within_its_limit(
        ceiling in 1_u32..40,
        behind in 0_u32..50,
        backoff in proptest::option::of((0_u64..5_000, 0_u64..60_000)),
    ) {
        let policy = match backoff {
            None => Policy::fast(ceiling),
            Some((initial, max)) => Policy::fast(ceiling)
                .backoff(Duration::from_millis(initial), Duration::from_millis(max)),
        };
        let (initial, max) = backoff.unwrap_or_default();
        let first = behind + 1;
        let (outcome, calls) = on_paused_clock(run(&policy, received().with_attempt(first), fails));

        prop_assert_eq!(rejection(outcome).reason(), Reason::Exhausted);
        prop_assert_eq!(calls.len(), usize::try_from(ceiling.saturating_sub(behind).max(1)).unwrap());
        for (pair, attempt) in calls.windows(2).zip(first..) {
            prop_assert_eq!((pair[0].0, pair[1].0), (attempt, attempt + 1));
            let doubled = u128::from(initial) << (attempt - 1);
            let limit = u64::try_from(doubled.min(u128::from(max))).unwrap();
            prop_assert!(pair[1].1 - pair[0].1 <= Duration::from_millis(limit));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn waits_differ_from_each_other_and_reach_far_into_their_range() {
    let policy = Policy::fast(200).backoff(1000 * MS, 1000 * MS);
    let (_, calls) = run(&policy, received(), fails).await;
    let waits: Vec<_> = calls.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
    // 199 numbers spread evenly over 0..=1000 miss either end with a chance below one in 10^20.
    assert!(waits.iter().any(|wait| *wait < 250 * MS), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait > 750 * MS), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_backoff_no_time_passes() {
    let (_, calls) = run(&Policy::fast(5), received(), fails).await;
    assert_eq!(calls[0].1, calls[4].1);
}

#[tokio::test]
async fn a_permanent_failure_is_rejected_at_once() {
    let permanent = || Ok(Outcome::retry(Failure::permanent("no such customer")));
    let (outcome, calls) = run(&Policy::fast(5), received(), permanent).await;
    let rejection = rejection(outcome);
    assert_eq!(calls.len(), 1);
    assert_eq!(rejection.reason(), Reason::Permanent);
    assert_eq!(rejection.error(), "no such customer");
}

#[tokio::test]
async fn an_error_of_the_inner_service_is_a_failed_attempt() {
    let (outcome, calls) = run(&Policy::fast(3), received(), || Err("broken".into())).await;
    assert_eq!(calls.len(), 3);
    assert_eq!(rejection(outcome).error(), "broken");
}

#[tokio::test]
async fn every_other_decision_passes_at_once() {
    for decide in [
        || Outcome::ack(),
        || Outcome::defer(MS),
        || Outcome::reject("x"),
    ] {
        let (outcome, calls) = run(&Policy::fast(3), received(), move || Ok(decide())).await;
        assert_eq!(calls.len(), 1);
        assert_eq!(
            format!("{:?}", outcome.decision()),
            format!("{:?}", decide().decision())
        );
    }
}

#[tokio::test]
async fn a_failure_of_the_infrastructure_passes_at_once() {
    let infrastructure = || {
        let error = Error::new(ErrorKind::Disconnected, "open", "the database is gone");
        Ok(Outcome::retry(Failure::infrastructure(error)))
    };
    let (outcome, calls) = run(&Policy::fast(3), received(), infrastructure).await;
    assert_eq!(calls.len(), 1);
    match outcome.decision() {
        Decision::Retry(failure) => assert_eq!(failure.class(), FailureClass::Infrastructure),
        other => panic!("decided: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_limits_each_attempt_and_one_outside_all_of_them() {
    let hangs = || service_fn(|_: Received| std::future::pending::<Result<Outcome, BoxError>>());
    let start = Instant::now();
    let each = ServiceBuilder::new()
        .layer(RetryLayer::new(Policy::fast(3)))
        .layer(TimeoutLayer::new(100 * MS))
        .service(hangs());
    let outcome = each.oneshot(received()).await.expect("an outcome");
    assert_eq!(rejection(outcome).reason(), Reason::Exhausted);
    assert_eq!(start.elapsed(), 300 * MS);

    let start = Instant::now();
    let all = ServiceBuilder::new()
        .layer(TimeoutLayer::new(100 * MS))
        .layer(RetryLayer::new(Policy::fast(3)))
        .service(hangs());
    assert!(all.oneshot(received()).await.is_err());
    assert_eq!(start.elapsed(), 100 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_a_later_round_goes_on_where_its_attempts_are() {
    let delays = [Duration::from_secs(10), Duration::from_mins(10)];
    let policy = Policy::fast(3).then_delayed(delays);
    for (first, calls_made, then) in [(1, 3, 0), (3, 1, 0), (4, 3, 1), (5, 2, 1)] {
        let (outcome, calls) = run(&policy, received().with_attempt(first), fails).await;
        assert_eq!(calls.len(), calls_made, "from attempt {first}");
        match outcome.decision() {
            Decision::Defer(delay) => assert_eq!(*delay, delays[then]),
            other => panic!("decided: {other:?}"),
        }
    }
    let (outcome, calls) = run(&policy, received().with_attempt(8), fails).await;
    assert_eq!(
        (calls.len(), rejection(outcome).reason()),
        (2, Reason::Exhausted)
    );
}

#[test]
fn its_delays_ask_the_broker_for_defer() {
    let mut plan = ConsumePlan::new();
    Retry::new(Policy::fast(3).then_delayed([MS])).plan(&mut plan);
    assert_eq!((plan.max_attempts, plan.delays.as_slice()), (6, &[MS][..]));
    let queue = Subscription::queue("orders");
    let error = plan
        .check(&queue, Capabilities::none())
        .expect_err("no defer");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.context("capability"), Some("defer"));
}

#[tokio::test]
async fn with_order_by_key_its_delays_are_refused_before_a_message_is_taken() {
    let broker = Memory::new();
    broker
        .declare(Destination::queue("orders"))
        .await
        .expect("declared");
    let run = Worker::new(&broker, Subscription::queue("orders"))
        .layer(Retry::new(Policy::fast(3).then_delayed([MS])))
        .ordered_by_key()
        .run(|| async {});
    let error = timeout(DEADLINE, run.into_future())
        .await
        .expect("an end in time")
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("order by key"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn in_a_worker_each_round_comes_after_its_delay_and_the_last_ends_in_a_dead_letter() {
    let delays = [Duration::from_secs(10), Duration::from_mins(10)];
    let policy = Policy::fast(2).then_delayed(delays);
    let calls = Calls::default();
    let seen = Arc::clone(&calls);
    let letter = dead_letter_by(
        policy,
        Message::json(&7).expect("JSON").build(),
        move |_, attempt| {
            seen.lock().unwrap().push((attempt, Instant::now()));
            async { Err::<(), _>("no tea") }
        },
    )
    .await;
    assert_eq!((letter.reason(), letter.attempts()), (Reason::Exhausted, 6));
    let calls = calls.lock().unwrap().clone();
    assert_eq!(
        calls
            .iter()
            .map(|(attempt, _)| *attempt)
            .collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    let begun = calls[0].1;
    let rounds: Vec<u64> = calls
        .iter()
        .map(|(_, at)| (*at - begun).as_secs())
        .collect();
    assert_eq!(rounds, [0, 0, 10, 10, 610, 610]);
}

#[test]
fn its_ceiling_is_the_ceiling_of_the_worker() {
    let mut plan = ConsumePlan::new();
    Retry::new(Policy::fast(7)).plan(&mut plan);
    assert_eq!(plan.max_attempts, 7);
}

/// Runs a worker over one message until its dead letter arrives.
async fn dead_letter_of<R, F>(
    message: Message,
    handler: impl Fn(Json<u32>) -> F + Clone + Send + Sync + 'static,
) -> DeadLetter
where
    R: IntoOutcome,
    F: Future<Output = R> + Send + 'static,
{
    let policy = Policy::fast(3).backoff(10 * MS, 100 * MS);
    dead_letter_by(policy, message, move |json, _| handler(json)).await
}

async fn dead_letter_by<R, F>(
    policy: Policy,
    message: Message,
    handler: impl Fn(Json<u32>, u32) -> F + Clone + Send + Sync + 'static,
) -> DeadLetter
where
    R: IntoOutcome,
    F: Future<Output = R> + Send + 'static,
{
    let broker = Memory::new();
    let orders = Destination::queue("orders");
    broker.declare(&orders).await.expect("declared");
    broker
        .publisher()
        .publish(&orders, message)
        .await
        .expect("stored");
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let worker = Worker::new(&broker, Subscription::queue("orders"))
        .layer(Retry::new(policy))
        .run(move |Attempt(attempt): Attempt, json: Json<u32>| handler(json, attempt))
        .with_graceful_shutdown(async move { stopped.notified().await });
    let worker = tokio::spawn(worker.into_future());
    let dead = Subscription::queue("orders.dead");
    let mut dead = broker
        .consumer(&dead, ConsumePlan::new())
        .await
        .expect("a consumer");
    let delivery = timeout(DEADLINE, dead.receive())
        .await
        .expect("a dead letter in time")
        .expect("no error")
        .expect("a dead letter");
    stop.notify_one();
    worker.await.expect("no panic").expect("a clean end");
    DeadLetter::of(delivery.received()).expect("readable")
}

#[tokio::test(start_paused = true)]
async fn in_a_worker_the_attempts_are_used_up_and_the_dead_letter_tells() {
    let before = SystemTime::now();
    let message = Message::json(&7).expect("JSON").build();
    let letter = dead_letter_of(message, |_| async { Err::<(), _>("no tea") }).await;
    assert_eq!(letter.origin(), "orders");
    assert_eq!(letter.reason(), Reason::Exhausted);
    assert_eq!(letter.attempts(), 3);
    assert_eq!(letter.error(), "no tea");
    // Headers hold whole milliseconds.
    assert!(letter.first_failure() + MS >= before);
    assert!(letter.last_failure() >= letter.first_failure());
}

#[tokio::test(start_paused = true)]
async fn in_a_worker_a_panic_is_a_failed_attempt() {
    let message = Message::json(&7).expect("JSON").build();
    let panics = |_| async {
        if true {
            panic!("the handler's own bug");
        }
    };
    let letter = dead_letter_of(message, panics).await;
    assert_eq!((letter.reason(), letter.attempts()), (Reason::Exhausted, 3));
}

#[tokio::test(start_paused = true)]
async fn in_a_worker_what_cannot_help_is_rejected_at_the_first_attempt() {
    let message = Message::json(&7).expect("JSON").build();
    let permanent = |_| async { "x".parse::<u8>().permanent().map(drop) };
    let letter = dead_letter_of(message, permanent).await;
    assert_eq!((letter.reason(), letter.attempts()), (Reason::Permanent, 1));

    let letter = dead_letter_of(Message::new("{").build(), |_| async {}).await;
    assert_eq!(
        (letter.reason(), letter.attempts()),
        (Reason::Undecodable, 1)
    );
}
