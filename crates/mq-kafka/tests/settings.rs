//! Settings of topics, the check whether they carry the guarantee, and acknowledgement by the
//! leader alone. On a running Kafka of one broker or more, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{collections::HashMap, process::ExitCode, time::Duration};

use krafka::admin::{ConfigEntry, ConfigResource, DescribeConfigsOptions};
use mq_kafka::{
    Cleanup, Kafka, TopicSettings, WeakTopics,
    core::{
        Broker, ConsumePlan, Destination, ErrorKind, Message, Publisher, Stored, Subscription,
        Unconfirmed,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, check, open, same, take, text, unique, warnings, within};

fn main() -> ExitCode {
    warnings::listen();
    Suite::new(
        "kafka-settings",
        "mq-kafka",
        broker_address("MQ_KAFKA_SERVERS"),
    )
    .case("a_topic_is_created_with_its_settings", created)
    .case("every_difference_of_a_topic_is_named", differences)
    .case(
        "what_was_not_set_is_taken_as_it_is",
        unset_settings_are_taken,
    )
    .case("a_compacted_queue_is_refused", compacted_queue)
    .case(
        "more_replicas_in_sync_than_there_are_is_refused_before_anything_is_created",
        more_in_sync_than_replicas,
    )
    .case(
        "a_message_without_a_key_is_rejected_by_a_compacted_topic",
        keyless_on_compacted,
    )
    .case(
        "a_dead_letter_topic_takes_no_retention_from_its_queue",
        home_without_retention,
    )
    .case(
        "a_topic_that_cannot_carry_the_guarantee_is_told_once",
        told_once,
    )
    .case(
        "a_topic_that_cannot_carry_the_guarantee_is_refused_where_asked",
        refused_where_asked,
    )
    .case(
        "the_leaders_answer_alone_is_named_in_the_receipt",
        leader_only,
    )
    .run()
}

async fn created(servers: String) -> Check {
    let topic = Destination::topic(unique("created"));
    let settings = TopicSettings::new()
        .partitions(3)
        .replication(1)
        .min_in_sync_replicas(1)
        .retention(Duration::from_hours(24))
        .retention_bytes(50_000_000)
        .cleanup(Cleanup::CompactAndDelete);
    let builder = Kafka::builder(&servers).topic(&**topic.name(), settings);
    let kafka = builder.connect().await?;
    kafka.declare(&topic).await?;
    kafka.declare(&topic).await?;
    kafka.verify(&topic).await?;
    let found = own_configs(&servers, topic.name()).await?;
    for (name, value) in [
        ("min.insync.replicas", "1"),
        ("retention.ms", "86400000"),
        ("retention.bytes", "50000000"),
        ("cleanup.policy", "compact,delete"),
    ] {
        same(found.get(name).map(String::as_str), Some(value), name)?;
    }
    let bare = Bare::connect(&servers).await?;
    same(bare.partitions(topic.name()).await?, 3, "partitions")?;
    // For ever, and the name's own settings over those of all.
    let kept = Destination::topic(unique("kept"));
    let kafka = Kafka::builder(&servers)
        .topics(TopicSettings::new().partitions(2).retention_bytes(7))
        .topic(
            &**kept.name(),
            TopicSettings::new()
                .retention(Duration::MAX)
                .retention_bytes(u64::MAX),
        )
        .connect()
        .await?;
    kafka.declare(&kept).await?;
    let found = configs(&servers, kept.name()).await?;
    for name in ["retention.ms", "retention.bytes"] {
        same(found.get(name).map(String::as_str), Some("-1"), name)?;
    }
    same(bare.partitions(kept.name()).await?, 2, "partitions")?;
    Ok(kafka.close().await?)
}

async fn differences(servers: String) -> Check {
    let topic = Destination::topic(unique("differences"));
    let made = Kafka::builder(&servers)
        .topics(
            TopicSettings::new()
                .partitions(3)
                .replication(1)
                .min_in_sync_replicas(1)
                .retention(Duration::from_secs(3600)),
        )
        .connect()
        .await?;
    made.declare(&topic).await?;
    let other = Kafka::builder(&servers)
        .topic(
            &**topic.name(),
            TopicSettings::new()
                .partitions(4)
                .replication(3)
                .min_in_sync_replicas(2)
                .retention(Duration::MAX)
                .retention_bytes(9)
                .cleanup(Cleanup::CompactAndDelete),
        )
        .connect()
        .await?;
    let declared = other.declare(&topic).await.expect_err("others");
    let verified = other.verify(&topic).await.expect_err("others");
    let subscription = Subscription::durable(topic.name().clone(), "s");
    let subscribed = other.declare(&subscription).await.expect_err("others");
    for error in [declared, verified, subscribed] {
        same(error.kind(), ErrorKind::Mismatch, "kind")?;
        for (setting, both) in [
            ("name", &**topic.name()),
            ("partitions", "3, wanted 4"),
            ("replication.factor", "1, wanted 3"),
            ("min.insync.replicas", "1, wanted 2"),
            ("retention.ms", "3600000, wanted -1"),
            ("retention.bytes", "-1, wanted 9"),
            ("cleanup.policy", "delete, wanted compact,delete"),
        ] {
            same(error.context(setting), Some(both), setting)?;
        }
        let text = error.to_string();
        check(text.contains("partitions=3, wanted 4"), text)?;
    }
    // Nothing was changed.
    Ok(made.verify(&topic).await?)
}

async fn unset_settings_are_taken(servers: String) -> Check {
    let bare = Bare::connect(&servers).await?;
    let name = unique("as-it-is");
    let settings = [("retention.ms", "1000"), ("cleanup.policy", "compact")];
    bare.create(&name, 5, &settings).await?;
    let kafka = Kafka::connect(&servers).await?;
    let topic = Destination::topic(name);
    kafka.declare(&topic).await?;
    Ok(kafka.verify(&topic).await?)
}

async fn compacted_queue(servers: String) -> Check {
    let queue = Destination::queue(unique("compacted"));
    let all = TopicSettings::new().cleanup(Cleanup::Compact);
    let kafka = Kafka::builder(&servers).topics(all).connect().await?;
    let error = kafka.declare(&queue).await.expect_err("a queue");
    same(error.kind(), ErrorKind::Config, "kind")?;
    same(error.context("queue"), Some(&**queue.name()), "queue")?;
    absent(&servers, &queue).await
}

async fn more_in_sync_than_replicas(servers: String) -> Check {
    let queue = Destination::queue(unique("in-sync"));
    let settings = TopicSettings::new().min_in_sync_replicas(100);
    let kafka = Kafka::builder(&servers).topics(settings).connect().await?;
    let error = kafka.declare(&queue).await.expect_err("over the replicas");
    same(error.kind(), ErrorKind::Config, "kind")?;
    same(error.context("min.insync.replicas"), Some("100"), "wanted")?;
    absent(&servers, &queue).await
}

async fn keyless_on_compacted(servers: String) -> Check {
    let topic = Destination::topic(unique("keyless"));
    let settings = TopicSettings::new().cleanup(Cleanup::Compact);
    let kafka = Kafka::builder(&servers).topics(settings).connect().await?;
    kafka.declare(&topic).await?;
    let publisher = kafka.publisher();
    let error = publisher
        .publish(&topic, Message::new("no key"))
        .await
        .expect_err("no key");
    same(error.kind(), ErrorKind::Rejected, "kind")?;
    let message = Message::new("with a key").key("k");
    publisher.publish(&topic, message).await?;
    Ok(())
}

async fn home_without_retention(servers: String) -> Check {
    let queue = Destination::queue(unique("home"));
    let home = format!("{}.dead", queue.name());
    let settings = TopicSettings::new()
        .partitions(2)
        .retention(Duration::from_secs(60))
        .retention_bytes(1);
    let kafka = Kafka::builder(&servers).topics(settings).connect().await?;
    kafka.declare(&queue).await?;
    let found = configs(&servers, queue.name()).await?;
    same(&*found["retention.ms"], "60000", "of the queue")?;
    let found = configs(&servers, &home).await?;
    check(
        found["retention.ms"] != "60000" && found["retention.bytes"] == "-1",
        format!("the home's: {found:?}"),
    )?;
    let bare = Bare::connect(&servers).await?;
    same(bare.partitions(&home).await?, 2, "its partitions")
}

async fn told_once(servers: String) -> Check {
    let one = TopicSettings::new().replication(1).min_in_sync_replicas(1);
    let builder = Kafka::builder(&servers).topics(one);
    let queue = Destination::queue(unique("told"));
    builder.clone().connect().await?.declare(&queue).await?;
    same(told(queue.name()), 1, "by declare")?;
    let kafka = builder.connect().await?;
    kafka
        .unconfirmed()
        .hand_over(&queue, Message::new("0"))
        .await?;
    let leader_only = kafka.publisher().leader_only();
    leader_only.publish(&queue, Message::new("1")).await?;
    same(told(queue.name()), 1, "by publishers that promise less")?;
    for n in 2..20 {
        kafka
            .publisher()
            .publish(&queue, Message::new(n.to_string()))
            .await?;
        same(told(queue.name()), 2, "by the first publish")?;
    }
    let _consumer = open(&kafka, &queue).await?;
    kafka.verify(&queue).await?;
    same(told(queue.name()), 2, "on the same connection")?;
    same(told(&format!("{}.dead", queue.name())), 1, "of the home")?;
    // What carries the guarantee is not told of: a broker of one copy has no such topic.
    Ok(kafka.close().await?)
}

async fn refused_where_asked(servers: String) -> Check {
    let one = TopicSettings::new().replication(1).min_in_sync_replicas(1);
    let builder = Kafka::builder(&servers).topics(one);
    let queue = Destination::queue(unique("refused"));
    builder.clone().connect().await?.declare(&queue).await?;
    let strict = builder.weak_topics(WeakTopics::Refuse).connect().await?;
    let created = Destination::queue(unique("refused-new"));
    let error = strict.declare(&created).await.expect_err("one copy");
    same(error.kind(), ErrorKind::Config, "kind of declare")?;
    absent(&servers, &created).await?;
    let bare = Bare::connect(&servers).await?;
    let source = Subscription::queue(queue.name().clone());
    for _ in 0..2 {
        let published = strict.publisher().publish(&queue, Message::new("x")).await;
        let opened = strict.consumer(&source, ConsumePlan::new()).await;
        for error in [
            published.expect_err("publish"),
            opened.expect_err("consumer"),
            strict.verify(&queue).await.expect_err("verify"),
            strict.declare(&queue).await.expect_err("declare"),
        ] {
            same(error.kind(), ErrorKind::Mismatch, "kind")?;
            same(error.possibly_delivered(), false, "possibly delivered")?;
            same(error.context("topic"), Some(&**queue.name()), "topic")?;
            same(
                error.context("replication.factor"),
                Some("1"),
                "replication",
            )?;
            same(error.context("min.insync.replicas"), Some("1"), "in sync")?;
        }
    }
    same(bare.ends(queue.name(), 8).await?, vec![0; 8], "records")?;
    // Who promises less may go on.
    let leader_only = strict.publisher().leader_only();
    leader_only.publish(&queue, Message::new("x")).await?;
    strict
        .unconfirmed()
        .hand_over(&queue, Message::new("y"))
        .await?;
    Ok(strict.close().await?)
}

async fn leader_only(servers: String) -> Check {
    let topic = Destination::queue(unique("leader"));
    let kafka = Kafka::builder(&servers).partitions(2).connect().await?;
    kafka.declare(&topic).await?;
    let publisher = kafka.publisher().leader_only();
    let receipt = publisher
        .publish(&topic, Message::new("0").key("k"))
        .await?;
    same(receipt.stored(), Stored::Leader, "stored")?;
    check(receipt.position().is_some(), "no position")?;
    let all = kafka.publisher();
    let receipt = all.publish(&topic, Message::new("-").key("k")).await?;
    same(receipt.stored(), Stored::InSync, "the other publisher")?;
    let second = publisher.partition(1);
    let receipt = second.publish(&topic, Message::new("p")).await?;
    same(receipt.stored(), Stored::Leader, "stored")?;
    same(
        receipt.position().map(|p| p.partition),
        Some(1),
        "partition",
    )?;

    // What is enqueued is in its order, and `flush` and `close` wait for it, of whichever publisher.
    let mut handles = Vec::new();
    for n in 1..1000_u32 {
        handles.push(
            publisher
                .enqueue(&topic, Message::new(n.to_string()).key("k"))
                .await?,
        );
    }
    kafka.publisher().flush().await?;
    for handle in &mut handles {
        let outcome = within(0, tokio::task::unconstrained(handle)).await?;
        same(outcome?.stored(), Stored::Leader, "stored")?;
    }
    publisher.close().await?;
    let late = publisher.publish(&topic, Message::new("late")).await;
    same(
        late.expect_err("closed").kind(),
        ErrorKind::Closed,
        "closed",
    )?;
    let mut consumer = open(&kafka, &topic).await?;
    let found = take(&mut consumer, 1002).await?;
    let found: Vec<u32> = found.iter().filter_map(|d| text(d).parse().ok()).collect();
    same(found, (0..1000).collect(), "in order")
}

/// Nothing of a queue was created.
async fn absent(servers: &str, queue: &Destination) -> Check {
    let kafka = Kafka::connect(servers).await?;
    for name in [format!("{}.dead", queue.name()), queue.name().to_string()] {
        let found = kafka.verify(Destination::topic(name)).await;
        let error = found.expect_err("nothing was created");
        same(error.kind(), ErrorKind::NotFound, "created")?;
    }
    Ok(kafka.close().await?)
}

/// All settings of a topic.
async fn configs(servers: &str, topic: &str) -> Check<HashMap<String, String>> {
    Ok(pairs(entries(servers, topic).await?))
}

/// Those that were set for the topic itself, which a default of the same value is not.
async fn own_configs(servers: &str, topic: &str) -> Check<HashMap<String, String>> {
    let mut found = entries(servers, topic).await?;
    found.retain(|entry| entry.config_source == TOPIC);
    Ok(pairs(found))
}

fn pairs(entries: Vec<ConfigEntry>) -> HashMap<String, String> {
    let pair = |e: ConfigEntry| (e.name, e.value.unwrap_or_default());
    entries.into_iter().map(pair).collect()
}

async fn entries(servers: &str, topic: &str) -> Check<Vec<ConfigEntry>> {
    let bare = Bare::connect(servers).await?;
    let resource = ConfigResource::topic(topic);
    let admin = bare.admin();
    let mut found = admin
        .describe_configs([resource.clone()], DescribeConfigsOptions::default())
        .await?;
    Ok(found.remove(&resource).expect("an answer")?)
}

/// Kafka's number for a setting that stands in the topic.
const TOPIC: i8 = 1;

/// How many warnings named this topic.
fn told(topic: &str) -> usize {
    warnings::told("topic", topic).len()
}
