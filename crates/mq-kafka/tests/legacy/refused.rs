//! What the legacy client refuses, before anything is sent.

use std::time::{Duration, SystemTime};

use mq_kafka::{
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Message, Publisher,
        Subscription, Unconfirmed,
    },
    legacy::LegacyKafka,
};
use mq_testkit::Check;

use crate::support::{Bare, check, queue, same, unique, within};

/// A plan that the client can keep.
pub(crate) fn plan() -> ConsumePlan {
    ConsumePlan::new()
        .prefetch(u16::MAX)
        .dead_letters(DeadLetters::None)
}

pub(crate) async fn legacy(servers: &str) -> Check<LegacyKafka> {
    let builder = LegacyKafka::builder(servers).request_timeout(Duration::from_secs(20));
    Ok(builder.read_uncommitted().connect().await?)
}

/// Waits until the broker knows a topic: it hears of it from the controller, some milliseconds after who
/// created it.
pub(crate) async fn known(legacy: &LegacyKafka, queue: &Destination) -> Check {
    let known = async {
        while legacy.verify(queue).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(20, known).await
}

pub(crate) async fn fields(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "fields").await?;
    let legacy = legacy(&servers).await?;
    let topic = Destination::topic(queue.name().clone());
    let plain = || Message::new("x").key("k");
    let refused = [
        ("headers", &queue, plain().header("region", "eu")),
        ("content type", &queue, Message::json(&7)?),
        ("correlation id", &queue, plain().correlation_id("1")),
        ("reply-to", &queue, plain().reply_to("answers")),
        ("expiry", &queue, plain().expires_in(Duration::from_secs(9))),
        ("priority", &queue, plain().priority(3)),
        ("routing key", &topic.clone().routing_key("eu"), plain()),
        ("mandatory", &topic.clone().mandatory(), plain()),
    ];
    for (field, to, message) in refused {
        let publish = legacy.publisher().publish(to, message.clone()).await;
        let handed = legacy.unconfirmed().hand_over(to, message).await;
        for error in [
            publish.map(drop).expect_err(field),
            handed.expect_err(field),
        ] {
            same(error.kind(), ErrorKind::Unsupported, field)?;
            same(error.context("field"), Some(field), field)?;
        }
    }
    let ends = Bare::connect(&servers).await?.ends(queue.name(), 8).await?;
    same(ends, vec![0; 8], "what was sent")?;
    // An id and a time are what every message has.
    let known = plain().time(SystemTime::UNIX_EPOCH).build();
    legacy.publisher().publish(&queue, known).await?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn plans(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "plans").await?;
    let source = Subscription::queue(queue.name().clone());
    let strict = LegacyKafka::connect(&servers).await?;
    let opened = strict.consumer(&source, plan()).await;
    let error = opened.expect_err("it reads what was aborted");
    same(error.kind(), ErrorKind::Unsupported, "read committed")?;
    check(
        error.to_string().contains("read_uncommitted"),
        format!("no help: {error}"),
    )?;
    let mut asked = plan();
    asked.read_committed = false;
    Consumer::close(strict.consumer(&source, asked).await?).await?;
    let legacy = legacy(&servers).await?;
    let homes = [DeadLetters::Default, DeadLetters::To(queue.clone())];
    for home in homes {
        let opened = legacy.consumer(&source, plan().dead_letters(home)).await;
        let error = opened.expect_err("it has no dead letters");
        same(error.kind(), ErrorKind::Unsupported, "dead letters")?;
    }
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn missing(servers: String) -> Check {
    let legacy = legacy(&servers).await?;
    let name = unique("missing");
    let (queue, topic) = (
        Destination::queue(name.as_str()),
        Destination::topic(name.as_str()),
    );
    let publisher = legacy.publisher();
    let unroutable = publisher.publish(&queue, Message::new("x")).await;
    let error = unroutable.expect_err("no queue");
    same(error.kind(), ErrorKind::Unroutable, "the queue")?;
    check(
        error.to_string().contains(&name),
        format!("no name: {error}"),
    )?;
    let unknown = publisher.publish(&topic, Message::new("x")).await;
    same(
        unknown.expect_err("no topic").kind(),
        ErrorKind::NotFound,
        "the topic",
    )?;
    let opened = legacy
        .consumer(&Subscription::queue(name.as_str()), plan())
        .await;
    same(
        opened.expect_err("no queue").kind(),
        ErrorKind::NotFound,
        "the consumer",
    )?;
    let verified = legacy.verify(&queue).await.expect_err("no queue");
    same(verified.kind(), ErrorKind::NotFound, "verify")?;
    let declared = legacy
        .declare(&queue)
        .await
        .expect_err("it creates nothing");
    same(declared.kind(), ErrorKind::Unsupported, "declare")?;
    legacy.delete(&queue).await?;
    // The default client makes it: now it is found, and still not deleted.
    let bare = Bare::connect(&servers).await?;
    bare.create(&name, 1, &[]).await?;
    known(&legacy, &queue).await?;
    legacy.declare(&queue).await?;
    publisher.publish(&queue, Message::new("x")).await?;
    let deleted = legacy.delete(&queue).await.expect_err("it deletes nothing");
    same(deleted.kind(), ErrorKind::Unsupported, "delete")?;
    bare.delete(&name).await?;
    let gone = async {
        loop {
            if let Err(error) = publisher.publish(&queue, Message::new("x")).await {
                break error;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    same(
        within(20, gone).await?.kind(),
        ErrorKind::Unroutable,
        "the deleted queue",
    )?;
    let named = publisher
        .publish(&Destination::queue("a b"), Message::new("x"))
        .await;
    same(
        named.expect_err("a bad name").kind(),
        ErrorKind::InvalidName,
        "the name",
    )?;
    Ok(legacy.close().await?)
}

pub(crate) async fn subscriptions(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "views").await?;
    let legacy = legacy(&servers).await?;
    let topic = queue.name().clone();
    let durable = Subscription::durable(topic.clone(), "audit");
    for source in [durable.clone(), Subscription::ephemeral(topic)] {
        let error = legacy
            .consumer(&source, plan())
            .await
            .expect_err("no views");
        same(error.kind(), ErrorKind::Unsupported, "a subscription")?;
    }
    let declared = legacy.declare(&durable).await.expect_err("no views");
    same(declared.kind(), ErrorKind::Unsupported, "its declaration")?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn second_consumer(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "second").await?;
    let legacy = legacy(&servers).await?;
    let source = Subscription::queue(queue.name().clone());
    let first = legacy.consumer(&source, plan()).await?;
    let second = legacy.consumer(&source, plan()).await;
    same(
        second.expect_err("two").kind(),
        ErrorKind::InUse,
        "the second",
    )?;
    // One that was dropped is waited for.
    drop(first);
    let after = legacy.consumer(&source, plan()).await?;
    Consumer::close(after).await?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}
