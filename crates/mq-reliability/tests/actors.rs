//! Actors: one for each key, supervised, bounded, drained; mostly on Tokio's paused clock.

#![allow(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use mq_core::BoxError;
use mq_reliability::supervise::{Actor, ActorError, Actors, ActorsBuilder, Child, Supervisor};
use tokio::{
    sync::{Semaphore, oneshot},
    task::yield_now,
    time::{Instant, sleep, timeout},
};

const SECOND: Duration = Duration::from_secs(1);

/// Adds up, and does what else it is told.
struct Sum {
    sum: u64,
    alive: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

#[derive(Debug, Clone, Copy)]
enum Do {
    Add(u64),
    /// Waits until the test opens the gate once.
    Wait,
    Panic,
    Fail,
}

impl Actor for Sum {
    type Message = Do;
    type Reply = u64;

    async fn handle(&mut self, message: Do) -> Result<u64, BoxError> {
        match message {
            Do::Add(number) => self.sum += number,
            Do::Wait => self.gate.acquire().await?.forget(),
            Do::Panic => panic!("told to panic"),
            Do::Fail => return Err("told to fail".into()),
        }
        Ok(self.sum)
    }
}

impl Drop for Sum {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the actors of a test share.
#[derive(Clone)]
struct Scene {
    starts: Arc<AtomicU32>,
    alive: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Scene {
    fn new() -> Self {
        Self {
            starts: Arc::default(),
            alive: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        }
    }

    fn actors(&self) -> ActorsBuilder<&'static str, Sum> {
        let scene = self.clone();
        Actors::builder(move |_| {
            let scene = scene.clone();
            async move {
                scene.starts.fetch_add(1, Ordering::Relaxed);
                scene.alive.fetch_add(1, Ordering::Relaxed);
                let Scene { alive, gate, .. } = scene;
                Ok(Sum {
                    sum: 0,
                    alive,
                    gate,
                })
            }
        })
    }

    fn starts(&self) -> u32 {
        self.starts.load(Ordering::Relaxed)
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }
}

async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_key_has_one_actor_that_is_started_by_its_first_message_and_keeps_its_state() {
    let scene = Scene::new();
    let sums = scene.actors().build();
    assert_eq!(sums.count(), 0);
    assert_eq!(sums.call(&"a", Do::Add(1)).await.expect("a sum"), 1);
    assert_eq!(sums.call(&"b", Do::Add(5)).await.expect("a sum"), 5);
    assert_eq!(sums.call(&"a", Do::Add(2)).await.expect("a sum"), 3);
    assert_eq!((sums.count(), scene.starts()), (2, 2));
}

/// Panics if another one of its key is at work.
struct Alone(Arc<AtomicUsize>);

impl Actor for Alone {
    type Message = ();
    type Reply = ();

