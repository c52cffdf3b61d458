//! What a stranger writes to a queue through a client of its own: the consumer reads it, and goes on.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::process::ExitCode;

use lapin::{
    BasicProperties,
    options::ConfirmSelectOptions,
    types::{AMQPValue, DecimalValue, FieldArray, FieldTable},
};
use mq_amqp::{
    Amqp,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Delivery, Destination, ErrorKind, Message,
        Publisher, Subscription, headers,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, argument, expect_kind, next, text, unique};

fn main() -> ExitCode {
    Suite::new("hostile", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case("tables_and_arrays_a_hundred_deep_are_left_out", deep)
        .case("a_table_as_large_as_a_frame_is_read", huge)
        .case("wrong_types_in_our_own_headers_mean_nothing", wrong_types)
        .case("bytes_that_are_no_text_stay_bytes", not_text)
        .case("properties_at_their_limits_are_read", properties)
        .case("forged_attempts_do_not_overflow", attempts)
        .case("forged_counts_of_the_broker_do_not_overflow", counts)
        .case("forged_dead_letter_headers_are_replaced", dead)
        .case("a_forged_number_harms_no_publish", number)
        .run()
}

/// A queue that a stranger has written to, and a good message behind.
struct Stranger {
    bare: Bare,
    broker: Amqp,
    queue: String,
}

impl Stranger {
    async fn new(url: &str, kind: &str) -> Check<Self> {
        let bare = Bare::connect(url).await?;
        let queue = unique("hostile");
        bare.queue(&queue, &[("x-queue-type", argument(kind))])
            .await?;
        // Else the good message could overtake what was written before it.
        bare.channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let broker = Amqp::connect(url).await?;
        Ok(Self {
            bare,
            broker,
            queue,
        })
    }

    async fn write(&self, headers: FieldTable) -> Check {
        self.publish(BasicProperties::default().with_headers(headers), b"bad")
            .await
    }

    async fn publish(&self, properties: BasicProperties, body: &[u8]) -> Check {
        self.bare.publish(&self.queue, properties, body).await
    }

    /// Opens a consumer, with a good message behind all that was written.
    async fn consumer(&self, plan: ConsumePlan) -> Check<mq_amqp::AmqpConsumer> {
        let queue = Destination::queue(self.queue.as_str());
        self.broker
            .publisher()
            .publish(&queue, Message::new("good"))
            .await?;
        let subscription = Subscription::queue(self.queue.as_str());
        Ok(self.broker.consumer(&subscription, plan).await?)
    }

    /// What was written, each acknowledged; the good message came last.
    async fn read(&self) -> Check<Vec<mq_amqp::core::Received>> {
        let mut consumer = self.consumer(no_home()).await?;
        let mut read = Vec::new();
        loop {
            let delivery = next(&mut consumer).await?;
            let (received, settlement) = delivery.into_parts();
            settlement.ack()?;
            if received.payload().is_some_and(|p| p == "good") {
                break;
            }
            read.push(received);
        }
        consumer.close().await?;
        assert_eq!(self.bare.ready(&self.queue).await?, 0);
        self.bare.delete(&self.queue).await?;
        Ok(read)
    }
}

fn no_home() -> ConsumePlan {
    ConsumePlan::new().dead_letters(DeadLetters::None)
}

fn table(pairs: impl IntoIterator<Item = (impl Into<String>, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into().as_str().into(), value);
    }
    table
}

fn bytes(bytes: &[u8]) -> AMQPValue {
    AMQPValue::LongString(bytes.to_vec().into())
}

async fn deep(url: String) -> Check {
    let stranger = Stranger::new(&url, "classic").await?;
    let (mut tables, mut arrays) = (AMQPValue::Void, AMQPValue::Void);
    for _ in 0..100 {
        tables = AMQPValue::FieldTable(table([("t", tables)]));
        let mut array = FieldArray::default();
        array.push(arrays);
        arrays = AMQPValue::FieldArray(array);
    }
    stranger
        .write(table([
            ("tables", tables),
            ("arrays", arrays),
            ("kept", argument("yes")),
        ]))
        .await?;
    let read = stranger.read().await?;
    let names: Vec<_> = read[0].headers().iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["kept"]);
    Ok(())
}

async fn huge(url: String) -> Check {
    let stranger = Stranger::new(&url, "quorum").await?;
    let many = (0..1_250).map(|i| (format!("header-{i:05}"), bytes(&[b'x'; 80])));
    stranger.write(table(many)).await?;
    let long = table([("l".repeat(255), bytes(&[b'x'; 130_000]))]);
    stranger.write(long).await?;
    let read = stranger.read().await?;
    assert_eq!(read[0].headers().len(), 1_250);
    assert_eq!(
        read[1].headers().text(&"l".repeat(255)).map(str::len),
        Some(130_000)
    );
    Ok(())
}

