//! A rebalance storm: members of a group come, go and die all the time, and the history of it has to
//! hold. On a running Kafka, named by `MQ_KAFKA_SERVERS`; for 60 s, or for `MQ_STORM_SECONDS`.
#![allow(
    clippy::expect_used,
    clippy::unwrap_in_result,
    clippy::print_stdout,
    reason = "a test may panic, and prints what it saw"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mq_kafka::{
    GroupProtocol, Kafka,
    core::{
        Broker, Destination, ErrorKind, Message, Position, Publisher, Received, State,
        Subscription, Worker,
        flow::{FlowEvent, FlowKind, FlowSink},
    },
};
use mq_testkit::{
    Check, Failure, Suite, broker_address,
    checker::{Checker, Claim, Verdict},
    history::{Event, Recorder},
};
use support::{Bare, Own, check, release::under, same, unique, within};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};

fn main() -> ExitCode {
    let address = broker_address("MQ_KAFKA_SERVERS");
    Suite::new("kafka-storm", "mq-kafka", address)
        .deadline(length() + Duration::from_secs(300))
        .case("a_storm_of_classic_members_loses_nothing", |servers| {
            storm(servers, GroupProtocol::Classic)
        })
        .case("a_storm_of_kip_848_members_loses_nothing", |servers| {
            under(GroupProtocol::Consumer, servers, storm)
        })
        .run()
}

async fn storm(servers: String, protocol: GroupProtocol) -> Check {
    let stage = Arc::new(Stage::new(&servers, protocol).await?);
    let publishing = Publishing::start(&stage);
    let observing = tokio::spawn(observe(Arc::clone(&stage)));
    let mut members: Vec<Member> = Vec::new();
    for static_name in [Some("one"), Some("two"), None] {
        members.push(Member::start(&stage, static_name)?);
    }
    let (began, length) = (Instant::now(), length());
    let mut changes = 0;
    while began.elapsed() < length {
        sleep(BETWEEN).await;
        changes += 1;
        // Static ones restart, the others come, close and are killed: never more than five at a time.
        match changes % 5 {
            0 | 3 if members.len() < 5 => members.push(Member::start(&stage, None)?),
            1 => {
                let at = usize::from(changes % 2 == 0);
                members.remove(at).close().await?;
                members.insert(at, Member::start(&stage, Some(["one", "two"][at]))?);
            }
            2 if members.len() > 3 => members.remove(2).close().await?,
            4 if members.len() > 3 => members.remove(2).kill(&stage),
            _ => members.push(Member::start(&stage, None)?),
        }
    }
    let published = publishing.stop().await?;
    // What is left takes a handler's time, and the group at most some sessions to come to rest.
    let bare = Bare::connect(&servers).await?;
    let drained = async {
        loop {
            let ends = bare.ends(stage.queue.name(), PARTITIONS).await?;
            let places = bare.places(stage.queue.name(), stage.queue.name()).await?;
            let left = (0..).zip(&ends).any(|(partition, end)| {
                *end > 0 && places.get(&partition).is_none_or(|(at, _)| at < end)
            });
            if !left {
                return Ok::<_, Failure>(());
            }
            sleep(Duration::from_millis(500)).await;
        }
    };
    within(180, drained).await??;
    for member in members {
        member.close().await?;
    }
    observing.abort();
    stage.recorder.record(Event::drained())?;

    let told = stage.counts.lock().expect("no panic").clone();
    println!(
        "    {changes} changes, {published} published, {} delivered again, {} open when they were revoked or lost; {} times partitions were lost",
        told.again, told.open, told.lost
    );
    let claim = Claim::at_least_once().ordered();
    let report = Checker::new(claim).check(&stage.folder)?;
    check(report.verdict() == Verdict::Holds, report.to_string())?;
    same(
        told.back,
        0,
        "commits of a member that no longer had the partition",
    )?;
    check(
        told.again <= told.open,
        format!("{} came again, {} were open", told.again, told.open),
    )?;
    let least = if length >= FULL { 200 } else { 4 };
    check(published > 0 && changes >= least, "there was no storm")?;
    Ok(std::fs::remove_dir_all(&stage.folder)?)
}

