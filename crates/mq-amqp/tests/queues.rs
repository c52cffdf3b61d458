//! The settings of queues, each by what the broker then does.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{process::ExitCode, time::Duration};

use lapin::options::BasicGetOptions;
use mq_amqp::{
    Amqp, Overflow, QueueSettings,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Message, Publisher,
        Subscription, Unconfirmed,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, builder, expect_kind, next, soon, text, unique};

fn main() -> ExitCode {
    Suite::new("queues", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case(
            "a_declared_queue_has_its_settings_and_others_show_both_sides",
            settings,
        )
        .case(
            "settings_that_exclude_each_other_are_refused_before_connecting",
            clash,
        )
        .case("a_full_queue_rejects_the_publish", full)
        .case("drop_head_drops_the_oldest_confirmed_message", drop_head)
        .case("an_exclusive_queue_is_gone_with_its_connection", exclusive)
        .case(
            "an_expired_message_goes_where_the_brokers_letters_go",
            expired,
        )
        .case("an_unused_queue_expires", unused)
        .case(
            "a_delivery_limit_of_its_own_is_kept_and_bounds_the_plan",
            delivery_limit,
        )
        .case("every_failure_on_a_classic_queue_is_counted", counted)
        .case(
            "a_failing_message_reaches_its_ceiling_though_each_consumer_ends",
            ceiling,
        )
        .case("one_consumer_at_a_time_is_active", single_active)
        .case(
            "only_what_is_published_to_a_transient_destination_is_transient",
            transient,
        )
        .run()
}

/// A client that knows one queue by settings, which is declared.
async fn with(url: &str, name: &str, settings: QueueSettings) -> Check<Amqp> {
    let broker = builder(url)?.queue(name, settings).connect().await?;
    broker.declare(Destination::queue(name)).await?;
    Ok(broker)
}

async fn clean(url: &str, name: &str) -> Check {
    let bare = Bare::connect(url).await?;
    bare.delete(name).await?;
    bare.delete(&format!("{name}.dead")).await
}

async fn settings(url: String) -> Check {
    let classic = || {
        QueueSettings::classic()
            .max_length(10)
            .max_bytes(1_000_000)
            .message_ttl(Duration::from_secs(600))
            .expires(Duration::from_secs(600))
            .single_active_consumer()
    };
    let quorum = || {
        QueueSettings::quorum()
            .delivery_limit(7)
            .max_length(10)
            .overflow(Overflow::DropHead)
    };
    let cases = [
        (
            classic(),
            classic().max_length(11),
            "x-max-length",
            "'11'",
            "'10'",
        ),
        (
            classic(),
            classic().message_ttl(Duration::from_secs(1)),
            "x-message-ttl",
            "'1000'",
            "'600000'",
        ),
        (
            quorum(),
            quorum().delivery_limit(8),
            "x-delivery-limit",
            "'8'",
            "'7'",
        ),
        (
            quorum(),
            quorum().max_length(9),
            "x-max-length",
            "'9'",
            "'10'",
        ),
        (
            classic(),
            classic().max_bytes(999_999),
            "x-max-length-bytes",
            "'999999'",
            "'1000000'",
        ),
        (
            classic(),
            classic().expires(Duration::from_secs(601)),
            "x-expires",
            "'601000'",
            "'600000'",
        ),
        (
            QueueSettings::classic().max_length(10),
            QueueSettings::quorum().max_length(10),
            "x-queue-type",
            "'quorum'",
            "'classic'",
        ),
    ];
    for (there, asked, argument, one, other) in cases {
        let name = unique("settings");
        let queue = Destination::queue(name.as_str());
        let broker = with(&url, &name, there).await?;
        broker.declare(&queue).await?;
        broker.verify(&queue).await?;
        broker.close().await?;
        let broker = builder(&url)?.queue(name.as_str(), asked).connect().await?;
        for result in [broker.verify(&queue).await, broker.declare(&queue).await] {
            let error = expect_kind(result, ErrorKind::Mismatch)?;
            assert_eq!(error.context("argument"), Some(argument), "{error}");
            for (side, value) in [("asked", one), ("there", other)] {
                let shown = error.context(side).unwrap_or_default();
                assert!(shown.contains(value), "{side} is not {value}: {error}");
            }
            assert!(error.to_string().contains("AmqpBuilder::queue"), "{error}");
        }
        clean(&url, &name).await?;
    }
    Ok(())
}

async fn clash(url: String) -> Check {
    // A queue that is not named is a quorum queue.
    for builder in [
        builder(&url)?.transient(Destination::queue("prices")),
        builder(&url)?.queue(
            "prices",
            QueueSettings::quorum().overflow(Overflow::DropHead),
        ),
    ] {
        let error = expect_kind(builder.connect().await, ErrorKind::Config)?;
        assert_eq!(error.context("queue"), Some("prices"), "{error}");
        assert!(error.context("setting").is_some(), "{error}");
        assert!(error.context("against").is_some(), "{error}");
    }
    // What only the subscription says, is refused where it is used.
    let broker = builder(&url)?
        .queue("s@events", QueueSettings::exclusive())
        .connect()
        .await?;
    let subscription = Subscription::durable("events", "s");
    let opened = broker.consumer(&subscription, ConsumePlan::new()).await;
    for result in [broker.declare(&subscription).await, opened.map(drop)] {
        let error = expect_kind(result, ErrorKind::Config)?;
        assert_eq!(
            error.context("against"),
            Some("durable subscription"),
            "{error}"
        );
    }
    Ok(())
}

async fn full(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    for settings in [QueueSettings::classic(), QueueSettings::quorum()] {
        let name = unique("full");
        let broker = with(&url, &name, settings.max_length(5)).await?;
        let to = Destination::queue(name.as_str());
        let mut confirmed = 0;
        for i in 0..20 {
            match broker
                .publisher()
                .publish(&to, Message::new(i.to_string()))
                .await
            {
                Ok(_) => confirmed += 1,
                Err(error) => {
                    let error = expect_kind::<()>(Err(error), ErrorKind::Rejected)?;
                    assert!(error.to_string().contains(&name), "{error}");
                }
            }
        }
        // A quorum queue takes one or two more than its limit.
        assert!((5..=7).contains(&confirmed), "{confirmed} confirmed");
        bare.until_ready(&name, confirmed).await?;
        clean(&url, &name).await?;
    }
    Ok(())
}

async fn drop_head(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("drop-head");
    let settings = QueueSettings::classic()
        .max_length(3)
        .overflow(Overflow::DropHead)
        .broker_dead_letters(DeadLetters::None);
    let broker = with(&url, &name, settings).await?;
    let to = Destination::queue(name.as_str());
    for i in 0..10 {
        broker
            .publisher()
            .publish(&to, Message::new(i.to_string()))
            .await?;
    }
    bare.until_ready(&name, 3).await?;
    assert_eq!(bare.ready(&format!("{name}.dead")).await?, 0);
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
        .await?;
    for left in ["7", "8", "9"] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(text(&delivery), left);
        delivery.ack()?;
    }
    consumer.close().await?;
    clean(&url, &name).await
}

