//! What the peers write, as we read it.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    ffi::OsString,
    hash::{BuildHasher, Hasher},
    os::unix::ffi::OsStringExt,
    time::{Duration, SystemTime},
};

use mq_kafka::{
    Kafka,
    core::{
        Broker, ConsumePlan, Consumer, Destination, HeaderValue, Message, Publisher, Received,
        Subscription, time,
    },
};
use mq_testkit::{Check, Failure};
use tokio::{sync::OnceCell, time::timeout};

use crate::peer::{Peer, delete, once, run_java, run_kcat, same, unique};

/// Records of one peer as we got them, by their header `label`; the plain one has none.
#[derive(Debug)]
pub(crate) struct Read {
    records: BTreeMap<String, Received>,
    /// Where we put each key, and where the peer did.
    partitions: BTreeMap<Vec<u8>, (u32, Option<u32>)>,
    topic: String,
    begun: u64,
    ended: u64,
}

/// What is looked at, and how.
pub(crate) type Case = (&'static str, fn(&Read) -> Check);

/// What this peer can write: the Java tool reads its records from lines of text.
pub(crate) fn cases(peer: Peer) -> impl Iterator<Item = Case> {
    let binary = (peer == Peer::Kcat).then_some(BINARY).into_iter().flatten();
    CASES.iter().chain(binary).copied()
}

#[rustfmt::skip] // one case a line where it fits: this is a table
const CASES: &[Case] = &[
    ("plain message", |r| {
        let plain = r.get("")?;
        same(plain.payload().map(AsRef::as_ref), Some(&b"plain"[..]), "payload")?;
        same(plain.headers().len(), 0, "headers")?;
        same((plain.key(), plain.routing_key(), plain.attempt()), (None, None, 1), "fields")?;
        same((plain.content_type(), plain.correlation_id()), (None, None), "properties")?;
        // Its place is its identity, at every delivery the same.
        let at = plain.position().ok_or_else(|| Failure::new("no position"))?;
        let place = format!("{}:{}:{}", r.topic, at.partition, at.offset);
        same(plain.id().to_string(), place, "id")
    }),
    ("message id", |r| same(r.get("full")?.id().to_string().as_str(), "order-7", "id")),
    ("correlation id", |r| same(r.get("full")?.correlation_id(), Some("c-1"), "id")),
    ("reply-to", |r| same(r.get("full")?.reply_to(), Some("answers"), "reply-to")),
    ("content type", |r| same(r.get("full")?.content_type(), Some("text/plain"), "content type")),
    ("time", |r| {
        let (at, window) = (time::to_millis(r.get("full")?.time()), r.begun..=r.ended);
        same(window.contains(&at), true, &format!("{at} in {window:?}"))
    }),
    ("expiry", |r| {
        let full = r.get("full")?;
        let expiry = full.expires_in().map(time::millis).map(|after| after + time::to_millis(full.time()));
        same(expiry, Some(r.begun + 600_000), "time of the expiry")?;
        same(r.records.contains_key("expired"), false, "an expired one was delivered")
    }),
    ("priority", |r| same(r.get("full")?.priority(), Some(5), "priority")),
    ("key", |r| same(r.get("full")?.key().and_then(|key| key.as_str()), Some("Größe"), "key")),
    ("null key", |r| same(r.get("unicode")?.key(), None, "key")),
    ("routing key", |r| same(r.get("full")?.routing_key(), Some("eu.paid"), "routing key")),
    ("payload", |r| r.payload("full", Some(b"two boxes"))),
    ("unicode payload", |r| r.payload("unicode", Some("größe 🦀".as_bytes()))),
    ("empty payload", |r| r.payload("empty", Some(b""))),
    ("tombstone", |r| {
        r.payload("tombstone", None)?;
        same(r.get("tombstone")?.key().and_then(|key| key.as_str()), Some("k"), "key")
    }),
    ("text header", |r| r.header("x-kind", &["order".into()])),
    ("null header", |r| r.header("none", &[HeaderValue::null()])),
    ("empty header", |r| r.header("empty", &["".into()])),
    ("unicode header", |r| r.header("größe", &["riesig 🦀".into()])),
    ("repeated header", |r| r.header("a", &["1".into(), "2".into()])),
    ("attempts in mq-attempt", |r| same(r.get("full")?.attempt(), 4, "attempt")),
    ("RabbitMQ's names (left out)", |r| {
        let other = r.get("other")?;
        r.payload("other", Some(b"x"))?;
        same((other.key(), other.headers().len()), (None, 1), "key, and headers beside the label")?;
        same(time::to_millis(other.time()) >= r.begun, true, "the record's own time")
    }),
    ("unreadable fields (not set)", |r| {
        let odd = r.get("odd")?;
        same(odd.id().to_string().starts_with(&r.topic), true, "its place instead of a bad id")?;
        same((odd.priority(), odd.expires_in(), odd.attempt()), (None, None, 1), "fields")
    }),
    ("partition of each of 10,000 keys", |r| r.meet(KEYS, |key| std::str::from_utf8(key).is_ok())),
];

#[rustfmt::skip] // as above
const BINARY: &[Case] = &[
    ("binary key", |r| {
        let key = r.get("binary")?.key().map(|key| key.as_bytes().to_vec());
        same(key, Some(vec![0xff, 0]), "key")
    }),
    ("binary payload", |r| r.payload("binary", Some(&(0..=255).collect::<Vec<u8>>()))),
    ("binary header", |r| {
        same(r.get("binary")?.headers().get("raw"), Some(&vec![0xff, 0xfe].into()), "header")
    }),
    ("partition of each of 64 binary keys", |r| r.meet(64, |key| std::str::from_utf8(key).is_err())),
];

impl Read {
    fn get(&self, label: &str) -> Check<&Received> {
        let found = self.records.get(label);
        found.ok_or_else(|| Failure::new(format!("no record {label:?} came")))
    }

    #[track_caller]
    fn payload(&self, label: &str, expected: Option<&[u8]>) -> Check {
        same(
            self.get(label)?.payload().map(AsRef::as_ref),
            expected,
            "payload",
        )
    }

    /// There are so many keys of this kind, of all partitions, and the peer put each where we did.
    fn meet(&self, count: usize, kind: impl Fn(&[u8]) -> bool) -> Check {
        let keys = self.partitions.iter().filter(|(key, _)| kind(key));
        let keys: Vec<_> = keys.collect();
        same(keys.len(), count, "keys")?;
        let used: BTreeSet<u32> = keys.iter().map(|(_, (ours, _))| *ours).collect();
        same(used.len(), 8, "partitions in use")?;
        let mut keys = keys.into_iter();
        let apart = keys.find(|(_, (ours, theirs))| Some(*ours) != *theirs);
        same(apart, None, "a key in two partitions: ours, theirs")
    }

    /// All values of a header of the record that has one of each kind.
    #[track_caller]
    fn header(&self, name: &str, expected: &[HeaderValue]) -> Check {
        let found: Vec<HeaderValue> = self.get("full")?.headers().all(name).cloned().collect();
        same(found, expected, name)
    }
}

/// Written and read once for each peer.
pub(crate) async fn messages(servers: &str, peer: Peer) -> Check<&'static Read> {
    static READ: [OnceCell<Result<Read, String>>; 2] = [const { OnceCell::const_new() }; 2];
    once(&READ[peer as usize], || read(servers, peer)).await
}