/// Values of every type that AMQP has, none of them what our headers are made of.
/// (No number that is none: over that the broker ends the connection of who writes it.)
fn strange() -> Vec<AMQPValue> {
    vec![
        AMQPValue::Void,
        AMQPValue::Boolean(true),
        AMQPValue::ShortShortInt(-1),
        AMQPValue::LongLongInt(i64::MIN),
        AMQPValue::Double(-1.5e300),
        AMQPValue::DecimalValue(DecimalValue {
            scale: 255,
            value: u32::MAX,
        }),
        AMQPValue::Timestamp(u64::MAX),
        AMQPValue::FieldTable(FieldTable::default()),
        AMQPValue::FieldArray(FieldArray::default()),
        bytes(b""),
        bytes(&[0xff, 0x00, 0xfe]),
        argument("-99999999999999999999999"),
    ]
}

async fn wrong_types(url: String) -> Check {
    let ours = [
        headers::ID,
        headers::KEY,
        headers::TIME,
        headers::PUBLISH_NUMBER,
        headers::TOMBSTONE,
        headers::EXPIRES,
        headers::PRIORITY,
        headers::ROUTING_KEY,
        headers::ATTEMPT,
        headers::CONTENT_TYPE,
        "x-delivery-count",
        "x-acquired-count",
        "x-death",
    ];
    for kind in ["classic", "quorum"] {
        let stranger = Stranger::new(&url, kind).await?;
        for value in strange() {
            stranger
                .write(table(ours.map(|name| (name, value.clone()))))
                .await?;
        }
        let read = stranger.read().await?;
        assert_eq!(read.len(), strange().len());
        for (received, written) in read.into_iter().zip(strange()) {
            assert_eq!(received.payload().map(AsRef::as_ref), Some(&b"bad"[..]));
            // The one that is a number is taken for what it says.
            let attempt = match written {
                AMQPValue::Timestamp(_) => u32::MAX,
                _ => 1,
            };
            assert_eq!(received.attempt(), attempt, "{written:?}");
            assert_eq!(received.content_type(), None, "{written:?}");
            for (name, _) in received.headers().iter() {
                assert!(
                    !headers::is_mapped(name),
                    "{name} of a stranger is in the headers"
                );
            }
        }
    }
    Ok(())
}

async fn not_text(url: String) -> Check {
    let stranger = Stranger::new(&url, "classic").await?;
    let garbage = &[0xff, 0xfe, 0x00, 0x80][..];
    let names = [
        "plain",
        headers::KEY,
        headers::TIME,
        headers::ATTEMPT,
        headers::ROUTING_KEY,
    ];
    stranger
        .write(table(names.map(|name| (name, bytes(garbage)))))
        .await?;
    let read = stranger.read().await?;
    let received = &read[0];
    let plain = received
        .headers()
        .get("plain")
        .and_then(|value| value.as_bytes());
    assert_eq!(plain.map(AsRef::as_ref), Some(garbage));
    assert_eq!(
        received.key().map(|key| key.as_bytes().as_ref()),
        Some(garbage)
    );
    assert_eq!((received.attempt(), received.routing_key()), (1, None));
    Ok(())
}

async fn properties(url: String) -> Check {
    let stranger = Stranger::new(&url, "quorum").await?;
    let long = "\u{7}ü".repeat(85);
    let most = BasicProperties::default()
        .with_content_type(long.as_str().into())
        .with_content_encoding(long.as_str().into())
        .with_message_id(long.as_str().into())
        .with_correlation_id(long.as_str().into())
        .with_reply_to(long.as_str().into())
        .with_type(long.as_str().into())
        .with_app_id(long.as_str().into())
        .with_priority(255)
        .with_timestamp(u64::MAX)
        .with_expiration("315360000000".into());
    stranger.publish(most, b"").await?;
    // An id that is none: each read of the message makes one up.
    stranger
        .publish(
            BasicProperties::default().with_message_id("".into()),
            b"bad",
        )
        .await?;
    stranger
        .publish(BasicProperties::default().with_delivery_mode(1), b"bad")
        .await?;
    let read = stranger.read().await?;
    assert_eq!(read[0].correlation_id(), Some(long.as_str()));
    assert_eq!(
        (read[0].priority(), read[0].payload().map(|p| p.len())),
        (Some(255), Some(0))
    );
    assert!(!read[1].id().to_string().is_empty());
    assert_eq!(read.len(), 3);
    Ok(())
}

async fn attempts(url: String) -> Check {
    let stranger = Stranger::new(&url, "classic").await?;
    stranger
        .write(table([(headers::ATTEMPT, argument(&u64::MAX.to_string()))]))
        .await?;
    let mut consumer = stranger.consumer(no_home()).await?;
    // The queue counts nothing, so from its second failure on a copy carries the attempts.
    for _ in 0..4 {
        let bad = other_than_good(&mut consumer).await?;
        assert_eq!(bad.attempt(), u32::MAX);
        bad.into_settlement().requeue()?;
    }
    other_than_good(&mut consumer).await?.ack()?;
    consumer.close().await?;
    stranger.bare.delete(&stranger.queue).await
}

