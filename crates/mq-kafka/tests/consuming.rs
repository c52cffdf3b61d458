//! Offsets, attempts, dead letters, and how a consumer ends.
//! On a running Kafka, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use futures::FutureExt;
use mq_kafka::{
    GroupProtocol, Kafka,
    core::{
        Broker, ConsumePlan, Consumer, Destination, ErrorKind, Message, Publisher, Subscription,
        headers,
    },
};
use mq_testkit::{Check, Failure, Suite, broker_address};
use support::{
    Bare, check, fill, open, queue, quiet, release::under, same, take, text, unique, within,
};
use tokio::time::sleep;

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
    .case("a_slow_handler_keeps_its_membership", |servers| {
        slow_handler(servers, GroupProtocol::Classic)
    })
    .case("a_slow_handler_keeps_its_kip_848_membership", |servers| {
        under(GroupProtocol::Consumer, servers, slow_handler)
    })
    .case(
        "so_many_settlements_are_committed_whatever_the_clock_says",
        commits_by_count,
    )
    .case("one_settlement_is_committed_by_the_clock", commits_by_clock)
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
    .case("a_topic_made_again_ends_its_consumer", |servers| {
        made_again(servers, GroupProtocol::Classic)
    })
    .case("a_topic_made_again_ends_its_kip_848_consumer", |servers| {
        under(GroupProtocol::Consumer, servers, made_again)
    })
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

