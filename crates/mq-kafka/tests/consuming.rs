//! Offsets, attempts, dead letters, and how a consumer ends.
//! On a running Kafka, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{process::ExitCode, time::Duration};

use mq_kafka::{
    Kafka,
    core::{
        Broker, ConsumePlan, Consumer, Destination, ErrorKind, Message, Publisher, Subscription,
        headers,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, fill, open, queue, quiet, same, take, text, unique, within};

fn main() -> ExitCode {
    Suite::new(
        "kafka-consuming",
        "mq-kafka",
        broker_address("MQ_KAFKA_SERVERS"),
    )
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
    .case("a_deleted_topic_ends_its_consumer", deleted_topic)
    .case(
        "closing_the_connection_ends_its_consumers",
        close_ends_consumers,
    )
    .run()
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
    let bare = Bare::connect(&servers).await?;
    let places = bare.places(queue.name(), queue.name()).await?;
    let expected = (3, "mq1;0-0x1;1-6d".to_owned());
    same(
        places.get(&partition.cast_signed()),
        Some(&expected),
        "committed",
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
    // The client asks for a topic that it has heard of until the deadline of the publish.
    let kafka = Kafka::builder(&servers)
        .publish_timeout(Duration::from_secs(5))
        .connect()
        .await?;
    let queue = Destination::queue(unique("home-gone"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..1).await?;
    let mut consumer = open(&kafka, &queue).await?;
    let home = queue.dead_letter_home().expect("a home");
    Bare::connect(&servers).await?.delete(home.name()).await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    delivery.into_settlement().reject("bad")?;
    let ended = within(20, consumer.receive()).await?.expect_err("no home");
    same(ended.kind(), ErrorKind::Unroutable, "kind")?;
    drop(consumer);
    kafka.declare(&home).await?;
    let mut next = open(&kafka, &queue).await?;
    let again = take(&mut next, 1).await?.remove(0);
    Ok(again.ack()?)
}

async fn deleted_topic(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "deleted").await?;
    let mut consumer = open(&kafka, &queue).await?;
    Bare::connect(&servers).await?.delete(queue.name()).await?;
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
