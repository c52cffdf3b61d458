//! Deferred messages: retry topics, and held in place. On a running Kafka, named by
//! `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]
#![allow(clippy::print_stderr, reason = "the figures of a run")]

mod support;

use std::{
    collections::HashMap,
    process::{ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use krafka::Record;
use mq_kafka::{
    Kafka, KafkaConsumer, TopicSettings,
    core::{
        Broker, ConsumePlan, Consumer, Deferred, Delivery, Destination, Error, ErrorKind, Filter,
        Message, Publisher, Subscription,
        flow::{FlowEvent, FlowKind, FlowSink},
        headers, time,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, check, quiet, same, take, text, unique, within};
use tokio::{process::Command, time::timeout};

fn main() -> ExitCode {
    // The process that a case kills is this program.
    if let Ok(point) = std::env::var(KILLED_AT) {
        return deferring(&point);
    }
    let address = broker_address("MQ_KAFKA_SERVERS");
    Suite::new("kafka-retrying", "mq-kafka", address)
        // A broker with default settings gives a killed member 45 s.
        .deadline(Duration::from_secs(240))
        .case("no_message_is_early_and_each_comes", many)
        .case("a_short_delay_is_not_held_up_by_a_long_one", short_and_long)
        .case(
            "a_partition_whose_messages_wait_holds_up_no_other",
            more_than_is_buffered,
        )
        .case(
            "a_message_due_later_than_the_longest_delay_goes_on_until_it_is_due",
            beyond_the_longest,
        )
        .case("headers_stay_the_same_over_five_hops", five_hops)
        .case(
            "a_deferred_message_comes_to_its_subscription_alone",
            own_alone,
        )
        .case(
            "a_message_that_is_old_already_is_kept_while_it_waits",
            old_message,
        )
        .case(
            "a_message_that_expires_while_it_waits_does_not_come",
            expired,
        )
        .case(
            "a_dead_letter_after_retries_tells_the_original",
            dead_letter,
        )
        .case("a_process_killed_anywhere_in_a_defer_loses_nothing", killed)
        .case("what_another_connection_declared_is_read", found)
        .case("a_missing_retry_topic_is_named", missing)
        .case(
            "a_retry_topic_that_removes_too_early_is_refused",
            short_lived,
        )
        .case(
            "a_queue_that_looks_like_a_retry_topic_is_refused",
            looks_like_one,
        )
        .case("in_place_a_key_keeps_its_order_and_others_go_on", in_place)
        .case(
            "what_is_held_in_place_is_not_early_after_a_restart",
            restarted,
        )
        .case(
            "a_key_with_more_than_fits_holds_its_partition_alone",
            over_the_bound,
        )
        .run()
}

async fn connect(servers: &str, delays: &[u64]) -> Check<Kafka> {
    let delays = delays.iter().map(|seconds| Duration::from_secs(*seconds));
    let builder = Kafka::builder(servers).partitions(4).delays(delays);
    Ok(builder.connect().await?)
}

async fn declared(servers: &str, what: &str, delays: &[u64]) -> Check<(Kafka, Destination)> {
    let kafka = connect(servers, delays).await?;
    let queue = Destination::queue(unique(what));
    kafka.declare(&queue).await?;
    kafka.verify(&queue).await?;
    Ok((kafka, queue))
}

async fn open(kafka: &Kafka, queue: &Destination, plan: ConsumePlan) -> Check<KafkaConsumer> {
    let source = Subscription::queue(queue.name().clone());
    Ok(kafka.consumer(&source, plan).await?)
}

fn all() -> ConsumePlan {
    ConsumePlan::new().prefetch(u16::MAX)
}

fn in_order() -> ConsumePlan {
    let mut plan = all();
    plan.deferred = Deferred::InPlace;
    plan
}

async fn publish(kafka: &Kafka, queue: &Destination, messages: Vec<Message>) -> Check {
    let published = kafka.publisher().publish_batch(queue, messages).await;
    published.all_confirmed()?;
    Ok(())
}

/// How many, and up to how many seconds each waits.
fn figure() -> (u32, u64) {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let count = number("MQ_RETRY_COUNT").unwrap_or(200);
    let longest = number("MQ_RETRY_SECONDS").unwrap_or(5);
    (u32::try_from(count).expect("a count"), longest)
}

async fn many(servers: String) -> Check {
    let (count, longest) = figure();
    let (kafka, queue) = declared(&servers, "many", &[1, 3, 5, 20, 60]).await?;
    let mut consumer = open(&kafka, &queue, all()).await?;
    let bare = Bare::connect(&servers).await?;
    let tier = format!("{}.retry.1", queue.name());
    let messages = (0..count).map(|n| Message::new(n.to_string()).key(format!("{}", n % 50)));
    publish(&kafka, &queue, messages.map(Into::into).collect()).await?;
    let mut due = HashMap::new();
    for delivery in take(&mut consumer, count as usize).await? {
        let n: u64 = text(&delivery).parse().expect("a number");
        // From 1 s on, to the millisecond, in no order.
        let delay = Duration::from_millis(1000 + n * 7919 % ((longest - 1) * 1000 + 1));
        due.insert(text(&delivery), Instant::now() + delay);
        delivery.into_settlement().defer(delay)?;
    }
    let before = (
        members(&bare, queue.name()).await?,
        members(&bare, &tier).await?,
    );
    let (mut latest, mut late) = (Duration::ZERO, Vec::new());
    while !due.is_empty() {
        let delivery = within(longest + 60, consumer.receive())
            .await??
            .expect("open");
        let now = Instant::now();
        let due = due.remove(&text(&delivery)).expect("once");
        check(now >= due, format!("{} came early", text(&delivery)))?;
        same(delivery.attempt(), 2, "attempt")?;
        late.push(now - due);
        latest = latest.max(now - due);
        delivery.ack()?;
    }
    late.sort_unstable();
    let half = late[late.len() / 2];
    eprintln!(
        "{count} delays of 1 to {longest} s: late by {half:?} at the median, {latest:?} at most"
    );
    let after = (
        members(&bare, queue.name()).await?,
        members(&bare, &tier).await?,
    );
    same(after, before, "the members and their epochs")?;
    quiet(&mut consumer).await?;
    Ok(consumer.close().await?)
}

/// Who is in a group: a member that left and came back has another name.
async fn members(bare: &Bare, group: &str) -> Check<Vec<String>> {
    let admin = bare.admin();
    let described = admin.describe_consumer_groups([group], Default::default());
    let group = described.await?.remove(group).expect("an answer")?;
    let mut members: Vec<_> = group.members.into_iter().map(|m| m.member_id).collect();
    members.sort_unstable();
    check(!members.is_empty(), "a group without members shows nothing")?;
    Ok(members)
}

async fn short_and_long(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "short", &[1, 60]).await?;
    // So few may wait in memory that the long ones fill it.
    let messages = (0..3000).map(|n| Message::new(n.to_string()).key("one"));
    publish(&kafka, &queue, messages.map(Into::into).collect()).await?;
    let mut consumer = open(&kafka, &queue, all()).await?;
    let bare = Bare::connect(&servers).await?;
    // A member that joins is no measure of what it waits for then.
    for seconds in [1, 60] {
        let tier = format!("{}.retry.{seconds}", queue.name());
        within(60, joined(&bare, &tier)).await??;
    }
    let mut taken = take(&mut consumer, 3000).await?;
    let last = taken.pop().expect("3000");
    for delivery in taken {
        delivery.into_settlement().defer(Duration::from_secs(60))?;
    }
    within(60, consumer.settled()).await??;
    let start = Instant::now();
    last.into_settlement().defer(Duration::from_secs(1))?;
    let again = within(90, consumer.receive()).await??.expect("open");
    let waited = start.elapsed();
    same(text(&again), "2999".to_owned(), "what comes again first")?;
    check(
        waited >= Duration::from_secs(1),
        format!("early: {waited:?}"),
    )?;
    check(
        waited < Duration::from_secs(30),
        format!("held up: {waited:?}"),
    )?;
    again.ack()?;
    Ok(consumer.close().await?)
}

async fn joined(bare: &Bare, group: &str) -> Check {
    while bare.members(group).await? == 0 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn beyond_the_longest(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "beyond", &[2]).await?;
    publish(&kafka, &queue, vec![Message::new("x").build()]).await?;
    let mut consumer = open(&kafka, &queue, all()).await?;
    let first = take(&mut consumer, 1).await?.remove(0);
    let delay = Duration::from_secs(7);
    let start = Instant::now();
    first.into_settlement().defer(delay)?;
    let again = take(&mut consumer, 1).await?.remove(0);
    let waited = start.elapsed();
    check(waited >= delay, format!("early: {waited:?}"))?;
    same(again.attempt(), 2, "attempt after one defer")?;
    again.ack()?;
    consumer.close().await?;
    let bare = Bare::connect(&servers).await?;
    let copies: i64 = bare
        .ends(&format!("{}.retry.2", queue.name()), 4)
        .await?
        .iter()
        .sum();
    check(
        // Four on a broker that is quick: a message waits from when it is read.
        copies >= 2,
        format!("{copies} copies for 7 s in steps of 2 s"),
    )
}

async fn five_hops(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "hops", &[1, 2]).await?;
    let message = Message::tombstone().key("k").header("kept", "yes");
    let message = message.content_type("text/plain").build();
    let id = message.id().clone();
    let created = time::to_millis(message.time());
    let receipt = kafka.publisher().publish(&queue, message).await?;
    let mut consumer = open(&kafka, &queue, all()).await?;
    let mut hops = Vec::new();
    for hop in 1..=6 {
        let delivery = take(&mut consumer, 1).await?.remove(0);
        same(delivery.attempt(), hop, "attempt")?;
        same(delivery.id(), &id, "id")?;
        same(time::to_millis(delivery.time()), created, "time")?;
        same(delivery.payload(), None, "payload")?;
        same(delivery.content_type(), Some("text/plain"), "content type")?;
        same(delivery.key().and_then(|k| k.as_str()), Some("k"), "key")?;
        let mut all: Vec<_> = delivery
            .headers()
            .iter()
            .map(|(name, value)| {
                (
                    name.to_owned(),
                    value.as_str().unwrap_or_default().to_owned(),
                )
            })
            .collect();
        all.retain(|(name, _)| name != headers::ATTEMPT && name != headers::DUE);
        all.sort_unstable();
        hops.push((delivery.headers().len(), all));
        // By turns, so that each hop goes to the other retry topic.
        let delay = Duration::from_secs(u64::from(1 + hop % 2));
        match hop {
            6 => delivery.ack()?,
            _ => delivery.into_settlement().defer(delay)?,
        }
    }
    consumer.close().await?;
    let position = receipt.position().expect("a position");
    let origin = (
        headers::RETRY_ORIGIN.to_owned(),
        format!("{}:{position}", queue.name()),
    );
    check(
        hops[1].1.contains(&origin),
        format!("no {origin:?} in {:?}", hops[1]),
    )?;
    check(
        hops[1].1.contains(&("kept".into(), "yes".into())),
        "its own header is gone",
    )?;
    for hop in &hops[2..] {
        same(hop, &hops[1], "the headers")?;
    }
    Ok(())
}

async fn own_alone(servers: String) -> Check {
    let kafka = connect(&servers, &[1]).await?;
    let topic = Destination::topic(unique("own"));
    kafka.declare(&topic).await?;
    let subscription = |name: &str| {
        let filter = Filter::pattern("order.*");
        Subscription::durable(topic.name().clone(), name).filter(filter)
    };
    let (audit, billing) = (subscription("audit"), subscription("billing"));
    kafka.declare(&audit).await?;
    kafka.declare(&billing).await?;
    kafka.verify(&billing).await?;
    let to = topic.clone().routing_key("order.paid");
    publish(&kafka, &to, vec![Message::new("x").build()]).await?;
    let mut one = kafka.consumer(&billing, all()).await?;
    let mut other = kafka.consumer(&audit, all()).await?;
    take(&mut other, 1).await?.remove(0).ack()?;
    let first = take(&mut one, 1).await?.remove(0);
    first.into_settlement().defer(Duration::from_secs(1))?;
    let again = take(&mut one, 1).await?.remove(0);
    same(again.attempt(), 2, "attempt")?;
    same(again.routing_key(), Some("order.paid"), "routing key")?;
    same(&**again.source(), &**billing.name(), "source")?;
    again.ack()?;
    quiet(&mut other).await?;
    quiet(&mut one).await?;
    one.close().await?;
    Ok(other.close().await?)
}

async fn old_message(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "old", &[1]).await?;
    // Older than the retry topic keeps.
    let old = SystemTime::now() - Duration::from_secs(400 * 24 * 3600);
    let mut consumer = open(&kafka, &queue, all()).await?;
    let bare = Bare::connect(&servers).await?;
    bare.set(queue.name(), "retention.ms", "-1").await?;
    publish(&kafka, &queue, vec![Message::new("x").time(old).build()]).await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    delivery.into_settlement().defer(Duration::from_secs(1))?;
    let again = take(&mut consumer, 1).await?.remove(0);
    same(
        time::to_millis(again.time()),
        time::to_millis(old),
        "the message's own time",
    )?;
    again.ack()?;
    consumer.close().await?;
    // What the broker counts from.
    let tier = format!("{}.retry.1", queue.name());
    let stamp = support::stamps(&servers, &tier).await?;
    let age = time::to_millis(SystemTime::now()).saturating_sub(stamp[0]);
    check(
        age < 120_000,
        format!("the copy is {age} ms old for its broker"),
    )
}

