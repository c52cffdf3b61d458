//! What delays promise on RabbitMQ, seen to hold while the broker is killed, and the service at each step of a deferral.
//! Also what needs a broker without a cascade, or with another one.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    collections::HashMap,
    convert::Infallible,
    path::Path,
    process::{ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lapin::{
    Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use mq_amqp::{Amqp, AmqpBuilder};
use mq_chaos::containers::Node;
use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Message, MessageId,
    Publisher, Subscription,
    flow::{FlowEvent, FlowKind, FlowSink},
};
use mq_testkit::{
    Check, Failure, Suite, broker_address,
    checker::{Claim, Class, Verdict},
    history::Recorder,
};
use support::{patiently, soon, story::Story, told, unique};
use tokio::process::Command;

fn main() -> ExitCode {
    // The process that a case kills is this program.
    if let Ok(point) = std::env::var(DEFER) {
        return defer(&point);
    }
    Suite::new(
        "delays-of-brokers",
        "mq-amqp",
        broker_address("MQ_KILL_RABBITMQ_URL"),
    )
    .deadline(Duration::from_secs(300))
    .case(
        "a_cascade_that_is_missing_is_named_before_a_message_is_lost",
        missing,
    )
    .case(
        "a_level_of_another_life_is_a_mismatch_with_both_sides",
        mismatch,
    )
    .case("a_cascade_in_which_a_message_waits_is_not_removed", delete)
    .case("what_has_no_queue_any_more_ends_in_mq_delay_dead", homeless)
    .case(
        "a_service_killed_at_any_step_of_a_deferral_loses_nothing",
        killed_service,
    )
    .case("two_thousand_delays_are_kept_over_a_killed_broker", figure)
    .run()
}

/// The broker of this run, which may share its machine with compilers.
async fn connect(url: &str) -> mq_core::Result<Amqp> {
    patient(url)?.connect().await
}

fn patient(url: &str) -> mq_core::Result<AmqpBuilder> {
    let builder = Amqp::builder().url(url)?;
    Ok(builder
        .connect_timeout(SLOW)
        .operation_timeout(SLOW)
        .publish_timeout(SLOW))
}

/// Takes away the cascade that another case made.
async fn without_cascade(url: &str) -> Check<Amqp> {
    let broker = connect(url).await?;
    broker.delays().delete_with_messages().await?;
    Ok(broker)
}

fn expect_kind<T>(result: mq_core::Result<T>, kind: ErrorKind) -> Check<mq_core::Error> {
    match result {
        Err(error) if error.kind() == kind => Ok(error),
        Err(error) => Err(Failure::new(format!("expected {kind:?}, got {error:?}"))),
        Ok(_) => Err(Failure::new(format!("expected {kind:?}, and it worked"))),
    }
}

fn with_delay() -> ConsumePlan {
    let mut plan = ConsumePlan::new();
    plan.delays = vec![SECOND];
    plan
}

async fn missing(url: String) -> Check {
    let name = unique("orders");
    let broker = without_cascade(&url).await?;
    let queue = Destination::queue(name.as_str());
    broker.declare(&queue).await?;
    let from = Subscription::queue(name.as_str());
    let named = |error: mq_core::Error| {
        let text = error.to_string();
        assert!(text.contains("Amqp::delays().declare()"), "{text}");
        assert!(
            error
                .context("missing")
                .is_some_and(|part| part.starts_with("mq.delay.")),
            "{text}"
        );
    };
    let delayed = broker.publisher().delayed(SECOND);
    named(expect_kind(
        broker.delays().verify().await,
        ErrorKind::NotFound,
    )?);
    named(expect_kind(
        broker.consumer(&from, with_delay()).await,
        ErrorKind::NotFound,
    )?);
    named(expect_kind(
        delayed.publish(&queue, Message::new("x")).await,
        ErrorKind::NotFound,
    )?);

    // A deferral that no plan told of ends its consumer, and the message is still there.
    broker
        .publisher()
        .publish(&queue, Message::new("x"))
        .await?;
    let mut consumer = broker.consumer(&from, ConsumePlan::new()).await?;
    let delivery = soon("a message", consumer.receive()).await??.expect("open");
    delivery.into_settlement().defer(SECOND)?;
    named(expect_kind(
        soon("the end", consumer.receive()).await?,
        ErrorKind::NotFound,
    )?);
    drop(consumer);

    let begun = Instant::now();
    broker.delays().declare().await?;
    assert!(
        begun.elapsed() >= 2 * SECOND,
        "young quorum queues are not safe yet"
    );
    broker.delays().verify().await?;
    broker.delays().declare().await?;

    // Now the same consumer and publisher work.
    let mut consumer = broker.consumer(&from, with_delay()).await?;
    let delivery = soon("the message", consumer.receive())
        .await??
        .expect("open");
    delivery.into_settlement().defer(SECOND)?;
    soon("it again", consumer.receive())
        .await??
        .expect("open")
        .ack()?;
    delayed.publish(&queue, Message::new("x")).await?;
    soon("a delayed one", consumer.receive())
        .await??
        .expect("open")
        .ack()?;
    Ok(consumer.close().await?)
}

async fn mismatch(url: String) -> Check {
    let name = unique("orders");
    let broker = without_cascade(&url).await?;
    broker.delays().declare().await?;
    broker.declare(Destination::queue(name.as_str())).await?;
    let bare = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = bare.create_channel().await?;
    channel
        .queue_delete("mq.delay.3".into(), QueueDeleteOptions::default())
        .await?;
    let error = expect_kind(broker.delays().verify().await, ErrorKind::NotFound)?;
    assert_eq!(error.context("missing"), Some("mq.delay.3"), "{error}");

    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut other = FieldTable::default();
    for (name, value) in [
        ("x-queue-type", text("quorum")),
        ("x-message-ttl", AMQPValue::LongLongInt(9_000)),
        ("x-dead-letter-exchange", text("mq.delay.2")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ] {
        other.insert(name.into(), value);
    }
    channel
        .queue_declare("mq.delay.3".into(), QueueDeclareOptions::durable(), other)
        .await?;
    let publisher = broker.publisher().delayed(SECOND);
    let to = Destination::queue(name.as_str());
    for error in [
        expect_kind(broker.delays().declare().await, ErrorKind::Mismatch)?,
        expect_kind(broker.delays().verify().await, ErrorKind::Mismatch)?,
        expect_kind(
            broker
                .consumer(&Subscription::queue(name.as_str()), with_delay())
                .await,
            ErrorKind::Mismatch,
        )?,
        expect_kind(
            publisher.publish(&to, Message::new("x")).await,
            ErrorKind::Mismatch,
        )?,
    ] {
        let context = ["part", "argument", "asked", "there"].map(|name| error.context(name));
        let both = ["mq.delay.3", "x-message-ttl", "'8000'", "'9000'"];
        for (seen, wanted) in context.into_iter().zip(both) {
            assert!(
                seen.is_some_and(|seen| seen.contains(wanted.trim_matches('\''))),
                "{wanted}: {error}"
            );
        }
    }
    Ok(())
}

async fn delete(url: String) -> Check {
    let name = unique("orders");
    let broker = without_cascade(&url).await?;
    broker.delays().declare().await?;
    let queue = Destination::queue(name.as_str());
    broker.declare(&queue).await?;
    // The longest delay there is: it would be in the last level for four years.
    let longest = Duration::from_secs((1 << 28) - 1);
    broker
        .publisher()
        .delayed(longest)
        .publish(&queue, Message::new("x"))
        .await?;
    let error = expect_kind(broker.delays().delete().await, ErrorKind::InUse)?;
    assert_eq!(
        (error.context("queue"), error.context("messages")),
        (Some("mq.delay.27"), Some("1"))
    );
    broker.delays().verify().await?;
    broker.delays().delete_with_messages().await?;
    expect_kind(broker.delays().verify().await, ErrorKind::NotFound)?;
    broker.delays().delete().await?;
    Ok(())
}

async fn homeless(url: String) -> Check {
    let broker = without_cascade(&url).await?;
    broker.delays().declare().await?;
    let names = [unique("gone"), unique("there")];
    let [gone, there] = names.clone().map(Destination::queue);
    for queue in [&gone, &there] {
        broker.declare(queue).await?;
    }
    let delayed = broker.publisher().delayed(8 * SECOND);
    // More than the broker moves out of a level at a time: they would stop it.
    let lost: Vec<Message> = (0..50).map(|_| Message::new("x").build()).collect();
    for outcome in delayed.publish_batch(&gone, lost).await {
        outcome?;
    }
    let bare = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = bare.create_channel().await?;
    channel
        .queue_delete(names[0].as_str().into(), QueueDeleteOptions::default())
        .await?;
    delayed.publish(&there, Message::new("x")).await?;
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let mut consumer = broker
        .consumer(&Subscription::queue(names[1].as_str()), plan.clone())
        .await?;
    soon("a message of another queue", consumer.receive())
        .await??
        .expect("open")
        .ack()?;
    consumer.close().await?;
    let mut consumer = broker
        .consumer(&Subscription::queue("mq.delay.dead"), plan)
        .await?;
    for _ in 0..50 {
        soon("a message without a queue", consumer.receive())
            .await??
            .expect("open")
            .ack()?;
    }
    Ok(consumer.close().await?)
}

/// Where the service dies: at the flow event of the copy, or of the original, that many times; and how long after it.
const POINTS: [(&str, FlowKind, u64); 7] = [
    ("before the copy", FlowKind::Published, 0),
    ("after the copy, 300 µs", FlowKind::Published, 300),
    ("after the copy, 1 ms", FlowKind::Published, 1_000),
    ("after the confirmation", FlowKind::Confirmed, 0),
    ("before the settlement", FlowKind::Deferred, 0),
    ("at the settlement", FlowKind::Acked, 0),
    ("after the settlement, 1 ms", FlowKind::Acked, 1_000),
];

async fn killed_service(url: String) -> Check {
    let broker = connect(&url).await?;
    broker.delays().declare().await?;
    for (at, (point, _, _)) in POINTS.iter().enumerate() {
        let queue = unique("killed");
        let to = Destination::queue(queue.as_str());
        broker.declare(&to).await?;
        let story = Story::begin("killed")?;
        let published = story.publish(&broker.publisher(), &to, DEFERRED).await?;
        assert_eq!(published.confirmed, DEFERRED);
        story.fault(point)?;
        let mut child = Command::new(std::env::current_exe()?)
            .env(DEFER, at.to_string())
            .args([&url, &queue, &story.run])
            .arg(&story.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let status = soon("the end of the service", child.wait()).await??;
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9),
            "{point}: {status}"
        );
        story.healed(point)?;
        let (came, _) = story.read(&broker, &queue).await?;
        let report = story.end(Claim::at_least_once(), &[&queue])?;
        let again = report.count(Class::DuplicateDelivery);
        eprintln!("{point}: {came} came, {again} deliveries more than messages");
        assert_eq!(report.verdict(), Verdict::Holds, "{point}: {report}");
        // Each message was with the service that died, and then comes once, or twice if its copy and it were there.
        assert!(
            (DEFERRED..=2 * DEFERRED).contains(&came),
            "{point}: {came} came"
        );
    }
    Ok(())
}

/// Kills this process at a step of the flow.
struct Reaper {
    kind: FlowKind,
    after: Duration,
    /// Steps of this kind that are let through.
    left: AtomicU64,
}

impl FlowSink for Reaper {
    fn record(&self, event: &FlowEvent<'_>) {
        if event.kind == self.kind && self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            let after = self.after;
            if after.is_zero() {
                die();
            }
            std::thread::spawn(move || {
                std::thread::sleep(after);
                die();
            });
        }
    }
}

