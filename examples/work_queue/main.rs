//! A work queue: durable, with persistent messages and manual acknowledgement, and two workers of
//! which one is slow. What the slow one holds up is at most its prefetch on RabbitMQ and in a Kafka
//! share group, and whatever is in its partitions in a Kafka consumer group.
//!
//! ```text
//! cargo run --example work_queue
//! cargo run --example work_queue -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! cargo run --example work_queue -- --broker kafka://127.0.0.1:9092
//! cargo run --example work_queue -- --broker kafka+share://127.0.0.1:9092
//! ```

use std::{collections::BTreeSet, time::Duration};

use mq_core::{BoxError, Broker, Capability, Json, Received, State, Stored, dynamic::AnyBroker};
use mq_examples::{Args, Background, Result, within};
use mq_patterns::work_queue::WorkQueue;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::interval,
};

const JOBS: usize = 40;
/// What `WorkQueue::worker(1)` takes at a time: the job that it does, and the next one.
const PREFETCH: usize = 2;

/// The round of jobs that is shown.
const SHOWN: u32 = 0;

#[derive(Serialize, Deserialize)]
struct Job {
    round: u32,
    number: usize,
}

struct Done {
    job: Job,
    worker: &'static str,
    partition: Option<u32>,
    token: Option<String>,
}

/// A worker's name, whether it may go on, and where it tells what it has done.
type Desk = (&'static str, watch::Receiver<bool>, mpsc::Sender<Done>);

/// Does a job, as soon as `go` says so. It is acknowledged when this returns, and not before: if
/// the worker died here, the job would go to the other one.
async fn work(
    Json(job): Json<Job>,
    received: Received,
    State((worker, mut go, finished)): State<Desk>,
) -> Result<(), BoxError> {
    go.wait_for(|go| *go).await?;
    let done = Done {
        job,
        worker,
        partition: received.position().map(|position| position.partition),
        token: received.headers().text("token").map(str::to_owned),
    };
    Ok(finished.send(done).await?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let broker = args.connect().await?;
    let name = args.name("jobs");
    let token = args.token().to_owned();
    let queue = WorkQueue::new(&broker, name.as_str()).envelope(move |job: &Job, message| {
        message
            .key(format!("job {}", job.number))
            .header("token", token.clone())
    });
    queue.declare().await?;

    let (done, mut finished) = mpsc::channel(JOBS);
    let (slow_goes, fast_goes) = (watch::Sender::new(true), watch::Sender::new(true));
    let start = |worker, go: &watch::Sender<bool>| {
        let desk = (worker, go.subscribe(), done.clone());
        Background::start(queue.worker(1).state(desk).run(work))
    };
    let workers = [start("slow", &slow_goes), start("fast", &fast_goes)];
    drop(done);

    let (held, why) = match broker.capabilities().has(Capability::Partitions) {
        false => (PREFETCH, "its prefetch, and no more"),
        true => {
            let share = share_out(&queue, &mut finished);
            let share = within("an equal share for each worker", share).await??;
            (
                share,
                "all that is in its partitions, whatever its prefetch",
            )
        }
    };

    slow_goes.send_replace(false); // its first job takes until further notice
    let stored = submit(&queue, SHOWN).await?;
    println!("{JOBS} jobs are stored in the queue {name}: {stored:?}");
    let mut jobs = Vec::new();
    take(&mut finished, SHOWN, &mut jobs, JOBS - held).await?;
    if jobs.iter().any(|done| done.worker == "slow") {
        return Err("the slow worker has done a job that it could not".into());
    }
    println!(
        "the slow worker is at its first one; the fast one has done {}",
        jobs.len()
    );
    println!("{held} wait for the slow one: {why}");

    slow_goes.send_replace(true);
    take(&mut finished, SHOWN, &mut jobs, JOBS).await?;
    for worker in workers {
        worker.stop().await?;
    }
    let tokens: BTreeSet<_> = jobs.into_iter().filter_map(|done| done.token).collect();
    println!(
        "it goes on, and all are done, with the token {}",
        Vec::from_iter(tokens).join(", ")
    );
    broker.close().await?;
    Ok(())
}

/// A group on Kafka shares out its partitions when a member joins. Rounds of easy jobs show when
/// that is done, and how many of them are in the partitions of the slow worker. As the same keys
/// are in the same partitions, it will be as many in the round that is shown.
async fn share_out(
    queue: &WorkQueue<Job, AnyBroker>,
    finished: &mut mpsc::Receiver<Done>,
) -> Result<usize> {
    let mut pause = interval(Duration::from_millis(250));
    let mut round = 0;
    loop {
        round += 1;
        pause.tick().await;
        submit(queue, round).await?;
        let mut jobs = Vec::new();
        take(finished, round, &mut jobs, JOBS).await?;
        let (slow, fast): (Vec<_>, Vec<_>) = jobs.iter().partition(|done| done.worker == "slow");
        let partitions =
            |jobs: &[&Done]| BTreeSet::from_iter(jobs.iter().map(|done| done.partition)).len();
        if partitions(&slow) == partitions(&fast) {
            println!(
                "each of the two workers has {} partitions",
                partitions(&slow)
            );
            return Ok(slow.len());
        }
    }
}

/// Submits a round of jobs, and says what the broker has confirmed.
async fn submit(queue: &WorkQueue<Job, AnyBroker>, round: u32) -> Result<Vec<Stored>> {
    let jobs: Vec<Job> = (1..=JOBS).map(|number| Job { round, number }).collect();
    let mut stored = Vec::new();
    for receipt in queue.submit_all(&jobs).await {
        stored.push(receipt?.stored());
    }
    stored.dedup();
    Ok(stored)
}

/// Waits until so many jobs of a round are done. One that is done twice counts once.
async fn take(
    finished: &mut mpsc::Receiver<Done>,
    round: u32,
    jobs: &mut Vec<Done>,
    count: usize,
) -> Result<()> {
    while jobs.len() < count {
        let next = within("a job", finished.recv()).await?;
        let done = next.ok_or("the workers ended")?;
        if done.job.round == round && jobs.iter().all(|other| other.job.number != done.job.number) {
            jobs.push(done);
        }
    }
    Ok(())
}