async fn expired(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "expired", &[3]).await?;
    let mut consumer = open(&kafka, &queue, all()).await?;
    let brief = Message::new("brief").expires_in(Duration::from_secs(2));
    let long = Message::new("long").expires_in(Duration::from_secs(3600));
    publish(&kafka, &queue, vec![brief.build(), long.build()]).await?;
    for delivery in take(&mut consumer, 2).await? {
        delivery.into_settlement().defer(Duration::from_secs(3))?;
    }
    let again = take(&mut consumer, 1).await?.remove(0);
    same(text(&again), "long".to_owned(), "what comes again")?;
    let left = again.expires_in().expect("an expiry");
    check(
        left <= Duration::from_secs(3600),
        format!("its expiry moved: {left:?}"),
    )?;
    again.ack()?;
    quiet(&mut consumer).await?;
    Ok(consumer.close().await?)
}

async fn dead_letter(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "letters", &[1]).await?;
    let receipt = kafka
        .publisher()
        .publish(&queue, Message::new("x").key("k"))
        .await?;
    let mut consumer = open(&kafka, &queue, all()).await?;
    let first = take(&mut consumer, 1).await?.remove(0);
    let failed = SystemTime::now();
    first.into_settlement().defer(Duration::from_secs(1))?;
    let again = take(&mut consumer, 1).await?.remove(0);
    again.into_settlement().reject("it fails again")?;
    within(60, consumer.settled()).await??;
    consumer.close().await?;
    let home = queue.dead_letter_home().expect("a home");
    let mut dead = support::open(&kafka, &home).await?;
    let letter = take(&mut dead, 1).await?.remove(0);
    let header = |name| letter.headers().text(name).map(str::to_owned);
    let position = receipt.position().map(|at| at.to_string());
    same(
        header(headers::DEAD_POSITION),
        position,
        "where the original lies",
    )?;
    same(
        header(headers::DEAD_ATTEMPTS).as_deref(),
        Some("2"),
        "attempts",
    )?;
    same(
        header(headers::DEAD_ORIGIN).as_deref(),
        Some(&**queue.name()),
        "origin",
    )?;
    let told: u64 = header(headers::DEAD_FIRST)
        .expect("a time")
        .parse()
        .expect("a time");
    check(
        told < time::to_millis(failed) + 900,
        "the first failure is not that of the original",
    )?;
    for gone in [headers::ATTEMPT, headers::DUE, headers::RETRY_ORIGIN] {
        same(header(gone), None, gone)?;
    }
    letter.ack()?;
    Ok(dead.close().await?)
}

