//! Declaring and verifying.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use lapin::types::AMQPValue;
use mq_amqp::{
    Amqp,
    core::{
        Broker, ConsumePlan, Consumer, Destination, ErrorKind, Filter, Message, Publisher,
        Subscription,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, argument, expect_kind, next, text, unique};

fn main() -> ExitCode {
    Suite::new("topology", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case(
            "declare_is_idempotent_and_waits_only_for_what_it_creates",
            idempotent,
        )
        .case("a_mismatch_shows_both_sides", mismatch)
        .case("each_argument_that_differs_shows_both_sides", arguments)
        .case("names_that_cannot_be_are_refused_and_shown", names)
        .case("verify_names_what_is_missing_and_creates_nothing", verify)
        .case("each_filter_takes_what_it_should", filters)
        .case(
            "a_queue_that_gives_up_dead_letters_by_the_broker_too",
            broker_gives_up,
        )
        .run()
}

async fn clean(url: &str, queues: &[&str]) -> Check {
    let bare = Bare::connect(url).await?;
    for queue in queues {
        bare.delete(queue).await?;
    }
    Ok(())
}

async fn idempotent(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let name = unique("idempotent");
    let queue = Destination::queue(name.as_str());
    let begun = Instant::now();
    broker.declare(&queue).await?;
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "a young quorum queue is not safe yet"
    );
    let begun = Instant::now();
    broker.declare(&queue).await?;
    broker.verify(&queue).await?;
    broker
        .verify(Destination::queue(format!("{name}.dead")))
        .await?;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    clean(&url, &[&name, &format!("{name}.dead")]).await
}

async fn mismatch(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let broker = Amqp::connect(&url).await?;
    let name = format!("{}.dead", unique("mismatch"));
    let arguments = [
        ("x-queue-type", argument("quorum")),
        ("x-delivery-limit", AMQPValue::LongInt(7)),
    ];
    bare.queue(&name, &arguments).await?;
    let queue = Destination::queue(name.as_str());
    for result in [broker.verify(&queue).await, broker.declare(&queue).await] {
        let error = expect_kind(result, ErrorKind::Mismatch)?;
        assert_eq!(
            error.context("argument"),
            Some("x-delivery-limit"),
            "{error}"
        );
        assert_eq!(error.context("asked"), Some("'20'"));
        assert_eq!(error.context("there"), Some("'7'"));
        assert_eq!(error.context("queue"), Some(name.as_str()));
    }
    let topic = Destination::topic("amq.fanout");
    let error = expect_kind(broker.declare(&topic).await, ErrorKind::InvalidName)?;
    assert!(error.to_string().contains("amq.fanout"), "{error}");
    bare.delete(&name).await
}

async fn arguments(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let broker = Amqp::connect(&url).await?;
    let ours = || {
        vec![
            ("x-queue-type", argument("quorum")),
            ("x-delivery-limit", AMQPValue::LongInt(20)),
        ]
    };
    let with = |name, value| [ours(), vec![(name, value)]].concat();
    let cases = [
        (
            vec![("x-queue-type", argument("classic"))],
            "x-queue-type",
            "'quorum'",
            "'classic'",
        ),
        (
            vec![("x-queue-type", argument("quorum"))],
            "x-delivery-limit",
            "the value '20'",
            "none",
        ),
        (
            with("x-message-ttl", AMQPValue::LongInt(5)),
            "x-message-ttl",
            "none",
            "the value '5'",
        ),
        (
            with("x-overflow", argument("drop-head")),
            "x-overflow",
            "none",
            "the value 'drop-head'",
        ),
    ];
    for (there, differs, asked, found) in cases {
        let name = format!("{}.dead", unique("argument"));
        bare.queue(&name, &there).await?;
        let queue = Destination::queue(name.as_str());
        for result in [broker.verify(&queue).await, broker.declare(&queue).await] {
            let error = expect_kind(result, ErrorKind::Mismatch)?;
            assert_eq!(error.context("queue"), Some(name.as_str()), "{error}");
            assert_eq!(error.context("argument"), Some(differs), "{error}");
            for (side, value) in [("asked", asked), ("there", found)] {
                let shown = error.context(side).unwrap_or_default();
                assert!(shown.contains(value), "{side} is not {value}: {error}");
            }
        }
        bare.delete(&name).await?;
    }
    Ok(())
}

async fn names(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let long = "n".repeat(241);
    for name in ["", ".", "..", "a\nb", "a\0b", "\u{7f}", &long] {
        let shown: String = name.escape_debug().to_string().chars().take(64).collect();
        let topic = || Destination::topic(name);
        for result in [
            broker.declare(Destination::queue(name)).await,
            broker.verify(topic()).await,
            broker.declare(Subscription::durable(name, "s")).await,
            broker.declare(Subscription::durable("events", name)).await,
            broker
                .publisher()
                .publish(&topic(), Message::new("x"))
                .await
                .map(drop),
            broker
                .consumer(&Subscription::ephemeral(name), ConsumePlan::new())
                .await
                .map(drop),
        ] {
            let error = expect_kind(result, ErrorKind::InvalidName)?;
            assert_eq!(error.context("name"), Some(shown.as_str()), "{error}");
        }
    }
    // The broker's own names can be used, and not made.
    for what in ["amq.mine", "amq.topic"] {
        for result in [
            broker.declare(Destination::queue(what)).await,
            broker.declare(Destination::topic(what)).await,
        ] {
            let error = expect_kind(result, ErrorKind::InvalidName)?;
            assert_eq!(error.context("name"), Some(what), "{error}");
        }
    }
    let mut consumer = broker
        .consumer(&Subscription::ephemeral("amq.topic"), ConsumePlan::new())
        .await?;
    let key = unique("key");
    let to = Destination::topic("amq.topic").routing_key(key.as_str());
    broker
        .publisher()
        .publish(&to.mandatory(), Message::new("x"))
        .await?;
    while next(&mut consumer).await?.routing_key() != Some(key.as_str()) {}
    // What is too long beside a name.
    let long = "k".repeat(256);
    let to = Destination::topic("amq.topic").routing_key(long.as_str());
    let error = expect_kind(
        broker.publisher().publish(&to, Message::new("x")).await,
        ErrorKind::InvalidName,
    )?;
    assert_eq!(error.context("field"), Some("routing key"), "{error}");
    let filtered = Subscription::ephemeral("amq.topic").filter(Filter::exact(long));
    let error = expect_kind(
        broker
            .consumer(&filtered, ConsumePlan::new())
            .await
            .map(drop),
        ErrorKind::Config,
    )?;
    assert!(error.to_string().contains("255 bytes"), "{error}");
    Ok(())
}

async fn verify(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    for destination in [
        Destination::queue(unique("none")),
        Destination::topic(unique("none")),
    ] {
        for _ in 0..2 {
            let error = expect_kind(broker.verify(&destination).await, ErrorKind::NotFound)?;
            assert!(error.to_string().contains(&**destination.name()), "{error}");
        }
    }
    let topic = unique("none");
    let subscription = Subscription::durable(topic.as_str(), "s");
    for result in [
        broker.verify(&subscription).await,
        broker.declare(&subscription).await,
    ] {
        let error = expect_kind(result, ErrorKind::NotFound)?;
        assert_eq!(error.context("topic"), Some(topic.as_str()));
    }
    Ok(())
}

async fn filters(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let topic = Destination::topic(unique("filtered"));
    broker.declare(&topic).await?;
    let pairs = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(n, v)| ((*n).into(), (*v).into()))
            .collect()
    };
    let cases = [
        ("all", Filter::All, "abcd"),
        ("exact", Filter::exact("eu.paid"), "a"),
        ("pattern", Filter::pattern("eu.*"), "ab"),
        (
            "both",
            Filter::AllHeaders(pairs(&[("x-kind", "order"), ("size", "big")])),
            "c",
        ),
        (
            "either",
            Filter::AnyHeader(pairs(&[("x-kind", "order"), ("size", "big")])),
            "bc",
        ),
    ];
    let mut consumers = Vec::new();
    for (name, filter, _) in &cases {
        let subscription =
            Subscription::durable(topic.name().clone(), *name).filter(filter.clone());
        // One settle each; the broker does not need them one after the other.
        let broker = broker.clone();
        consumers.push(async move {
            broker.declare(&subscription).await?;
            broker.verify(&subscription).await?;
            Check::Ok(broker.consumer(&subscription, ConsumePlan::new()).await?)
        });
    }
    let consumers = futures::future::try_join_all(consumers).await?;
    let messages = [
        ("eu.paid", Message::new("a")),
        ("eu.open", Message::new("b").header("size", "big")),
        (
            "us.paid",
            Message::new("c")
                .header("x-kind", "order")
                .header("size", "big"),
        ),
        ("", Message::new("d").header("size", "small")),
    ];
    for (key, message) in messages {
        let to = topic.clone().routing_key(key).mandatory();
        broker.publisher().publish(&to, message).await?;
    }
    // One more that all of them take says that the others have come.
    let last = Message::new("z")
        .header("x-kind", "order")
        .header("size", "big");
    broker
        .publisher()
        .publish(&topic.clone().routing_key("eu.paid"), last)
        .await?;
    for ((name, _, expected), mut consumer) in cases.iter().zip(consumers) {
        let mut taken = String::new();
        while !taken.ends_with('z') {
            let delivery = next(&mut consumer).await?;
            taken.push_str(&text(&delivery));
            delivery.ack()?;
        }
        assert_eq!(taken, format!("{expected}z"), "{name}");
        consumer.close().await?;
        let queue = format!("{name}@{}", topic.name());
        clean(&url, &[&queue, &format!("{}.{name}.dead", topic.name())]).await?;
    }
    Ok(())
}

async fn broker_gives_up(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let name = unique("limit");
    broker.declare(Destination::queue(name.as_str())).await?;
    broker
        .publisher()
        .publish(&Destination::queue(name.as_str()), Message::new("poison"))
        .await?;
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
        .await?;
    for attempt in 1..=21 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.attempt(), attempt);
        delivery.into_settlement().requeue()?;
    }
    let dead = format!("{name}.dead");
    let mut letters = broker
        .consumer(&Subscription::queue(dead.as_str()), ConsumePlan::new())
        .await?;
    let letter = next(&mut letters).await?;
    assert_eq!(text(&letter), "poison");
    letter.ack()?;
    letters.close().await?;
    consumer.close().await?;
    clean(&url, &[&name, &dead]).await
}