async fn read(servers: &str, peer: Peer) -> Check<Read> {
    let kafka = Kafka::connect(servers).await?;
    let topic = unique("read");
    let queue = Destination::queue(topic.as_str());
    kafka.declare(&queue).await?;
    let begun = time::to_millis(SystemTime::now());
    let keys = keys(peer);
    let messages = keys
        .iter()
        .map(|key| Message::new("ours").key(key.clone()).build())
        .collect();
    let mut partitions = BTreeMap::new();
    for (key, receipt) in keys
        .iter()
        .zip(kafka.publisher().publish_batch(&queue, messages).await)
    {
        let at = receipt?
            .position()
            .ok_or_else(|| Failure::new("a receipt without position"))?;
        partitions.insert(key.clone(), (at.partition, None));
    }
    let records = records(begun);
    let written = match peer {
        Peer::Kcat => write_kcat(servers, &topic, &records, &keys).await?,
        Peer::Java => write_java(&topic, &records, &keys).await?,
    };

    let mut found = BTreeMap::new();
    let subscription = Subscription::queue(topic.as_str());
    let mut consumer = kafka.consumer(&subscription, ConsumePlan::new()).await?;
    // All but the expired one.
    for _ in 1..written + keys.len() {
        let late = |_| Failure::new(format!("only these records came: {:?}", found.keys()));
        let received = timeout(Duration::from_secs(20), consumer.receive())
            .await
            .map_err(late)??;
        let delivery = received.ok_or_else(|| Failure::new("the consumer ended"))?;
        let received = delivery.received().clone();
        match received.payload().map(AsRef::as_ref) {
            Some(b"ours") => {}
            Some(b"theirs") => {
                let key = received.key().map_or(&[][..], |key| key.as_bytes());
                let place = partitions
                    .get_mut(key)
                    .ok_or_else(|| Failure::new(format!("a new key {key:?}")))?;
                place.1 = received.position().map(|at| at.partition);
            }
            _ => {
                let label = received
                    .headers()
                    .text("label")
                    .unwrap_or_default()
                    .to_owned();
                found.insert(label, received);
            }
        }
        delivery.ack()?;
    }
    consumer.close().await?;
    kafka.close().await?;
    delete(servers, &[topic.clone(), format!("{topic}.dead")]).await?;
    Ok(Read {
        records: found,
        partitions,
        topic,
        begun,
        ended: time::to_millis(SystemTime::now()),
    })
}