/// What all members share.
struct Stage {
    servers: String,
    protocol: GroupProtocol,
    queue: Destination,
    folder: PathBuf,
    recorder: Recorder,
    counts: Mutex<Counts>,
}

#[derive(Debug, Clone, Default)]
struct Counts {
    /// Every place that was delivered.
    delivered: BTreeSet<(u32, u64)>,
    again: usize,
    /// Delivered, and not below what was committed, when the partition went away.
    open: usize,
    lost: usize,
    /// How often the group's place went back.
    back: usize,
    members: usize,
}

impl Stage {
    async fn new(servers: &str, protocol: GroupProtocol) -> Check<Self> {
        let queue = Destination::queue(unique("storm"));
        let kafka = Kafka::builder(servers)
            .partitions(PARTITIONS as u32)
            .connect()
            .await?;
        kafka.declare(&queue).await?;
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(&**queue.name());
        let recorder = Recorder::create(&folder, "storm", "stage")?;
        Ok(Self {
            servers: servers.to_owned(),
            protocol,
            queue,
            folder,
            recorder,
            counts: Mutex::default(),
        })
    }
}

/// Publishes until it is stopped.
struct Publishing {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Check<usize>>,
}

impl Publishing {
    fn start(stage: &Arc<Stage>) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let stage = Arc::clone(stage);
        let ended = tokio::spawn(async move {
            let kafka = Kafka::connect(&*stage.servers).await?;
            let (publisher, tags) = (kafka.publisher(), stage.recorder.tags());
            let mut published = 0;
            while stopped.try_recv().is_err() {
                let key = format!("key-{}", published % KEYS);
                let tag = tags.next(&key);
                stage.recorder.record(Event::send(&tag))?;
                let message = Message::new(tag.to_payload(64)).key(key.as_str());
                let outcome = publisher.publish(&stage.queue, message).await;
                let log = stage.queue.name();
                stage.recorder.record(Event::outcome(&tag, log, &outcome))?;
                published += 1;
                sleep(Duration::from_millis(40)).await;
            }
            Ok(published)
        });
        Self { stop, ended }
    }

    async fn stop(self) -> Check<usize> {
        // It may have ended with an error, which is told next.
        let _ = self.stop.send(());
        within(60, self.ended).await??
    }
}

/// A member of the group in a runtime of its own: a worker whose handler takes 5 to 500 ms.
struct Member {
    runtime: Own,
    sink: Arc<Sink>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Check>,
}

impl Member {
    fn start(stage: &Arc<Stage>, static_name: Option<&'static str>) -> Check<Self> {
        let number = {
            let mut counts = stage.counts.lock().expect("no panic");
            counts.members += 1;
            counts.members
        };
        let process = format!("member-{number}");
        let recorder = Recorder::create(&stage.folder, "storm", &process)?;
        let sink = Arc::new(Sink {
            stage: Arc::clone(stage),
            recorder,
            open: Mutex::default(),
        });
        let runtime = Own::new()?;
        let (stop, stopped) = oneshot::channel();
        let ended = runtime.spawn(run(Arc::clone(&sink), static_name, stopped));
        Ok(Self {
            runtime,
            sink,
            stop: Some(stop),
            ended,
        })
    }

    async fn close(mut self) -> Check {
        drop(self.stop.take());
        within(120, self.ended).await??
    }

    /// Ends it as a crash does: nothing of it runs any more.
    fn kill(mut self, stage: &Stage) {
        self.runtime.end();
        let mut open = self.sink.open.lock().expect("no panic");
        let left: usize = open.values().map(BTreeSet::len).sum();
        open.clear();
        stage.counts.lock().expect("no panic").open += left;
    }
}

