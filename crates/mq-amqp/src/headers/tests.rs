//! Header mapping: round trips, and strangers' tables.

use lapin::types::FieldArray;
use mq_core::Key;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    payload: 1 << 20,
    headers: 1 << 17,
};

fn delivery(mut outbound: Outbound) -> Delivery {
    let properties = outbound.numbered(7);
    assert_eq!(number(&properties), Some(7));
    let mut delivery = Delivery::mock(
        1,
        outbound.exchange.clone(),
        outbound.routing_key.clone(),
        false,
        outbound.payload.to_vec(),
    );
    delivery.properties = properties;
    delivery
}

fn round_trip(to: &Destination, message: &Message) -> Received {
    let outbound = Outbound::new(to, message, LIMITS).expect("a legal message");
    received(&mut delivery(outbound), "orders".into())
}

fn refused(message: impl Into<Message>) -> Error {
    Outbound::new(&Destination::queue("orders"), &message.into(), LIMITS).expect_err("refused")
}

fn foreign(pairs: Vec<(&str, AMQPValue)>) -> Received {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into(), value);
    }
    let mut delivery = Delivery::mock(1, "".into(), "orders".into(), true, b"x".to_vec());
    delivery.properties = BasicProperties::default().with_headers(table);
    received(&mut delivery, "orders".into())
}

proptest! {
    #[test]
    fn every_field_survives_the_round_trip(
        payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64)),
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64)),
        fields in proptest::collection::btree_map(
            "[a-z]\\PC{0,20}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
        kind in proptest::option::of("\\PC{0,60}"),
        correlation in proptest::option::of("\\PC{0,60}"),
        reply in proptest::option::of("\\PC{0,60}"),
        expiry in proptest::option::of(0u32..),
        priority in proptest::option::of(any::<u8>()),
        at in 0u64..4_000_000_000_000,
        routing in proptest::option::of("[a-z]{1,5}(\\.[a-z]{1,5}){0,3}"),
    ) {
        let mut builder = match payload {
            Some(bytes) => Message::new(bytes),
            None => Message::tombstone(),
        };
        for (name, value) in fields {
            if !headers::is_mapped(&name) {
                builder = builder.header(name, value.map(Bytes::from));
            }
        }
        if let Some(key) = key { builder = builder.key(key); }
        if let Some(kind) = kind { builder = builder.content_type(kind); }
        if let Some(id) = correlation { builder = builder.correlation_id(id); }
        if let Some(to) = reply { builder = builder.reply_to(to); }
        if let Some(priority) = priority { builder = builder.priority(priority); }
        let expiry = expiry.map(|ms| Duration::from_millis(ms.into()));
        let sent = builder.expires_in(expiry).time(time::from_millis(at).expect("a time")).build();

        let mut topic = Destination::topic("events");
        if let Some(key) = &routing { topic = topic.routing_key(key.as_str()); }
        let got = round_trip(&topic, &sent);

        prop_assert_eq!(got.routing_key(), routing.as_deref());
        prop_assert_eq!(got.id(), sent.id());
        prop_assert_eq!(got.time(), sent.time());
        prop_assert_eq!(got.key().map(Key::as_bytes), sent.key().map(Key::as_bytes));
        prop_assert_eq!(got.payload(), sent.payload());
        prop_assert_eq!(got.content_type(), sent.content_type());
        prop_assert_eq!(got.correlation_id(), sent.correlation_id());
        prop_assert_eq!(got.reply_to(), sent.reply_to());
        prop_assert_eq!(got.expires_in(), sent.expires_in());
        prop_assert_eq!(got.priority(), sent.priority());
        // A table has no order of its own.
        let sorted = |headers: &Headers| {
            let mut pairs: Vec<_> = headers.iter().map(|(n, v)| (n.to_owned(), v.clone())).collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            pairs
        };
        prop_assert_eq!(sorted(got.headers()), sorted(sent.headers()));
    }
}

#[test]
fn a_tombstone_is_not_an_empty_payload() {
    let queue = Destination::queue("orders");
    assert_eq!(
        round_trip(&queue, &Message::tombstone().build()).payload(),
        None
    );
    let empty = round_trip(&queue, &Message::new("").build());
    assert_eq!(empty.payload().map(Bytes::len), Some(0));
    assert_eq!(empty.routing_key(), None);
}

#[test]
fn refuses_what_the_wire_or_the_broker_would_not_take() {
    let invalid = |message| {
        let error = refused(message);
        assert_eq!(error.kind(), ErrorKind::InvalidMessage, "{error}");
    };
    invalid(Message::new("x").header("a", "1").header("a", "2"));
    invalid(Message::new("x").header(headers::KEY, "1"));
    invalid(Message::new("x").header("CC", "other"));
    invalid(Message::new("x").header("n".repeat(256), "1"));
    invalid(Message::new("x").correlation_id("c".repeat(256)));
    invalid(Message::new("x").expires_in(Duration::from_millis(MAX_EXPIRY + 1)));
    assert_eq!(
        refused(Message::new(vec![0; (1 << 20) + 1])).kind(),
        ErrorKind::TooLarge
    );
    assert_eq!(
        refused(Message::new("x").header("a", vec![0; 1 << 17])).kind(),
        ErrorKind::TooLarge
    );
    let long = Destination::topic("events").routing_key("k".repeat(256));
    let error = Outbound::new(&long, &Message::new("x").build(), LIMITS).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidName);
}

