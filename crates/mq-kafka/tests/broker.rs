//! What only Kafka has: partitions, groups, committed offsets. On a running Kafka, named by
//! `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

use std::{collections::BTreeSet, future::Future, process::ExitCode, time::Duration};

use mq_kafka::{
    GroupProtocol, Kafka, KafkaConsumer, Sasl,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Delivery, Destination, ErrorKind, Filter,
        Message, MessageId, Publisher, Stored, Subscription, headers,
    },
};
use mq_testkit::{Check, Failure, Suite, broker_address};
use tokio::time::timeout;

fn main() -> ExitCode {
    Suite::new("broker", "mq-kafka", broker_address("MQ_KAFKA_SERVERS"))
        .case(
            "keys_go_to_the_partitions_that_java_gives_them",
            keys_meet_java,
        )
        .case(
            "a_receipt_names_replicas_in_sync",
            a_receipt_names_replicas_in_sync,
        )
        .case(
            "a_message_of_the_limit_is_sent_and_one_byte_more_is_not",
            size_limit,
        )
        .case("a_queue_and_a_topic_of_one_name_are_refused", one_name)
        .case("an_interrupted_declare_is_completed", interrupted_declare)
        .case(
            "another_number_of_partitions_is_a_mismatch",
            partitions_mismatch,
        )
        .case("names_outside_kafkas_alphabet_are_refused", alphabet)
        .case(
            "a_login_that_the_listener_does_not_know_is_refused",
            unknown_login,
        )
        .case("closing_the_connection_loses_nothing", close_loses_nothing)
        .case(
            "the_committed_offset_stays_below_an_unfinished_record",
            watermark,
        )
        .case(
            "what_was_done_above_the_watermark_does_not_come_again",
            done_above,
        )
        .case(
            "failed_attempts_are_counted_across_consumers",
            attempts_survive,
        )
        .case(
            "a_settlement_after_the_partition_moved_is_stale",
            stale_after_revoke,
        )
        .case("the_classic_group_protocol_resumes_too", classic_protocol)
        .case("a_slow_handler_keeps_its_membership", slow_handler)
        .case(
            "the_dead_letter_is_stored_before_the_offset_moves",
            reject_order,
        )
        .case(
            "a_dead_letter_that_cannot_be_stored_ends_the_consumer",
            reject_too_large,
        )
        .case(
            "a_dead_letter_home_that_is_gone_ends_the_consumer",
            home_gone,
        )
        .case(
            "records_that_a_filter_leaves_out_are_passed_by_offset",
            filtered_offsets,
        )
        .case("a_deleted_topic_ends_its_consumer", deleted_topic)
        .case(
            "closing_the_connection_ends_its_consumers",
            close_ends_consumers,
        )
        .run()
}

async fn keys_meet_java(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "murmur2").await?;
    // Kafka's own vectors: `UtilsTest.testMurmur2` of the Java client.
    let vectors: [(&str, i32); 6] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        (
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        ),
        ("abc", 479_470_107),
    ];
    for (key, murmur2) in vectors {
        let receipt = kafka
            .publisher()
            .publish(&queue, Message::new("x").key(key))
            .await?;
        let expected = (murmur2.cast_unsigned() & 0x7fff_ffff) % 8;
        let found = receipt.position().map(|p| p.partition);
        same(found, Some(expected), key)?;
    }
    Ok(kafka.close().await?)
}

async fn a_receipt_names_replicas_in_sync(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "receipt").await?;
    let receipt = kafka.publisher().publish(&queue, Message::new("x")).await?;
    same(receipt.stored(), Stored::InSync, "stored")?;
    same(receipt.position().map(|p| p.offset), Some(0), "offset")?;
    Ok(kafka.close().await?)
}

async fn size_limit(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "size").await?;
    let publisher = kafka.publisher();
    // The id's size is fixed, so only the payload decides; found by halving, so that the test needs
    // to know no more than the default limit of 1,048,588 bytes for a whole batch.
    let (mut good, mut bad) = (1_000_000, 1_048_588);
    while bad - good > 1 {
        let size = (good + bad) / 2;
        match publisher
            .publish(&queue, Message::new(vec![0_u8; size]))
            .await
        {
            Ok(_) => good = size,
            Err(error) => {
                same(error.kind(), ErrorKind::TooLarge, "kind")?;
                same(error.possibly_delivered(), false, "possibly delivered")?;
                bad = size;
            }
        }
    }
    check(
        good > 1_048_588 - 200,
        format!("the largest payload is only {good}"),
    )?;
    Ok(kafka.close().await?)
}

