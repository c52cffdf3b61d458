//! Messages as Kafka records and back; the names are those of [`mq_core::headers`].

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use bytes::Bytes;
use krafka::{ConsumerRecord, Record};
use mq_core::{
    Destination, Error, ErrorKind, HeaderValue, Headers, Message, MessageBuilder, MessageId,
    Result, headers, time,
};

/// A message as a record for a topic.
///
/// The record's timestamp is the message's time. That of a retry copy and of a dead letter is the
/// time of the copy, since a topic's retention counts from it: an old message would be removed
/// before it is read. The message's time is then a header, and its expiry stays the instant it was.
///
/// # Errors
/// `InvalidMessage` for a header whose name belongs to a field of the message, and for too many
/// headers.
pub(crate) fn to_record(topic: &str, to: &Destination, message: &Message) -> Result<Record> {
    let created = message.time();
    let mut record = match message.payload() {
        Some(payload) => Record::new(topic, payload.clone()),
        None => Record::new(topic, Bytes::new()).without_value(),
    };
    let copied = message.headers().iter().any(|(name, _)| is_of_copy(name));
    let stamp = match copied {
        true => SystemTime::now(),
        false => created,
    };
    record = record.timestamp(i64::try_from(time::to_millis(stamp)).unwrap_or(i64::MAX));
    if let Some(key) = message.key() {
        record = record.key(key.as_bytes().clone());
    }
    record.headers.reserve(2 + message.headers().len());
    let mut put = |name: &str, text: &str| {
        let value = Bytes::copy_from_slice(text.as_bytes());
        record.headers.push((name.to_owned(), Some(value)));
    };
    put(headers::ID, message.id().encode(&mut [0; 36]));
    if copied {
        put(headers::TIME, &time::to_millis(created).to_string());
    }
    if let Some(text) = message.content_type() {
        put(headers::CONTENT_TYPE, text);
    }
    if let Some(text) = message.correlation_id() {
        put(headers::CORRELATION_ID, text);
    }
    if let Some(text) = message.reply_to() {
        put(headers::REPLY_TO, text);
    }
    if let Some(priority) = message.priority() {
        put(headers::PRIORITY, &priority.to_string());
    }
    if let Some(after) = message.expires_in() {
        let from = match copied {
            true => created,
            false => published(created),
        };
        let at = time::to_millis(from).saturating_add(time::millis(after));
        put(headers::EXPIRES, &at.to_string());
    }
    // A queue has no routing key.
    if let Some(key) = to.key().filter(|_| !to.is_queue()) {
        put(headers::ROUTING_KEY, key);
    }
    for (name, value) in message.headers().iter() {
        if headers::is_mapped(name) {
            return Err(Error::new(
                ErrorKind::InvalidMessage,
                "publish",
                "this header name belongs to a field of the message; set the field",
            )
            .with("header", name));
        }
        record
            .headers
            .push((name.to_owned(), value.as_bytes().cloned()));
    }
    if record.headers.len() > MAX_HEADERS {
        return Err(Error::new(
            ErrorKind::InvalidMessage,
            "publish",
            "the client writes at most 10,000 headers, those of the message's fields included",
        )
        .with("destination", to)
        .with("headers", record.headers.len()));
    }
    Ok(record)
}

/// A record as a message, with its routing key. Hostile input gives fields that are not set, never
/// an error: the record must be able to reach a handler or a dead-letter home.
pub(crate) fn from_record(record: ConsumerRecord) -> (Message, Option<Arc<str>>) {
    let copied = record.headers.iter().any(|(name, _)| is_of_copy(name));
    let told = record.headers.iter().rev().find_map(|(name, value)| {
        let ours = copied && name == headers::TIME;
        let text = std::str::from_utf8(value.as_deref().filter(|_| ours)?).ok()?;
        text.parse().ok()
    });
    let created = told.or_else(|| u64::try_from(record.timestamp).ok());
    let mut message = match record.value {
        Some(value) => Message::new(value),
        None => Message::tombstone(),
    };
    if let Some(time) = created.and_then(time::from_millis) {
        message = message.time(time);
    }
    if let Some(key) = record.key {
        message = message.key(key);
    }
    let mut id = None;
    let mut routing_key = None;
    let mut open = Headers::new();
    for (name, value) in record.headers {
        if !headers::is_mapped(&name) {
            open.append(name, HeaderValue::from(value));
            continue;
        }
        let Some(text) = value.as_deref().and_then(|v| std::str::from_utf8(v).ok()) else {
            continue;
        };
        match name.as_str() {
            headers::ID => id = MessageId::new(text).ok(),
            headers::ROUTING_KEY => routing_key = Some(Arc::from(text)),
            name => message = field(message, name, text, created),
        }
    }
    if let Some(id) = id.or_else(|| place_id(&record.topic, record.partition, record.offset)) {
        message = message.id(id);
    }
    (message.headers(open).build(), routing_key)
}

