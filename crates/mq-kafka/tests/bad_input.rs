//! Bad input: wrong names, limits, passwords, and peers that write what they like. On a running
//! Kafka, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{
    env,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use krafka::Record;
use mq_kafka::{
    Kafka, Sasl,
    core::{
        Broker, ConsumePlan, Consumer, Destination, Error, ErrorKind, Message, Publisher, Reason,
        Subscription, Unconfirmed, headers,
    },
};
use mq_testkit::{Address, Check, Suite, broker_address, run};
use support::{
    Bare, check, open, punctual_queue, queue, quiet, same, take, text, unique,
    wire::{self, RawHeader},
    within,
};

fn main() -> ExitCode {
    let address = broker_address("MQ_KAFKA_SERVERS");
    let broker = Suite::new("kafka-bad-input", "mq-kafka", address)
        .case("a_wrong_or_reserved_name_is_refused_by_every_call", names)
        .case(
            "names_that_differ_in_dot_and_underscore_only_are_refused",
            colliding_names,
        )
        .case("a_message_over_the_topics_own_limit_is_refused", own_limit)
        .case("a_limit_that_was_lowered_meanwhile_is_told", lowered_limit)
        .case(
            "a_message_with_more_headers_than_can_be_read_is_refused",
            too_many_headers,
        )
        .case(
            "hostile_headers_of_a_peer_are_delivered_and_dead_lettered",
            hostile_headers,
        )
        .case(
            "a_time_that_the_broker_refuses_is_a_rejection",
            refused_time,
        )
        .case("header_names_that_are_no_text_are_delivered", odd_names)
        .case(
            "a_record_that_cannot_be_read_ends_the_consumer_and_is_named",
            unreadable,
        )
        .case(
            "hostile_texts_beside_an_offset_are_passed_over",
            hostile_metadata,
        )
        .case(
            "records_that_are_gone_before_they_were_read_are_told",
            expired_offset,
        )
        .case(
            "an_offset_outside_the_log_ends_the_consumer_and_is_named",
            hostile_offset,
        )
        .case(
            "a_login_that_the_listener_does_not_know_is_refused",
            unknown_login,
        );
    // The Kafka of `compose/` has such a listener; somebody's own need not have one.
    let address = match env::var("MQ_KAFKA_LOGIN_SERVERS") {
        Ok(servers) => Address::Here(servers),
        Err(_) => Address::Missing("MQ_KAFKA_LOGIN_SERVERS is not set".to_owned()),
    };
    let login = Suite::new("kafka-login", "mq-kafka", address)
        .case("a_wrong_password_is_refused_and_not_shown", wrong_password);
    run([broker, login])
}

async fn names(servers: String) -> Check {
    let kafka = Kafka::connect(&servers).await?;
    let topic = Destination::topic(unique("names"));
    kafka.declare(&topic).await?;
    let long = "x".repeat(250);
    let bad = [
        "",
        ".",
        "..",
        "a@b",
        "a b",
        "a/b",
        "größe",
        "a\nb",
        "a\0b",
        &long,
        "__consumer_offsets",
        "__transaction_state",
        "__mine",
    ];
    for name in bad {
        let refused = |what: &str, error: Error| {
            let what = format!("{what} {name:?}");
            same(error.kind(), ErrorKind::InvalidName, &what)?;
            same(error.is_retryable(), false, &what)?;
            let shown: String = name.chars().take(64).collect();
            let shown = shown.escape_debug().to_string();
            same(error.context("name"), Some(&*shown), &what)
        };
        for to in [Destination::queue(name), Destination::topic(name)] {
            refused("declare", kafka.declare(&to).await.expect_err(name))?;
            refused("verify", kafka.verify(&to).await.expect_err(name))?;
            let published = kafka.publisher().publish(&to, Message::new("x")).await;
            refused("publish", published.expect_err(name))?;
            let handed = kafka.unconfirmed().hand_over(&to, Message::new("x")).await;
            refused("hand over", handed.expect_err(name))?;
        }
        for source in [
            Subscription::queue(name),
            Subscription::ephemeral(name),
            Subscription::durable(name, "s"),
            Subscription::durable(topic.name().clone(), name),
        ] {
            let opened = kafka.consumer(&source, ConsumePlan::new()).await;
            refused("consume", opened.expect_err(name))?;
            let declared = kafka.declare(&source).await;
            refused("declare subscription", declared.expect_err(name))?;
        }
    }
    // Each part is legal, but not the dead-letter topic that would be made of them.
    let half = "s".repeat(140);
    let both = Subscription::durable("t".repeat(140), half);
    let error = kafka.declare(&both).await.expect_err("286 characters");
    same(error.kind(), ErrorKind::InvalidName, "both long")?;
    check(error.to_string().contains("240"), error.to_string())
}