async fn exclusive(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("exclusive");
    let broker = with(&url, &name, QueueSettings::exclusive()).await?;
    let to = Destination::queue(name.as_str());
    broker.verify(&to).await?;
    broker.publisher().publish(&to, Message::new("x")).await?;
    let subscription = Subscription::queue(name.as_str());
    let mut consumer = broker.consumer(&subscription, ConsumePlan::new()).await?;
    next(&mut consumer).await?.ack()?;
    consumer.close().await?;
    let other = Amqp::connect(&url).await?;
    let error = expect_kind(other.verify(&to).await, ErrorKind::InUse)?;
    assert_eq!(error.context("queue"), Some(name.as_str()), "{error}");
    broker.close().await?;
    let gone = async {
        // The broker may hold it for a moment longer than the connection, and tells nobody.
        while expect_kind(other.verify(&to).await, ErrorKind::NotFound).is_err() {}
    };
    soon("the queue's end", gone).await?;
    bare.delete(&format!("{name}.dead")).await
}

async fn expired(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let short = || QueueSettings::classic().message_ttl(Duration::from_millis(50));
    let (name, elsewhere) = (unique("ttl"), unique("elsewhere"));
    let to = Destination::queue(name.as_str());
    // Its own home, if nothing else is said.
    let broker = with(&url, &name, short()).await?;
    broker.publisher().publish(&to, Message::new("x")).await?;
    bare.until_ready(&format!("{name}.dead"), 1).await?;
    broker.close().await?;
    clean(&url, &name).await?;
    // Another place has to be there, or the broker would drop what it sends there.
    let other = DeadLetters::To(Destination::queue(elsewhere.as_str()));
    let settings = short().broker_dead_letters(other);
    let broker = builder(&url)?
        .queue(name.as_str(), settings)
        .connect()
        .await?;
    let error = expect_kind(broker.declare(&to).await, ErrorKind::NotFound)?;
    assert!(error.to_string().contains(&elsewhere), "{error}");
    bare.queue(&elsewhere, &[]).await?;
    broker.declare(&to).await?;
    broker.publisher().publish(&to, Message::new("x")).await?;
    bare.until_ready(&elsewhere, 1).await?;
    assert_eq!(bare.ready(&format!("{name}.dead")).await?, 0);
    bare.delete(&elsewhere).await?;
    clean(&url, &name).await
}