/// The identity of a record without an id of ours is its place in the log: the same at every delivery.
pub(crate) fn place_id(topic: &str, partition: i32, offset: i64) -> Option<MessageId> {
    // Without the machinery of `format!`: every record of a stranger gets one.
    let (partition, offset) = (partition.to_string(), offset.to_string());
    MessageId::new([topic, ":", &partition, ":", &offset].concat())
        .or_else(|_| MessageId::new([&*partition, ":", &*offset].concat()))
        .ok()
}

fn field(message: MessageBuilder, name: &str, text: &str, created: Option<u64>) -> MessageBuilder {
    match name {
        headers::CONTENT_TYPE => message.content_type(Cow::Owned(text.to_owned())),
        headers::CORRELATION_ID => message.correlation_id(text),
        headers::REPLY_TO => message.reply_to(text),
        headers::PRIORITY => match text.parse() {
            Ok(priority) => message.priority(priority),
            Err(_) => message,
        },
        headers::EXPIRES => match text.parse::<u64>() {
            Ok(at) => message.expires_in(std::time::Duration::from_millis(
                at.saturating_sub(created.unwrap_or_default()),
            )),
            Err(_) => message,
        },
        // The key, the missing payload and, but for a copy, the time are parts of a record; as
        // headers they are another broker's way, and would contradict them here.
        _ => message,
    }
}

/// True for a header that only a retry copy or a dead letter has.
fn is_of_copy(name: &str) -> bool {
    name == headers::DUE || name == headers::DEAD_REASON
}

/// True if the record has an expiry and it has passed.
pub(crate) fn is_expired(record: &ConsumerRecord, now: SystemTime) -> bool {
    record
        .header_str(headers::EXPIRES)
        .and_then(|text| text.parse::<u64>().ok())
        .is_some_and(|at| at <= time::to_millis(now))
}

/// The instant that an expiry counts from: the publish. A message made within the last second is
/// published now as far as anyone can tell, and its own time keeps the duration exact.
fn published(created: SystemTime) -> SystemTime {
    let now = SystemTime::now();
    let apart = now
        .duration_since(created)
        .unwrap_or_else(|early| early.duration());
    if apart < std::time::Duration::from_secs(1) {
        created
    } else {
        now
    }
}