/// Every step of a defer at which a process can die: the copy leaves, it is stored, the original is
/// told to be deferred and then done, and that is committed.
const POINTS: [FlowKind; 5] = [
    FlowKind::Published,
    FlowKind::Confirmed,
    FlowKind::Deferred,
    FlowKind::Acked,
    FlowKind::Committed,
];

async fn killed(servers: String) -> Check {
    let killed = POINTS.map(|point| killed_at(&servers, point));
    let told = futures::future::try_join_all(killed).await?;
    eprintln!("killed at, and the attempts that came: {told:?}");
    Ok(())
}

async fn killed_at(servers: &str, point: FlowKind) -> Check<(FlowKind, Vec<u32>)> {
    let (kafka, queue) = declared(servers, &format!("killed-{}", point.as_str()), &[1]).await?;
    publish(&kafka, &queue, vec![Message::new("x").build()]).await?;
    let child = Command::new(std::env::current_exe()?)
        .env(KILLED_AT, point.as_str())
        .args([servers, queue.name()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = within(120, child).await??;
    check(
        ended.status.code().is_none(),
        format!("not killed at {point:?}: {ended:?}"),
    )?;
    // What it held comes back when its session is over, and the copy when it is due.
    let mut consumer = open(&kafka, &queue, all()).await?;
    let mut attempts = Vec::new();
    let mut patience = Duration::from_secs(90);
    while let Ok(more) = tokio::time::timeout(patience, consumer.receive()).await {
        let more = more?.expect("open");
        attempts.push(more.attempt());
        more.ack()?;
        patience = Duration::from_secs(5);
    }
    consumer.close().await?;
    check(
        (1..=2).contains(&attempts.len()),
        format!("killed at {point:?}: it came {attempts:?}"),
    )?;
    Ok((point, attempts))
}

/// Defers one message, and kills itself at this step of it.
fn deferring(point: &str) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [servers, queue] = arguments.as_slice() else {
        return ExitCode::FAILURE;
    };
    let point = POINTS.into_iter().find(|kind| kind.as_str() == point);
    let sink = Arc::new(Killer(point.expect("a point")));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let worked: Check = runtime.block_on(async {
        let kafka = Kafka::builder(servers).flow(sink).connect().await?;
        let source = Subscription::queue(queue.as_str());
        let mut consumer = kafka.consumer(&source, all()).await?;
        let delivery = consumer.receive().await?.expect("open");
        delivery.into_settlement().defer(Duration::from_secs(1))?;
        consumer.settled().await?;
        consumer.close().await?;
        Ok(())
    });
    eprintln!("it lives: {worked:?}");
    ExitCode::FAILURE
}

struct Killer(FlowKind);

impl FlowSink for Killer {
    fn record(&self, event: &FlowEvent<'_>) {
        if event.kind == self.0 {
            // As `kill -9` does it: nothing of this process runs any more.
            let pid = std::process::id().to_string();
            let killed = std::process::Command::new("kill")
                .args(["-9", &pid])
                .status();
            std::process::exit(i32::from(killed.is_ok()));
        }
    }
}

async fn found(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "found", &[1]).await?;
    publish(&kafka, &queue, vec![Message::new("x").build()]).await?;
    let mut consumer = open(&kafka, &queue, all()).await?;
    let first = take(&mut consumer, 1).await?.remove(0);
    first.into_settlement().defer(Duration::from_secs(1))?;
    within(60, consumer.settled()).await??;
    consumer.close().await?;
    // This one has not heard of any delay.
    let other = Kafka::connect(&servers).await?;
    let mut consumer = open(&other, &queue, all()).await?;
    let again = take(&mut consumer, 1).await?.remove(0);
    same(again.attempt(), 2, "attempt")?;
    again.ack()?;
    Ok(consumer.close().await?)
}