async fn run(
    sink: Arc<Sink>,
    static_name: Option<&'static str>,
    stopped: oneshot::Receiver<()>,
) -> Check {
    let stage = &sink.stage;
    let builder = Kafka::builder(&*stage.servers)
        .group_protocol(stage.protocol)
        .flow(Arc::clone(&sink) as Arc<dyn FlowSink>);
    let builder = match static_name {
        Some(name) => builder.instance_id(name),
        None => builder,
    };
    let kafka = builder.connect().await?;
    let source = Subscription::queue(stage.queue.name().clone());
    let stopping = async move {
        // Told by its drop.
        let _ = stopped.await;
    };
    Worker::new(&kafka, source)
        .concurrency(16)
        .ordered_by_key()
        .state(Arc::clone(&sink))
        .run(handle)
        .with_graceful_shutdown(stopping)
        .await
        .or_else(|error| match error.kind() {
            // A verdict came too late for its partition, as it does in a storm: told, and not lost.
            ErrorKind::Stale => Ok(()),
            // Or the group waited for a killed member for longer than a close waits for its last commit.
            ErrorKind::Timeout if error.to_string().starts_with("close") => Ok(()),
            _ => Err(error),
        })?;
    Ok(kafka.close().await?)
}

async fn handle(State(sink): State<Arc<Sink>>, received: Received) {
    let log = sink.stage.queue.name();
    let tag = sink.recorder.received(log, &received);
    let tag = tag.expect("the history is written").expect("no corrupt");
    sleep(Duration::from_millis(5 + tag.seq() * 7919 % 496)).await;
    let effect = Event::effect(received.source(), &tag);
    sink.recorder
        .record(effect)
        .expect("the history is written");
}

/// What the crate tells of a member.
struct Sink {
    stage: Arc<Stage>,
    recorder: Recorder,
    /// Delivered, and not below what was committed.
    open: Mutex<BTreeMap<u32, BTreeSet<u64>>>,
}

impl FlowSink for Sink {
    fn record(&self, event: &FlowEvent<'_>) {
        let Some(Position { partition, offset }) = event.position else {
            return;
        };
        let mut open = self.open.lock().expect("no panic");
        let mut counts = self.stage.counts.lock().expect("no panic");
        match event.kind {
            FlowKind::Delivered => {
                open.entry(partition).or_default().insert(offset);
                counts.again += usize::from(!counts.delivered.insert((partition, offset)));
            }
            FlowKind::Committed => {
                let group = self.stage.queue.name();
                let next = Position { partition, offset };
                let commit = Event::commit(group, group, next);
                self.recorder
                    .record(commit)
                    .expect("the history is written");
                if let Some(open) = open.get_mut(&partition) {
                    *open = open.split_off(&offset);
                }
            }
            FlowKind::Revoked | FlowKind::Lost => {
                counts.open += open.remove(&partition).map_or(0, |open| open.len());
                counts.lost += usize::from(event.kind == FlowKind::Lost);
            }
            _ => {}
        }
    }
}

/// Looks what the broker has of the group: a commit of a member that no longer had the partition would
/// set it back.
async fn observe(stage: Arc<Stage>) -> Check {
    let bare = Bare::connect(&stage.servers).await?;
    let mut before: BTreeMap<i32, i64> = BTreeMap::new();
    loop {
        let group = stage.queue.name();
        for (partition, (offset, _)) in bare.places(group, group).await? {
            let last = before.insert(partition, offset);
            if last.is_some_and(|last| last > offset) {
                stage.counts.lock().expect("no panic").back += 1;
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn length() -> Duration {
    let seconds = env::var("MQ_STORM_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(60))
}

const PARTITIONS: i32 = 8;
const KEYS: usize = 50;
/// Less what a change itself takes.
const BETWEEN: Duration = Duration::from_secs(2);
/// From here on it is the storm of 200 changes in 10 minutes.
const FULL: Duration = Duration::from_secs(600);