async fn colliding_names(servers: String) -> Check {
    let kafka = Kafka::connect(&servers).await?;
    let name = unique("dotted.name");
    kafka.declare(Destination::topic(&*name)).await?;
    let other = name.replace("dotted.name", "dotted_name");
    let error = kafka
        .declare(Destination::topic(&*other))
        .await
        .expect_err("they collide");
    same(error.kind(), ErrorKind::InvalidName, "kind")?;
    same(error.context("topic"), Some(&*other), "topic")?;
    check(error.to_string().contains("underscore"), error.to_string())
}

async fn own_limit(servers: String) -> Check {
    let bare = Bare::connect(&servers).await?;
    let topic = Destination::topic(unique("own-limit"));
    bare.create(topic.name(), 1, &[("max.message.bytes", "2000")])
        .await?;
    let kafka = Kafka::connect(&servers).await?;
    within(20, until_there(&kafka, &topic)).await?;
    let large = Message::new(vec![0_u8; 3000]);
    let error = kafka
        .publisher()
        .publish(&topic, large)
        .await
        .expect_err("over the limit");
    same(error.kind(), ErrorKind::TooLarge, "kind")?;
    same(error.possibly_delivered(), false, "possibly delivered")?;
    same(error.context("limit"), Some("2000"), "limit")?;
    check(
        error.to_string().contains(&**topic.name()),
        error.to_string(),
    )?;
    kafka
        .publisher()
        .publish(&topic, Message::new(vec![0_u8; 1000]))
        .await?;
    same(bare.ends(topic.name(), 1).await?, vec![1], "records")
}

async fn lowered_limit(servers: String) -> Check {
    let bare = Bare::connect(&servers).await?;
    let (kafka, queue) = queue(&servers, "lowered").await?;
    let first = kafka.publisher().partition(0);
    first
        .publish(&queue, Message::new(vec![0_u8; 3000]))
        .await?;
    bare.set(queue.name(), "max.message.bytes", "2000").await?;
    // The broker takes it over a moment later.
    let mut stored = 1;
    let refused = async {
        while first
            .publish(&queue, Message::new(vec![0_u8; 3000]))
            .await
            .is_ok()
        {
            stored += 1;
        }
    };
    within(20, refused).await?;
    let mut handles = Vec::new();
    for size in [100, 3000, 100] {
        handles.push(
            first
                .enqueue(&queue, Message::new(vec![0_u8; size]))
                .await?,
        );
    }
    let mut kinds = Vec::new();
    for handle in handles {
        kinds.push(handle.await.map(drop).map_err(|error| error.kind()));
    }
    same(
        kinds,
        vec![Ok(()), Err(ErrorKind::TooLarge), Ok(())],
        "outcomes",
    )?;
    same(
        bare.ends(queue.name(), 1).await?,
        vec![stored + 2],
        "records",
    )
}

/// Waits until a topic that a peer has made is known everywhere.
async fn until_there(kafka: &Kafka, topic: &Destination) {
    while kafka.verify(topic).await.is_err() {
        tokio::task::yield_now().await;
    }
}

async fn too_many_headers(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "headers").await?;
    let with = |count: usize| {
        let many = (0..count).map(|_| ("h", ""));
        Message::new("x").headers(many.collect())
    };
    // The id takes one.
    let error = kafka.publisher().publish(&queue, with(10_000)).await;
    let error = error.expect_err("one too many");
    same(error.kind(), ErrorKind::InvalidMessage, "kind")?;
    same(error.possibly_delivered(), false, "possibly delivered")?;
    same(error.context("headers"), Some("10001"), "headers")?;
    check(
        error.to_string().contains(&**queue.name()),
        error.to_string(),
    )?;
    kafka.publisher().publish(&queue, with(9_999)).await?;
    let mut consumer = open(&kafka, &queue).await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    same(delivery.headers().len(), 9_999, "headers")
}

async fn refused_time(servers: String) -> Check {
    let (kafka, bare) = (
        Kafka::connect(&servers).await?,
        Bare::connect(&servers).await?,
    );
    let queue = punctual_queue(&kafka, &bare, "time", 1).await?;
    let hour = Duration::from_secs(3600);
    let error = kafka
        .publisher()
        .publish(
            &queue,
            Message::new("x").time(SystemTime::now() + 48 * hour),
        )
        .await
        .expect_err("message.timestamp.after.max.ms is an hour");
    same(error.kind(), ErrorKind::Rejected, "kind")?;
    check(
        error.to_string().contains(&**queue.name()),
        error.to_string(),
    )?;
    // Old ones and those before the epoch are none of the broker's business.
    for time in [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH - 48 * hour] {
        kafka
            .publisher()
            .publish(&queue, Message::new("x").time(time))
            .await?;
    }
    let mut consumer = open(&kafka, &queue).await?;
    for delivery in take(&mut consumer, 2).await? {
        same(delivery.message().time(), SystemTime::UNIX_EPOCH, "time")?;
    }
    Ok(())
}

