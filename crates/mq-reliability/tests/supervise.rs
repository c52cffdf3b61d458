//! The corners of supervision that people who know OTP ask for first, on Tokio's paused clock.

#![allow(clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    error::Error as _,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use mq_core::{BoxError, Broker, Destination, Message, Publisher, Subscription, Worker};
use mq_memory::Memory;
use mq_reliability::supervise::{Cause, Child, GaveUp, Stop, Supervisor};
use support::{End, Stage, settle};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const SECOND: Duration = Duration::from_secs(1);

/// A supervisor in a task of its own, and the end of it.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), GaveUp>>,
}

impl Running {
    async fn start(supervisor: Supervisor) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(supervisor.run_until(async { drop(stopped.await) }));
        settle().await;
        Self { stop, task }
    }

    async fn stop(self) -> Result<(), GaveUp> {
        drop(self.stop);
        self.task.await.expect("it does not panic")
    }

    async fn ends(self) -> Result<(), GaveUp> {
        let end = timeout(600 * SECOND, self.task).await;
        end.expect("it ends").expect("it does not panic")
    }
}

#[tokio::test(start_paused = true)]
async fn starts_in_order_and_stops_in_reverse() {
    let stage = Stage::default();
    let supervisor = Supervisor::one_for_one("s")
        .child(stage.child("a"))
        .child(stage.child("b"))
        .child(stage.child("c"))
        .on_event(stage.sink());
    let running = Running::start(supervisor).await;
    assert_eq!(stage.events(), ["a started", "b started", "c started"]);
    running.stop().await.expect("asked to");
    assert_eq!(stage.events(), ["c stopped", "b stopped", "a stopped"]);
    assert!(stage.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_intensity_of_nothing_gives_up_at_the_first_failure() {
    let stage = Stage::default();
    let supervisor = Supervisor::one_for_one("s")
        .intensity(0, 60 * SECOND)
        .child(stage.child("a"))
        .child(stage.child("b"))
        .on_event(stage.sink());
    let running = Running::start(supervisor).await;
    stage.events();
    stage.tell("a", End::Error);
    let error = running.ends().await.expect_err("one too many");
    assert_eq!((error.supervisor(), error.child()), ("s", "a"));
    assert_eq!(error.cause(), Cause::TooManyRestarts);
    assert_eq!(error.source().expect("a cause").to_string(), "told to fail");
    assert_eq!(
        stage.events(),
        ["a failed: told to fail", "a gave up", "b stopped"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_child_that_fails_at_its_start_is_restarted_at_the_pace_of_the_backoff_then_given_up() {
    let starts = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&starts);
    let began = Instant::now();
    let supervisor = Supervisor::one_for_one("s")
        .intensity(5, 60 * SECOND)
        .backoff(SECOND, 4 * SECOND)
        .child(Child::new("a", move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            async { Err::<(), _>("no database") }
        }));
    let error = Running::start(supervisor).await.ends().await;
    assert_eq!(error.expect_err("gave up").cause(), Cause::TooManyRestarts);
    assert_eq!(starts.load(Ordering::Relaxed), 6);
    // The limits are 1, 2, 4, 4 and 4 s, and a wait is at least half of its limit.
    let took = began.elapsed().as_secs_f32();
    assert!((7.5..15.1).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_function_that_makes_the_child_is_the_childs_own() {
    let stage = Stage::default();
    let supervisor = Supervisor::one_for_one("s")
        .child(stage.child("a"))
        .child(
            Child::new("b", |_| -> std::future::Ready<()> {
                panic!("told to panic")
            })
            .temporary(),
        )
        .on_event(stage.sink());
    let running = Running::start(supervisor).await;
    assert_eq!(
        stage.events(),
        ["a started", "b started", "b panicked: told to panic"]
    );
    running.stop().await.expect("asked to");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_ignores_its_stop_is_aborted_at_its_deadline_and_the_others_wait_for_it() {
    let stage = Stage::default();
    let supervisor = Supervisor::one_for_one("s")
        .child(stage.child("a"))
        .child(stage.deaf("b").stop_within(7 * SECOND))
        .child(stage.child("c"))
        .on_event(stage.sink());
    let running = Running::start(supervisor).await;
    stage.events();
    let began = Instant::now();
    running.stop().await.expect("asked to");
    assert_eq!(began.elapsed().as_secs(), 7);
    assert_eq!(stage.events(), ["c stopped", "b aborted", "a stopped"]);
    assert!(stage.alive().is_empty());
}

#[test]
fn a_child_that_blocks_its_thread_is_never_started_a_second_time_beside_itself() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let stage = Stage::default();
        let (blocks, mut blocked) = mpsc::channel(1);
        let starts = Arc::new(AtomicU32::new(0));
        let (count, beside) = (Arc::clone(&starts), stage.clone());
        let supervisor = Supervisor::one_for_all("s")
            .backoff(Duration::from_millis(1), Duration::from_millis(1))
            .child(stage.child("a"))
            .child(
                Child::new("b", move |_| {
                    count.fetch_add(1, Ordering::Relaxed);
                    let (blocks, beside) = (blocks.clone(), beside.clone());
                    async move {
                        // What waits for its first turn on this thread would never get it.
                        let neighbour = async {
                            while !beside.alive().iter().any(|name| name == "a") {
                                tokio::time::sleep(Duration::from_millis(1)).await;
                            }
                        };
                        let runs = tokio::time::timeout(10 * SECOND, neighbour).await;
                        runs.expect("the neighbour runs");
                        blocks.send(()).await.expect("somebody listens");
                        std::thread::sleep(30 * SECOND);
                    }
                })
                .stop_within(Duration::from_millis(10)),
            )
            .on_event(stage.sink());
        let run = tokio::spawn(supervisor.run_until(pending()));
        blocked.recv().await.expect("it started");
        stage.tell("a", End::Error);
        let error = timeout(20 * SECOND, run).await.expect("in time");
        let error = error.expect("it does not panic").expect_err("gave up");
        assert_eq!((error.child(), error.cause()), ("b", Cause::Stuck));
        assert_eq!(starts.load(Ordering::Relaxed), 1);
    });
    runtime.shutdown_background();
}

#[tokio::test(start_paused = true)]
async fn one_for_all_lets_a_temporary_child_end_without_the_others_and_never_brings_it_back() {
    let stage = Stage::default();
    let supervisor = Supervisor::one_for_all("s")
        .child(stage.child("a"))
        .child(stage.child("t").temporary())
        .child(stage.child("u").temporary())
        .on_event(stage.sink());
    let running = Running::start(supervisor).await;
    stage.events();
    stage.tell("t", End::Panic);
    settle().await;
    assert_eq!(stage.events(), ["t panicked: told to panic"]);
    stage.tell("a", End::Normal); // permanent: its normal end counts too
    sleep(SECOND).await;
    assert_eq!(
        stage.events(),
        ["a ended", "a restarting", "u stopped", "a started"]
    );
    running.stop().await.expect("asked to");
}

#[tokio::test(start_paused = true)]
async fn one_for_all_brings_back_a_transient_child_that_had_ended() {
    let stage = Stage::default();
    let supervisor = Supervisor::one_for_all("s")
        .child(stage.child("a"))
        .child(stage.child("t").transient());
    let running = Running::start(supervisor).await;
    stage.tell("t", End::Normal);
    sleep(SECOND).await;
    assert_eq!(stage.alive(), ["a"]);
    stage.tell("a", End::Error);
    sleep(SECOND).await;
    assert_eq!(stage.alive(), ["a", "t"]);
    running.stop().await.expect("asked to");
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_stops_what_came_after_in_reverse_and_starts_it_in_order() {
    let stage = Stage::default();
    let supervisor = ["a", "b", "c", "d"]
        .into_iter()
        .fold(Supervisor::rest_for_one("s"), |s, name| {
            s.child(stage.child(name))
        })
        .on_event(stage.sink());
    let running = Running::start(supervisor).await;
    stage.events();
    stage.tell("b", End::Error);
    sleep(SECOND).await;
    assert_eq!(
        stage.events(),
        [
            "b failed: told to fail",
            "b restarting",
            "d stopped",
            "c stopped",
            "b started",
            "c started",
            "d started"
        ]
    );
    running.stop().await.expect("asked to");
}

#[tokio::test(start_paused = true)]
async fn a_failure_escalates_through_two_levels() {
    let stage = Stage::default();
    let inner = stage.clone();
    let middle = move || {
        let inner = inner.clone();
        Supervisor::one_for_one("middle")
            .intensity(1, 60 * SECOND)
            .child(Child::supervisor("inner", move || {
                Supervisor::one_for_one("inner")
                    .intensity(0, 60 * SECOND)
                    .child(inner.child("leaf"))
                    .child(inner.child("other"))
            }))
    };
    let supervisor = Supervisor::one_for_one("outer")
        .child(stage.child("beside"))
        .child(Child::supervisor("middle", middle))
        .on_event(stage.sink());
    let running = Running::start(supervisor).await;
    // `inner` gives up at once; `middle` starts it again once, then gives up; `outer` starts `middle` again.
    stage.tell("leaf", End::Panic);
    sleep(SECOND).await;
    assert_eq!(stage.alive(), ["beside", "leaf", "other"]);
    assert_eq!(stage.events().len(), 2, "the outermost has seen nothing");
    stage.tell("leaf", End::Error);
    sleep(SECOND).await;
    assert_eq!(stage.alive(), ["beside", "leaf", "other"]);
    assert_eq!(
        stage.events(),
        [
            "middle failed: supervisor middle gave up over child inner: more restarts than its intensity allows",
            "middle restarting",
            "middle started"
        ]
    );
    running.stop().await.expect("asked to");
    assert!(stage.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_error_that_no_restart_can_help_ends_every_level_at_once_with_its_cause() {
    let stage = Stage::default();
    let inner = stage.clone();
    let supervisor = Supervisor::one_for_one("outer")
        .child(stage.child("beside"))
        .child(Child::supervisor("inner", move || {
            Supervisor::one_for_one("inner").child(inner.child("leaf"))
        }));
    let running = Running::start(supervisor).await;
    let began = Instant::now();
    stage.tell("leaf", End::Fatal);
    let error = running.ends().await.expect_err("a wrong password");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!((error.child(), error.cause()), ("inner", Cause::Fatal));
    assert_eq!(
        mq_core::rejection::chain(&error),
        "supervisor outer gave up over child inner: its error is one that no restart can help: \
         supervisor inner gave up over child leaf: its error is one that no restart can help: \
         connect: wrong password"
    );
    assert!(stage.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn which_errors_are_fatal_is_the_childs_choice() {
    let stage = Stage::default();
    let supervisor = Supervisor::one_for_one("s")
        .child(stage.child("patient").fatal_if(|_| false))
        .child(
            stage
                .child("strict")
                .fatal_if(|error| error.to_string() == "told to fail"),
        );
    let running = Running::start(supervisor).await;
    stage.tell("patient", End::Fatal);
    sleep(SECOND).await;
    assert_eq!(stage.alive(), ["patient", "strict"]);
    stage.tell("strict", End::Error);
    assert_eq!(
        running.ends().await.expect_err("fatal").cause(),
        Cause::Fatal
    );
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_failures_is_no_hot_loop() {
    let starts = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&starts);
    let supervisor = Supervisor::one_for_one("s")
        .intensity(usize::MAX, 60 * SECOND)
        .child(Child::new("a", move |_| {
            let count = count.fetch_add(1, Ordering::Relaxed);
            async move {
                assert!(count.is_multiple_of(2), "told to panic");
                Err::<(), BoxError>("told to fail".into())
            }
        }));
    let running = Running::start(supervisor).await;
    sleep(600 * SECOND).await;
    // 7 starts up to 10 s, then one in 5 s at the most.
    let starts = starts.load(Ordering::Relaxed);
    assert!((60..=128).contains(&starts), "{starts} starts in 10 min");
    running.stop().await.expect("asked to");
}

#[tokio::test(start_paused = true)]
async fn ends_when_no_child_is_left_that_would_run_again() {
    let stage = Stage::default();
    let supervisor = Supervisor::one_for_one("s")
        .child(stage.child("a").transient())
        .child(stage.child("b").temporary());
    let running = Running::start(supervisor).await;
    stage.tell("b", End::Error);
    settle().await;
    assert!(!running.task.is_finished());
    stage.tell("a", End::Normal);
    running.ends().await.expect("all is done");
    Supervisor::one_for_all("empty")
        .run_until(pending())
        .await
        .expect("nothing to do");
}

#[tokio::test(start_paused = true)]
async fn a_stop_between_two_attempts_does_not_wait_for_the_next_one() {
    let stage = Stage::default();
    let supervisor = Supervisor::one_for_one("s")
        .backoff(1000 * SECOND, 1000 * SECOND)
        .child(stage.child("a"))
        .on_event(stage.sink());
    let running = Running::start(supervisor).await;
    stage.tell("a", End::Error);
    settle().await;
    let began = Instant::now();
    running.stop().await.expect("asked to");
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(stage.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn dropped_it_leaves_nothing_running_on_any_level() {
    let stage = Stage::default();
    let inner = stage.clone();
    let supervisor = Supervisor::one_for_one("outer")
        .child(stage.deaf("a"))
        .child(Child::supervisor("inner", move || {
            Supervisor::one_for_one("inner").child(inner.deaf("b"))
        }));
    let running = Running::start(supervisor).await;
    settle().await;
    assert_eq!(stage.alive(), ["a", "b"]);
    running.task.abort();
    settle().await;
    assert!(stage.alive().is_empty());
}

#[tokio::test(start_paused = true)]
async fn code_that_only_looks_whether_it_shall_stop_can_stop_too() {
    let supervisor = Supervisor::one_for_one("s").child(Child::new("a", |stop: Stop| async move {
        while !stop.is_requested() {
            tokio::task::yield_now().await;
        }
    }));
    Running::start(supervisor)
        .await
        .stop()
        .await
        .expect("asked to");
}

#[tokio::test]
async fn a_worker_is_a_child_that_finishes_what_it_has_in_hand() {
    let broker = Memory::new();
    let orders = Destination::queue("orders");
    broker.declare(&orders).await.expect("declared");
    let (begun, mut begins) = mpsc::channel(8);
    let done = Arc::new(AtomicU32::new(0));
    let (worker_broker, count) = (broker.clone(), Arc::clone(&done));
    let supervisor = Supervisor::one_for_one("s").child(Child::new("orders", move |stop| {
        let (begun, count) = (begun.clone(), Arc::clone(&count));
        Worker::new(&worker_broker, Subscription::queue("orders"))
            .run(move || {
                let (begun, count) = (begun.clone(), Arc::clone(&count));
                async move {
                    begun.try_send(()).expect("somebody listens");
                    sleep(Duration::from_millis(50)).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
            .with_graceful_shutdown(stop)
    }));
    let running = Running::start(supervisor).await;
    let message = Message::new("tea");
    broker
        .publisher()
        .publish(&orders, message)
        .await
        .expect("stored");
    timeout(20 * SECOND, begins.recv()).await.expect("in time");
    running.stop().await.expect("asked to");
    assert_eq!(done.load(Ordering::Relaxed), 1);
}