/// Handlers that take longer than the session, with more behind them than the consumer may take in.
async fn slow_handler(servers: String, protocol: GroupProtocol) -> Check {
    let session = match protocol {
        GroupProtocol::Consumer => {
            let bare = Bare::connect(&servers).await?;
            let millis = bare.broker_setting("group.consumer.session.timeout.ms");
            Duration::from_millis(millis.await?.parse()?)
        }
        _ => Duration::from_secs(6),
    };
    let kafka = Kafka::builder(&servers)
        .group_protocol(protocol)
        .session_timeout(Duration::from_secs(6))
        .connect()
        .await?;
    let queue = Destination::queue(unique("slow"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..10).await?;
    let source = Subscription::queue(queue.name().clone());
    let opened = kafka.consumer(&source, ConsumePlan::new().prefetch(2));
    let mut consumer = within(80, opened).await??;
    let mut events = kafka.events();
    let mut held = take(&mut consumer, 2).await?;
    // Time itself is what this case is about: longer than the session.
    sleep(session + Duration::from_secs(3)).await;
    let mut done = 0;
    while done < 10 {
        for delivery in held.drain(..) {
            same(delivery.attempt(), 1, "attempt")?;
            delivery.ack()?;
            done += 1;
        }
        if done < 10 {
            held = take(&mut consumer, 2).await?;
        }
    }
    within(10, consumer.settled()).await??;
    quiet(&mut consumer).await?;
    let told = events.next().now_or_never();
    same(told, None, "what was told of the membership")?;
    Ok(consumer.close().await?)
}

/// Where the group of a queue stands in its first partition.
async fn first_place(bare: &Bare, queue: &Destination) -> Check<i64> {
    let places = bare.places(queue.name(), queue.name()).await?;
    Ok(places.get(&0).map_or(0, |(offset, _)| *offset))
}

async fn commits_by_count(servers: String) -> Check {
    let kafka = Kafka::builder(&servers)
        .commit_every(Duration::from_secs(60))
        .commit_after(10)
        .partitions(1)
        .connect()
        .await?;
    let queue = Destination::queue(unique("by-count"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..25).await?;
    let mut consumer = open(&kafka, &queue).await?;
    let mut held = take(&mut consumer, 25).await?.into_iter();
    let bare = Bare::connect(&servers).await?;
    let committed = || first_place(&bare, &queue);
    for (count, expected) in [(9, 0), (1, 10), (9, 10), (1, 20)] {
        for delivery in held.by_ref().take(count) {
            delivery.ack()?;
        }
        match count {
            // Many times as long as a commit takes.
            9 => sleep(Duration::from_secs(2)).await,
            _ => {
                let reached = async {
                    while committed().await? < expected {
                        sleep(Duration::from_millis(20)).await;
                    }
                    Check::Ok(())
                };
                within(10, reached).await??;
            }
        }
        same(committed().await?, expected, "committed")?;
    }
    for delivery in held {
        delivery.ack()?;
    }
    within(10, consumer.close()).await??;
    same(committed().await?, 25, "committed at the close")
}

async fn commits_by_clock(servers: String) -> Check {
    let every = Duration::from_secs(3);
    let kafka = Kafka::builder(&servers)
        .commit_every(every)
        .partitions(1)
        .connect()
        .await?;
    let queue = Destination::queue(unique("by-clock"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..10).await?;
    let mut consumer = open(&kafka, &queue).await?;
    let mut held = take(&mut consumer, 10).await?.into_iter();
    let bare = Bare::connect(&servers).await?;
    let committed = || first_place(&bare, &queue);
    let mut last: Option<Instant> = None;
    for expected in 1..=3 {
        held.next().expect("ten").ack()?;
        let reached = async {
            while committed().await? < expected {
                sleep(Duration::from_millis(20)).await;
            }
            Check::Ok(())
        };
        within(10, reached).await??;
        // The first may come whenever the clock has it; each further one was settled right after a commit.
        if let Some(last) = last.replace(Instant::now()) {
            let took = last.elapsed();
            let text = format!("the next commit came after {took:?}");
            check(took > every / 2 && took < every * 2, text)?;
        }
    }
    same(committed().await?, 3, "committed")
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

/// Deleted and made again at once: by its name it is the same, and no verdict on what lay in the old one counts for the new one.
async fn made_again(servers: String, protocol: GroupProtocol) -> Check {
    let builder = Kafka::builder(&servers).group_protocol(protocol);
    let kafka = builder.partitions(1).connect().await?;
    let queue = Destination::queue(unique("again"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..20).await?;
    let mut consumer = within(80, open(&kafka, &queue)).await??;
    let mut held = take(&mut consumer, 20).await?.into_iter();
    for delivery in held.by_ref().take(5) {
        delivery.ack()?;
    }
    within(10, consumer.settled()).await??;
    let bare = Bare::connect(&servers).await?;
    bare.delete(queue.name()).await?;
    let made = async { while bare.create(queue.name(), 1, &[]).await.is_err() {} };
    within(20, made).await?;
    // The leader takes messages into the old one until it has heard of it too.
    let heard = async {
        while bare.ends(queue.name(), 1).await.ok() != Some(vec![0]) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(20, heard).await?;
    let other = Kafka::connect(&servers).await?;
    fill(&other, &queue, 100..130).await?;
    same(
        bare.ends(queue.name(), 1).await?,
        vec![30],
        "in the new one",
    )?;
    let late = held.next_back().expect("fifteen");
    for delivery in held {
        // Nobody knows yet, or somebody does.
        let _ = delivery.ack();
    }
    let ended = async {
        loop {
            match consumer.receive().await {
                // Of the new one.
                Ok(Some(delivery)) => {
                    let _ = delivery.ack();
                }
                Ok(None) => return Err(Failure::new("it ended without an error")),
                Err(error) => return Ok(error),
            }
        }
    };
    let error = within(30, ended).await??;
    same(error.kind(), ErrorKind::Lost, "kind")?;
    same(error.context("topic"), Some(&**queue.name()), "topic")?;
    check(error.to_string().contains("made again"), error.to_string())?;
    let closed = within(30, consumer.close()).await?;
    same(
        closed.expect_err("it is lost").kind(),
        ErrorKind::Lost,
        "at the close",
    )?;
    let mut next = within(80, open(&kafka, &queue)).await??;
    let texts: Vec<String> = take(&mut next, 30).await?.iter().map(text).collect();
    let expected: Vec<String> = (100..130).map(|n| n.to_string()).collect();
    same(texts, expected, "what the new one has")?;
    // Its time is over.
    let late = late.ack().expect_err("it is lost");
    same(late.kind(), ErrorKind::Stale, "a verdict")
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
