//! What we write, as the peers read it.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use mq_kafka::{
    Kafka,
    core::{
        Broker, ConsumePlan, Consumer, Destination, HeaderValue, Message, MessageId, Position,
        Publisher, Reason, Rejection, Subscription, time,
    },
};
use mq_testkit::{Check, Failure};
use tokio::{sync::OnceCell, time::timeout};

use crate::peer::{Peer, Seen, once, same, unique};

/// Our records, as one peer saw them, by their message id.
#[derive(Debug)]
pub(crate) struct Written {
    seen: BTreeMap<String, Seen>,
    ours: &'static Ours,
}

/// What we wrote.
#[derive(Debug)]
struct Ours {
    topics: [String; 3],
    created: u64,
    expires: std::ops::RangeInclusive<u64>,
    full_at: Position,
    rejected_at: Position,
    plain_id: String,
    window: std::ops::RangeInclusive<u64>,
}

/// What is looked at, and how.
pub(crate) type Case = (&'static str, fn(&Written) -> Check);

/// What this peer can be shown.
pub(crate) fn cases(_: Peer) -> impl Iterator<Item = Case> {
    CASES.iter().copied()
}

#[rustfmt::skip] // one case a line where it fits: this is a table
const CASES: &[Case] = &[
    ("message id", |w| header(w.get("full")?, "mq-id", "full")),
    ("message id made by us", |w| header(w.get(&w.ours.plain_id)?, "mq-id", &w.ours.plain_id)),
    ("correlation id", |w| header(w.get("full")?, "mq-correlation-id", "c-1")),
    ("reply-to", |w| header(w.get("full")?, "mq-reply-to", "answers")),
    ("content type", |w| header(w.get("full")?, "content-type", "text/plain; charset=utf-8")),
    ("time", |w| same(w.get("full")?.timestamp, w.ours.created, "record timestamp")),
    ("expiry", |w| within(w.get("full")?, "mq-expires", &w.ours.expires)),
    ("priority", |w| header(w.get("full")?, "mq-priority", "7")),
    ("key", |w| same(w.get("full")?.key.as_deref(), Some("Kundin Größe".as_bytes()), "key")),
    ("binary key", |w| same(w.get("binary")?.key.as_deref(), Some(&[0xff, 0][..]), "key")),
    ("null key", |w| same(w.get("unicode")?.key.as_deref(), None, "key")),
    ("routing key", |w| {
        header(w.get("routed")?, "mq-routing-key", "eu.paid")?;
        same(w.get("full")?.text("mq-routing-key"), None, "routing key of a queue")
    }),
    ("payload", |w| value(w.get("full")?, Some(b"two boxes"))),
    ("binary payload", |w| value(w.get("binary")?, Some(&(0..=255).collect::<Vec<u8>>()))),
    ("unicode payload", |w| value(w.get("unicode")?, Some("größe 🦀".as_bytes()))),
    ("empty payload", |w| value(w.get("empty")?, Some(b""))),
    ("tombstone", |w| {
        value(w.get("tombstone")?, None)?;
        same(w.get("tombstone")?.key.as_deref(), Some(&b"k"[..]), "key")
    }),
    ("text header", |w| header(w.get("full")?, "x-kind", "order")),
    ("binary header", |w| same(w.get("full")?.header("raw"), [Some(&[0xff, 0xfe][..])], "header")),
    ("null header", |w| same(w.get("full")?.header("none"), [None], "header")),
    ("empty header", |w| header(w.get("full")?, "empty", "")),
    ("unicode header", |w| header(w.get("full")?, "größe", "riesig 🦀")),
    ("repeated header", |w| {
        same(w.get("full")?.header("a"), [Some(&b"1"[..]), Some(b"2")], "values, in order")
    }),
    ("partition and offset", |w| {
        let (seen, at) = (w.get("full")?, w.ours.full_at);
        same((seen.partition, seen.offset), (at.partition, at.offset), "place")
    }),
    ("names on the wire", |w| {
        names(w.get("full")?, &["a", "a", "content-type", "empty", "größe", "mq-correlation-id", "mq-expires",
            "mq-id", "mq-priority", "mq-reply-to", "none", "raw", "x-kind"])?;
        names(w.get(&w.ours.plain_id)?, &["mq-id"])
    }),
    ("dead letter's origin", |w| header(w.get("rejected")?, "mq-dead-origin", &w.ours.topics[0])),
    ("dead letter's reason", |w| header(w.get("rejected")?, "mq-dead-reason", "permanent")),
    ("dead letter's error", |w| header(w.get("rejected")?, "mq-dead-error", "Größe unknown")),
    ("dead letter's attempts", |w| header(w.get("rejected")?, "mq-dead-attempts", "3")),
    ("dead letter's first and last failure", |w| {
        header(w.get("rejected")?, "mq-dead-first", &w.ours.created.to_string())?;
        within(w.get("rejected")?, "mq-dead-last", &w.ours.window)
    }),
    ("dead letter's position", |w| {
        let at = w.ours.rejected_at;
        header(w.get("rejected")?, "mq-dead-position", &format!("{}:{}", at.partition, at.offset))
    }),
    ("dead letter's original fields", |w| {
        let letter = w.get("rejected")?;
        header(letter, "mq-correlation-id", "c-2")?;
        header(letter, "x-kind", "order")?;
        same(letter.text("mq-expires"), None, "expiry")?;
        same(letter.key.as_deref(), Some(&b"k"[..]), "key")?;
        value(letter, Some(b"bad"))
    }),
];

impl Written {
    fn get(&self, id: &str) -> Check<&Seen> {
        let seen = self.seen.get(id);
        seen.ok_or_else(|| Failure::new(format!("the peer saw no record with the id {id:?}")))
    }
}

/// Published once for all, and read once by each peer.
pub(crate) async fn messages(servers: &str, peer: Peer) -> Check<&'static Written> {
    static OURS: OnceCell<Result<Ours, String>> = OnceCell::const_new();
    static SEEN: [OnceCell<Result<Written, String>>; 2] = [const { OnceCell::const_new() }; 2];
    let read = || async {
        let ours = once(&OURS, || write(servers)).await?;
        let topics = ours.topics.each_ref().map(String::as_str);
        let mut seen = BTreeMap::new();
        for record in peer.read(servers, &topics, RECORDS).await? {
            let id = record.text("mq-id").unwrap_or_default().to_owned();
            // The dead letter has the id of the rejected one, which is not looked at.
            if id != "rejected" || record.text("mq-dead-reason").is_some() {
                seen.insert(id, record);
            }
        }
        Ok(Written { seen, ours })
    };
    once(&SEEN[peer as usize], read).await
}