/// A record to be written by a peer.
struct Record {
    headers: Vec<(&'static str, Option<String>)>,
    key: Option<&'static str>,
    value: Option<&'static str>,
}

fn records(now: u64) -> Vec<Record> {
    let record = |label: &str, key, value, headers: &[(&'static str, &str)]| {
        let mut all: Vec<_> = headers
            .iter()
            .map(|(n, v)| (*n, Some((*v).to_owned())))
            .collect();
        all.push(("label", Some(label.to_owned())));
        Record {
            headers: all,
            key,
            value,
        }
    };
    let (later, past) = ((now + 600_000).to_string(), (now - 1).to_string());
    let mut full = record(
        "full",
        Some("Größe"),
        Some("two boxes"),
        &[
            ("mq-id", "order-7"),
            ("mq-correlation-id", "c-1"),
            ("mq-reply-to", "answers"),
            ("content-type", "text/plain"),
            ("mq-expires", &later),
            ("mq-priority", "5"),
            ("mq-routing-key", "eu.paid"),
            ("mq-attempt", "3"),
            ("x-kind", "order"),
            ("empty", ""),
            ("größe", "riesig 🦀"),
            ("a", "1"),
            ("a", "2"),
        ],
    );
    full.headers.push(("none", None));
    let other = [
        ("mq-key", "k"),
        ("mq-time", "1"),
        ("mq-tombstone", "1"),
        ("mq-pub", "1"),
    ];
    let odd = [
        ("mq-id", "a\u{7}b"),
        ("mq-priority", "high"),
        ("mq-expires", "soon"),
        ("mq-attempt", "many"),
    ];
    vec![
        // Of the same key as `full`, so that it is passed before that one comes.
        record(
            "expired",
            Some("Größe"),
            Some("late"),
            &[("mq-expires", &past)],
        ),
        full,
        Record {
            headers: vec![],
            key: None,
            value: Some("plain"),
        },
        record("unicode", None, Some("größe 🦀"), &[]),
        record("empty", Some("k"), Some(""), &[]),
        record("tombstone", Some("k"), None, &[]),
        record("other", None, Some("x"), &other),
        record("odd", None, Some("x"), &odd),
    ]
}

/// The records and the keys in one run, as lines of `headers<TAB>key<TAB>value`; how many it wrote.
async fn write_java(topic: &str, records: &[Record], keys: &[Vec<u8>]) -> Check<usize> {
    let mut lines = String::new();
    for record in records {
        let pairs = record
            .headers
            .iter()
            .map(|(name, value)| format!("{name}:{}", value.as_deref().unwrap_or("NULL")));
        let headers = match pairs.collect::<Vec<_>>() {
            none if none.is_empty() => "NULL".to_owned(),
            pairs => pairs.join(","),
        };
        let (key, value) = (record.key.unwrap_or("NULL"), record.value.unwrap_or("NULL"));
        lines.push_str(&format!("{headers}\t{key}\t{value}\n"));
    }
    for key in keys {
        lines.push_str(&format!("NULL\t{}\ttheirs\n", std::str::from_utf8(key)?));
    }
    let mut arguments = vec!["--topic", topic];
    for property in ["parse.headers=true", "parse.key=true", "null.marker=NULL"] {
        arguments.extend(["--property", property]);
    }
    run_java("kafka-console-producer.sh", &arguments, lines.as_bytes()).await?;
    Ok(records.len() + keys.len())
}

/// Each record in a run of its own, since headers are arguments; then one of binary, and the keys.
async fn write_kcat(
    servers: &str,
    topic: &str,
    records: &[Record],
    keys: &[Vec<u8>],
) -> Check<usize> {
    let start = || ["-P", "-t", topic, "-D", END].map(OsString::from).to_vec();
    let with_key = || ["-K", KEY].map(OsString::from);
    for record in records {
        let mut arguments = start();
        let mut input = String::new();
        if let Some(key) = record.key {
            arguments.extend(with_key());
            input = format!("{key}{KEY}");
        }
        match record.value {
            Some(value) => input.push_str(value),
            None => arguments.push("-Z".into()), // what is empty is null
        }
        for (name, value) in &record.headers {
            let header = value
                .as_ref()
                .map_or((*name).to_owned(), |value| format!("{name}={value}"));
            arguments.extend(["-H".into(), header.into()]);
        }
        run_kcat(servers, &arguments, input.as_bytes()).await?;
    }
    let mut arguments = start();
    arguments.extend(with_key());
    let raw = OsString::from_vec(b"raw=\xff\xfe".to_vec());
    arguments.extend(["-H".into(), "label=binary".into(), "-H".into(), raw]);
    let input: Vec<u8> = [b"\xff\x00", KEY.as_bytes(), &(0..=255).collect::<Vec<u8>>()].concat();
    run_kcat(servers, &arguments, &input).await?;

    let line = |key: &Vec<u8>| [key, KEY.as_bytes(), b"theirs"].concat();
    let lines: Vec<Vec<u8>> = keys.iter().map(line).collect();
    // librdkafka's own default is another hash.
    let mut arguments = start();
    arguments.extend(with_key());
    arguments.extend(["-X", "partitioner=murmur2_random"].map(OsString::from));
    run_kcat(servers, &arguments, &lines.join(END.as_bytes())).await?;
    Ok(records.len() + 1 + keys.len())
}

/// Texts of 0 to 64 characters, most of them of several bytes, each other at every run; none has what separates them in the input.
/// Where the peer can write them, keys of 1 to 64 bytes too that are all above 127, and no UTF-8.
fn keys(peer: Peer) -> Vec<Vec<u8>> {
    const ALPHABET: &[char] = &[
        'a', 'Z', '0', '9', ' ', '-', '_', '/', 'ß', 'ü', '中', '🦀', '\u{1}',
    ];
    let random = |seed: usize| {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_usize(seed);
        usize::try_from(hasher.finish() >> 8).unwrap_or_default()
    };
    let mut keys = BTreeSet::from([String::new()]);
    while keys.len() < KEYS {
        let length = random(keys.len()) % 65;
        keys.insert(
            (0..length)
                .map(|at| ALPHABET[random(at) % ALPHABET.len()])
                .collect::<String>(),
        );
    }
    let high = |length: usize| {
        let rest =
            (1..length).map(|at| 0x80 | u8::try_from(random(length + at) % 128).unwrap_or(0));
        std::iter::once(0xff).chain(rest).collect()
    };
    let binary = (peer == Peer::Kcat).then(|| (1..=64).map(high));
    let texts = keys.into_iter().map(String::into_bytes);
    texts.chain(binary.into_iter().flatten()).collect()
}

const KEYS: usize = 10_000;
/// Between key and value, and between records, of what `kcat` reads.
const KEY: &str = "<<|>>";
const END: &str = "<<;>>";
