//! What pika writes, as we read it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use mq_amqp::{
    Amqp,
    core::{Broker, ConsumePlan, Consumer, Destination, HeaderValue, Received, Subscription, time},
};
use mq_testkit::{Check, Failure};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    peer::{hex, once, pika, same},
    support::{next, unique},
};

/// Messages of pika as we got them, by their header `label`; the plain one has none.
#[derive(Debug)]
pub(crate) struct Read {
    messages: BTreeMap<String, Received>,
    outcomes: Vec<Value>,
    before: SystemTime,
    after: SystemTime,
}

/// A case's name, and what it looks at.
pub(crate) type Case = (&'static str, fn(&Read) -> Check);

#[rustfmt::skip] // one case a line where it fits: this is a table
pub(crate) const CASES: &[Case] = &[
    ("confirmed publish from pika", |r| {
        same(r.outcomes.iter().all(|outcome| outcome == "confirmed"), true, "all confirmed")
    }),
    ("plain message from pika", |r| {
        let plain = r.get("")?;
        same(plain.payload().map(AsRef::as_ref), Some(&b"hello"[..]), "payload")?;
        same(plain.headers().len(), 0, "headers")?;
        same((plain.attempt(), plain.redelivered()), (1, Some(false)), "attempt")?;
        same((plain.key(), plain.routing_key(), plain.priority()), (None, None, None), "fields")?;
        same((plain.content_type(), plain.correlation_id()), (None, None), "properties")?;
        // An id and a time are made here, so that the message is as good as any.
        same(plain.id().to_string().len(), 36, "length of the id")?;
        let window = r.before..=r.after;
        same(window.contains(&plain.time()), true, "made on receipt")
    }),
    ("message id from pika", |r| same(r.get("full")?.id().to_string().as_str(), "order-7", "id")),
    ("correlation id from pika", |r| same(r.get("full")?.correlation_id(), Some("c-1"), "id")),
    ("reply-to from pika", |r| same(r.get("full")?.reply_to(), Some("answers"), "reply-to")),
    ("content type from pika", |r| {
        same(r.get("full")?.content_type(), Some("text/plain"), "content type")
    }),
    ("time from pika", |r| {
        same(time::to_millis(r.get("full")?.time()), 1_700_000_000_123, "milliseconds of mq-time")?;
        let seconds = time::to_millis(r.get("seconds")?.time());
        same(seconds, 1_700_000_000_000, "seconds of the property alone")
    }),
    ("expiry from pika", |r| {
        same(r.get("full")?.expires_in(), Some(Duration::from_secs(600)), "expiry")
    }),
    ("priority from pika", |r| same(r.get("full")?.priority(), Some(5), "priority")),
    ("key from pika", |r| {
        same(r.get("full")?.key().and_then(|key| key.as_str()), Some("Kundin Größe"), "key")
    }),
    ("binary key from pika", |r| {
        let key = r.get("binary")?.key().map(|key| key.as_bytes().to_vec());
        same(key, Some(vec![0xff, 0]), "key")
    }),
    ("routing key from pika", |r| {
        same(r.get("routed")?.routing_key(), Some("eu.paid"), "routing key")
    }),
    ("payload from pika", |r| same(r.payload("full")?, Some(b"two boxes".to_vec()), "payload")),
    ("binary payload from pika", |r| {
        same(r.payload("binary")?, Some((0..=255).collect()), "payload")
    }),
    ("unicode payload from pika", |r| {
        same(r.payload("unicode")?, Some("größe 🦀".as_bytes().to_vec()), "payload")
    }),
    ("empty payload from pika", |r| same(r.payload("empty")?, Some(vec![]), "payload")),
    ("tombstone from pika", |r| {
        same(r.payload("tombstone")?, None, "payload")?;
        // The mark counts only without a payload: nothing that was written gets lost.
        same(r.payload("no tombstone")?, Some(b"x".to_vec()), "payload")
    }),
    ("text header from pika", |r| r.header("text", Some("order".into()))),
    ("binary header from pika", |r| r.header("bytes", Some(vec![0xff, 0].into()))),
    ("null header from pika", |r| r.header("null", Some(HeaderValue::null()))),
    ("empty header from pika", |r| r.header("empty", Some("".into()))),
    ("unicode header from pika", |r| r.header("größe", Some("riesig 🦀".into()))),
    ("integer header from pika", |r| {
        r.header("int", Some("-7".into()))?;
        r.header("long", Some("1099511627776".into()))
    }),
    ("boolean header from pika", |r| r.header("bool", Some("true".into()))),
    ("timestamp header from pika", |r| r.header("time", Some("1700000000".into()))),
    ("decimal header (left out) from pika", |r| r.header("decimal", None)),
    ("table header (left out) from pika", |r| r.header("table", None)),
    ("array header (left out) from pika", |r| r.header("array", None)),
    ("attempts in mq-attempt from pika", |r| same(r.get("full")?.attempt(), 4, "attempt")),
    ("other properties (left out) from pika", |r| {
        let names = r.get("full")?.headers().iter().map(|(name, _)| name).collect::<Vec<_>>();
        same(names, ["label", "mq-attempt"], "headers")
    }),
    ("unreadable fields (not set) from pika", |r| {
        let odd = r.get("odd")?;
        same(odd.id().to_string().len(), 36, "an id with a control character is replaced")?;
        same(odd.attempt(), 1, "attempt")?;
        same(time::to_millis(odd.time()), 1_700_000_000_000, "the property, as mq-time is no number")
    }),
];

impl Read {
    fn get(&self, label: &str) -> Check<&Received> {
        let found = self.messages.get(label);
        found.ok_or_else(|| Failure::new(format!("no message {label:?} came")))
    }

    fn payload(&self, label: &str) -> Check<Option<Vec<u8>>> {
        Ok(self.get(label)?.payload().map(|bytes| bytes.to_vec()))
    }

    /// What is read of a header of the message that has one of each type.
    #[track_caller]
    fn header(&self, name: &str, expected: Option<HeaderValue>) -> Check {
        same(
            self.get("typed")?.headers().get(name),
            expected.as_ref(),
            name,
        )
    }
}

/// Published and read once, for all cases.
pub(crate) async fn messages(url: &str) -> Check<&'static Read> {
    static READ: OnceCell<Result<Read, String>> = OnceCell::const_new();
    once(&READ, || read(url)).await
}

