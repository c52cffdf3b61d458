//! What the page of work queues promises.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    process::{ExitCode, Stdio},
};

use mq_amqp::Amqp;
use mq_core::{Broker, Capability, Json, Received, Subscription, headers};
use mq_kafka::Kafka;
use mq_patterns::work_queue::WorkQueue;
use mq_testkit::{Check, Failure, Fixture};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::mpsc,
    time::timeout,
};

use crate::scene::{FOREVER, Item, Kind, Running, Scene, items, numbers, report, reports, same};

async fn declared<F: Fixture>(scene: &Scene<F>) -> Check<WorkQueue<Item, F::Broker>> {
    let queue = over(&scene.broker, scene.name("jobs"));
    queue.declare().await?;
    Ok(queue)
}

fn over<B: Broker>(broker: &B, name: String) -> WorkQueue<Item, B> {
    WorkQueue::new(broker, name).envelope(|item: &Item, message| message.key(&item.key))
}

/// Runs a worker; its handler reports each job.
fn run<F: Fixture>(
    scene: &Scene<F>,
    queue: &WorkQueue<Item, F::Broker>,
    to: &mpsc::Sender<Item>,
) -> Running {
    let to = to.clone();
    scene.start(queue.worker(2).run(move |Json(item): Json<Item>| {
        let to = to.clone();
        async move { report(&to, item) }
    }))
}

pub(crate) async fn once<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = declared(scene).await?;
    let elsewhere = scene.fixture.connect().await?;
    let queue_too = over(&elsewhere, scene.name("jobs"));
    let items = items(200, 50);
    let (to, mut done) = reports();
    // What is there first goes to whoever comes first; then three share the rest.
    queue.submit_all(&items[..100]).await.all_confirmed()?;
    let mut workers = vec![run(scene, &queue, &to)];
    let mut all = scene.reports(&mut done, 100).await?;
    workers.extend([run(scene, &queue, &to), run(scene, &queue_too, &to)]);
    queue.submit_all(&items[100..]).await.all_confirmed()?;
    all.extend(scene.reports(&mut done, 100).await?);
    same(numbers(&all), numbers(&items), "the jobs done")?;
    scene.quiet("one more job", done.recv()).await?;
    for worker in workers {
        scene.stop(worker).await?;
    }
    Ok(elsewhere.close().await?)
}

pub(crate) async fn killed<F: Fixture + Kind>(scene: &Scene<F>) -> Check {
    let queue = declared(scene).await?;
    let items = items(40, 40);
    queue.submit_all(&items).await.all_confirmed()?;
    match scene.fixture.elsewhere() {
        Some(broker) => {
            // A process of its own, which gets no chance to say a word.
            let doomed = format!("{broker} {}", scene.name("jobs"));
            let mut process = Command::new(std::env::current_exe()?)
                .env(DOOMED, doomed)
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let Some(output) = process.stdout.take() else {
                return Err(Failure::new("the process has no output"));
            };
            let mut lines = BufReader::new(output).lines();
            let line = scene
                .soon("a job in its hands", lines.next_line())
                .await??;
            same(line.as_deref(), Some(HAS_ONE), "its word")?;
            process.kill().await?;
        }
        None => {
            let elsewhere = scene.fixture.connect().await?;
            let queue = over(&elsewhere, scene.name("jobs"));
            let (to, mut begun) = reports();
            let worker = scene.start(queue.worker(2).run(stuck(to)));
            scene.reports(&mut begun, 1).await?;
            worker.abort().await;
        }
    }
    let (to, mut done) = reports();
    let worker = run(scene, &queue, &to);
    let all = scene.reports(&mut done, items.len()).await?;
    same(numbers(&all), numbers(&items), "the jobs done")?;
    scene.stop(worker).await
}

pub(crate) async fn dead<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = declared(scene).await?;
    let items = items(2, 1);
    queue.submit_all(&items).await.all_confirmed()?;
    let (to, mut done) = reports();
    let run = queue
        .worker(1)
        .max_attempts(3)
        .run(move |Json(job): Json<Item>| {
            let to = to.clone();
            async move {
                match job.number {
                    0 => Err("never"),
                    _ => report(&to, job),
                }
            }
        });
    let worker = scene.start(run);
    let letter = scene.dead(&Subscription::queue(scene.name("jobs"))).await?;
    let text = |name| letter.headers().text(name);
    same(text(headers::DEAD_REASON), Some("exhausted"), "the reason")?;
    same(text(headers::DEAD_ATTEMPTS), Some("3"), "the attempts")?;
    // The other one is done, before or after.
    same(
        numbers(&scene.reports(&mut done, 1).await?),
        vec![1],
        "the other job",
    )?;
    scene.stop(worker).await
}

