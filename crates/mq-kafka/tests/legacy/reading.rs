//! What the legacy client does with what lies in a log, and what it stores.

use std::time::Duration;

use mq_kafka::{
    Compression, Kafka,
    core::{Broker, Consumer, Destination, ErrorKind, Message, Publisher, Subscription},
};
use mq_testkit::Check;

use crate::{
    beside::some,
    refused::{known, legacy, plan},
    support::{Bare, check, fill, open, queue, same, take, text, unique, within},
};

async fn compressing(servers: &str, codec: Compression) -> Check<Kafka> {
    let builder = Kafka::builder(servers).compression(codec);
    Ok(builder.linger(Duration::from_millis(20)).connect().await?)
}

pub(crate) async fn compressed(servers: String) -> Check {
    let legacy = legacy(&servers).await?;
    for codec in [Compression::Gzip, Compression::Snappy] {
        let (plain, queue) = queue(&servers, "compressed").await?;
        let packed = compressing(&servers, codec).await?;
        // Batches of both kinds, so that one fetch has several of each.
        for start in (0..120).step_by(20) {
            fill(&plain, &queue, start..start + 7).await?;
            fill(&packed, &queue, start + 7..start + 20).await?;
        }
        let source = Subscription::queue(queue.name().clone());
        let mut consumer = legacy.consumer(&source, plan()).await?;
        let mut found = Vec::new();
        for delivery in some(&mut consumer, 120).await? {
            found.push(text(&delivery));
            delivery.ack()?;
        }
        let expected: Vec<String> = (0..120).map(|n| n.to_string()).collect();
        same(found, expected, "what was read")?;
        consumer.close().await?;
        plain.close().await?;
        packed.close().await?;
    }
    Ok(legacy.close().await?)
}

pub(crate) async fn unknown_codec(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "lz4").await?;
    let packed = compressing(&servers, Compression::Lz4).await?;
    fill(&packed, &queue, 0..50).await?;
    let legacy = legacy(&servers).await?;
    let source = Subscription::queue(queue.name().clone());
    let mut consumer = legacy.consumer(&source, plan()).await?;
    let received = within(30, consumer.receive()).await?;
    let error = received.expect_err("lz4");
    same(error.kind(), ErrorKind::Unsupported, "the codec")?;
    check(
        error.to_string().contains("codec"),
        format!("no reason: {error}"),
    )?;
    packed.close().await?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn large(servers: String) -> Check {
    let bare = Bare::connect(&servers).await?;
    let name = unique("large");
    bare.create(&name, 1, &[("max.message.bytes", "8000000")])
        .await?;
    let legacy = legacy(&servers).await?;
    let queue = Destination::queue(name.as_str());
    known(&legacy, &queue).await?;
    let payload: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let publisher = legacy.publisher();
    publisher.publish(&queue, Message::new("before")).await?;
    publisher
        .publish(&queue, Message::new(payload.clone()))
        .await?;
    publisher.publish(&queue, Message::new("after")).await?;
    let refused = publisher
        .publish(&queue, Message::new(vec![0; 9_000_000]))
        .await;
    same(
        refused.expect_err("9 MB").kind(),
        ErrorKind::TooLarge,
        "over the limit",
    )?;
    let mut consumer = legacy
        .consumer(&Subscription::queue(name.as_str()), plan())
        .await?;
    let taken = some(&mut consumer, 3).await?;
    check(
        taken[1].payload().is_some_and(|found| *found == payload),
        "the large one is another",
    )?;
    same(text(&taken[2]), "after".to_owned(), "what comes after it")?;
    taken
        .into_iter()
        .try_for_each(mq_kafka::core::Delivery::ack)?;
    consumer.close().await?;
    Ok(legacy.close().await?)
}