async fn missing(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "missing", &[1]).await?;
    let source = Subscription::queue(queue.name().clone());
    let mut plan = all();
    plan.delays = vec![Duration::from_secs(1), Duration::from_millis(59_500)];
    let error = kafka
        .consumer(&source, plan.clone())
        .await
        .expect_err("missing");
    same(error.kind(), ErrorKind::NotFound, "kind")?;
    let wanted = format!("{}.retry.60", queue.name());
    same(
        error.context("retry topic"),
        Some(wanted.as_str()),
        "what is missing",
    )?;
    check(
        error.to_string().contains("KafkaBuilder::delays"),
        error.to_string(),
    )?;
    let longer = connect(&servers, &[1, 60]).await?;
    same(
        longer.verify(&queue).await.expect_err("missing").kind(),
        ErrorKind::NotFound,
        "verify",
    )?;
    longer.declare(&queue).await?;
    longer.verify(&queue).await?;
    kafka.consumer(&source, plan).await?.close().await?;

    let bare_queue = Destination::queue(unique("none"));
    let plain = Kafka::connect(&servers).await?;
    plain.declare(&bare_queue).await?;
    publish(&plain, &bare_queue, vec![Message::new("x").build()]).await?;
    let mut consumer = open(&plain, &bare_queue, all()).await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    let refused = delivery.into_settlement().defer(Duration::from_secs(1));
    let refused = refused.expect_err("no retry topic");
    same(refused.kind(), ErrorKind::Unsupported, "kind")?;
    take(&mut consumer, 1).await?.remove(0).ack()?;
    Ok(consumer.close().await?)
}