async fn one_name(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "both").await?;
    let as_topic = Destination::topic(queue.name().clone());
    let error = kafka
        .declare(&as_topic)
        .await
        .expect_err("a queue is there");
    same(error.kind(), ErrorKind::Mismatch, "topic over a queue")?;
    let on_queue = Subscription::durable(queue.name().clone(), "s");
    let error = kafka
        .declare(&on_queue)
        .await
        .expect_err("a queue is there");
    same(error.kind(), ErrorKind::Mismatch, "subscription of a queue")?;

    let topic = Destination::topic(unique("topic"));
    kafka.declare(&topic).await?;
    let as_queue = Destination::queue(topic.name().clone());
    let error = kafka
        .declare(&as_queue)
        .await
        .expect_err("a topic is there");
    same(error.kind(), ErrorKind::Mismatch, "queue over a topic")?;
    let error = kafka.verify(&as_queue).await.expect_err("a topic is there");
    same(error.kind(), ErrorKind::Mismatch, "verify")?;
    Ok(kafka.close().await?)
}

async fn interrupted_declare(servers: String) -> Check {
    let kafka = Kafka::connect(&servers).await?;
    let name = unique("interrupted");
    // What a process leaves behind that ends between the two topics of a queue.
    kafka
        .declare(Destination::queue(format!("{name}.dead")))
        .await?;
    let queue = Destination::queue(name);
    kafka.declare(&queue).await?;
    kafka.verify(&queue).await?;
    Ok(kafka.close().await?)
}

async fn partitions_mismatch(servers: String) -> Check {
    let three = Kafka::builder(&servers).partitions(3).connect().await?;
    let queue = Destination::queue(unique("partitions"));
    three.declare(&queue).await?;
    three.declare(&queue).await?;
    let four = Kafka::builder(&servers).partitions(4).connect().await?;
    let error = four.declare(&queue).await.expect_err("3 partitions");
    same(error.kind(), ErrorKind::Mismatch, "declare")?;
    same(error.context("partitions"), Some("3"), "partitions")?;
    let any = Kafka::connect(&servers).await?;
    any.verify(&queue).await?;
    let kept = any.publisher().publish(&queue, Message::new("x")).await?;
    check(
        kept.position().is_some_and(|p| p.partition < 3),
        "a partition above 2",
    )?;
    Ok(())
}

async fn alphabet(servers: String) -> Check {
    let kafka = Kafka::connect(&servers).await?;
    let bad = Destination::queue("größe");
    let declared = kafka.declare(&bad).await.expect_err("refused");
    same(declared.kind(), ErrorKind::InvalidName, "declare")?;
    let published = kafka.publisher().publish(&bad, Message::new("x")).await;
    let published = published.expect_err("refused");
    same(published.kind(), ErrorKind::InvalidName, "publish")?;
    let opened = kafka
        .consumer(&Subscription::queue("a@b"), ConsumePlan::new())
        .await;
    same(
        opened.expect_err("refused").kind(),
        ErrorKind::InvalidName,
        "consume",
    )?;
    Ok(kafka.close().await?)
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

async fn close_loses_nothing(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "close").await?;
    let publisher = kafka.publisher();
    let mut handles = Vec::new();
    for n in 0..5000_u32 {
        handles.push(
            publisher
                .enqueue(&queue, Message::new(n.to_string()))
                .await?,
        );
    }
    kafka.close().await?;
    let mut places = BTreeSet::new();
    for handle in handles {
        places.insert(handle.await?.position());
    }
    same(places.len(), 5000, "places in the log")?;
    let refused = publisher.publish(&queue, Message::new("late")).await;
    same(
        refused.expect_err("closed").kind(),
        ErrorKind::Closed,
        "after close",
    )?;
    let other = Kafka::connect(&servers).await?;
    let mut consumer = open(&other, &queue).await?;
    let found: BTreeSet<_> = take(&mut consumer, 5000).await?.iter().map(text).collect();
    same(found.len(), 5000, "messages in the log")
}