async fn read(url: &str) -> Check<Read> {
    let broker = Amqp::connect(url).await?;
    let name = unique("interop-read");
    let topic = format!("{name}-topic");
    let queue = Subscription::queue(name.as_str());
    let routed = Subscription::durable(topic.as_str(), "s");
    broker.declare(Destination::topic(topic.as_str())).await?;
    let declared = tokio::join!(broker.declare(&queue), broker.declare(&routed));
    declared.0.and(declared.1)?;

    let before = millisecond(SystemTime::now());
    let steps = steps(&name, &topic);
    let count = steps.len() - 1;
    let outcomes = pika(url, steps.into()).await?;
    let mut messages = BTreeMap::new();
    for (subscription, count) in [(&queue, count), (&routed, 1)] {
        let mut consumer = broker.consumer(subscription, ConsumePlan::new()).await?;
        for _ in 0..count {
            let delivery = next(&mut consumer).await?;
            let received = delivery.received().clone();
            // Read now, since they are made at the first look.
            let _ = (received.id(), received.time());
            let label = received.headers().text("label").unwrap_or_default();
            messages.insert(label.to_owned(), received.clone());
            delivery.ack()?;
        }
        consumer.close().await?;
    }
    let after = SystemTime::now();
    broker.close().await?;
    let queues = [
        format!("{name}.dead"),
        format!("s@{topic}"),
        format!("{topic}.s.dead"),
        name,
    ];
    pika(
        url,
        json!([{"do": "delete", "queues": queues, "exchanges": [topic]}]),
    )
    .await?;
    Ok(Read {
        messages,
        outcomes,
        before,
        after,
    })
}

fn steps(queue: &str, topic: &str) -> Vec<Value> {
    let text = |text: &str| json!({ "text": text });
    let to_queue = |label: &str, body: &[u8], properties: Value, mut headers: Value| {
        headers["label"] = text(label);
        json!({"do": "publish", "routing_key": queue, "body": hex(body), "properties": properties,
            "headers": headers})
    };
    let none = || json!({});
    let mark = || json!({"mq-tombstone": text("1")});
    let full = json!({"message_id": "order-7", "correlation_id": "c-1", "reply_to": "answers",
        "content_type": "text/plain", "timestamp": 1_700_000_000, "expiration": "600000", "priority": 5,
        "delivery_mode": 2, "type": "order", "app_id": "shop", "content_encoding": "identity"});
    let mapped = json!({"mq-key": text("Kundin Größe"), "mq-time": text("1700000000123"),
        "mq-attempt": text("3")});
    let typed = json!({"text": text("order"), "bytes": {"bytes": "ff00"}, "null": null, "empty": text(""),
        "größe": text("riesig 🦀"), "int": {"int": -7}, "long": {"int": 1_i64 << 40}, "bool": {"bool": true},
        "time": {"time": 1_700_000_000}, "decimal": {"decimal": "1.25"},
        "table": {"table": {"a": {"int": 1}}}, "array": {"array": [{"int": 1}, text("x")]}});
    let odd = json!({"message_id": "a\u{7}b", "timestamp": 1_700_000_000});
    vec![
        json!({"do": "publish", "routing_key": queue, "body": hex(b"hello")}),
        to_queue("full", b"two boxes", full, mapped),
        to_queue("seconds", b"x", json!({"timestamp": 1_700_000_000}), none()),
        to_queue(
            "binary",
            &(0..=255).collect::<Vec<u8>>(),
            none(),
            json!({"mq-key": {"bytes": "ff00"}}),
        ),
        to_queue("unicode", "größe 🦀".as_bytes(), none(), none()),
        to_queue("empty", b"", none(), none()),
        to_queue("tombstone", b"", none(), mark()),
        to_queue("no tombstone", b"x", none(), mark()),
        to_queue("typed", b"x", none(), typed),
        to_queue(
            "odd",
            b"x",
            odd,
            json!({"mq-time": text("soon"), "mq-attempt": {"bool": true}}),
        ),
        json!({"do": "publish", "exchange": topic, "routing_key": "eu.paid", "body": hex(b"routed"),
            "headers": {"label": text("routed")}}),
    ]
}

/// Times of messages are whole milliseconds.
fn millisecond(at: SystemTime) -> SystemTime {
    time::from_millis(time::to_millis(at)).unwrap_or(at)
}