/// What krafka 0.28 writes; it reads ten times as many.
const MAX_HEADERS: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn stored(record: Record) -> ConsumerRecord {
        let mut read = ConsumerRecord::new(record.topic.as_str(), 3, 7, record.key, record.value);
        read.timestamp = record.timestamp.unwrap_or(-1);
        read.headers = record.headers;
        read
    }

    fn back(to: &Destination, message: &Message) -> (Message, Option<Arc<str>>) {
        from_record(stored(to_record("t", to, message).expect("a record")))
    }

    fn same(a: &Message, b: &Message) {
        assert_eq!(a.id(), b.id());
        assert_eq!(a.time(), b.time());
        assert_eq!(a.key(), b.key());
        assert_eq!(a.headers(), b.headers());
        assert_eq!(a.payload(), b.payload());
        assert_eq!(a.content_type(), b.content_type());
        assert_eq!(a.correlation_id(), b.correlation_id());
        assert_eq!(a.reply_to(), b.reply_to());
        assert_eq!(a.priority(), b.priority());
        assert_eq!(a.expires_in(), b.expires_in());
    }

    fn value() -> impl Strategy<Value = HeaderValue> {
        prop_oneof![
            Just(HeaderValue::null()),
            any::<String>().prop_map(HeaderValue::from),
            any::<Vec<u8>>().prop_map(HeaderValue::from),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        let name = any::<String>().prop_filter("open names", |n| !headers::is_mapped(n));
        (
            prop::option::of(any::<Vec<u8>>()),
            prop::option::of(any::<Vec<u8>>()),
            prop::collection::vec((name, value()), 0..6),
            prop::option::of(any::<String>()),
            prop::option::of(any::<String>()),
            prop::option::of(any::<String>()),
            prop::option::of(any::<u8>()),
            prop::option::of(0..u32::MAX),
        )
            .prop_map(
                |(payload, key, open, kind, correlation, reply, priority, expiry)| {
                    let mut message = match payload {
                        Some(payload) => Message::new(payload),
                        None => Message::tombstone(),
                    };
                    if let Some(key) = key {
                        message = message.key(key);
                    }
                    if let Some(text) = kind {
                        message = message.content_type(text);
                    }
                    if let Some(text) = correlation {
                        message = message.correlation_id(text);
                    }
                    if let Some(text) = reply {
                        message = message.reply_to(text);
                    }
                    if let Some(priority) = priority {
                        message = message.priority(priority);
                    }
                    message
                        .expires_in(expiry.map(|ms| Duration::from_millis(ms.into())))
                        .headers(open.into_iter().collect())
                        .build()
                },
            )
    }

    proptest! {
        #[test]
        fn every_field_survives_the_round_trip(message in message(), key in any::<String>()) {
            let topic = Destination::topic("t").routing_key(key.as_str());
            let (read, routing_key) = back(&topic, &message);
            same(&read, &message);
            prop_assert_eq!(routing_key.as_deref(), Some(key.as_str()));
        }

        #[test]
        fn hostile_headers_never_panic(
            names in prop::collection::vec("mq-(id|key|time|pub|tombstone|expires|priority|correlation-id|reply-to|routing-key)|content-type", 0..8),
            values in prop::collection::vec(prop::option::of(any::<Vec<u8>>()), 8),
            timestamp in any::<i64>(),
        ) {
            let mut record = Record::new("t", "x").timestamp(timestamp);
            record.headers = names.into_iter().zip(values.into_iter().map(|v| v.map(Bytes::from))).collect();
            let (read, _) = from_record(stored(record));
            prop_assert!(read.headers().is_empty());
        }
    }

    #[test]
    fn a_record_from_elsewhere_has_its_place_as_id() {
        let (read, key) = from_record(stored(Record::new("t", "x")));
        assert_eq!((read.id().to_string().as_str(), key), ("t:3:7", None));
        let mut long = stored(Record::new("t".repeat(249), "x").header("mq-id", "\u{1}"));
        long.offset = 1_000_000_000;
        assert_eq!(from_record(long).0.id().to_string(), "3:1000000000");
    }

    #[test]
    fn a_copy_is_kept_from_the_copy_on_and_has_the_time_and_expiry_of_its_message() {
        let old = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
        let message = Message::new("x")
            .time(old)
            .expires_in(Duration::from_secs(31 * 24 * 3600))
            .header(headers::DUE, "1");
        let message = message.build();
        let record = to_record("t", &Destination::queue("t"), &message).expect("a record");
        let age = time::to_millis(SystemTime::now()) - record.timestamp.expect("a time") as u64;
        assert!(age < 60_000, "{age} ms old");
        let (read, _) = from_record(stored(record));
        assert_eq!(
            time::to_millis(read.time()),
            time::to_millis(message.time())
        );
        assert_eq!(read.expires_in(), message.expires_in());
    }

    #[test]
    fn a_time_in_a_header_is_only_that_of_a_copy() {
        let mut record = stored(Record::new("t", "x").header(headers::TIME, "77"));
        record.timestamp = 5;
        let (read, _) = from_record(record.clone());
        assert_eq!(time::to_millis(read.time()), 5);
        let reason = Some(Bytes::from("rejected"));
        record.headers.push((headers::DEAD_REASON.into(), reason));
        let (read, _) = from_record(record);
        assert_eq!(time::to_millis(read.time()), 77);
    }

    #[test]
    fn refuses_a_header_that_would_contradict_a_field() {
        let message = Message::new("x").header("mq-id", "forged").build();
        let error = to_record("t", &Destination::queue("t"), &message).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidMessage);
        assert_eq!(error.context("header"), Some("mq-id"));
    }

    #[test]
    fn expiry_counts_from_the_publish_even_for_an_old_message() {
        let old = SystemTime::now() - Duration::from_secs(3600);
        let message = Message::new("x")
            .time(old)
            .expires_in(Duration::from_secs(60))
            .build();
        let record = to_record("t", &Destination::queue("t"), &message).expect("a record");
        let record = stored(record);
        assert!(!is_expired(&record, SystemTime::now()));
        assert!(is_expired(
            &record,
            SystemTime::now() + Duration::from_secs(61)
        ));
    }
}