async fn short_lived(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "brief", &[60]).await?;
    let tier = format!("{}.retry.60", queue.name());
    let bare = Bare::connect(&servers).await?;
    for (setting, value) in [("retention.ms", "60000"), ("cleanup.policy", "compact")] {
        bare.set(&tier, setting, value).await?;
        // A broker hears of it a moment later.
        let refused = within(60, refusal(&kafka, &queue)).await?;
        check(
            refused.context(setting).is_some(),
            format!("{setting}: {refused}"),
        )?;
        same(refused.kind(), ErrorKind::Config, setting)?;
        let refused = open(&kafka, &queue, all()).await.expect_err("refused");
        let refused = refused.to_string();
        check(refused.contains(setting), format!("{setting}: {refused}"))?;
        bare.set(&tier, "retention.ms", "600000").await?;
        bare.set(&tier, "cleanup.policy", "delete").await?;
        let kept = async {
            while kafka.verify(&queue).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        within(60, kept).await?;
    }
    open(&kafka, &queue, all()).await?.close().await?;

    let name = unique("brief-own");
    let own = TopicSettings::new().retention(Duration::from_secs(5));
    let builder = Kafka::builder(&servers).topic(name.as_str(), own);
    let kafka = builder.delays([Duration::from_secs(10)]).connect().await?;
    // What the queue keeps for 5 s is kept longer where it waits for 10.
    kafka.declare(Destination::queue(name.as_str())).await?;
    Ok(kafka.verify(Destination::queue(name.as_str())).await?)
}