async fn unused(url: String) -> Check {
    let name = unique("unused");
    let settings = QueueSettings::classic().expires(Duration::from_millis(200));
    let broker = with(&url, &name, settings).await?;
    let to = Destination::queue(name.as_str());
    let gone = async {
        // A look would prolong its life, a publish is no use of it.
        let publisher = broker.publisher();
        let publish = || publisher.publish(&to, Message::new("x"));
        while expect_kind(publish().await, ErrorKind::Unroutable).is_err() {}
    };
    soon("the queue's end", gone).await?;
    expect_kind(broker.verify(&to).await, ErrorKind::NotFound)?;
    Bare::connect(&url)
        .await?
        .delete(&format!("{name}.dead"))
        .await
}

async fn delivery_limit(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("limit");
    let broker = with(&url, &name, QueueSettings::quorum().delivery_limit(2)).await?;
    let subscription = Subscription::queue(name.as_str());
    let mut plan = ConsumePlan::new();
    let refused = broker.consumer(&subscription, plan.clone()).await;
    let error = expect_kind(refused.map(drop), ErrorKind::Config)?;
    assert_eq!(error.context("delivery_limit"), Some("2"), "{error}");
    assert_eq!(error.context("max_attempts"), Some("5"), "{error}");
    plan.max_attempts = 2;
    let to = Destination::queue(name.as_str());
    broker
        .publisher()
        .publish(&to, Message::new("poison"))
        .await?;
    let mut consumer = broker.consumer(&subscription, plan).await?;
    for attempt in 1..=3 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.attempt(), attempt);
        delivery.into_settlement().requeue()?;
    }
    bare.until_ready(&format!("{name}.dead"), 1).await?;
    consumer.close().await?;
    // A limit above the default lets a plan go beyond it.
    let mut plan = ConsumePlan::new();
    plan.max_attempts = 30;
    let high = unique("limit");
    let settings = QueueSettings::quorum().delivery_limit(30);
    let broker = with(&url, &high, settings).await?;
    let subscription = Subscription::queue(high.as_str());
    broker.consumer(&subscription, plan).await?.close().await?;
    clean(&url, &high).await?;
    clean(&url, &name).await
}

async fn counted(url: String) -> Check {
    let name = unique("counted");
    let broker = with(&url, &name, QueueSettings::classic()).await?;
    let to = Destination::queue(name.as_str());
    broker.publisher().publish(&to, Message::new("x")).await?;
    let mut plan = ConsumePlan::new();
    // No broker limits it here.
    plan.max_attempts = 100;
    for attempt in 1..=4 {
        // A consumer of its own for each failure, as after a restart.
        let mut consumer = broker
            .consumer(&Subscription::queue(name.as_str()), plan.clone())
            .await?;
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.attempt(), attempt);
        delivery.into_settlement().requeue()?;
        consumer.close().await?;
    }
    clean(&url, &name).await
}