async fn watermark(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "watermark").await?;
    fill(&kafka, &queue, 0..10).await?;
    let mut consumer = open(&kafka, &queue).await?;
    let mut deliveries = take(&mut consumer, 10).await?;
    // The fourth stays with its handler, which is killed with its process: no close, no verdict.
    let unfinished = deliveries.remove(3);
    for delivery in deliveries {
        delivery.ack()?;
    }
    within(10, consumer.settled()).await??;
    let partition = unfinished.position().map_or(0, |p| p.partition);
    let raw = krafka::Kafka::builder(&servers)
        .connect()
        .await
        .map_err(broken)?;
    let admin = raw.admin();
    let places = admin.list_consumer_group_offsets(&**queue.name(), Default::default());
    let places = places.await.map_err(broken)?;
    let at = krafka::admin::TopicPartition::new(&**queue.name(), partition.cast_signed());
    let place = places[&at].as_ref().expect("a place");
    same(place.offset, Some(3), "committed offset")?;
    same(
        place.metadata.as_deref(),
        Some("mq1;0-0x1;1-6d"),
        "committed metadata",
    )?;
    drop(consumer);
    Ok(())
}

async fn done_above(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "done-above").await?;
    fill(&kafka, &queue, 0..100).await?;
    let mut consumer = open(&kafka, &queue).await?;
    let mut kept = Vec::new();
    for (n, delivery) in take(&mut consumer, 100).await?.into_iter().enumerate() {
        match n % 10 {
            0 => kept.push(delivery),
            _ => delivery.ack()?,
        }
    }
    let expected: Vec<String> = kept.iter().map(text).collect();
    within(10, consumer.settled()).await??;
    drop((kept, consumer));
    let mut next = open(&kafka, &queue).await?;
    let held = take(&mut next, 10).await?;
    same(
        held.iter().map(text).collect(),
        expected,
        "what comes again",
    )?;
    quiet(&mut next).await
}

async fn attempts_survive(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "attempts").await?;
    fill(&kafka, &queue, 0..2).await?;
    for attempt in 1..=3 {
        let mut consumer = open(&kafka, &queue).await?;
        let mut deliveries = take(&mut consumer, 2).await?;
        let (second, first) = (deliveries.pop(), deliveries.pop());
        let (Some(first), Some(second)) = (first, second) else {
            unreachable!("two")
        };
        same(first.attempt(), attempt, "attempt of what fails")?;
        same(second.attempt(), 1, "attempt of what is handed back")?;
        first.into_settlement().requeue()?;
        second.into_settlement().release()?;
        consumer.close().await?;
    }
    Ok(())
}

async fn stale_after_revoke(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "revoke").await?;
    let keys: Vec<Message> = (0..200_u32)
        .map(|n| Message::new(n.to_string()).key(n.to_string()).build())
        .collect();
    for outcome in kafka.publisher().publish_batch(&queue, keys).await {
        outcome?;
    }
    let plan = || ConsumePlan::new().prefetch(500);
    let source = Subscription::queue(queue.name().clone());
    let mut first = kafka.consumer(&source, plan()).await?;
    let held = take(&mut first, 200).await?;
    // The second member gets half of the partitions, after the first had a moment to finish.
    let mut second = within(30, kafka.consumer(&source, plan())).await??;
    let moved = within(30, second.receive()).await??.expect("a delivery");
    same(moved.attempt(), 2, "attempt of what was with a handler")?;
    let mut stale = BTreeSet::new();
    let mut settled = BTreeSet::new();
    for delivery in held {
        let text = text(&delivery);
        match delivery.ack() {
            Ok(()) => settled.insert(text),
            Err(error) => {
                same(error.kind(), ErrorKind::Stale, "kind")?;
                stale.insert(text)
            }
        };
    }
    check(
        stale.contains(&text(&moved)),
        "settled what another member has",
    )?;
    // Not one of the stale verdicts was committed: all those messages come again. (Most come to the
    // second member; krafka sometimes gives up the first one's whole assignment.)
    let mut again = BTreeSet::from([text(&moved)]);
    let mut held = vec![moved];
    while again != stale {
        let next = async {
            tokio::select! {
                next = first.receive() => next,
                next = second.receive() => next,
            }
        };
        let next = within(20, next).await??.expect("a delivery");
        check(
            !settled.contains(&text(&next)),
            "what was settled came again",
        )?;
        again.insert(text(&next));
        held.push(next);
    }
    Ok(())
}

