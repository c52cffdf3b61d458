//! What a Kafka group and an acknowledgement level promise, seen to hold while processes and the
//! broker are killed; below each promise its weaker twin.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{ExitCode, Stdio},
    time::Duration,
};

use mq_chaos::containers::Node;
use mq_core::{
    AtMostOnce, Broker, ConsumePlan, Consumer, Destination, Message, Received, Subscription,
    Unconfirmed, Worker,
};
use mq_kafka::Kafka;
use mq_testkit::{
    Check, Failure, Suite, broker_address,
    checker::{Claim, Class, Verdict},
    history::{Event, Recorder},
};
use support::{patiently, soon, story::Story, told, unique};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

fn main() -> ExitCode {
    // The processes that a case kills are this program.
    if let Ok(how) = std::env::var(MEMBER) {
        return member(&how);
    }
    Suite::new(
        "promises-of-brokers",
        "mq-kafka",
        broker_address("MQ_KILL_KAFKA_SERVERS"),
    )
    .deadline(Duration::from_secs(240))
    .case(
        "a_group_whose_members_are_killed_goes_on_where_it_left_off",
        resumed,
    )
    .case(
        "a_position_committed_before_handling_loses_what_was_open",
        at_most_once,
    )
    .case(
        "messages_handed_over_to_a_frozen_broker_that_is_killed_are_lost_without_a_word",
        handed_over,
    )
    .run()
}

async fn resumed(servers: String) -> Check {
    let (story, queue) = killed_members(&servers, "at-least-once").await?;
    let bound = redelivery_bound(&story.folder, &queue)?;
    let kafka = Kafka::connect(&servers).await?;
    story.read(&kafka, &queue).await?;
    let report = story.end(Claim::at_least_once(), &[&queue])?;
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    let again = report.count(Class::DuplicateEffect);
    eprintln!("{again} came again, {bound} were open or done since the last commit");
    assert!(again <= bound, "{again} > {bound}: {report}");
    Ok(())
}

async fn at_most_once(servers: String) -> Check {
    let (story, queue) = killed_members(&servers, "at-most-once").await?;
    let kafka = Kafka::connect(&servers).await?;
    story.read(&kafka, &queue).await?;
    let report = story.end(Claim::at_most_once(), &[&queue])?;
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    let gone = report.count(Class::Lost) + report.count(Class::Skipped);
    // Each member has at most its prefetch acknowledged and not handled.
    let open = MEMBERS * u64::from(PREFETCH);
    eprintln!("{gone} are gone, at most {open} were open");
    assert!(gone > 0 && gone <= open, "{report}");
    assert_eq!(report.count(Class::DuplicateEffect), 0, "{report}");
    Ok(())
}

async fn handed_over(servers: String) -> Check {
    let mut node = Node::of(&told("MQ_KILL_PROJECT")?, "kafka").await?;
    let kafka = patiently("the broker", || Kafka::connect(&servers)).await?;
    let queue = unique("handed-over");
    let to = Destination::queue(queue.as_str());
    kafka.declare(&to).await?;
    let story = Story::begin("handed-over")?;
    // One that is confirmed: without it the history would prove nothing.
    story.publish(&kafka.publisher(), &to, 1).await?;
    let recorder = Recorder::create(&story.folder, &story.run, "handing-over")?;
    let tags = recorder.tags();
    let unconfirmed = kafka.unconfirmed();
    for frozen in [false, true] {
        if frozen {
            story.fault("frozen and killed")?;
            node.pause().await?;
        }
        for _ in 0..MANY {
            let tag = tags.next("key");
            recorder.record(Event::send(&tag))?;
            let message = Message::new(tag.to_payload(100)).key(tag.key());
            // It says yes each time.
            unconfirmed.hand_over(&to, message).await?;
            recorder.record(Event::unknown(&tag))?;
        }
        unconfirmed.flush().await?;
        if !frozen {
            // Until the broker has them: the frozen ones are to be told from these.
            let plan = ConsumePlan::new().prefetch(u16::MAX);
            let source = Subscription::queue(queue.as_str());
            let mut consumer = kafka.consumer(&source, plan).await?;
            let mut held = Vec::new();
            for _ in 0..=MANY {
                held.push(soon("a message", consumer.receive()).await??);
            }
            consumer.close().await?;
        }
    }
    node.kill().await?;
    node.start().await?;
    let kafka = patiently("the broker", || Kafka::connect(&servers)).await?;
    patiently("the queue", || kafka.verify(&to)).await?;
    story.healed("frozen and killed")?;
    story.read(&kafka, &queue).await?;
    let report = story.end(Claim::at_least_once(), &[&queue])?;
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    assert_eq!(report.counts().unknown, 2 * MANY, "{report}");
    assert_eq!(report.counts().recovered, MANY, "{report}");
    Ok(())
}