async fn ceiling(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("ceiling");
    bare.queue(&name, &[("x-queue-type", support::argument("classic"))])
        .await?;
    // This client was not told of what kind the queue is.
    let broker = Amqp::connect(&url).await?;
    let to = Destination::queue(name.as_str());
    broker.publisher().publish(&to, Message::new("x")).await?;
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let mut attempts = Vec::new();
    while attempts.last() != Some(&5) {
        let mut consumer = broker
            .consumer(&Subscription::queue(name.as_str()), plan.clone())
            .await?;
        let delivery = next(&mut consumer).await?;
        attempts.push(delivery.attempt());
        delivery.into_settlement().requeue()?;
        consumer.close().await?;
        assert!(attempts.len() < 20, "no ceiling: {attempts:?}");
    }
    // At least every second failure is counted: the queue shows what it is at a redelivery.
    assert!(attempts.len() <= 9, "{attempts:?}");
    let by_one = |pair: &[u32]| (0..=1).contains(&(pair[1] - pair[0]));
    assert!(attempts.windows(2).all(by_one), "{attempts:?}");
    bare.delete(&name).await
}

async fn single_active(url: String) -> Check {
    let name = unique("single");
    let settings = QueueSettings::classic().single_active_consumer();
    let broker = with(&url, &name, settings).await?;
    let subscription = Subscription::queue(name.as_str());
    let mut first = broker.consumer(&subscription, ConsumePlan::new()).await?;
    let mut second = broker.consumer(&subscription, ConsumePlan::new()).await?;
    let to = Destination::queue(name.as_str());
    for i in 0..10 {
        broker
            .publisher()
            .publish(&to, Message::new(i.to_string()))
            .await?;
    }
    for i in 0..10 {
        let delivery = next(&mut first).await?;
        assert_eq!(text(&delivery), i.to_string());
        delivery.ack()?;
    }
    first.close().await?;
    broker
        .publisher()
        .publish(&to, Message::new("last"))
        .await?;
    let delivery = next(&mut second).await?;
    assert_eq!(text(&delivery), "last");
    delivery.ack()?;
    second.close().await?;
    clean(&url, &name).await
}

async fn transient(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let (prices, orders, events) = (unique("prices"), unique("orders"), unique("events"));
    let broker = builder(&url)?
        .queue(prices.as_str(), QueueSettings::classic())
        .queue(orders.as_str(), QueueSettings::classic())
        .transient(Destination::queue(prices.as_str()))
        .transient(Destination::topic(events.as_str()))
        // A topic that has the name of a queue is another place.
        .transient(Destination::topic(orders.as_str()))
        .connect()
        .await?;
    for queue in [&prices, &orders] {
        broker.declare(Destination::queue(queue.as_str())).await?;
    }
    let topic = Destination::topic(events.as_str());
    broker.declare(&topic).await?;
    let subscription = Subscription::durable(events.as_str(), "s");
    broker.declare(&subscription).await?;
    let read = async |queue: &str| {
        let got = async {
            loop {
                let options = BasicGetOptions { no_ack: true };
                if let Some(got) = bare.channel.basic_get(queue.into(), options).await? {
                    return Check::Ok(*got.properties.delivery_mode());
                }
                tokio::task::yield_now().await;
            }
        };
        soon("a message", got).await?
    };
    for (to, queue, mode) in [
        (Destination::queue(prices.as_str()), prices.clone(), 1),
        (Destination::queue(orders.as_str()), orders.clone(), 2),
        (topic.clone(), format!("s@{events}"), 1),
    ] {
        broker.publisher().publish(&to, Message::new("x")).await?;
        assert_eq!(read(&queue).await?, Some(mode), "{to}");
        broker
            .unconfirmed()
            .hand_over(&to, Message::new("x"))
            .await?;
        assert_eq!(read(&queue).await?, Some(mode), "{to}, unconfirmed");
        let many = vec![Message::new("x").build()];
        broker
            .publisher()
            .publish_batch(&to, many)
            .await
            .all_confirmed()?;
        assert_eq!(read(&queue).await?, Some(mode), "{to}, in a batch");
    }
    // What failed is kept with more care.
    let to = Destination::queue(prices.as_str());
    broker.publisher().publish(&to, Message::new("x")).await?;
    let mut consumer = broker
        .consumer(&Subscription::queue(prices.as_str()), ConsumePlan::new())
        .await?;
    next(&mut consumer).await?.into_settlement().requeue()?;
    consumer.close().await?;
    assert_eq!(
        read(&prices).await?,
        Some(2),
        "the copy of a failed message"
    );
    bare.delete(&format!("s@{events}")).await?;
    bare.delete(&format!("{events}.s.dead")).await?;
    clean(&url, &orders).await?;
    clean(&url, &prices).await
}