async fn classic_protocol(servers: String) -> Check {
    let builder = Kafka::builder(&servers).group_protocol(GroupProtocol::Classic);
    let kafka = builder.connect().await?;
    check(
        kafka.product().contains("group protocol classic"),
        kafka.product(),
    )?;
    let queue = Destination::queue(unique("classic"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..10).await?;
    for half in [0..5, 5..10] {
        let mut consumer = open(&kafka, &queue).await?;
        let deliveries = take(&mut consumer, 10 - half.start).await?;
        for (n, delivery) in half.clone().zip(deliveries) {
            same(text(&delivery), n.to_string(), "what is delivered")?;
            delivery.ack()?;
        }
        consumer.close().await?;
    }
    let mut consumer = open(&kafka, &queue).await?;
    quiet(&mut consumer).await
}

async fn slow_handler(servers: String) -> Check {
    let session = Duration::from_secs(6);
    let kafka = Kafka::builder(&servers)
        .session_timeout(session)
        .connect()
        .await?;
    let queue = Destination::queue(unique("slow"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..2).await?;
    let mut consumer = open(&kafka, &queue).await?;
    let deliveries = take(&mut consumer, 2).await?;
    // Time itself is what this case is about: longer than the session.
    tokio::time::sleep(session + Duration::from_secs(3)).await;
    for delivery in deliveries {
        delivery.ack()?;
    }
    within(10, consumer.settled()).await??;
    quiet(&mut consumer).await?;
    Ok(consumer.close().await?)
}

async fn reject_order(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "reject").await?;
    fill(&kafka, &queue, 0..3).await?;
    let mut consumer = open(&kafka, &queue).await?;
    for delivery in take(&mut consumer, 3).await? {
        delivery.into_settlement().reject("bad")?;
    }
    within(10, consumer.settled()).await??;
    let home = queue.dead_letter_home().expect("a home");
    let mut dead = open(&kafka, &home).await?;
    let letters = take(&mut dead, 3).await?;
    let origin = letters[0]
        .headers()
        .text(headers::DEAD_ORIGIN)
        .map(ToOwned::to_owned);
    same(origin.as_deref(), Some(&**queue.name()), "origin")?;
    quiet(&mut dead).await?;
    consumer.close().await?;
    let mut next = open(&kafka, &queue).await?;
    quiet(&mut next).await
}

async fn reject_too_large(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "reject-too-large").await?;
    // Fits as it is, but not with the headers of a dead letter.
    kafka
        .publisher()
        .publish(&queue, Message::new(vec![7_u8; 1_048_300]))
        .await?;
    let mut consumer = open(&kafka, &queue).await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    delivery.into_settlement().reject("x".repeat(2000))?;
    let ended = within(10, consumer.receive())
        .await?
        .expect_err("the copy is too large");
    same(ended.kind(), ErrorKind::TooLarge, "kind")?;
    let closed = consumer.close().await.expect_err("it ended in an error");
    same(closed.kind(), ErrorKind::TooLarge, "kind at close")?;
    let mut next = open(&kafka, &queue).await?;
    let again = take(&mut next, 1).await?.remove(0);
    same(again.attempt(), 2, "attempt")?;
    Ok(again.ack()?)
}

async fn home_gone(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "home-gone").await?;
    fill(&kafka, &queue, 0..1).await?;
    let mut consumer = open(&kafka, &queue).await?;
    let home = queue.dead_letter_home().expect("a home");
    let raw = krafka::Kafka::builder(&servers)
        .connect()
        .await
        .map_err(broken)?;
    let gone = raw
        .admin()
        .delete_topics([&**home.name()], Default::default())
        .await;
    gone.map_err(broken)?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    delivery.into_settlement().reject("bad")?;
    let ended = within(10, consumer.receive()).await?.expect_err("no home");
    same(ended.kind(), ErrorKind::Unroutable, "kind")?;
    drop(consumer);
    kafka.declare(&home).await?;
    let mut next = open(&kafka, &queue).await?;
    let again = take(&mut next, 1).await?.remove(0);
    Ok(again.ack()?)
}

async fn filtered_offsets(servers: String) -> Check {
    let kafka = Kafka::connect(&servers).await?;
    let topic = Destination::topic(unique("filter"));
    kafka.declare(&topic).await?;
    let wanted = Subscription::durable(topic.name().clone(), "eu").filter(Filter::pattern("eu.#"));
    kafka.declare(&wanted).await?;
    for n in 0..20_u32 {
        let key = if n == 19 { "eu.paid" } else { "us.paid" };
        let to = topic.clone().routing_key(key);
        kafka
            .publisher()
            .publish(&to, Message::new(n.to_string()).key("one"))
            .await?;
    }
    let mut consumer = kafka.consumer(&wanted, ConsumePlan::new()).await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    same(text(&delivery).as_str(), "19", "what is taken")?;
    let at = delivery.position().expect("a position");
    delivery.ack()?;
    consumer.close().await?;
    let raw = krafka::Kafka::builder(&servers)
        .connect()
        .await
        .map_err(broken)?;
    let admin = raw.admin();
    let places = admin.list_consumer_group_offsets(&**wanted.name(), Default::default());
    let places = places.await.map_err(broken)?;
    let place = krafka::admin::TopicPartition::new(&**topic.name(), at.partition.cast_signed());
    let offset = places[&place].as_ref().expect("a place").offset;
    same(offset, Some(20), "committed offset")
}