/// Publishes, and kills two members of the group at their work.
async fn killed_members(servers: &str, how: &str) -> Check<(Story, String)> {
    let kafka = Kafka::builder(servers).partitions(4);
    let kafka = patiently("the broker", || kafka.clone().connect()).await?;
    let queue = unique(how);
    let to = Destination::queue(queue.as_str());
    kafka.declare(&to).await?;
    let story = Story::begin(how)?;
    let publisher = kafka.publisher();
    let mut members = Vec::new();
    for number in 0..MEMBERS {
        members.push(start(how, servers, &queue, &story, number).await?);
    }
    story.publish(&publisher, &to, 2000).await?;
    story.fault("kill -9 of the members")?;
    let mut outputs = Vec::new();
    for child in &mut members {
        let out = child.stdout.take();
        let out = out.ok_or_else(|| Failure::new("no stdout"))?;
        outputs.push(Box::pin(async move {
            BufReader::new(out).lines().next_line().await
        }));
    }
    // One key, so one partition and one member at work: the first that says so is at it.
    let working = futures::future::select_all(outputs);
    let (line, ..) = tokio::time::timeout(Duration::from_secs(60), working)
        .await
        .map_err(|_| Failure::new("no member was at work within 60 s"))?;
    assert_eq!(line?.as_deref(), Some("working"));
    for child in &mut members {
        child.kill().await?;
    }
    story.healed("kill -9 of the members")?;
    Ok((story, queue))
}

async fn start(how: &str, servers: &str, queue: &str, story: &Story, number: u64) -> Check<Child> {
    let child = Command::new(std::env::current_exe()?)
        .env(MEMBER, how)
        .args([servers, queue, &story.run, &format!("member-{number}")])
        .arg(&story.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

/// A member of the group; it works until it is killed.
fn member(how: &str) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [servers, queue, run, name, folder] = arguments.as_slice() else {
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let worked: Check = runtime.block_on(async {
        let recorder = Recorder::create(Path::new(folder), run, name)?;
        let kafka = Kafka::connect(servers.as_str()).await?;
        let source = Subscription::queue(queue.as_str());
        if how == "at-most-once" {
            let recorder = std::sync::Arc::new(recorder);
            let log = queue.clone();
            let worker = Worker::new(&kafka, source)
                .prefetch(PREFETCH)
                .concurrency(1);
            let worker = worker.guarantee(AtMostOnce);
            let run = worker.run(move |received: Received| {
                let (recorder, log) = (recorder.clone(), log.clone());
                async move { handle(&recorder, &log, &received).await }
            });
            return Ok(run.await?);
        }
        let plan = ConsumePlan::new().prefetch(PREFETCH);
        let mut consumer = kafka.consumer(&source, plan).await?;
        while let Some(delivery) = consumer.receive().await? {
            handle(&recorder, queue, delivery.received()).await?;
            let tag = mq_testkit::history::Tag::from_payload(delivery.payload().map_or(&[], |p| p));
            delivery.ack()?;
            if let Ok(tag) = tag {
                recorder.record(Event::ack(queue, &tag))?;
            }
        }
        Ok(())
    });
    eprintln!("a member ended: {worked:?}");
    ExitCode::FAILURE
}

/// Two milliseconds of work; says after a hundred messages that it is at it.
async fn handle(recorder: &Recorder, log: &str, received: &Received) -> Result<(), std::io::Error> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static DONE: AtomicU64 = AtomicU64::new(0);
    let failed = |error: mq_testkit::history::HistoryError| std::io::Error::other(error);
    let tag = recorder.received(log, received).map_err(failed)?;
    tokio::time::sleep(Duration::from_millis(2)).await;
    if let Ok(tag) = tag {
        recorder.record(Event::effect(log, &tag)).map_err(failed)?;
    }
    if DONE.fetch_add(1, Ordering::SeqCst) == 100 {
        println!("working");
    }
    Ok(())
}

/// What the killed members had open by their own words, and what they had done in the time between
/// two commits before their last word, with as much again for the commit's own way.
fn redelivery_bound(folder: &Path, queue: &str) -> Check<u64> {
    let mut bound = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        if !name.is_some_and(|name| name.starts_with("member-")) {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let (mut open, mut acked, mut last) = (HashMap::new(), Vec::new(), 0);
        for line in text.lines().skip(1) {
            // The last line may be torn.
            let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else {
                continue;
            };
            if event["group"] != queue {
                continue;
            }
            last = event["at"].as_u64().unwrap_or(last);
            let message = (event["producer"].to_string(), event["seq"].as_u64());
            match event["op"].as_str() {
                Some("deliver") => drop(open.insert(message, ())),
                Some("ack") => {
                    open.remove(&message);
                    acked.push(last);
                }
                _ => {}
            }
        }
        let since = last.saturating_sub(2 * 250_000);
        bound += open.len() as u64 + acked.iter().filter(|at| **at >= since).count() as u64;
    }
    Ok(bound)
}

const MEMBER: &str = "MQ_MEMBER";
const MEMBERS: u64 = 2;
const PREFETCH: u16 = 50;
const MANY: u64 = 100;