/// `kill -9` by its own hand: nothing runs after it.
fn die() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// The killed process: defers all that it gets.
fn defer(point: &str) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, queue, run, folder] = arguments.as_slice() else {
        return ExitCode::FAILURE;
    };
    let (_, kind, after) = POINTS[point.parse::<usize>().expect("a point")];
    let reaper = Reaper {
        kind,
        after: Duration::from_micros(after),
        left: AtomicU64::new(DEFERRED / 2),
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let Err(error) = runtime.block_on(defer_all(url, queue, run, folder, reaper));
    eprintln!("{error}");
    ExitCode::FAILURE
}

async fn defer_all(
    url: &str,
    queue: &str,
    run: &str,
    folder: &str,
    reaper: Reaper,
) -> Result<Infallible, Box<dyn std::error::Error>> {
    let recorder = Recorder::create(Path::new(folder), run, "service")?;
    let builder = patient(url)?.flow(Arc::new(reaper));
    let broker = builder.connect().await?;
    let from = Subscription::queue(queue);
    let mut consumer = broker.consumer(&from, with_delay()).await?;
    loop {
        let delivery = consumer.receive().await?.ok_or("the consumer ended")?;
        let _ = recorder.received(queue, delivery.received())?;
        delivery.into_settlement().defer(SECOND)?;
        consumer.settled().await?;
    }
}