async fn write(servers: &str) -> Check<Ours> {
    let kafka = Kafka::connect(servers).await?;
    let name = unique("written");
    let queue = Destination::queue(name.as_str());
    let topic = Destination::topic(format!("{name}.events"));
    kafka.declare(&queue).await?;
    kafka.declare(&topic).await?;
    let begun = now();
    // Not older, or the broker's retention would take it away.
    let created = time::from_millis(begun - 3_600_000).expect("an hour ago");

    let publisher = kafka.publisher();
    let plain = Message::new("plain").build();
    let plain_id = plain.id().to_string();
    publisher.publish(&queue, plain).await?;
    let placed = |receipt: mq_kafka::core::Receipt| {
        receipt
            .position()
            .ok_or_else(|| Failure::new("a receipt without position"))
    };
    let before = now();
    let full_at = placed(publisher.publish(&queue, full(created)?).await?)?;
    let expires = before + 600_000..=now() + 600_000;
    let binary: Vec<u8> = (0..=255).collect();
    for (id, message) in [
        ("binary", Message::new(binary).key(vec![0xff, 0])),
        ("unicode", Message::new("größe 🦀")),
        ("empty", Message::new("")),
        ("tombstone", Message::tombstone().key("k")),
    ] {
        publisher
            .publish(&queue, message.id(MessageId::new(id)?))
            .await?;
    }
    let routed = Message::new("routed").id(MessageId::new("routed")?);
    publisher
        .publish(&topic.routing_key("eu.paid"), routed)
        .await?;
    let rejected = Message::new("bad")
        .id(MessageId::new("rejected")?)
        .correlation_id("c-2")
        .expires_in(Duration::from_secs(600))
        .key("k")
        .header("x-kind", "order");
    let rejected_at = placed(publisher.publish(&queue, rejected).await?)?;
    reject(&kafka, &name, created).await?;
    kafka.close().await?;
    Ok(Ours {
        topics: [
            name.clone(),
            format!("{name}.dead"),
            format!("{name}.events"),
        ],
        created: time::to_millis(created),
        expires,
        full_at,
        rejected_at,
        plain_id,
        window: begun..=now(),
    })
}

fn full(created: SystemTime) -> Check<Message> {
    Ok(Message::new("two boxes")
        .id(MessageId::new("full")?)
        .correlation_id("c-1")
        .reply_to("answers")
        .content_type("text/plain; charset=utf-8")
        .time(created)
        .expires_in(Duration::from_secs(600))
        .priority(7)
        .key("Kundin Größe")
        .header("x-kind", "order")
        .header("raw", vec![0xff, 0xfe])
        .header("none", HeaderValue::null())
        .header("empty", "")
        .header("größe", "riesig 🦀")
        .header("a", "1")
        .header("a", "2")
        .build())
}

/// Rejects the record made for it, and gives the others back.
async fn reject(kafka: &Kafka, queue: &str, first: SystemTime) -> Check {
    let subscription = Subscription::queue(queue);
    let mut consumer = kafka.consumer(&subscription, ConsumePlan::new()).await?;
    loop {
        let late = |_| Failure::new("the record to be rejected did not come");
        let received = timeout(Duration::from_secs(20), consumer.receive())
            .await
            .map_err(late)??;
        let delivery = received.ok_or_else(|| Failure::new("the consumer ended"))?;
        if delivery.id().to_string() == "rejected" {
            let why = Rejection::new(Reason::Permanent, "Größe unknown");
            delivery
                .into_settlement()
                .reject(why.attempts(3).first_failure(first))?;
            return Ok(consumer.close().await?);
        }
        delivery.ack()?;
    }
}

fn now() -> u64 {
    time::to_millis(SystemTime::now())
}

#[track_caller]
fn header(seen: &Seen, name: &str, expected: &str) -> Check {
    same(seen.text(name), Some(expected), name)
}

#[track_caller]
fn value(seen: &Seen, expected: Option<&[u8]>) -> Check {
    same(seen.value.as_deref(), expected, "value")
}

/// A header that is a time in decimal digits, within these.
#[track_caller]
fn within(seen: &Seen, name: &str, window: &std::ops::RangeInclusive<u64>) -> Check {
    let at = seen.text(name).and_then(|digits| digits.parse().ok());
    same(
        at.is_some_and(|at| window.contains(&at)),
        true,
        &format!("{name}: {at:?} in {window:?}"),
    )
}

/// Exactly these header names.
#[track_caller]
fn names(seen: &Seen, expected: &[&str]) -> Check {
    let mut found: Vec<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    found.sort_unstable();
    same(found, expected, "names")
}

/// Seven in the queue, one of them rejected, so one dead letter; and one in the topic.
const RECORDS: usize = 9;