async fn hostile_headers(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "hostile").await?;
    let long = "x".repeat(100_000);
    let binary: &[u8] = &[0xff, 0xfe, 0, 0x80];
    let mapped = [
        headers::ID,
        headers::KEY,
        headers::TIME,
        headers::PUBLISH_NUMBER,
        headers::TOMBSTONE,
        headers::PRIORITY,
        headers::CORRELATION_ID,
        headers::REPLY_TO,
        headers::CONTENT_TYPE,
        headers::ROUTING_KEY,
    ];
    let ours = [
        headers::ATTEMPT,
        headers::DEAD_ORIGIN,
        headers::DEAD_REASON,
        headers::DEAD_ERROR,
        headers::DEAD_ATTEMPTS,
        headers::DEAD_FIRST,
        headers::DEAD_LAST,
        headers::DEAD_POSITION,
        "",
        "h",
        "mq-",
        "mq-unknown",
    ];
    let values = [
        None,
        Some(&b""[..]),
        Some(binary),
        Some(b"-1"),
        Some(b"4294967295"),
        Some(b"99999999999999999999"),
        Some(b"\r\n\0"),
        Some(long.as_bytes()),
    ];
    let record = |n: usize| {
        let mut record = Record::new(&**queue.name(), format!("record {n}")).partition(0);
        record.key = Some(Bytes::from_static(binary));
        record
    };
    let mut records = Vec::new();
    for name in mapped.into_iter().chain(ours) {
        for value in values {
            let mut record = record(records.len());
            // Twice, so that one contradicts the other.
            for value in [value, Some(b"other")] {
                record
                    .headers
                    .push((name.to_owned(), value.map(Bytes::copy_from_slice)));
            }
            records.push(record);
        }
    }
    let mut many = record(records.len());
    // A dead letter has some more.
    many.headers = (0..9_980).map(|n| (format!("h{}", n % 7), None)).collect();
    records.push(many);
    for time in [-1, 0, 1] {
        records.push(record(records.len()).timestamp(time));
    }
    // An expiry that cannot be read is none.
    for expires in [
        "",
        "-1",
        "soon",
        "18446744073709551616",
        "18446744073709551615",
    ] {
        records.push(record(records.len()).header(headers::EXPIRES, expires));
    }
    let count = records.len();
    let bare = Bare::connect(&servers).await?;
    bare.write(records).await?;

    let mut consumer = open(&kafka, &queue).await?;
    let found = take(&mut consumer, count).await?;
    for (n, delivery) in found.into_iter().enumerate() {
        same(text(&delivery), format!("record {n}"), "payload")?;
        same(
            delivery.message().key().map(|k| k.as_bytes().to_vec()),
            Some(binary.to_vec()),
            "key",
        )?;
        check(!delivery.message().id().to_string().is_empty(), "no id")?;
        delivery.into_settlement().reject("hostile")?;
    }
    within(30, consumer.settled()).await??;
    let places = bare.places(queue.name(), queue.name()).await?;
    let place = places.get(&0).map(|place| place.0);
    same(place, Some(i64::try_from(count)?), "committed offset")?;

    let home = queue.dead_letter_home().expect("a home");
    let mut dead = open(&kafka, &home).await?;
    for letter in take(&mut dead, count).await? {
        let read = |name| letter.headers().text(name).map(ToOwned::to_owned);
        same(
            read(headers::DEAD_ORIGIN).as_deref(),
            Some(&**queue.name()),
            "origin",
        )?;
        same(
            read(headers::DEAD_REASON).as_deref(),
            Some(Reason::Rejected.as_str()),
            "reason",
        )?;
        same(
            letter.headers().all(headers::DEAD_ORIGIN).count(),
            1,
            "origins",
        )?;
        letter.ack()?;
    }
    quiet(&mut dead).await
}