/// A delay that was asked for: when, how long, and how.
#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    seconds: u64,
    deferred: bool,
}

async fn figure(url: String) -> Check {
    let mut node = Node::of(&told("MQ_KILL_PROJECT")?, "rabbitmq").await?;
    let broker = connect(&url).await?;
    broker.delays().declare().await?;
    let name = unique("figure");
    let to = Destination::queue(name.as_str());
    broker.declare(&to).await?;
    let from = Subscription::queue(name.as_str());
    let mut asked: HashMap<MessageId, Asked> = HashMap::new();

    // One half is published with a delay, the other is received and deferred; 37 and 60 have no common divisor, so each
    // delay from 1 s to 60 s is there, in no order.
    let seconds = |number: u64| number * 37 % 60 + 1;
    let publisher = broker.publisher();
    let plain: Vec<Message> = (0..DELAYS / 2)
        .map(|_| Message::new("deferred").build())
        .collect();
    for outcome in publisher.publish_batch(&to, plain).await {
        outcome?;
    }
    let begun = Instant::now();
    let all = with_delay().prefetch(1_000);
    let mut consumer = broker.consumer(&from, all).await?;
    let mut held = Vec::new();
    for _ in 0..DELAYS / 2 {
        held.extend(soon("a message", consumer.receive()).await??);
    }
    for (number, delivery) in (0..).zip(held) {
        let seconds = seconds(number);
        let deferred = Asked {
            at: Instant::now(),
            seconds,
            deferred: true,
        };
        asked.insert(delivery.id().clone(), deferred);
        let delay = Duration::from_secs(seconds);
        delivery.into_settlement().defer(delay)?;
    }
    consumer.settled().await?;
    // What is due already waits for the next consumer.
    consumer.close().await?;
    let mut pending = Vec::new();
    for number in 0..DELAYS / 2 {
        let seconds = seconds(number);
        let message = Message::new("published").build();
        asked.insert(
            message.id().clone(),
            Asked {
                at: Instant::now(),
                seconds,
                deferred: false,
            },
        );
        let delayed = publisher.delayed(Duration::from_secs(seconds));
        pending.push(delayed.enqueue(&to, message).await?);
    }
    for outcome in pending {
        outcome.await?;
    }
    let stored = begun.elapsed();

    // What is due is read until the middle of it all, where the broker is killed.
    let mut seen = Seen::new(asked);
    let mut consumer = broker.consumer(&from, ConsumePlan::new()).await?;
    let opened = Instant::now();
    while begun.elapsed() < KILL {
        let left = KILL.saturating_sub(begun.elapsed());
        if let Ok(delivery) = tokio::time::timeout(left, consumer.receive()).await {
            let delivery = delivery?.expect("open");
            seen.came(delivery.received().id(), opened, Duration::ZERO)?;
            delivery.ack()?;
        }
    }
    consumer.settled().await?;
    let before = seen.came.len();
    let killed = Instant::now();
    node.kill().await?;
    drop((consumer, publisher, broker));
    node.start().await?;
    let broker = patiently("the broker", || connect(&url)).await?;
    let mut consumer = patiently("the queue", || broker.consumer(&from, with_delay())).await?;
    let opened = Instant::now();
    let down = opened - killed;
    while let Ok(delivery) = tokio::time::timeout(QUIET, consumer.receive()).await {
        let delivery = delivery?.expect("open");
        seen.came(delivery.received().id(), opened, down)?;
        delivery.ack()?;
    }
    consumer.close().await?;

    eprintln!(
        "{DELAYS} delays of 1 to 60 s, stored in {:.1} s; broker killed at {:.1} s with {before} arrived, down for {:.1} s",
        stored.as_secs_f32(),
        (killed - begun).as_secs_f32(),
        down.as_secs_f32(),
    );
    eprintln!("{}", seen.report()?);
    Ok(())
}

