//! What we write, as pika reads it.

use std::time::{Duration, SystemTime};

use mq_amqp::{
    Amqp,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Destination, HeaderValue, Message, MessageId,
        Publisher, Reason, Rejection, Subscription,
    },
};
use mq_testkit::{Check, Failure};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    peer::{hex, once, pika, same},
    support::{next, unique},
};

/// Messages of ours as pika saw them.
#[derive(Debug)]
pub(crate) struct Written {
    full: Value,
    plain: Value,
    binary: Value,
    unicode: Value,
    empty: Value,
    tombstone: Value,
    routed: Value,
    letter: Value,
    retry: Value,
    plain_id: String,
    before: u64,
    after: u64,
}

/// A case's name, and what it looks at.
pub(crate) type Case = (&'static str, fn(&Written) -> Check);

#[rustfmt::skip] // one case a line where it fits: this is a table
pub(crate) const CASES: &[Case] = &[
    ("message id to pika", |w| property(&w.full, "message_id", "full")),
    ("message id made by us to pika", |w| property(&w.plain, "message_id", w.plain_id.as_str())),
    ("correlation id to pika", |w| property(&w.full, "correlation_id", "c-1")),
    ("reply-to to pika", |w| property(&w.full, "reply_to", "answers")),
    ("content type to pika", |w| property(&w.full, "content_type", "text/plain; charset=utf-8")),
    ("time to pika", |w| {
        header(&w.full, "mq-time", text("1700000000123"))?;
        property(&w.full, "timestamp", 1_700_000_000)
    }),
    ("expiry to pika", |w| {
        property(&w.full, "expiration", "600000")?;
        property(&w.plain, "expiration", Value::Null)
    }),
    ("priority to pika", |w| property(&w.full, "priority", 7)),
    ("delivery mode persistent to pika", |w| {
        property(&w.full, "delivery_mode", 2)?;
        property(&w.plain, "delivery_mode", 2)
    }),
    ("key to pika", |w| header(&w.full, "mq-key", text("Kundin Größe"))),
    ("binary key to pika", |w| header(&w.binary, "mq-key", json!({"bytes": "ff00"}))),
    ("routing key to pika", |w| {
        same(&w.routed["routing_key"], "eu.paid", "routing key")?;
        absent(&w.routed, "mq-routing-key")
    }),
    ("payload to pika", |w| same(&w.full["body"], &hex(b"two boxes"), "body")),
    ("binary payload to pika", |w| {
        same(&w.binary["body"], &hex(&(0..=255).collect::<Vec<u8>>()), "body")
    }),
    ("unicode payload to pika", |w| same(&w.unicode["body"], &hex("größe 🦀".as_bytes()), "body")),
    ("empty payload to pika", |w| {
        same(&w.empty["body"], "", "body")?;
        absent(&w.empty, "mq-tombstone")
    }),
    ("tombstone to pika", |w| {
        same(&w.tombstone["body"], "", "body")?;
        header(&w.tombstone, "mq-tombstone", text("1"))
    }),
    ("text header to pika", |w| header(&w.full, "x-kind", text("order"))),
    ("binary header to pika", |w| header(&w.full, "raw", json!({"bytes": "ff00"}))),
    ("null header to pika", |w| {
        same(w.full["headers"].get("none"), Some(&Value::Null), "header")
    }),
    ("empty header to pika", |w| header(&w.full, "empty", text(""))),
    ("unicode header to pika", |w| header(&w.full, "größe", text("riesig 🦀"))),
    ("publish number to pika", |w| number(&w.full, "mq-pub").map(drop)),
    ("names on the wire to pika", |w| {
        let full = ["correlation_id", "content_type", "delivery_mode", "expiration", "message_id",
            "priority", "reply_to", "timestamp"];
        names(&w.full["properties"], &full)?;
        let ours = ["mq-key", "mq-pub", "mq-time"];
        names(&w.full["headers"], &[&ours[..], &["empty", "größe", "none", "raw", "x-kind"]].concat())?;
        names(&w.plain["properties"], &["delivery_mode", "message_id", "timestamp"])?;
        names(&w.plain["headers"], &["mq-pub", "mq-time"])
    }),
    ("attempts of a retry copy to pika", |w| header(&w.retry, "mq-attempt", text("1"))),
    ("dead letter's origin to pika", |w| {
        let origin = w.letter["headers"]["mq-dead-origin"]["text"].as_str().unwrap_or_default();
        let expected = Failure::new(format!("origin: found {origin:?}"));
        if origin.starts_with("test-interop-failing") { Ok(()) } else { Err(expected) }
    }),
    ("dead letter's reason to pika", |w| header(&w.letter, "mq-dead-reason", text("permanent"))),
    ("dead letter's error to pika", |w| header(&w.letter, "mq-dead-error", text("Größe unknown"))),
    ("dead letter's attempts to pika", |w| header(&w.letter, "mq-dead-attempts", text("3"))),
    ("dead letter's first and last failure to pika", |w| {
        header(&w.letter, "mq-dead-first", text("1700000000123"))?;
        let last = number(&w.letter, "mq-dead-last")?;
        let window = w.before..=w.after;
        same(window.contains(&last), true, &format!("{last} in {window:?}"))
    }),
    ("dead letter's original fields to pika", |w| {
        property(&w.letter, "message_id", "failing")?;
        property(&w.letter, "correlation_id", "c-2")?;
        property(&w.letter, "expiration", Value::Null)?;
        header(&w.letter, "mq-key", text("k"))?;
        header(&w.letter, "x-kind", text("order"))?;
        same(&w.letter["body"], &hex(b"bad"), "body")
    }),
];

/// Published, rejected and read once, for all cases.
pub(crate) async fn messages(url: &str) -> Check<&'static Written> {
    static WRITTEN: OnceCell<Result<Written, String>> = OnceCell::const_new();
    once(&WRITTEN, || write(url)).await
}

