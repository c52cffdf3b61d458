//! The work queue on the in-process broker.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use mq_core::{
    Broker, ConsumePlan, Consumer, ErrorKind, Json, Result, Run, Subscription,
    codec::{Codec, PostcardCodec},
};
use mq_memory::Memory;
use mq_patterns::work_queue::WorkQueue;
use proptest::prelude::*;
use support::{fickle, in_order};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

const DEADLINE: Duration = Duration::from_secs(30);

/// Runs a worker until the sender is used.
fn start(run: Run) -> (oneshot::Sender<()>, JoinHandle<Result<()>>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let run = run.with_graceful_shutdown(async move {
        let _ = stopped.await;
    });
    (stop, tokio::spawn(run.into_future()))
}

async fn end((stop, worker): (oneshot::Sender<()>, JoinHandle<Result<()>>)) {
    stop.send(()).expect("the worker waits");
    timeout(DEADLINE, worker)
        .await
        .expect("an end in time")
        .expect("no panic")
        .expect("a clean end");
}

async fn declared(name: &str) -> WorkQueue<u32, Memory> {
    let queue = WorkQueue::new(&Memory::new(), name);
    queue.declare().await.expect("declared");
    queue
}

#[tokio::test]
async fn every_job_is_done_once_by_one_of_the_workers() {
    let queue = declared("jobs").await;
    let done: Arc<Mutex<BTreeMap<u32, u32>>> = Arc::default();
    let (count, mut counted) = mpsc::channel(2000);
    let workers = [(); 3].map(|()| {
        let (done, count) = (Arc::clone(&done), count.clone());
        start(queue.worker(4).run(move |Json(job): Json<u32>| {
            *done.lock().unwrap().entry(job).or_default() += 1;
            let count = count.clone();
            async move { count.try_send(()).map_err(|e| e.to_string()) }
        }))
    });
    let jobs: Vec<u32> = (0..1000).collect();
    let outcomes = queue.submit_all(&jobs).await;
    assert!(outcomes.iter().all(Result::is_ok));
    for _ in &jobs {
        timeout(DEADLINE, counted.recv())
            .await
            .expect("every job is done in time");
    }
    for worker in workers {
        end(worker).await;
    }
    let done = done.lock().unwrap().clone();
    assert_eq!(done, jobs.into_iter().map(|job| (job, 1)).collect());
}

#[tokio::test]
async fn a_slow_worker_holds_up_no_more_than_its_prefetch() {
    let queue = declared("jobs").await;
    let submitted = queue.submit_all(&[0, 1, 2, 3, 4, 5, 6, 7]).await;
    submitted.all_confirmed().unwrap();
    let (begun, mut first) = mpsc::channel(8);
    let (_never, hold) = tokio::sync::watch::channel(());
    let stuck = queue
        .worker(1)
        .shutdown_deadline(Duration::ZERO)
        .run(move || {
            let (begun, mut hold) = (begun.clone(), hold.clone());
            async move {
                let _ = begun.try_send(());
                let _ = hold.changed().await;
            }
        });
    let stuck = start(stuck);
    timeout(DEADLINE, first.recv())
        .await
        .expect("the slow worker has begun");

    let (done, mut finished) = mpsc::channel(8);
    let quick = start(queue.worker(1).run(move |Json(job): Json<u32>| {
        let done = done.clone();
        async move { done.try_send(job).map_err(|e| e.to_string()) }
    }));
    // One is worked on and one waits behind it; the others are free.
    for _ in 0..6 {
        timeout(DEADLINE, finished.recv())
            .await
            .expect("done by the quick worker");
    }
    // The slow worker gives its two back, and the quick one does them as well.
    end(stuck).await;
    for _ in 0..2 {
        timeout(DEADLINE, finished.recv())
            .await
            .expect("given back and done");
    }
    end(quick).await;
}

#[tokio::test]
async fn a_job_for_a_queue_that_was_not_declared_is_unroutable() {
    let queue = WorkQueue::new(&Memory::new(), "jobs");
    let error = queue.submit(&7).await.expect_err("nobody has it");
    assert_eq!(error.kind(), ErrorKind::Unroutable);
}

#[tokio::test]
async fn jobs_travel_in_their_envelope_and_codec() {
    let broker = Memory::new();
    let queue = WorkQueue::new(&broker, "jobs")
        .envelope(|job: &u32, message| message.key(format!("key {job}")).header("who", "me"))
        .codec::<PostcardCodec>();
    queue.declare().await.expect("declared");
    queue.submit(&300).await.expect("stored");
    let jobs = Subscription::queue("jobs");
    let mut consumer = broker
        .consumer(&jobs, ConsumePlan::new())
        .await
        .expect("a consumer");
    let job = timeout(DEADLINE, consumer.receive())
        .await
        .expect("a job in time")
        .expect("no error")
        .expect("a job");
    assert_eq!(job.key().and_then(|key| key.as_str()), Some("key 300"));
    assert_eq!(job.headers().text("who"), Some("me"));
    assert_eq!(job.content_type(), Some(PostcardCodec::CONTENT_TYPE));
    assert_eq!(job.decode::<PostcardCodec, u32>().expect("postcard"), 300);
    job.ack().expect("in time");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn outcomes_stand_in_the_order_of_the_jobs(writable in prop::collection::vec(any::<bool>(), 0..600)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let broker = Memory::builder().log(1).build();
            let queue = WorkQueue::new(&broker, "jobs");
            queue.declare().await.unwrap();
            let jobs = fickle(&writable);
            in_order(&jobs, queue.submit_all(&jobs).await);
        });
    }
}
