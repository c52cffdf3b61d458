//! How records are gathered, compressed and bounded on their way. On a running Kafka, named by
//! `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use mq_kafka::{
    At, Compression, Kafka,
    core::{Broker, Destination, ErrorKind, Message, Publisher, time},
};
use mq_testkit::{
    Check, Failure, Suite, broker_address,
    proxy::{Direction, Fault, Proxy},
};
use support::{Bare, check, same, unique, within};

fn main() -> ExitCode {
    let address = broker_address("MQ_KAFKA_SERVERS");
    Suite::new("kafka-batches", "mq-kafka", address)
        .deadline(Duration::from_secs(120))
        .case("each_codec_is_used_and_read_again", codecs)
        .case("a_batch_waits_as_long_as_it_was_told_to", linger)
        .case("a_full_window_makes_a_publish_wait_and_then_end", window)
        .case(
            "times_headers_and_tombstones_come_as_they_were_sent",
            fields,
        )
        .run()
}

/// A message far over the topic's limit fits where it is compressed, and only there.
async fn codecs(servers: String) -> Check {
    let bare = Bare::connect(&servers).await?;
    let topic = Destination::topic(unique("codecs"));
    bare.create(topic.name(), 1, &[("max.message.bytes", "50000")])
        .await?;
    let large = vec![b'x'; 500_000];
    let plain = Kafka::connect(&*servers).await?;
    let refused = plain
        .publisher()
        .publish(&topic, Message::new(large.clone()))
        .await;
    same(
        refused.expect_err("over").kind(),
        ErrorKind::TooLarge,
        "without a codec",
    )?;
    let mut codecs = vec![Compression::Gzip, Compression::Snappy, Compression::Lz4];
    match Kafka::builder(&servers)
        .compression(Compression::Zstd)
        .connect()
        .await
    {
        Ok(_) => codecs.push(Compression::Zstd),
        Err(error) => {
            check(!cfg!(feature = "zstd"), error.to_string())?;
            same(error.kind(), ErrorKind::Config, "without the feature")?;
        }
    }
    for codec in &codecs {
        let kafka = Kafka::builder(&servers)
            .compression(*codec)
            .connect()
            .await?;
        let publisher = kafka.publisher();
        publisher
            .publish(&topic, Message::new(large.clone()))
            .await?;
        // What does not compress well enough is refused by the broker.
        let noise: Vec<u8> = (0..100_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .map(|byte| byte ^ (byte >> 3))
            .collect();
        let noise = Message::new(shuffled(noise));
        let refused = publisher.publish(&topic, noise).await;
        same(
            refused.expect_err("over").kind(),
            ErrorKind::TooLarge,
            &format!("{codec:?}"),
        )?;
    }
    let mut reader = plain
        .reader(topic.name(), At::Earliest..At::LiveTail)
        .await?;
    let mut read = 0;
    while let Some(received) = within(30, reader.next()).await?? {
        let payload = received.payload().expect("no tombstone");
        check(**payload == large[..], "another payload")?;
        read += 1;
    }
    same(read, codecs.len(), "messages")
}

/// Bytes in which no codec finds anything.
fn shuffled(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for byte in &mut bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = (state >> 32) as u8;
    }
    bytes
}

async fn linger(servers: String) -> Check {
    const LINGER: Duration = Duration::from_millis(1500);
    let topic = Destination::topic(unique("linger"));
    let kafka = Kafka::builder(&servers)
        .partitions(1)
        .linger(LINGER)
        .connect()
        .await?;
    kafka.declare(&topic).await?;
    let publisher = kafka.publisher();
    let began = Instant::now();
    let first = publisher.enqueue(&topic, Message::new("1")).await?;
    let second = publisher.enqueue(&topic, Message::new("2")).await?;
    check(
        began.elapsed() < LINGER,
        "enqueueing does not wait for the batch",
    )?;
    first.await?;
    second.await?;
    check(
        began.elapsed() >= LINGER,
        format!("after {:?}", began.elapsed()),
    )?;
    // A batch that is full goes at once.
    let small = Kafka::builder(&servers)
        .batch_bytes(1000)
        .linger(Duration::from_secs(14))
        .connect()
        .await?;
    let began = Instant::now();
    let publisher = small.publisher();
    let full = publisher
        .enqueue(&topic, Message::new(vec![0; 900]))
        .await?;
    let next = publisher
        .enqueue(&topic, Message::new(vec![0; 900]))
        .await?;
    full.await?;
    check(
        began.elapsed() < Duration::from_secs(10),
        "a full batch waited",
    )?;
    publisher.flush().await?;
    next.await?;
    Ok(())
}

async fn window(servers: String) -> Check {
    const DEADLINE: Duration = Duration::from_secs(10);
    let topic = Destination::topic(unique("window"));
    let proxy = Proxy::start_kafka(&servers).await?;
    let kafka = Kafka::builder(proxy.servers())
        .partitions(1)
        .connect_timeout(Duration::from_secs(8))
        .publish_timeout(DEADLINE)
        .window(100_000)
        .connect()
        .await?;
    kafka.declare(&topic).await?;
    let publisher = kafka.publisher();
    publisher.publish(&topic, Message::new("first")).await?;
    proxy.set(Direction::Both, Fault::BlackHole);
    let began = Instant::now();
    let mut handles = Vec::new();
    let refused = loop {
        match within(30, publisher.enqueue(&topic, Message::new(vec![0; 10_000]))).await? {
            Ok(handle) => handles.push(handle),
            Err(error) => break error,
        }
        check(handles.len() < 20, "more was taken than the window holds")?;
    };
    same(refused.kind(), ErrorKind::Timeout, "what found no room")?;
    check(
        began.elapsed() >= DEADLINE,
        format!("after {:?}", began.elapsed()),
    )?;
    check(
        handles.len() >= 5,
        format!("only {} were taken", handles.len()),
    )?;
    for handle in handles {
        let error = within(30, handle).await?.expect_err("no answer");
        let kinds = [ErrorKind::Unknown, ErrorKind::Timeout];
        check(kinds.contains(&error.kind()), error.to_string())?;
    }
    proxy.clear();
    // There is room again.
    let back = async {
        while publisher
            .publish(&topic, Message::new("last"))
            .await
            .is_err()
        {}
    };
    within(60, back).await
}

async fn fields(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(1).connect().await?;
    let topic = Destination::topic(unique("fields"));
    kafka.declare(&topic).await?;
    let then = time::from_millis(1_234_567_890_123).expect("a time");
    let publisher = kafka.publisher();
    let message = Message::new("x")
        .key("k")
        .time(then)
        .header("a", "1")
        .build();
    publisher.publish(&topic, message).await?;
    publisher
        .publish(&topic, Message::tombstone().key("k"))
        .await?;
    publisher.publish(&topic, Message::new("")).await?;
    let mut reader = kafka
        .reader(topic.name(), At::Earliest..At::LiveTail)
        .await?;
    let mut next = async || {
        let next = within(30, reader.next()).await??;
        next.ok_or_else(|| Failure::new("the window ended"))
    };
    let (first, tombstone, empty) = (next().await?, next().await?, next().await?);
    same(first.message().time(), then, "time")?;
    same(first.headers().text("a"), Some("1"), "header")?;
    check(tombstone.payload().is_none(), "a tombstone has no payload")?;
    same(
        empty.payload().map(|p| p.len()),
        Some(0),
        "an empty payload is one",
    )
}