/// What has come, and how late.
struct Seen {
    asked: HashMap<MessageId, Asked>,
    came: HashMap<MessageId, Duration>,
    again: usize,
    over: Vec<String>,
}

impl Seen {
    fn new(asked: HashMap<MessageId, Asked>) -> Self {
        Self {
            asked,
            came: HashMap::new(),
            again: 0,
            over: Vec::new(),
        }
    }

    /// Takes note of a delivery. Nothing can come before there is a consumer, so that is when late begins. And nothing moves
    /// while the broker is down: the levels that a message has still to go through then wait their full time behind that.
    fn came(&mut self, id: &MessageId, opened: Instant, down: Duration) -> Check {
        let now = Instant::now();
        let asked = *self
            .asked
            .get(id)
            .ok_or_else(|| Failure::new("a message that nobody sent"))?;
        let due = asked.at + Duration::from_secs(asked.seconds);
        if now < due {
            return Err(Failure::new(format!("{asked:?} is {:?} early", due - now)));
        }
        if self.came.contains_key(id) {
            self.again += 1;
            return Ok(());
        }
        let late = now.saturating_duration_since(opened.max(due + down));
        let levels = asked.seconds.count_ones();
        if late > LATE + PER_LEVEL * levels {
            self.over.push(format!("{asked:?} is {late:?} late"));
        }
        self.came.insert(id.clone(), late);
        Ok(())
    }