async fn odd_names(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "odd-names").await?;
    let names: [&[u8]; 4] = [b"\xff\xfe", b"caf\xe9", b"", b"mq-\xff"];
    let headers: Vec<RawHeader> = names.iter().map(|n| (n.to_vec(), None)).collect();
    wire::write(&servers, queue.name(), 3, &headers, b"one").await?;
    // More than this client writes.
    let many: Vec<RawHeader> = (0..50_000).map(|_| (b"h".to_vec(), None)).collect();
    wire::write(&servers, queue.name(), 3, &many, b"two").await?;
    let mut consumer = open(&kafka, &queue).await?;
    let found = take(&mut consumer, 2).await?;
    let names: Vec<&str> = found[0].headers().iter().map(|(name, _)| name).collect();
    let expected = vec!["\u{fffd}\u{fffd}", "caf\u{fffd}", "", "mq-\u{fffd}"];
    same(names, expected, "names")?;
    same(found[1].headers().len(), 50_000, "headers")?;
    for delivery in found {
        delivery.ack()?;
    }
    Ok(consumer.close().await?)
}

async fn unreadable(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "unreadable").await?;
    let first = kafka.publisher().partition(3);
    first.publish(&queue, Message::new("before")).await?;
    let many: Vec<RawHeader> = (0..100_001).map(|_| (Vec::new(), None)).collect();
    wire::write(&servers, queue.name(), 3, &many, b"x").await?;
    let mut consumer = open(&kafka, &queue).await?;
    // The client has met it by then. What lies before it comes first, however late it is asked for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    take(&mut consumer, 1).await?.remove(0).ack()?;
    let ended = within(20, consumer.receive()).await?;
    let error = ended.expect_err("nobody can read it");
    same(error.kind(), ErrorKind::Broker, "kind")?;
    same(error.is_retryable(), false, "retryable")?;
    let place = format!("{}-3 offset 1", queue.name());
    check(error.to_string().contains(&place), error.to_string())?;
    // It is in nobody's way once an operator has moved the group past it.
    let closed = consumer.close().await.expect_err("it ended in an error");
    same(closed.kind(), ErrorKind::Broker, "kind at close")?;
    first.publish(&queue, Message::new("after")).await?;
    let bare = Bare::connect(&servers).await?;
    bare.reset(queue.name(), queue.name(), 3, 2).await?;
    let mut consumer = open(&kafka, &queue).await?;
    let next = take(&mut consumer, 1).await?.remove(0);
    same(text(&next).as_str(), "after", "what comes next")?;
    Ok(next.ack()?)
}

async fn hostile_metadata(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(12).connect().await?;
    let queue = Destination::queue(unique("metadata"));
    kafka.declare(&queue).await?;
    let long = format!("mq1{}", ";1-1x1".repeat(600));
    let wide = "ü".repeat(2000);
    let texts = [
        "",
        "garbage",
        "mq1",
        "mq1;",
        "mq1;0-0x2;3-",
        "mq1;2-1d",
        "mq1;0-0d;0-0d",
        "mq1;-1-0d",
        "mq1;0-99999999999999999999d",
        "mq1;0-0x99999999999",
        "mq2;0-9d",
        &wide,
    ];
    for (partition, _) in texts.iter().enumerate() {
        let publisher = kafka.publisher().partition(u32::try_from(partition)?);
        for n in 0..3 {
            publisher
                .publish(&queue, Message::new(n.to_string()))
                .await?;
        }
    }
    let bare = Bare::connect(&servers).await?;
    let places = texts.iter().enumerate();
    let places = places
        .map(|(p, text)| (i32::try_from(p).unwrap_or_default(), 1, *text))
        .collect();
    bare.commit(queue.name(), queue.name(), places).await?;
    let mut consumer = open(&kafka, &queue).await?;
    // From each place on, as if nothing stood beside it.
    for delivery in take(&mut consumer, 2 * texts.len()).await? {
        same(delivery.attempt(), 1, "attempt")?;
        delivery.ack()?;
    }
    quiet(&mut consumer).await?;
    consumer.close().await?;
    // Many marks, and the highest count there is.
    let most = "mq1;0-0x4294967295";
    bare.commit(
        queue.name(),
        queue.name(),
        vec![(0, 1, &long), (1, 1, most)],
    )
    .await?;
    let mut consumer = open(&kafka, &queue).await?;
    let mut attempts = Vec::new();
    for delivery in take(&mut consumer, 4).await? {
        attempts.push((delivery.position().map(|p| p.partition), delivery.attempt()));
        delivery.into_settlement().requeue()?;
    }
    attempts.sort_unstable();
    let expected = [(0, 1), (0, 1), (1, 1), (1, u32::MAX)].map(|(p, n)| (Some(p), n));
    same(attempts, expected.to_vec(), "attempts")?;
    // A count at its end stays there.
    let again = take(&mut consumer, 4).await?;
    check(
        again.iter().any(|d| d.attempt() == u32::MAX),
        "the count went round",
    )?;
    Ok(())
}