async fn counts(url: String) -> Check {
    for kind in ["classic", "quorum"] {
        let stranger = Stranger::new(&url, kind).await?;
        let forged = ["x-delivery-count", "x-acquired-count"];
        stranger
            .write(table(
                forged.map(|name| (name, AMQPValue::LongLongInt(i64::MAX))),
            ))
            .await?;
        let mut consumer = stranger.consumer(no_home()).await?;
        let bad = other_than_good(&mut consumer).await?;
        let first = bad.attempt();
        bad.into_settlement().requeue()?;
        let again = other_than_good(&mut consumer).await?;
        assert!(
            again.attempt() >= first.min(2),
            "{kind}: {first}, then {}",
            again.attempt()
        );
        if kind == "quorum" {
            // The queue's own count stands in place of the stranger's.
            assert_eq!(again.attempt(), 2);
        }
        again.ack()?;
        consumer.close().await?;
        stranger.bare.delete(&stranger.queue).await?;
    }
    Ok(())
}

/// The next delivery that is not the good message, which is acknowledged on the way.
async fn other_than_good(consumer: &mut mq_amqp::AmqpConsumer) -> Check<Delivery> {
    loop {
        let delivery = next(consumer).await?;
        if text(&delivery) != "good" {
            return Ok(delivery);
        }
        delivery.ack()?;
    }
}

async fn dead(url: String) -> Check {
    let stranger = Stranger::new(&url, "quorum").await?;
    let home = unique("home");
    stranger.bare.queue(&home, &[]).await?;
    let ours = [
        headers::DEAD_ORIGIN,
        headers::DEAD_REASON,
        headers::DEAD_ERROR,
        headers::DEAD_ATTEMPTS,
        headers::DEAD_FIRST,
        headers::DEAD_LAST,
        headers::DEAD_POSITION,
    ];
    let mut written = 0;
    for value in strange() {
        stranger
            .write(table(ours.map(|name| (name, value.clone()))))
            .await?;
        written += 1;
    }
    let to = DeadLetters::To(Destination::queue(home.as_str()));
    let mut consumer = stranger
        .consumer(ConsumePlan::new().dead_letters(to))
        .await?;
    for _ in 0..written {
        next(&mut consumer)
            .await?
            .into_settlement()
            .reject("not ours")?;
    }
    next(&mut consumer).await?.ack()?;
    consumer.settled().await?;
    consumer.close().await?;
    let subscription = Subscription::queue(home.as_str());
    let mut letters = stranger.broker.consumer(&subscription, no_home()).await?;
    for _ in 0..written {
        let letter = next(&mut letters).await?;
        let header = |name| letter.headers().text(name);
        assert_eq!(header(headers::DEAD_ORIGIN), Some(stranger.queue.as_str()));
        assert_eq!(header(headers::DEAD_REASON), Some("rejected"));
        assert_eq!(header(headers::DEAD_ERROR), Some("not ours"));
        assert_eq!(header(headers::DEAD_ATTEMPTS), Some("1"));
        assert_eq!(letter.headers().get(headers::DEAD_POSITION), None);
        for name in [headers::DEAD_FIRST, headers::DEAD_LAST] {
            let at: u64 = header(name).expect("a time").parse()?;
            assert!(at > 1_700_000_000_000, "{name} is {at}");
        }
        letter.ack()?;
    }
    letters.close().await?;
    stranger.bare.delete(&home).await?;
    stranger.bare.delete(&stranger.queue).await
}

async fn number(url: String) -> Check {
    let stranger = Stranger::new(&url, "quorum").await?;
    let there = unique("there");
    stranger.bare.queue(&there, &[]).await?;
    for number in 0..50 {
        let forged = table([(headers::PUBLISH_NUMBER, argument(&number.to_string()))]);
        stranger.write(forged).await?;
    }
    let mut consumer = stranger.consumer(no_home()).await?;
    // Passed on, once to a queue that is not there: the broker returns it with its number.
    let nowhere = Destination::queue(unique("nowhere"));
    let somewhere = Destination::queue(there.as_str());
    for _ in 0..50 {
        let (received, settlement) = next(&mut consumer).await?.into_parts();
        let message = received.message();
        let publisher = stranger.broker.publisher();
        let (lost, stored) = tokio::join!(
            publisher.publish(&nowhere, message.clone()),
            publisher.publish(&somewhere, message.clone())
        );
        expect_kind(lost, ErrorKind::Unroutable)?;
        stored?;
        settlement.ack()?;
    }
    next(&mut consumer).await?.ack()?;
    consumer.close().await?;
    stranger.bare.until_ready(&there, 50).await?;
    stranger.bare.delete(&there).await?;
    stranger.bare.delete(&stranger.queue).await
}
