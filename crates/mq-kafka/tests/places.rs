//! Where reading starts and ends: the start of a subscription, and a window that nobody's group reads.
//! On a running Kafka, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::BTreeMap,
    ops::Range,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use krafka::Record;
use mq_kafka::{
    At, Kafka,
    core::{
        Broker, ConsumePlan, Consumer, Destination, ErrorKind, Message, Publisher, Subscription,
    },
};
use mq_testkit::{Check, Failure, Suite, broker_address};
use support::{Bare, check, fill, quiet, same, take, text, unique, within};

fn main() -> ExitCode {
    let address = broker_address("MQ_KAFKA_SERVERS");
    Suite::new("kafka-places", "mq-kafka", address)
        .deadline(Duration::from_secs(120))
        .case("a_subscription_starts_where_it_was_declared_from", starts)
        .case("a_place_that_is_there_is_kept", kept)
        .case("a_queue_may_start_at_its_end", queue_at_end)
        .case("a_start_that_is_not_there_is_refused", refused)
        .case("a_window_is_read_from_its_start_to_its_end", windows)
        .case(
            "a_partition_that_is_read_to_its_end_holds_up_no_other",
            ends_apart,
        )
        .case("a_window_leaves_every_group_alone", leaves_groups_alone)
        .case(
            "a_window_ends_behind_transactions_and_before_open_ones",
            transactions,
        )
        .case("a_window_whose_records_are_gone_is_lost", gone)
        .run()
}

/// A topic with 30 messages of one partition and one empty partition; every ten of them are one second
/// later. The times of the 10th and the 20th.
async fn topic(servers: &str) -> Check<(Kafka, Destination, Vec<SystemTime>)> {
    let kafka = Kafka::builder(servers).partitions(2).connect().await?;
    let topic = Destination::topic(unique("places"));
    kafka.declare(&topic).await?;
    let mut times = Vec::new();
    for ten in 0..3_u32 {
        if ten > 0 {
            tokio::time::sleep(Duration::from_millis(1000)).await;
            times.push(SystemTime::now());
        }
        fill(&kafka, &topic, ten * 10..ten * 10 + 10).await?;
    }
    Ok((kafka, topic, times))
}

/// The partition that has the messages, and its number of them.
async fn filled(servers: &str, topic: &Destination) -> Check<u32> {
    let ends = Bare::connect(servers).await?.ends(topic.name(), 2).await?;
    let filled = ends.iter().position(|end| *end > 0);
    filled
        .and_then(|at| u32::try_from(at).ok())
        .ok_or_else(|| Failure::new("nothing is there"))
}

fn offset(partition: u32, offset: u64) -> At {
    At::Offsets(BTreeMap::from([(partition, offset)]))
}

async fn starts(servers: String) -> Check {
    let (kafka, topic, times) = topic(&servers).await?;
    let at = filled(&servers, &topic).await?;
    let later = SystemTime::now() + Duration::from_secs(3600);
    let cases = [
        ("earliest", At::Earliest, 0),
        ("time", At::Time(times[0]), 10),
        ("offset", offset(at, 25), 25),
        ("unnamed", offset(1 - at, 0), 0),
        ("tail", At::LiveTail, 30),
        ("later", At::Time(later), 30),
    ];
    let mut consumers = Vec::new();
    for (name, start, first) in cases {
        let source = Subscription::durable(topic.name().clone(), name);
        kafka.declare_from(&source, start).await?;
        kafka.verify(&source).await?;
        consumers.push((name, source, first));
    }
    // What comes later comes to all of them.
    fill(&kafka, &topic, 30..31).await?;
    for (name, source, first) in consumers {
        let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
        let taken = take(&mut consumer, 31 - first).await?;
        same(text(&taken[0]), first.to_string(), name)?;
        consumer.close().await?;
    }
    Ok(())
}