#[test]
fn reads_what_strangers_write() {
    let got = foreign(vec![
        ("count", AMQPValue::LongInt(-3)),
        ("flag", AMQPValue::Boolean(true)),
        ("void", AMQPValue::Void),
        ("bytes", AMQPValue::LongString(vec![0xff, 0xfe].into())),
        ("nested", AMQPValue::FieldTable(FieldTable::default())),
        ("array", AMQPValue::FieldArray(FieldArray::default())),
        ("x-delivery-count", AMQPValue::LongLongInt(4)),
        ("mq-attempt", AMQPValue::LongString("2".into())),
        ("mq-id", AMQPValue::LongString("not the id".into())),
        ("mq-time", AMQPValue::LongString("many".into())),
    ]);
    assert_eq!(got.headers().text("count"), Some("-3"));
    assert_eq!(got.headers().text("flag"), Some("true"));
    assert_eq!(
        got.headers().get("void").map(HeaderValue::is_null),
        Some(true)
    );
    assert_eq!(
        got.headers()
            .get("bytes")
            .and_then(HeaderValue::as_bytes)
            .map(|b| b.len()),
        Some(2)
    );
    let names: Vec<_> = got.headers().iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["bytes", "count", "flag", "mq-attempt", "void"]);
    assert_eq!(got.attempt(), 7, "one, two carried, four counted");
}

#[test]
fn hostile_numbers_do_not_overflow() {
    let got = foreign(vec![
        ("x-delivery-count", AMQPValue::LongLongInt(i64::MAX)),
        (
            "mq-attempt",
            AMQPValue::LongString(u64::MAX.to_string().into()),
        ),
        (
            "mq-time",
            AMQPValue::LongString(u64::MAX.to_string().into()),
        ),
        ("mq-tombstone", AMQPValue::LongString("1".into())),
    ]);
    assert_eq!(got.attempt(), u32::MAX);
    assert_eq!(
        got.payload().map(Bytes::len),
        Some(1),
        "a tombstone with a body keeps it"
    );
    assert_eq!(
        foreign(vec![("x-delivery-count", AMQPValue::LongInt(-1))]).attempt(),
        1
    );
}

#[test]
fn a_retry_copy_carries_its_attempt_and_routing_key() {
    let topic = Destination::topic("events").routing_key("eu.paid");
    let first = round_trip(&topic, &Message::new("x").build());
    let copy = retry_copy(&first, &Destination::queue("q"))
        .outbound(LIMITS)
        .expect("a copy");
    let second = received(&mut delivery(copy), "events".into());
    assert_eq!(
        (second.attempt(), second.routing_key()),
        (2, Some("eu.paid"))
    );
    assert_eq!(second.id(), first.id());
}

#[test]
fn no_header_stands_in_for_the_routing_key_of_a_topic() {
    let topic = Destination::topic("events").routing_key("eu.paid");
    let sent = Outbound::new(&topic, &Message::new("x").build(), LIMITS).expect("a legal message");
    let mut delivery = delivery(sent);
    let mut table = FieldTable::default();
    table.insert(headers::ROUTING_KEY.into(), text("us.lost"));
    delivery.properties = delivery.properties.clone().with_headers(table);
    let received = received(&mut delivery, "events".into());
    assert_eq!(received.routing_key(), Some("eu.paid"));
}

fn waiting(message: &Message) -> Result<Outbound> {
    let later = Later::after("test", "orders", Duration::from_secs(5))?;
    Outbound::later(&Destination::queue("orders"), message, later, LIMITS)
}

#[test]
fn a_message_that_waits_has_no_expiry_and_no_priority_for_the_broker_and_takes_nothing_along_from_its_way()
 {
    let message = Message::new("x").header("mine", "yes");
    let message = message
        .expires_in(Duration::from_secs(60))
        .priority(3)
        .build();
    let mut delivery = delivery(waiting(&message).expect("a legal message"));
    assert_eq!(*delivery.properties.expiration(), None);
    assert_eq!(*delivery.properties.priority(), None);
    let mut table = delivery.properties.headers().clone().expect("headers");
    for name in ["x-first-death-queue", "x-last-death-reason"] {
        table.insert(name.into(), text("mq.delay.2"));
    }
    table.insert(
        "x-death".into(),
        AMQPValue::FieldArray(FieldArray::default()),
    );
    delivery.properties = std::mem::take(&mut delivery.properties).with_headers(table);
    let received = received(&mut delivery, "orders".into());
    assert_eq!(received.expires_in(), message.expires_in());
    assert_eq!(received.priority(), Some(3));
    assert_eq!(received.routing_key(), None);
    let mut names: Vec<&str> = received.headers().iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["mine", headers::DUE]);
}

#[test]
fn a_message_that_waits_leaves_room_for_what_the_broker_writes_into_its_headers() {
    let message = Message::new("x").header("large", "x".repeat(LIMITS.headers - 4096));
    let message = message.build();
    assert!(Outbound::new(&Destination::queue("orders"), &message, LIMITS).is_ok());
    let error = waiting(&message).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}