async fn refusal(kafka: &Kafka, queue: &Destination) -> Error {
    loop {
        match kafka.verify(queue).await {
            Err(error) => return error,
            Ok(()) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn looks_like_one(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "looks", &[]).await?;
    let theirs = Destination::queue(format!("{}.retry.7", queue.name()));
    kafka.declare(&theirs).await?;
    let error = open(&kafka, &queue, all()).await.expect_err("refused");
    check(error.to_string().contains("retry.7"), error.to_string())?;
    let other = connect(&servers, &[7]).await?;
    let refused = other.declare(&queue).await.expect_err("refused");
    same(refused.kind(), ErrorKind::Mismatch, "kind")
}

async fn in_place(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "place", &[]).await?;
    let messages = (0..400).map(|n| Message::new(n.to_string()).key(format!("{}", n % 4)));
    publish(&kafka, &queue, messages.map(Into::into).collect()).await?;
    let mut consumer = open(&kafka, &queue, in_order()).await?;
    let (mut seen, mut fails, start) = (Vec::new(), 0, Instant::now());
    let mut others_done = None;
    while seen.len() < 400 {
        let delivery = take(&mut consumer, 1).await?.remove(0);
        let n: u32 = text(&delivery).parse().expect("a number");
        // Every 40th of one key fails twice.
        if n.is_multiple_of(40) && delivery.attempt() < 3 {
            fails += 1;
            delivery
                .into_settlement()
                .defer(Duration::from_millis(300))?;
            continue;
        }
        seen.push(n);
        delivery.ack()?;
        if seen.iter().filter(|n| *n % 4 != 0).count() == 300 {
            others_done.get_or_insert(start.elapsed());
        }
    }
    same(fails, 20, "defers")?;
    for key in 0..4 {
        let of_key: Vec<_> = seen.iter().copied().filter(|n| n % 4 == key).collect();
        check(of_key.is_sorted(), format!("key {key}: {of_key:?}"))?;
    }
    let (others, all) = (others_done.expect("done"), start.elapsed());
    check(
        all >= Duration::from_secs(6),
        format!("20 delays of 300 ms took {all:?}"),
    )?;
    check(
        others < all / 2,
        format!("the others were held up: {others:?} of {all:?}"),
    )?;
    within(60, consumer.settled()).await??;
    Ok(consumer.close().await?)
}

async fn restarted(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "restart", &[]).await?;
    let messages = (0..3).map(|n| Message::new(n.to_string()).key("one"));
    publish(&kafka, &queue, messages.map(Into::into).collect()).await?;
    let mut consumer = open(&kafka, &queue, in_order()).await?;
    let first = take(&mut consumer, 1).await?.remove(0);
    let (delay, start) = (Duration::from_secs(40), Instant::now());
    first.into_settlement().defer(delay)?;
    within(60, consumer.settled()).await??;
    consumer.close().await?;
    let mut consumer = open(&kafka, &queue, in_order()).await?;
    for n in 0..3 {
        let next = within(90, consumer.receive()).await??.expect("open");
        let waited = start.elapsed();
        check(waited >= delay, format!("{n} came after {waited:?}"))?;
        same(text(&next), n.to_string(), "the order")?;
        same(next.attempt(), if n == 0 { 2 } else { 1 }, "attempt")?;
        next.ack()?;
    }
    Ok(consumer.close().await?)
}