async fn kept(servers: String) -> Check {
    let (kafka, topic, _) = topic(&servers).await?;
    let source = Subscription::durable(topic.name().clone(), "kept");
    kafka.declare_from(&source, At::Earliest).await?;
    kafka.declare_from(&source, At::LiveTail).await?;
    kafka.declare(&source).await?;
    let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
    let taken = take(&mut consumer, 30).await?;
    same(text(&taken[0]), "0".to_owned(), "first")
}

async fn queue_at_end(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(2).connect().await?;
    let queue = Destination::queue(unique("tail"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..5).await?;
    let source = Subscription::queue(queue.name().clone());
    kafka.declare_from(&source, At::LiveTail).await?;
    let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
    quiet(&mut consumer).await?;
    fill(&kafka, &queue, 5..6).await?;
    let next = take(&mut consumer, 1).await?;
    same(text(&next[0]), "5".to_owned(), "first")
}

async fn refused(servers: String) -> Check {
    let (kafka, topic, _) = topic(&servers).await?;
    let at = filled(&servers, &topic).await?;
    let source = Subscription::durable(topic.name().clone(), "refused");
    for (start, named) in [(offset(at, 31), "end"), (offset(7, 0), "partitions")] {
        let error = kafka.declare_from(&source, start).await;
        let error = error.expect_err("not there");
        same(error.kind(), ErrorKind::Config, "kind")?;
        check(
            error.context(named).is_some(),
            format!("{error} names no {named}"),
        )?;
    }
    let ephemeral = Subscription::ephemeral(topic.name().clone());
    let error = kafka.declare_from(&ephemeral, At::Earliest).await;
    same(
        error.expect_err("no").kind(),
        ErrorKind::Config,
        "ephemeral",
    )?;
    let none = kafka.verify(&source).await.expect_err("it has no place");
    same(none.kind(), ErrorKind::NotFound, "nothing was fixed")?;
    let missing = kafka.reader("not-there", At::Earliest..At::LiveTail).await;
    same(
        missing.expect_err("no").kind(),
        ErrorKind::NotFound,
        "topic",
    )
}

async fn read(kafka: &Kafka, topic: &Destination, window: Range<At>) -> Check<Vec<u64>> {
    let mut reader = kafka.reader(topic.name(), window).await?;
    let mut offsets = Vec::new();
    let all = async {
        while let Some(received) = reader.next().await? {
            offsets.push(received.position().expect("a position").offset);
        }
        Ok::<_, mq_kafka::core::Error>(())
    };
    within(30, all).await??;
    Ok(offsets)
}

async fn windows(servers: String) -> Check {
    let (kafka, topic, times) = topic(&servers).await?;
    let at = filled(&servers, &topic).await?;
    let all: Vec<u64> = (0..30).collect();
    let cases = [
        (At::Earliest..At::LiveTail, 0..30),
        (At::Time(times[0])..At::Time(times[1]), 10..20),
        (offset(at, 3)..offset(at, 7), 3..7),
        (At::Earliest..At::Time(times[0]), 0..10),
        (offset(at, 28)..At::LiveTail, 28..30),
        // Nothing is in these.
        (At::LiveTail..At::Earliest, 0..0),
        (At::LiveTail..At::LiveTail, 0..0),
        (At::Earliest..At::Earliest, 0..0),
    ];
    for (window, expected) in cases {
        let what = format!("{window:?}");
        same(
            read(&kafka, &topic, window).await?,
            all[expected].to_vec(),
            &what,
        )?;
    }
    // What is published meanwhile is not part of it.
    let mut reader = kafka
        .reader(topic.name(), At::Earliest..At::LiveTail)
        .await?;
    let first = within(30, reader.next()).await??.expect("a message");
    same(
        first.payload().map(|p| p.to_vec()),
        Some(b"0".to_vec()),
        "payload",
    )?;
    fill(&kafka, &topic, 30..40).await?;
    let mut rest = 0;
    while within(30, reader.next()).await??.is_some() {
        rest += 1;
    }
    same(rest, 29, "the rest of the window")?;
    same(
        within(5, reader.next()).await??.is_none(),
        true,
        "its end again",
    )
}

/// The client buffers more of a partition than the window has of it.
async fn ends_apart(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(2).connect().await?;
    let topic = Destination::topic(unique("ends"));
    kafka.declare(&topic).await?;
    for partition in [0, 1] {
        let publisher = kafka.publisher().partition(partition);
        let messages = (0..30_000).map(|n: u32| Message::new(n.to_string()).into());
        let published = publisher.publish_batch(&topic, messages.collect()).await;
        published.all_confirmed()?;
    }
    let window = At::Earliest..At::Offsets([(0, 1), (1, 30_000)].into());
    same(
        read(&kafka, &topic, window).await?.len(),
        30_001,
        "messages",
    )
}

async fn leaves_groups_alone(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(2).connect().await?;
    let queue = Destination::queue(unique("alone"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..30).await?;
    let mut consumer = support::open(&kafka, &queue).await?;
    for delivery in take(&mut consumer, 12).await? {
        delivery.ack()?;
    }
    consumer.settled().await?;
    let bare = Bare::connect(&servers).await?;
    let before = bare.places(queue.name(), queue.name()).await?;
    let names = |groups: Vec<mq_kafka::GroupListing>| {
        let ours = groups.into_iter().map(|group| group.name);
        ours.filter(|name| name.contains(&**queue.name()))
            .collect::<Vec<_>>()
    };
    let groups = names(kafka.groups().list().await?);
    let had = consumer.assignment().partitions();
    same(
        read(&kafka, &queue, At::Earliest..At::LiveTail)
            .await?
            .len(),
        30,
        "window",
    )?;
    same(
        bare.places(queue.name(), queue.name()).await?,
        before,
        "places",
    )?;
    same(names(kafka.groups().list().await?), groups, "groups")?;
    same(bare.members(queue.name()).await?, 1, "members")?;
    same(consumer.assignment().partitions(), had, "partitions")?;
    same(
        take(&mut consumer, 18).await?.len(),
        18,
        "what the group still had",
    )
}

async fn transactions(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(1).connect().await?;
    let topic = Destination::topic(unique("marks"));
    kafka.declare(&topic).await?;
    let bare = krafka::Kafka::builder(&servers).connect().await?;
    let writer = bare.producer().build_transactional(unique("marks")).await?;
    for (value, commit) in [("a", true), ("b", false)] {
        writer.begin()?;
        let _ = writer.send(Record::new(&**topic.name(), value)).await?;
        match commit {
            true => writer.commit().await?,
            false => writer.abort().await?,
        }
    }
    // a, the mark of its commit, b, the mark of its abort: the last three offsets are no messages.
    let window = || At::Earliest..At::LiveTail;
    same(
        read(&kafka, &topic, window()).await?,
        vec![0],
        "window with marks",
    )?;
    writer.begin()?;
    let _ = writer.send(Record::new(&**topic.name(), "c")).await?;
    // d lies behind a transaction that is not decided.
    fill(&kafka, &topic, 0..1).await?;
    same(
        read(&kafka, &topic, window()).await?,
        vec![0],
        "window before an open one",
    )?;
    writer.commit().await?;
    same(
        read(&kafka, &topic, window()).await?,
        vec![0, 4, 5],
        "window when it is committed",
    )?;
    Ok(writer.close().await?)
}

async fn gone(servers: String) -> Check {
    let (kafka, topic, _) = topic(&servers).await?;
    let at = filled(&servers, &topic).await?;
    let mut reader = kafka
        .reader(topic.name(), At::Earliest..At::LiveTail)
        .await?;
    let partition = i32::try_from(at)?;
    Bare::connect(&servers)
        .await?
        .delete_records(topic.name(), partition, 20)
        .await?;
    let error = within(30, reader.next()).await?.expect_err("they are gone");
    same(error.kind(), ErrorKind::Lost, "kind")?;
    same(
        error.context("partition"),
        Some(at.to_string().as_str()),
        "partition",
    )?;
    // A new window begins with what is there.
    same(
        read(&kafka, &topic, At::Earliest..At::LiveTail)
            .await?
            .len(),
        10,
        "later",
    )?;
    Ok(())
}
