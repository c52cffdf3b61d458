//! Queues and topics as Kafka topics.
//! On a running Kafka, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::process::ExitCode;

use mq_kafka::{
    Kafka,
    core::{Broker, Destination, ErrorKind, Message, Publisher, Subscription},
};
use mq_testkit::{Check, Suite, broker_address};
use support::{check, queue, same, unique};

fn main() -> ExitCode {
    Suite::new(
        "kafka-topology",
        "mq-kafka",
        broker_address("MQ_KAFKA_SERVERS"),
    )
    .case("a_queue_and_a_topic_of_one_name_are_refused", one_name)
    .case("an_interrupted_declare_is_completed", interrupted_declare)
    .case(
        "another_number_of_partitions_is_a_mismatch",
        partitions_mismatch,
    )
    .run()
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
    let both = Some("3, wanted 4");
    same(error.context("partitions"), both, "partitions")?;
    let text = error.to_string();
    check(
        text.contains("partitions=3, wanted 4") && text.contains(&**queue.name()),
        text,
    )?;
    let verified = four.verify(&queue).await.expect_err("3 partitions");
    same(verified.kind(), ErrorKind::Mismatch, "verify")?;
    let any = Kafka::connect(&servers).await?;
    any.verify(&queue).await?;
    let kept = any.publisher().publish(&queue, Message::new("x")).await?;
    check(
        kept.position().is_some_and(|p| p.partition < 3),
        "a partition above 2",
    )?;
    Ok(())
}