    async fn handle(&mut self, (): ()) -> Result<(), BoxError> {
        assert_eq!(
            self.0.fetch_add(1, Ordering::SeqCst),
            0,
            "two actors of one key"
        );
        yield_now().await;
        self.0.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_key_never_has_two_actors_at_work_and_no_message_is_lost_on_one_that_leaves() {
    let at_work: [Arc<AtomicUsize>; 4] = Default::default();
    // They leave as soon as they can, so that leaving, being let go and sending meet all the time.
    let actors = Actors::builder(move |key: usize| {
        let alone = Alone(Arc::clone(&at_work[key]));
        async { Ok(alone) }
    });
    let actors = actors.limit(2).idle(Duration::from_micros(1)).build();
    let tasks = (0..8).map(|task| {
        let actors = actors.clone();
        tokio::spawn(async move {
            let mut handled = 0;
            for step in 0..500 {
                match actors.call(&((task + step) % 4), ()).await {
                    Ok(()) => handled += 1,
                    Err(ActorError::TooManyActors) => yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
            handled
        })
    });
    let mut handled = 0;
    for task in timeout(60 * SECOND, join_all(tasks))
        .await
        .expect("in time")
    {
        handled += task.expect("no panic");
    }
    assert!(handled >= 500, "{handled} messages");
}

#[tokio::test(start_paused = true)]
async fn the_messages_of_one_sender_are_handled_in_its_order() {
    struct Log(Vec<u32>);
    impl Actor for Log {
        type Message = u32;
        type Reply = Vec<u32>;
        async fn handle(&mut self, number: u32) -> Result<Vec<u32>, BoxError> {
            yield_now().await;
            self.0.push(number);
            Ok(self.0.clone())
        }
    }
    let logs = Actors::builder(|()| async { Ok(Log(Vec::new())) })
        .mailbox(2)
        .build();
    for number in 0..99 {
        logs.cast(&(), number).await.expect("room in time");
    }
    let log = logs.call(&(), 99).await.expect("the log");
    assert_eq!(log, Vec::from_iter(0..100));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_its_callers_error_and_what_is_behind_it_finds_a_fresh_state() {
    let scene = Scene::new();
    let sums = scene.actors().build();
    sums.call(&"a", Do::Add(7)).await.expect("a sum");
    let (panicked, failed, added) = tokio::join!(
        sums.call(&"a", Do::Panic),
        sums.call(&"a", Do::Fail),
        sums.call(&"a", Do::Add(1)),
    );
    let panicked = panicked.expect_err("a panic");
    assert_eq!(panicked.to_string(), "the actor panicked: told to panic");
    let failed = failed.expect_err("a failure");
    assert_eq!(
        mq_core::rejection::chain(&failed),
        "the actor failed: told to fail"
    );
    assert_eq!(added.expect("a sum"), 1);
    assert_eq!((scene.starts(), scene.alive()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_fails_too_often_refuses_what_it_has_and_the_next_message_finds_a_new_one() {
    let scene = Scene::new();
    let sums = scene.actors().restarts(1, 60 * SECOND).build();
    let began = Instant::now();
    let (first, second, third, fourth) = tokio::join!(
        sums.call(&"a", Do::Panic),
        sums.call(&"a", Do::Panic),
        sums.call(&"a", Do::Add(1)),
        sums.call(&"b", Do::Add(1)),
    );
    assert!(matches!(first, Err(ActorError::Panicked(_))), "{first:?}");
    assert!(matches!(second, Err(ActorError::Panicked(_))), "{second:?}");
    assert!(matches!(third, Err(ActorError::GaveUp)), "{third:?}");
    assert_eq!(fourth.expect("another key is not concerned"), 1);
    assert!(began.elapsed() >= Duration::from_millis(50), "no hot loop");
    settle().await;
    assert_eq!(sums.count(), 1);
    assert_eq!(sums.call(&"a", Do::Add(2)).await.expect("a new one"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_made_is_tried_again_and_the_message_waits_for_it() {
    let tries = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&tries);
    let scene = Scene::new();
    let sums = Actors::builder(move |_: &str| {
        let (count, Scene { alive, gate, .. }) = (Arc::clone(&count), scene.clone());
        async move {
            match count.fetch_add(1, Ordering::Relaxed) {
                0 => Err("no database".into()),
                1 => panic!("told to panic"),
                _ => {
                    alive.fetch_add(1, Ordering::Relaxed);
                    Ok(Sum {
                        sum: 0,
                        alive,
                        gate,
                    })
                }
            }
        }
    })
    .build();
    assert_eq!(sums.call(&"a", Do::Add(3)).await.expect("a sum"), 3);
    assert_eq!(tries.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn an_idle_actor_leaves_and_one_with_a_message_stays() {
    let scene = Scene::new();
    let sums = scene
        .actors()
        .idle(10 * SECOND)
        .deadline(100 * SECOND)
        .build();
    sums.call(&"a", Do::Add(1)).await.expect("a sum");
    sums.cast(&"busy", Do::Wait).await.expect("room");
    sleep(9 * SECOND).await;
    sums.call(&"a", Do::Add(1)).await.expect("a sum"); // its time begins anew
    sleep(9 * SECOND).await;
    assert_eq!(sums.count(), 2);
    sleep(2 * SECOND).await;
    assert_eq!((sums.count(), scene.alive()), (1, 1));
    scene.gate.add_permits(1);
    sleep(11 * SECOND).await;
    assert_eq!((sums.count(), scene.alive()), (0, 0));
    assert_eq!(sums.call(&"a", Do::Add(1)).await.expect("a fresh one"), 1);
}

#[tokio::test(start_paused = true)]
async fn one_too_many_lets_an_idle_one_go_and_is_refused_if_none_is_idle() {
    let scene = Scene::new();
    let sums = scene.actors().limit(2).build();
    sums.cast(&"a", Do::Wait).await.expect("room");
    sums.call(&"b", Do::Add(1)).await.expect("a sum");
    sums.cast(&"c", Do::Wait).await.expect("instead of b");
    settle().await;
    assert_eq!((sums.count(), scene.alive()), (2, 2));
    let refused = sums.call(&"d", Do::Add(1)).await;
    assert!(
        matches!(refused, Err(ActorError::TooManyActors)),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_and_a_missing_answer_are_errors_at_the_deadline() {
    let scene = Scene::new();
    let sums = scene.actors().mailbox(1).deadline(3 * SECOND).build();
    let began = Instant::now();
    let unanswered = sums.call(&"a", Do::Wait).await;
    assert!(
        matches!(unanswered, Err(ActorError::NoAnswer)),
        "{unanswered:?}"
    );
    assert_eq!(began.elapsed().as_secs(), 3);
    sums.try_cast(&"a", Do::Add(1)).expect("room for one");
    let full = sums.try_cast(&"a", Do::Add(1));
    assert!(matches!(full, Err(ActorError::MailboxFull)), "{full:?}");
    let full = sums.cast(&"a", Do::Add(1)).await;
    assert!(matches!(full, Err(ActorError::MailboxFull)), "{full:?}");
    assert_eq!(began.elapsed().as_secs(), 6);
    scene.gate.add_permits(1);
    assert_eq!(sums.call(&"a", Do::Add(1)).await.expect("a sum"), 2);
}

#[tokio::test(start_paused = true)]
async fn stopped_they_handle_what_is_in_their_mailboxes_and_refuse_the_rest() {
    let scene = Scene::new();
    let sums = scene.actors().build();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = tokio::spawn(sums.run_until(async { drop(stopped.await) }));
    let caller = sums.clone();
    let calls = tokio::spawn(async move {
        join_all([Do::Wait, Do::Add(1), Do::Add(1)].map(|message| caller.call(&"a", message))).await
    });
    settle().await;
    drop(stop);
    settle().await;
    let late = sums.call(&"a", Do::Add(1)).await;
    assert!(matches!(late, Err(ActorError::Stopped)), "{late:?}");
    assert!(!run.is_finished());
    scene.gate.add_permits(1);
    let calls = calls.await.expect("no panic");
    let sums: Vec<u64> = calls.into_iter().map(|sum| sum.expect("handled")).collect();
    assert_eq!(sums, [0, 1, 2]);
    run.await.expect("no panic").expect("all is done");
    assert_eq!(scene.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_done_when_the_time_to_stop_is_over_is_dropped_and_told() {
    let scene = Scene::new();
    let sums = scene
        .actors()
        .stop_within(5 * SECOND)
        .deadline(100 * SECOND)
        .build();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = tokio::spawn(sums.run_until(async { drop(stopped.await) }));
    let caller = sums.clone();
    let calls = tokio::spawn(async move {
        join_all([Do::Wait, Do::Add(1)].map(|message| caller.call(&"a", message))).await
    });
    settle().await;
    let began = Instant::now();
    drop(stop);
    let undrained = run.await.expect("no panic").expect_err("one waits");
    assert_eq!((undrained.actors, began.elapsed().as_secs()), (1, 5));
    for call in calls.await.expect("no panic") {
        assert!(matches!(call, Err(ActorError::Stopped)), "{call:?}");
    }
    assert_eq!(scene.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_they_leave_nothing_running() {
    let scene = Scene::new();
    let sums = scene.actors().build();
    sums.cast(&"a", Do::Wait).await.expect("room");
    sums.call(&"b", Do::Add(1)).await.expect("a sum");
    assert_eq!(scene.alive(), 2);
    drop(sums);
    settle().await;
    assert_eq!(scene.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn under_a_supervisor_they_are_started_again_with_the_others() {
    let scene = Scene::new();
    let sums = scene.actors().build();
    let actors = sums.clone();
    let (fail, failed) = oneshot::channel::<()>();
    let failed = Arc::new(std::sync::Mutex::new(Some(failed)));
    let supervisor = Supervisor::one_for_all("s")
        .child(Child::new("sums", move |stop| actors.run_until(stop)))
        .child(Child::new("other", move |stop| {
            let failed = failed.lock().expect("no panic").take();
            async move {
                match failed {
                    Some(failed) => failed.await,
                    None => {
                        stop.await;
                        Ok(())
                    }
                }
            }
        }));
    let (stop, stopped) = oneshot::channel::<()>();
    let run = tokio::spawn(supervisor.run_until(async { drop(stopped.await) }));
    assert_eq!(sums.call(&"a", Do::Add(1)).await.expect("a sum"), 1);
    drop(fail); // the other one fails
    sleep(SECOND).await;
    assert_eq!(sums.call(&"a", Do::Add(1)).await.expect("fresh"), 1);
    assert_eq!(scene.starts(), 2);
    drop(stop);
    run.await.expect("no panic").expect("asked to");
    assert_eq!(scene.alive(), 0);
}

/// `cargo test -p mq-reliability --features supervise --test actors memory -- --ignored --nocapture`
#[tokio::test]
#[ignore = "measures the whole process, so it has to be alone"]
#[allow(clippy::print_stdout, reason = "it is there to be read")]
async fn memory_of_an_idle_actor() {
    const ACTORS: u64 = 10_000;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        let kib: u64 = number.expect("a number").parse().expect("a number");
        kib * 1024
    };
    let scene = Scene::new();
    let one = scene.clone();
    let sums = Actors::builder(move |_: u64| {
        let Scene { alive, gate, .. } = one.clone();
        async move {
            Ok(Sum {
                sum: 0,
                alive,
                gate,
            })
        }
    });
    let sums = sums.idle(3600 * SECOND).build();
    let before = resident();
    for key in 0..ACTORS {
        sums.call(&key, Do::Add(1)).await.expect("a sum");
    }
    println!("{} bytes an actor", (resident() - before) / ACTORS);
    assert_eq!(sums.count(), usize::try_from(ACTORS).expect("small"));
}