/// The client buffers what a paused partition has, and asks for nothing while that is as much as it may buffer.
async fn more_than_is_buffered(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "waits", &[20]).await?;
    let bare = Bare::connect(&servers).await?;
    let tier = format!("{}.retry.20", queue.name());
    let record = |partition, number: u32, due: SystemTime| {
        let due = time::to_millis(due).to_string();
        let record = Record::new(&*tier, number.to_string()).partition(partition);
        record.header(headers::DUE, due)
    };
    let later = SystemTime::now() + Duration::from_secs(18);
    let waiting = (1..=30_000).map(|number| record(0, number, later));
    within(60, bare.write(waiting)).await??;
    let mut consumer = open(&kafka, &queue, all()).await?;
    // Nobody tells when the buffer is full.
    let early = timeout(Duration::from_secs(2), consumer.receive()).await;
    check(early.is_err(), "one came early")?;
    bare.write([record(1, 0, SystemTime::now())]).await?;
    let next = within(60, consumer.receive()).await??.expect("open");
    same(
        text(&next),
        "0".to_owned(),
        "the message of the other partition",
    )?;
    next.ack()?;
    let next = within(60, consumer.receive()).await??.expect("open");
    check(SystemTime::now() >= later, "a message came early")?;
    next.ack()?;
    Ok(consumer.close().await?)
}

async fn over_the_bound(servers: String) -> Check {
    let (kafka, queue) = declared(&servers, "bound", &[]).await?;
    // The first of the key holds 5,000 more than may wait, all in one partition.
    let held = kafka.publisher().partition(0);
    let messages = (0..6000).map(|n| Message::new(n.to_string()).key("held"));
    let published = held
        .publish_batch(&queue, messages.map(Into::into).collect())
        .await;
    published.all_confirmed()?;
    let mut consumer = open(&kafka, &queue, in_order()).await?;
    let first = take(&mut consumer, 1).await?.remove(0);
    let (delay, start) = (Duration::from_secs(15), Instant::now());
    first.into_settlement().defer(delay)?;
    // Another partition goes on meanwhile.
    let free = kafka.publisher().partition(1);
    let messages = (0..3000).map(|n| Message::new(format!("free {n}")).key("free"));
    let published = free
        .publish_batch(&queue, messages.map(Into::into).collect())
        .await;
    published.all_confirmed()?;
    let mut order = Vec::new();
    let mut free_done = 0;
    while order.len() < 6000 || free_done < 3000 {
        let next: Delivery = within(120, consumer.receive()).await??.expect("open");
        match text(&next).parse::<u32>() {
            Ok(n) => {
                check(start.elapsed() >= delay, format!("{n} came early"))?;
                order.push(n);
            }
            Err(_) => free_done += 1,
        }
        if order.is_empty() && free_done == 3000 {
            check(start.elapsed() < delay, "the other partition was held up")?;
        }
        next.ack()?;
    }
    check(order.is_sorted(), "the order of the held key")?;
    Ok(consumer.close().await?)
}

const KILLED_AT: &str = "MQ_KILLED_AT";