/// A handler that reports its job and never ends.
fn stuck(
    to: mpsc::Sender<Received>,
) -> impl Fn(Received) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
+ Clone
+ Send
+ Sync
+ 'static {
    move |job| {
        let to = to.clone();
        Box::pin(async move {
            let _ = to.try_send(job);
            tokio::time::sleep(FOREVER).await;
        })
    }
}

pub(crate) async fn slow<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = declared(scene).await?;
    let elsewhere = scene.fixture.connect().await?;
    let slow_queue = over(&elsewhere, scene.name("jobs"));
    let items = items(40, 40);
    let each = scene.broker.capabilities().has(Capability::SettleEach);
    let (to, mut done) = reports();
    let (stuck_on, mut begun) = reports();
    let slow = slow_queue.worker(1).run(stuck(stuck_on));
    if each {
        // It holds what it is at and what waits behind it: its prefetch, twice its concurrency.
        let slow = scene.start(slow);
        queue.submit_all(&items).await.all_confirmed()?;
        scene.reports(&mut begun, 1).await?;
        let quick = run(scene, &queue, &to);
        let all = scene.reports(&mut done, items.len() - 2).await?;
        scene
            .quiet("a job that the slow one holds", done.recv())
            .await?;
        slow.abort().await;
        let rest = scene.reports(&mut done, 2).await?;
        same(
            numbers(all.iter().chain(&rest)),
            numbers(&items),
            "the jobs done",
        )?;
        return scene.stop(quick).await;
    }
    // A member has some partitions, and a group takes a moment to share them. So jobs come in rounds,
    // until a round shows it: each partition's jobs are all done, or all waiting.
    let quick = run(scene, &queue, &to);
    let slow = scene.start(slow);
    let (mut all, mut waits) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..20 {
        let jobs: Vec<Item> = (round * 20..(round + 1) * 20)
            .map(|number| Item {
                number,
                key: format!("key-{}", number % 20),
            })
            .collect();
        let mut partitions: BTreeMap<Option<u32>, BTreeSet<u64>> = BTreeMap::new();
        for (job, stored) in jobs.iter().zip(queue.submit_all(&jobs).await) {
            let partition = stored?.position().map(|position| position.partition);
            partitions.entry(partition).or_default().insert(job.number);
            all.insert(job.number);
        }
        waits.extend(jobs.iter().map(|job| job.number));
        while let Ok(Some(job)) = timeout(scene.fixture.quiet(), done.recv()).await {
            waits.remove(&job.number);
        }
        let waiting: Vec<_> = partitions
            .values()
            .map(|jobs| (jobs.is_subset(&waits), jobs.is_disjoint(&waits)))
            .collect();
        let shared = waiting.iter().all(|(all, none)| *all || *none)
            && waiting.iter().any(|(all, _)| *all)
            && waiting.iter().any(|(_, none)| *none);
        if shared && begun.try_recv().is_ok() {
            // What the slow one held up is done by the other once it is gone.
            slow.abort().await;
            while !waits.is_empty() {
                let job = scene.reports(&mut done, 1).await?.remove(0);
                waits.remove(&job.number);
            }
            return scene.stop(quick).await;
        }
    }
    Err(Failure::new(format!(
        "{} of {} jobs wait, and not those of some partitions",
        waits.len(),
        all.len()
    )))
}

/// The word of a doomed worker that has a job.
const HAS_ONE: &str = "it has a job";
/// `<broker> <address> <queue>`: this program is a worker that is going to be killed.
const DOOMED: &str = "MQ_PATTERNS_DOOMED";

/// A worker in a process of its own that takes jobs, does none of them, and is going to be killed.
pub(crate) struct Doomed {
    broker: String,
    address: String,
    queue: String,
}

impl Doomed {
    pub(crate) fn from_env() -> Option<Self> {
        let text = std::env::var(DOOMED).ok()?;
        let mut words = text.split(' ').map(str::to_owned);
        Some(Self {
            broker: words.next()?,
            address: words.next()?,
            queue: words.next()?,
        })
    }

    pub(crate) fn run(self) -> ExitCode {
        let Ok(runtime) = tokio::runtime::Runtime::new() else {
            return ExitCode::FAILURE;
        };
        let ended = runtime.block_on(async {
            let address = &self.address;
            if self.broker == "kafka" {
                self.work(Kafka::connect(address).await?).await
            } else {
                self.work(Amqp::connect(address).await?).await
            }
        });
        // Its own end is always too early.
        let _ = writeln!(io::stderr(), "the doomed worker ended: {ended:?}");
        ExitCode::FAILURE
    }

    async fn work<B: Broker>(&self, broker: B) -> mq_core::Result<()> {
        let (to, mut begun) = reports();
        let worker = over(&broker, self.queue.clone()).worker(2).run(stuck(to));
        let tell = async {
            begun.recv().await;
            // The case waits for it, and fails without it.
            let _ = writeln!(io::stdout(), "{HAS_ONE}");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = worker.into_future() => ended,
            () = tell => Ok(()),
        }
    }
}