async fn hostile_offset(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "offset").await?;
    kafka
        .publisher()
        .partition(5)
        .publish(&queue, Message::new("x"))
        .await?;
    let bare = Bare::connect(&servers).await?;
    bare.commit(queue.name(), queue.name(), vec![(5, 1_000_000, "")])
        .await?;
    let source = Subscription::queue(queue.name().clone());
    let opened = kafka.consumer(&source, ConsumePlan::new()).await;
    // It is told as soon as it is known, at the latest to who asks for messages.
    let error = match opened {
        Err(error) => error,
        Ok(mut consumer) => {
            let asked = within(30, consumer.receive()).await?;
            asked.expect_err("nothing is there to read")
        }
    };
    same(error.kind(), ErrorKind::Lost, "kind")?;
    same(error.is_retryable(), false, "retryable")?;
    same(error.context("partition"), Some("5"), "partition")?;
    same(error.context("offset"), Some("1000000"), "offset")?;
    same(error.context("end"), Some("1"), "end")?;
    check(
        error.to_string().contains(&**queue.name()),
        error.to_string(),
    )?;
    // Nothing was moved behind the operator's back.
    let places = bare.places(queue.name(), queue.name()).await?;
    same(
        places.get(&5).map(|place| place.0),
        Some(1_000_000),
        "committed offset",
    )
}

async fn expired_offset(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "expired").await?;
    let first = kafka.publisher().partition(2);
    for n in 0..10 {
        first.publish(&queue, Message::new(n.to_string())).await?;
    }
    let mut consumer = open(&kafka, &queue).await?;
    take(&mut consumer, 1).await?.remove(0).ack()?;
    consumer.close().await?;
    // What the broker's retention does to a log that nobody reads in time.
    let bare = Bare::connect(&servers).await?;
    bare.delete_records(queue.name(), 2, 5).await?;
    let mut consumer = open(&kafka, &queue).await?;
    let ended = within(20, consumer.receive()).await?;
    let error = ended.expect_err("five records are gone");
    same(error.kind(), ErrorKind::Lost, "kind")?;
    same(error.is_retryable(), false, "retryable")?;
    same(error.context("partition"), Some("2"), "partition")?;
    check(
        error.to_string().contains(&**queue.name()),
        error.to_string(),
    )
}

async fn unknown_login(servers: String) -> Check {
    let builder = Kafka::builder(&servers).sasl(Sasl::plain("alice", "hunter2"));
    let error = within(5, builder.connect())
        .await?
        .expect_err("no such mechanism here");
    same(error.kind(), ErrorKind::Auth, "kind")?;
    same(error.is_retryable(), false, "retryable")?;
    check(
        !format!("{error:?}").contains("hunter2"),
        "the error shows the password",
    )
}

/// On a listener with SASL PLAIN whose only user is `alice` with the password `right`.
async fn wrong_password(servers: String) -> Check {
    let login = |user: &str, password: &str| {
        let builder = Kafka::builder(&servers).sasl(Sasl::plain(user, password));
        builder.connect()
    };
    for (user, password) in [("alice", "hunter2"), ("hunter2", "right"), ("alice", "")] {
        let error = within(20, login(user, password)).await?;
        let error = error.expect_err("a wrong login");
        same(error.kind(), ErrorKind::Auth, "kind")?;
        same(error.is_retryable(), false, "retryable")?;
        same(error.context("servers"), Some(&*servers), "servers")?;
        let shown = format!("{error} {error:?}");
        check(
            password.is_empty() || user != "alice" || !shown.contains(password),
            shown,
        )?;
    }
    let scram = Kafka::builder(&servers).sasl(Sasl::scram_sha_512("alice", "right"));
    let error = within(20, scram.connect()).await?.expect_err("PLAIN alone");
    same(error.kind(), ErrorKind::Auth, "mechanism")?;
    let none = within(20, Kafka::connect(&servers))
        .await?
        .expect_err("no login");
    same(none.kind(), ErrorKind::Connect, "no login")?;
    check(none.to_string().contains("a login"), none.to_string())?;

    let kafka = login("alice", "right").await?;
    let queue = Destination::queue(unique("login"));
    kafka.declare(&queue).await?;
    kafka.publisher().publish(&queue, Message::new("x")).await?;
    let mut consumer = open(&kafka, &queue).await?;
    take(&mut consumer, 1).await?.remove(0).ack()?;
    consumer.close().await?;
    Ok(kafka.close().await?)
}