/// The difference that `read_uncommitted` is asked for.
pub(crate) async fn aborted(servers: String) -> Check {
    let bare = krafka::Kafka::builder(&servers).connect().await?;
    let (kafka, queue) = queue(&servers, "aborted").await?;
    let writer = bare
        .producer()
        .build_transactional(unique("writer"))
        .await?;
    for (text, commit) in [("kept", true), ("aborted", false), ("kept too", true)] {
        writer.begin()?;
        let record = krafka::Record::new(&**queue.name(), text).key("k");
        // Where it lies is of no interest.
        let _ = writer.send(record).await?;
        match commit {
            true => writer.commit().await?,
            false => writer.abort().await?,
        }
    }
    let legacy = legacy(&servers).await?;
    let mut consumer = legacy
        .consumer(&Subscription::queue(queue.name().clone()), plan())
        .await?;
    // The marks between them are passed over, and the aborted record is not.
    let mut found = Vec::new();
    for delivery in some(&mut consumer, 3).await? {
        found.push(text(&delivery));
        delivery.ack()?;
    }
    same(
        found,
        vec!["kept".into(), "aborted".into(), "kept too".into()],
        "what was read",
    )?;
    consumer.close().await?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn members(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "members").await?;
    fill(&kafka, &queue, 0..10).await?;
    let mut member = open(&kafka, &queue).await?;
    for delivery in take(&mut member, 10).await? {
        delivery.ack()?;
    }
    member.settled().await?;
    let legacy = legacy(&servers).await?;
    let source = Subscription::queue(queue.name().clone());
    let opened = legacy.consumer(&source, plan()).await;
    same(
        opened.expect_err("it has a member").kind(),
        ErrorKind::InUse,
        "the group",
    )?;
    member.close().await?;
    legacy.consumer(&source, plan()).await?.close().await?;
    // One that joins later takes the group: the first commit tells it.
    let mut first = legacy.consumer(&source, plan()).await?;
    let member = open(&kafka, &queue).await?;
    fill(&kafka, &queue, 10..20).await?;
    for delivery in some(&mut first, 10).await? {
        delivery.ack()?;
    }
    let received = within(30, first.receive()).await?;
    same(
        received.expect_err("a member").kind(),
        ErrorKind::InUse,
        "the commit",
    )?;
    drop(first);
    member.close().await?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn next_offset(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "next").await?;
    fill(&kafka, &queue, 0..25).await?;
    let legacy = legacy(&servers).await?;
    let source = Subscription::queue(queue.name().clone());
    let mut consumer = legacy.consumer(&source, plan()).await?;
    let mut taken = some(&mut consumer, 25).await?;
    let open = taken.split_off(20);
    let partition = taken[0].position().expect("a place").partition;
    taken
        .into_iter()
        .try_for_each(mq_kafka::core::Delivery::ack)?;
    consumer.settled().await?;
    let bare = Bare::connect(&servers).await?;
    let places = bare.places(queue.name(), queue.name()).await?;
    let found = places
        .get(&i32::try_from(partition).expect("small"))
        .cloned();
    same(found, Some((20, String::new())), "what is stored")?;
    drop(open);
    consumer.close().await?;
    let mut consumer = legacy.consumer(&source, plan()).await?;
    let again = some(&mut consumer, 5).await?;
    same(text(&again[0]), "20".to_owned(), "where it goes on")?;
    consumer.close().await?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn above(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "above").await?;
    fill(&kafka, &queue, 0..3).await?;
    let builder = mq_kafka::legacy::LegacyKafka::builder(&servers);
    let quick = builder
        .request_timeout(Duration::from_secs(2))
        .read_uncommitted();
    let legacy = quick.connect().await?;
    let source = Subscription::queue(queue.name().clone());
    let mut consumer = legacy.consumer(&source, plan()).await?;
    let mut taken = some(&mut consumer, 3).await?;
    taken.remove(1).ack()?;
    let settled = within(20, consumer.settled()).await?;
    same(
        settled.expect_err("0 is open").kind(),
        ErrorKind::Timeout,
        "settled",
    )?;
    let closed = consumer.close().await.expect_err("1 comes again");
    same(closed.kind(), ErrorKind::Stale, "close")?;
    let mut consumer = legacy.consumer(&source, plan()).await?;
    let again: Vec<String> = some(&mut consumer, 3).await?.iter().map(text).collect();
    same(
        again,
        vec!["0".to_owned(), "1".into(), "2".into()],
        "what comes again",
    )?;
    drop(taken);
    drop(consumer);
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn again(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "again").await?;
    fill(&kafka, &queue, 0..1).await?;
    let legacy = legacy(&servers).await?;
    let mut consumer = legacy
        .consumer(&Subscription::queue(queue.name().clone()), plan())
        .await?;
    let mut next = async |attempt: u32| {
        let delivery = some(&mut consumer, 1).await?.remove(0);
        same(delivery.attempt(), attempt, "attempt")?;
        Check::Ok(delivery.into_settlement())
    };
    next(1).await?.requeue()?;
    next(2).await?.release()?;
    drop(next(2).await?);
    let refused = next(3).await?.reject("no home");
    same(
        refused.expect_err("no home").kind(),
        ErrorKind::Unsupported,
        "a reject",
    )?;
    next(4).await?.ack()?;
    consumer.settled().await?;
    consumer.close().await?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}