async fn deleted_topic(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "deleted").await?;
    let mut consumer = open(&kafka, &queue).await?;
    let raw = krafka::Kafka::builder(&servers)
        .connect()
        .await
        .map_err(broken)?;
    let gone = raw
        .admin()
        .delete_topics([&**queue.name()], Default::default())
        .await;
    gone.map_err(broken)?;
    let ended = within(20, consumer.receive())
        .await?
        .expect_err("nothing is left to consume");
    same(ended.kind(), ErrorKind::Lost, "kind")?;
    same(ended.context("topic"), Some(&**queue.name()), "topic")
}

async fn close_ends_consumers(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "close-ends").await?;
    let mut consumer = open(&kafka, &queue).await?;
    kafka.close().await?;
    let ended = within(10, consumer.receive()).await?.expect_err("closed");
    same(ended.kind(), ErrorKind::Closed, "kind")?;
    let source = Subscription::queue(queue.name().clone());
    let refused = kafka.consumer(&source, ConsumePlan::new());
    same(
        refused.await.expect_err("closed").kind(),
        ErrorKind::Closed,
        "open",
    )
}

async fn queue(servers: &str, what: &str) -> Check<(Kafka, Destination)> {
    let kafka = Kafka::connect(servers).await?;
    let queue = Destination::queue(unique(what));
    kafka.declare(&queue).await?;
    Ok((kafka, queue))
}

async fn open(kafka: &Kafka, queue: &Destination) -> Check<KafkaConsumer> {
    let source = Subscription::queue(queue.name().clone());
    let plan = ConsumePlan::new().prefetch(u16::MAX);
    let plan = match queue.dead_letter_home() {
        Some(_) => plan,
        None => plan.dead_letters(DeadLetters::None),
    };
    Ok(kafka.consumer(&source, plan).await?)
}

/// Publishes numbers with one key, so that they lie in one partition.
async fn fill(kafka: &Kafka, queue: &Destination, numbers: std::ops::Range<u32>) -> Check {
    let messages = numbers
        .map(|n| Message::new(n.to_string()).key("one").build())
        .collect();
    for outcome in kafka.publisher().publish_batch(queue, messages).await {
        outcome?;
    }
    Ok(())
}

async fn take(consumer: &mut KafkaConsumer, count: usize) -> Check<Vec<Delivery>> {
    let mut taken = Vec::new();
    let all = async {
        while taken.len() < count {
            let missing = count - taken.len();
            if consumer.receive_many(&mut taken, missing).await? == 0 {
                return Err(Failure::new("the consumer ended"));
            }
        }
        Ok(())
    };
    timeout(Duration::from_secs(30), all)
        .await
        .unwrap_or_else(|_| Err(Failure::new(format!("not {count} deliveries in 30 s"))))?;
    Ok(taken)
}

async fn quiet(consumer: &mut KafkaConsumer) -> Check {
    match timeout(Duration::from_millis(1500), consumer.receive()).await {
        Err(_) => Ok(()),
        Ok(unexpected) => Err(Failure::new(format!("unexpected: {unexpected:?}"))),
    }
}

async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> Check<T> {
    let late = |_| Failure::new(format!("not done within {seconds} s"));
    timeout(Duration::from_secs(seconds), future)
        .await
        .map_err(late)
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.payload().map_or(&[][..], |p| p)).into_owned()
}

fn unique(what: &str) -> String {
    let id = MessageId::unique().to_string();
    format!(
        "mq-kafka-test.{}.{what}",
        id.rsplit('-').next().unwrap_or_default()
    )
}

fn broken(error: krafka::KrafkaError) -> Failure {
    Failure::new(error.to_string())
}

fn check(good: bool, otherwise: impl Into<String>) -> Check {
    if good {
        Ok(())
    } else {
        Err(Failure::new(otherwise))
    }
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: &str) -> Check {
    check(
        found == expected,
        format!("{what}: found {found:?}, expected {expected:?}"),
    )
}