async fn write(url: &str) -> Check<Written> {
    let broker = Amqp::connect(url).await?;
    let name = unique("interop-written");
    let (queue, topic) = (
        Destination::queue(name.as_str()),
        Destination::topic(format!("{name}-topic")),
    );
    let routed = Subscription::durable(format!("{name}-topic"), "s");
    let failing = unique("interop-failing");
    let classic = unique("interop-classic");
    let before = now();
    broker.declare(&topic).await?;
    let failing_queue = Destination::queue(failing.as_str());
    let declared = tokio::join!(
        broker.declare(&queue),
        broker.declare(&routed),
        broker.declare(&failing_queue),
    );
    declared.0.and(declared.1).and(declared.2)?;
    pika(url, json!([{"do": "queue", "queue": classic}])).await?;

    let publisher = broker.publisher();
    let plain = Message::new("plain").build();
    let id = plain.id().to_string();
    for message in [full()?, plain] {
        publisher.publish(&queue, message).await?;
    }
    let binary: Vec<u8> = (0..=255).collect();
    let binary = Message::new(binary).key(vec![0xff, 0]);
    let tombstone = Message::tombstone();
    for (name, message) in [
        ("binary", binary),
        ("unicode", Message::new("größe 🦀")),
        ("empty", Message::new("")),
        ("tombstone", tombstone),
    ] {
        let message = message.id(MessageId::new(name)?);
        publisher.publish(&queue, message).await?;
    }
    let paid = topic.clone().routing_key("eu.paid");
    publisher.publish(&paid, Message::new("routed")).await?;
    reject(&broker, &failing).await?;
    fail_twice(&broker, &classic).await?;
    broker.close().await?;

    let (subscription, dead) = (format!("s@{name}-topic"), format!("{failing}.dead"));
    let homes = [format!("{name}.dead"), format!("{name}-topic.s.dead")];
    let queues = [
        &name,
        &subscription,
        &failing,
        &dead,
        &classic,
        &homes[0],
        &homes[1],
    ];
    let results = pika(
        url,
        json!([
            {"do": "read", "queue": name, "count": 6},
            {"do": "read", "queue": subscription, "count": 1},
            {"do": "read", "queue": dead, "count": 1},
            {"do": "read", "queue": classic, "count": 1},
            {"do": "delete", "queues": queues, "exchanges": [format!("{name}-topic")]},
        ]),
    )
    .await?;
    let with_id = |wanted: &str| {
        let mut messages = results[0].as_array().into_iter().flatten();
        let found = messages.find(|message| message["properties"]["message_id"] == wanted);
        found
            .cloned()
            .ok_or_else(|| Failure::new(format!("pika saw no message {wanted:?}")))
    };
    Ok(Written {
        full: with_id("full")?,
        plain: with_id(&id)?,
        binary: with_id("binary")?,
        unicode: with_id("unicode")?,
        empty: with_id("empty")?,
        tombstone: with_id("tombstone")?,
        routed: results[1][0].clone(),
        letter: results[2][0].clone(),
        retry: results[3][0].clone(),
        plain_id: id,
        before,
        after: now(),
    })
}