    fn report(self) -> Check<String> {
        let lost: Vec<&Asked> = self
            .asked
            .iter()
            .filter(|(id, _)| !self.came.contains_key(id))
            .map(|(_, asked)| asked)
            .collect();
        if !lost.is_empty() {
            return Err(Failure::new(format!(
                "{} never came: {:?}",
                lost.len(),
                &lost[..lost.len().min(5)]
            )));
        }
        let mut late: Vec<Duration> = self.came.into_values().collect();
        late.sort_unstable();
        let part = |percent: usize| late[(late.len() - 1) * percent / 100];
        let deferred = self.asked.values().filter(|asked| asked.deferred).count();
        let text = format!(
            "none early, none lost, {deferred} of them deferred, {} came twice; later than due and the time that the broker was down: median {:?}, 99 % {:?}, most {:?}; over 2 s + 0.1 s a level: {}",
            self.again,
            part(50),
            part(99),
            part(100),
            self.over.len(),
        );
        match self.over.first() {
            None => Ok(text),
            Some(first) => Err(Failure::new(format!("{text}; such as {first}"))),
        }
    }
}

const DEFER: &str = "MQ_DEFER";
const SECOND: Duration = Duration::from_secs(1);
const SLOW: Duration = Duration::from_secs(60);
/// Messages that a killed service had to defer.
const DEFERRED: u64 = 20;
/// Delays of the figure.
const DELAYS: u64 = 2_000;
/// When the broker is killed, from the first delay on.
const KILL: Duration = Duration::from_secs(25);
/// Delays are due every second: when nothing has come for so long, nothing is left.
const QUIET: Duration = Duration::from_secs(20);
const LATE: Duration = Duration::from_secs(2);
const PER_LEVEL: Duration = Duration::from_millis(100);
