//! Declaring, verifying and deleting.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use lapin::types::AMQPValue;
use mq_amqp::{
    QueueSettings,
    core::{
        Broker, ConsumePlan, Consumer, Deletion, Destination, ErrorKind, Filter, Message,
        Publisher, Subscription,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, argument, expect_kind, next, patient, text, unique};

fn main() -> ExitCode {
    Suite::new("topology", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .deadline(Duration::from_secs(240))
        .case(
            "declare_is_idempotent_and_waits_only_for_what_it_creates",
            idempotent,
        )
        .case("a_mismatch_shows_both_sides", mismatch)
        .case("each_argument_that_differs_shows_both_sides", arguments)
        .case("names_that_cannot_be_are_refused_and_shown", names)
        .case("verify_names_what_is_missing_and_creates_nothing", verify)
        .case("verify_names_every_difference", every_difference)
        .case(
            "verify_creates_nothing_that_is_deleted_meanwhile",
            verify_beside_delete,
        )
        .case("a_queue_in_use_is_not_deleted_and_says_why", in_use)
        .case(
            "a_topic_goes_with_what_hangs_on_it_and_with_nothing_else",
            topics_go,
        )
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
    let broker = patient(&url)?.connect().await?;
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
    let broker = patient(&url)?.connect().await?;
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
    let broker = patient(&url)?.connect().await?;
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
    let broker = patient(&url)?.connect().await?;
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
    let broker = patient(&url)?.connect().await?;
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

async fn every_difference(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let broker = patient(&url)?.connect().await?;
    let name = unique("differences");
    let there = [
        ("x-queue-type", argument("quorum")),
        ("x-delivery-limit", AMQPValue::LongInt(7)),
        ("x-message-ttl", AMQPValue::LongInt(60_000)),
        ("x-dead-letter-exchange", argument("elsewhere")),
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
    ];
    bare.queue(&name, &there).await?;
    let queue = Destination::queue(name.as_str());
    let error = expect_kind(broker.verify(&queue).await, ErrorKind::Mismatch)?;
    let mut found = Vec::new();
    for part in error.parts() {
        let context = |name| part.context(name).unwrap_or_default();
        let sides = format!("{}/{}", context("asked"), context("there"));
        found.push((
            part.kind(),
            context("queue").to_owned(),
            context("argument"),
            sides,
        ));
    }
    let home = format!("{name}.dead");
    let missing = |(kind, queue, ..): &(ErrorKind, String, &str, String)| {
        *kind == ErrorKind::NotFound && *queue == home
    };
    assert_eq!(found.iter().filter(|f| missing(f)).count(), 1, "{error}");
    found.retain(|f| !missing(f));
    assert!(found.iter().all(|(_, queue, ..)| *queue == name), "{error}");
    found.sort_by_key(|(_, _, argument, _)| *argument);
    let arguments: Vec<&str> = found.iter().map(|(_, _, argument, _)| *argument).collect();
    assert_eq!(
        arguments,
        [
            "x-dead-letter-exchange",
            "x-dead-letter-routing-key",
            "x-dead-letter-strategy",
            "x-delivery-limit",
            "x-message-ttl",
            "x-overflow",
            "x-single-active-consumer",
        ],
        "{error}"
    );
    for (wanted, (.., sides)) in [
        "'elsewhere'",
        "none",
        "none",
        "'20'/'7'",
        "60000",
        "none",
        "true",
    ]
    .into_iter()
    .zip(&found)
    {
        assert!(sides.contains(wanted), "{wanted}: {sides}");
    }
    let text = error.to_string();
    assert!(
        text.contains(&home) && text.contains("x-overflow"),
        "{text}"
    );
    // Another kind of queue, and an exchange of another kind that is not durable.
    let classic = unique("classic");
    let there = [
        ("x-queue-type", argument("classic")),
        ("x-max-length", AMQPValue::LongInt(3)),
    ];
    bare.queue(&classic, &there).await?;
    let queue = Destination::queue(format!("{classic}.dead"));
    bare.queue(queue.name(), &there).await?;
    let error = expect_kind(broker.verify(&queue).await, ErrorKind::Mismatch)?;
    let text = error.to_string();
    for argument in ["x-queue-type", "x-max-length"] {
        assert!(text.contains(argument), "{argument}: {text}");
    }
    let topic = unique("exchange");
    let options = lapin::options::ExchangeDeclareOptions::default();
    let transient = bare.channel.exchange_declare(
        topic.as_str().into(),
        lapin::ExchangeKind::Fanout,
        options,
        lapin::types::FieldTable::default(),
    );
    transient.await?;
    let verified = broker.verify(Destination::topic(topic.as_str())).await;
    let error = expect_kind(verified, ErrorKind::Mismatch)?;
    let named: Vec<_> = error
        .parts()
        .iter()
        .map(|e| e.context("argument"))
        .collect();
    assert_eq!(named, [Some("type"), Some("durable")], "{error}");
    broker.delete(Destination::topic(topic.as_str())).await?;
    // Nothing was changed: all of it is still as it was.
    for (name, there) in [(&name, 7), (&classic, 3)] {
        assert_eq!(bare.ready(name).await?, 0, "{there}");
        bare.delete(name).await?;
    }
    bare.delete(queue.name()).await
}

/// A question that declares could create what was deleted a moment before.
async fn verify_beside_delete(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let broker = patient(&url)?.connect().await?;
    let name = format!("{}.dead", unique("meanwhile"));
    let queue = Destination::queue(name.as_str());
    let topic = Destination::topic(unique("meanwhile"));
    let settings = [("x-queue-type", argument("classic"))];
    for _ in 0..30 {
        bare.queue(&name, &settings).await?;
        bare.exchange(topic.name(), "topic").await?;
        let delete = async {
            bare.delete(&name).await?;
            let options = lapin::options::ExchangeDeleteOptions::default();
            bare.channel
                .exchange_delete((&**topic.name()).into(), options)
                .await?;
            Check::Ok(())
        };
        let (deleted, ..) = tokio::join!(delete, broker.verify(&queue), broker.verify(&topic));
        deleted?;
        expect_kind(broker.verify(&queue).await, ErrorKind::NotFound)?;
        expect_kind(broker.verify(&topic).await, ErrorKind::NotFound)?;
    }
    Ok(())
}

async fn in_use(url: String) -> Check {
    let name = unique("in-use");
    for settings in [QueueSettings::classic(), QueueSettings::quorum()] {
        let broker = patient(&url)?
            .queue(name.as_str(), settings)
            .connect()
            .await?;
        let queue = Destination::queue(name.as_str());
        broker.declare(&queue).await?;
        broker
            .publisher()
            .publish(&queue, Message::new("1"))
            .await?;
        let error = expect_kind(broker.delete(&queue).await, ErrorKind::InUse)?;
        assert_eq!(error.context("messages"), Some("1"), "{error}");
        assert_eq!(error.context("queue"), Some(name.as_str()), "{error}");
        let mut consumer = broker
            .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
            .await?;
        let delivery = next(&mut consumer).await?;
        let deletion = || Deletion::of(&queue).with_messages();
        let error = expect_kind(broker.delete(deletion()).await, ErrorKind::InUse)?;
        assert_eq!(error.context("consumers"), Some("1"), "{error}");
        // The connection is as it was: a refusal by the broker itself would have ended it.
        delivery.ack()?;
        consumer.settled().await?;
        consumer.close().await?;
        broker.delete(&queue).await?;
        broker.delete(&queue).await?;
        let error = expect_kind(broker.verify(&queue).await, ErrorKind::NotFound)?;
        assert_eq!(error.parts().len(), 2, "{error}");
        broker.close().await?;
    }
    // What another connection has for itself.
    let owner = patient(&url)?
        .queue(name.as_str(), QueueSettings::exclusive())
        .connect()
        .await?;
    owner.declare(Destination::queue(name.as_str())).await?;
    let broker = patient(&url)?.connect().await?;
    let deleted = broker.delete(Destination::queue(name.as_str())).await;
    expect_kind(deleted, ErrorKind::InUse)?;
    owner.delete(Destination::queue(name.as_str())).await?;
    for what in ["amq.mine", "amq.topic"] {
        for refused in [
            broker.delete(Destination::queue(what)).await,
            broker.delete(Destination::topic(what)).await,
        ] {
            expect_kind(refused, ErrorKind::InvalidName)?;
        }
    }
    let ephemeral = broker.delete(Subscription::ephemeral("amq.topic")).await;
    expect_kind(ephemeral, ErrorKind::Unsupported)?;
    Ok(())
}

async fn topics_go(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let broker = patient(&url)?.connect().await?;
    let topic = Destination::topic(unique("going"));
    let name = topic.name();
    let headers = format!("{name}.headers");
    broker.declare(&topic).await?;
    let filter = Filter::AllHeaders(vec![("a".into(), "b".into())]);
    let subscription = Subscription::durable(name.clone(), "s").filter(filter);
    broker.declare(&subscription).await?;
    let error = expect_kind(broker.delete(&topic).await, ErrorKind::InUse)?;
    assert_eq!(error.context("topic"), Some(headers.as_str()), "{error}");
    broker.verify(&subscription).await?;
    // An open ephemeral subscription needs the topic too.
    broker.delete(&subscription).await?;
    let other = patient(&url)?.connect().await?;
    let open = other
        .consumer(&Subscription::ephemeral(name.clone()), ConsumePlan::new())
        .await?;
    let error = expect_kind(broker.delete(&topic).await, ErrorKind::InUse)?;
    assert_eq!(error.context("topic"), Some(&**name), "{error}");
    open.close().await?;
    // Its queue is gone with its connection.
    other.close().await?;
    broker.delete(&topic).await?;
    for gone in [name, headers.as_str()] {
        let verified = broker.verify(Destination::topic(gone)).await;
        expect_kind(verified, ErrorKind::NotFound)?;
    }
    // A topic of one's own that has this name stays.
    let own = Destination::topic(headers.as_str());
    broker.declare(&topic).await?;
    broker.declare(&own).await?;
    broker.delete(&topic).await?;
    broker.verify(&own).await?;
    broker.delete(&own).await?;
    bare.exchange(name, "fanout").await?;
    broker.delete(&topic).await?;
    expect_kind(broker.verify(&topic).await, ErrorKind::NotFound)?;
    Ok(())
}

async fn filters(url: String) -> Check {
    let broker = patient(&url)?.connect().await?;
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
    let broker = patient(&url)?.connect().await?;
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