fn full() -> Check<Message> {
    Ok(Message::new("two boxes")
        .id(MessageId::new("full")?)
        .correlation_id("c-1")
        .reply_to("answers")
        .content_type("text/plain; charset=utf-8")
        .time(created())
        .expires_in(Duration::from_secs(600))
        .priority(7)
        .key("Kundin Größe")
        .header("x-kind", "order")
        .header("raw", vec![0xff, 0])
        .header("none", HeaderValue::null())
        .header("empty", "")
        .header("größe", "riesig 🦀")
        .build())
}

/// A message that is rejected for good.
async fn reject(broker: &Amqp, queue: &str) -> Check {
    let message = Message::new("bad")
        .id(MessageId::new("failing")?)
        .correlation_id("c-2")
        .expires_in(Duration::from_secs(600))
        .key("k")
        .header("x-kind", "order");
    let destination = Destination::queue(queue);
    broker.publisher().publish(&destination, message).await?;
    let subscription = Subscription::queue(queue);
    let mut consumer = broker.consumer(&subscription, ConsumePlan::new()).await?;
    let why = Rejection::new(Reason::Permanent, "Größe unknown");
    let why = why.attempts(3).first_failure(created());
    next(&mut consumer).await?.into_settlement().reject(why)?;
    Ok(consumer.close().await?)
}

/// A message that fails on a queue that counts nothing: at the second failure it becomes a copy that
/// carries its count.
async fn fail_twice(broker: &Amqp, queue: &str) -> Check {
    let destination = Destination::queue(queue);
    broker
        .publisher()
        .publish(&destination, Message::new("again"))
        .await?;
    let plan = ConsumePlan::new()
        .prefetch(1)
        .dead_letters(DeadLetters::None);
    let mut consumer = broker.consumer(&Subscription::queue(queue), plan).await?;
    for _ in 0..2 {
        next(&mut consumer).await?.into_settlement().requeue()?;
    }
    Ok(consumer.close().await?)
}

fn created() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
}

fn now() -> u64 {
    mq_amqp::core::time::to_millis(SystemTime::now())
}

fn text(text: &str) -> Value {
    json!({ "text": text })
}

#[track_caller]
fn property(message: &Value, name: &str, expected: impl Into<Value>) -> Check {
    same(&message["properties"][name], &expected.into(), name)
}

#[track_caller]
fn header(message: &Value, name: &str, expected: Value) -> Check {
    same(&message["headers"][name], &expected, name)
}

/// A header that is a number in decimal digits.
#[track_caller]
fn number(message: &Value, name: &str) -> Check<u64> {
    let digits = message["headers"][name]["text"].as_str();
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| Failure::new(format!("{name}: no number in {digits:?}")))
}

#[track_caller]
fn absent(message: &Value, header: &str) -> Check {
    same(message["headers"].get(header), None, header)
}

/// Exactly these names, whatever their values.
#[track_caller]
fn names(object: &Value, expected: &[&str]) -> Check {
    let object = object
        .as_object()
        .ok_or_else(|| Failure::new("no object"))?;
    let mut found: Vec<&str> = object.keys().map(String::as_str).collect();
    let mut expected = expected.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    same(found, expected, "names")
}
