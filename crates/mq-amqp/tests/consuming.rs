//! Deliveries and their settlements.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{process::ExitCode, time::Duration};

use lapin::{
    BasicProperties,
    options::BasicQosOptions,
    types::{AMQPValue, FieldArray, FieldTable},
};
use mq_amqp::{
    Amqp, AmqpConsumer,
    core::{
        AtMostOnce, Broker, ConsumePlan, Consumer, DeadLetters, Delivery, Destination, ErrorKind,
        Message, Publisher, Subscription, Worker, headers,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{
    Bare, argument, expect_kind, fill, next,
    relay::{Relay, Settled},
    soon, text, unique,
};

fn main() -> ExitCode {
    Suite::new("consuming", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case("never_holds_more_than_the_prefetch", prefetch)
        .case("acks_are_coalesced_yet_never_across_a_requeue", coalesced)
        .case("a_slow_delivery_does_not_stop_the_others", slow)
        .case(
            "close_flushes_acks_and_gives_back_uncounted_what_nobody_saw",
            close,
        )
        .case(
            "a_drop_counts_what_was_handed_out_and_nothing_else",
            dropped,
        )
        .case("a_quorum_queue_counts_requeues_and_not_releases", counted)
        .case(
            "a_classic_queue_gets_its_failures_counted_in_copies",
            classic,
        )
        .case(
            "an_ephemeral_subscription_counts_and_keeps_the_routing_key",
            ephemeral,
        )
        .case("a_reject_moves_the_message_and_settles_at_once", reject)
        .case(
            "a_dead_letter_that_is_not_confirmed_ends_the_consumer_and_keeps_the_message",
            lost_home,
        )
        .case("settled_waits_for_dead_letters", settled)
        .case("more_attempts_than_the_broker_allows_are_refused", attempts)
        .case("a_message_published_twice_is_not_flagged", twice)
        .case(
            "at_most_once_loses_what_was_acknowledged_and_not_handled",
            at_most_once,
        )
        .case("reads_a_message_of_a_stranger", stranger)
        .run()
}

fn no_home() -> ConsumePlan {
    ConsumePlan::new().dead_letters(DeadLetters::None)
}

async fn open(broker: &Amqp, queue: &str, plan: ConsumePlan) -> Check<AmqpConsumer> {
    Ok(broker.consumer(&Subscription::queue(queue), plan).await?)
}

async fn take(consumer: &mut AmqpConsumer, count: usize) -> Check<Vec<Delivery>> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let left = count - taken.len();
        let got = soon("deliveries", consumer.receive_many(&mut taken, left)).await??;
        assert!((1..=left).contains(&got), "{got} of {left}");
    }
    Ok(taken)
}

/// A quorum queue that counts; older than its first fault by the two seconds that `declare` waits.
async fn quorum(broker: &Amqp, what: &str) -> Check<String> {
    let name = unique(what);
    broker.declare(Destination::queue(name.as_str())).await?;
    Ok(name)
}

async fn clean(url: &str, name: &str) -> Check {
    let bare = Bare::connect(url).await?;
    bare.delete(name).await?;
    bare.delete(&format!("{name}.dead")).await
}

async fn prefetch(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("prefetch");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    fill(&broker, &name, 50).await?;
    let mut consumer = open(&broker, &name, no_home().prefetch(10)).await?;
    let held = take(&mut consumer, 10).await?;
    bare.until_ready(&name, 40).await?;
    let more =
        tokio::time::timeout(std::time::Duration::from_millis(300), consumer.receive()).await;
    assert!(more.is_err(), "an eleventh delivery");
    for delivery in held {
        delivery.ack()?;
    }
    take(&mut consumer, 10).await?;
    bare.until_ready(&name, 30).await?;
    consumer.close().await?;
    bare.delete(&name).await
}

async fn coalesced(url: String) -> Check {
    let relay = Relay::start(&url).await?;
    let bare = Bare::connect(&url).await?;
    let name = unique("coalesced");
    bare.queue(&name, &[("x-queue-type", argument("quorum"))])
        .await?;
    let broker = Amqp::connect(relay.url()).await?;
    fill(&broker, &name, 200).await?;
    let mut consumer = open(&broker, &name, no_home().prefetch(200)).await?;
    let held = take(&mut consumer, 200).await?;
    let begun = std::time::Instant::now();
    for (i, delivery) in held.into_iter().enumerate() {
        match i {
            120 => delivery.into_settlement().requeue()?,
            _ => delivery.ack()?,
        }
        // Long enough that each of them could be sent by itself.
        let marked = std::time::Instant::now();
        while marked.elapsed() < std::time::Duration::from_micros(150) {
            tokio::task::yield_now().await;
        }
    }
    consumer.settled().await?;
    let settlements = relay.settlements();
    // One for each millisecond, for each quarter of the prefetch, and around the requeue.
    let most = begun.elapsed().as_millis() + 4 + 4;
    let frames = settlements.len();
    assert!(frames as u128 <= most, "{frames} frames for 200 verdicts");
    let requeue = Settled::Reject {
        tag: 121,
        requeue: true,
    };
    let at = settlements
        .iter()
        .position(|s| *s == requeue)
        .expect("the requeue is on the wire");
    for settled in &settlements[..at] {
        let Settled::Ack { tag, .. } = settled else {
            panic!("{settled:?}")
        };
        assert!(*tag < 121, "an ack across the requeue: {settled:?}");
    }
    // The one that was requeued, and nothing else, is still there.
    let again = next(&mut consumer).await?;
    assert_eq!((text(&again).as_str(), again.attempt()), ("120", 2));
    again.ack()?;
    consumer.close().await?;
    assert_eq!(bare.ready(&name).await?, 0);
    bare.delete(&name).await
}

async fn slow(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("slow");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    fill(&broker, &name, 100).await?;
    let mut consumer = open(&broker, &name, no_home().prefetch(8)).await?;
    let slow = next(&mut consumer).await?;
    for _ in 1..100 {
        next(&mut consumer).await?.ack()?;
    }
    slow.ack()?;
    consumer.close().await?;
    assert_eq!(bare.ready(&name).await?, 0);
    bare.delete(&name).await
}

async fn close(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let name = quorum(&broker, "close").await?;
    fill(&broker, &name, 10).await?;
    let mut consumer = open(&broker, &name, ConsumePlan::new()).await?;
    let mut held = take(&mut consumer, 4).await?;
    let open_one = held.pop().expect("four");
    for delivery in held {
        delivery.ack()?;
    }
    consumer.close().await?;
    expect_kind(open_one.ack(), ErrorKind::Stale)?;

    let mut consumer = open(&broker, &name, ConsumePlan::new()).await?;
    for delivery in take(&mut consumer, 7).await? {
        let seen = text(&delivery) == "3";
        assert_eq!(
            delivery.attempt(),
            if seen { 2 } else { 1 },
            "{}",
            text(&delivery)
        );
        delivery.ack()?;
    }
    consumer.close().await?;
    clean(&url, &name).await
}

async fn dropped(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let name = quorum(&broker, "dropped").await?;
    fill(&broker, &name, 6).await?;
    let mut consumer = open(&broker, &name, ConsumePlan::new()).await?;
    let mut held = take(&mut consumer, 2).await?;
    held.remove(0).ack()?;
    drop(consumer);
    let mut consumer = open(&broker, &name, ConsumePlan::new()).await?;
    for delivery in take(&mut consumer, 5).await? {
        let seen = text(&delivery) == "1";
        assert_eq!(
            delivery.attempt(),
            if seen { 2 } else { 1 },
            "{}",
            text(&delivery)
        );
        delivery.ack()?;
    }
    consumer.close().await?;
    clean(&url, &name).await
}

async fn counted(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let name = quorum(&broker, "counted").await?;
    fill(&broker, &name, 1).await?;
    let mut consumer = open(&broker, &name, ConsumePlan::new()).await?;
    for (attempt, failed) in [(1, true), (2, false), (2, true), (3, true)] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.attempt(), attempt);
        let settlement = delivery.into_settlement();
        if failed {
            settlement.requeue()?
        } else {
            settlement.release()?
        }
    }
    // Dropping a delivery is a failure too.
    drop(next(&mut consumer).await?);
    let last = next(&mut consumer).await?;
    assert_eq!((last.attempt(), last.redelivered()), (5, Some(true)));
    last.ack()?;
    consumer.close().await?;
    clean(&url, &name).await
}

async fn classic(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("classic");
    bare.queue(&name, &[("x-queue-type", argument("classic"))])
        .await?;
    let broker = Amqp::connect(&url).await?;
    let message = Message::new("x").header("kept", "yes").key("k").build();
    broker
        .publisher()
        .publish(&Destination::queue(name.as_str()), message.clone())
        .await?;
    let mut consumer = open(&broker, &name, no_home()).await?;
    let mut attempts = Vec::new();
    for _ in 0..5 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(
            (delivery.id(), delivery.headers().text("kept")),
            (message.id(), Some("yes"))
        );
        attempts.push(delivery.attempt());
        delivery.into_settlement().requeue()?;
    }
    // The kind of the queue shows at its first redelivery, so one failure is not counted.
    assert_eq!(attempts, [1, 1, 2, 3, 4]);
    next(&mut consumer).await?.ack()?;
    consumer.close().await?;
    assert_eq!(bare.ready(&name).await?, 0);
    bare.delete(&name).await
}

async fn ephemeral(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let topic = Destination::topic(unique("events"));
    broker.declare(&topic).await?;
    let subscription = Subscription::ephemeral(topic.name().clone());
    let mut consumer = broker.consumer(&subscription, ConsumePlan::new()).await?;
    let keyed = topic.clone().routing_key("eu.paid").mandatory();
    let publish = || async { broker.publisher().publish(&keyed, Message::new("x")).await };
    publish().await?;
    for attempt in 1..4 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(
            (delivery.attempt(), delivery.routing_key()),
            (attempt, Some("eu.paid"))
        );
        delivery.into_settlement().requeue()?;
    }
    next(&mut consumer).await?.ack()?;
    consumer.close().await?;
    // It takes its queue along, whether it is closed or dropped.
    expect_kind(publish().await.map(drop), ErrorKind::Unroutable)?;
    drop(broker.consumer(&subscription, ConsumePlan::new()).await?);
    let gone = async {
        while publish().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the end of its queue", gone).await?;
    let missing = Subscription::ephemeral(unique("missing"));
    let error = expect_kind(
        broker
            .consumer(&missing, ConsumePlan::new())
            .await
            .map(drop),
        ErrorKind::NotFound,
    )?;
    assert!(error.to_string().contains("missing"), "{error}");
    Ok(())
}

async fn reject(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let broker = Amqp::connect(&url).await?;
    let name = quorum(&broker, "reject").await?;
    let dead = format!("{name}.dead");
    fill(&broker, &name, 3).await?;
    let mut consumer = open(&broker, &name, ConsumePlan::new()).await?;
    let mut held = take(&mut consumer, 3).await?;
    held.remove(1).into_settlement().reject("not mine")?;
    bare.until_ready(&dead, 1).await?;
    let mut letters = open(&broker, &dead, ConsumePlan::new()).await?;
    let letter = next(&mut letters).await?;
    assert_eq!((text(&letter).as_str(), letter.attempt()), ("1", 1));
    assert_eq!(
        letter.headers().text(headers::DEAD_ORIGIN),
        Some(name.as_str())
    );
    assert_eq!(letter.headers().text(headers::DEAD_ERROR), Some("not mine"));
    // A home has no home of its own, so a reject there is refused and the letter stays.
    let (_, settlement) = letter.into_parts();
    expect_kind(settlement.reject("again"), ErrorKind::Unsupported)?;
    next(&mut letters).await?.ack()?;
    letters.close().await?;
    drop(held);
    consumer.close().await?;
    bare.until_ready(&name, 2).await?;
    clean(&url, &name).await
}

async fn lost_home(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let broker = Amqp::connect(&url).await?;
    let name = quorum(&broker, "home").await?;
    let dead = format!("{name}.dead");
    fill(&broker, &name, 1).await?;
    let mut consumer = open(&broker, &name, ConsumePlan::new()).await?;
    let delivery = next(&mut consumer).await?;
    bare.delete(&dead).await?;
    delivery.into_settlement().reject("nowhere to go")?;
    let error = expect_kind(
        soon("the end", consumer.receive()).await?,
        ErrorKind::Unroutable,
    )?;
    assert!(error.to_string().contains(&dead), "{error}");
    drop(consumer);
    bare.until_ready(&name, 1).await?;
    let again = broker
        .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
        .await;
    let error = expect_kind(again.map(drop), ErrorKind::NotFound)?;
    assert!(error.to_string().contains(&dead), "{error}");
    bare.delete(&name).await
}

async fn settled(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let broker = Amqp::connect(&url).await?;
    let name = quorum(&broker, "settled").await?;
    fill(&broker, &name, 40).await?;
    let mut consumer = open(&broker, &name, ConsumePlan::new()).await?;
    for (i, delivery) in take(&mut consumer, 40).await?.into_iter().enumerate() {
        let settlement = delivery.into_settlement();
        if i % 4 == 0 {
            settlement.reject("a fourth")?
        } else {
            settlement.ack()?
        }
    }
    consumer.settled().await?;
    consumer.close().await?;
    bare.until_ready(&format!("{name}.dead"), 10).await?;
    assert_eq!(bare.ready(&name).await?, 0);
    clean(&url, &name).await
}

async fn attempts(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let mut plan = ConsumePlan::new();
    plan.max_attempts = 21;
    let refused = broker
        .consumer(&Subscription::queue("any"), plan)
        .await
        .map(drop);
    expect_kind(refused, ErrorKind::Config)?;
    Ok(())
}

/// What an application does after an outcome that it does not know.
async fn twice(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("twice");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    let message = Message::new("x").build();
    for _ in 0..2 {
        let to = Destination::queue(name.as_str());
        broker.publisher().publish(&to, message.clone()).await?;
    }
    let mut consumer = open(&broker, &name, no_home()).await?;
    for _ in 0..2 {
        let delivery = next(&mut consumer).await?;
        // The id is what tells.
        assert_eq!(delivery.id(), message.id());
        assert_eq!(
            (delivery.attempt(), delivery.redelivered()),
            (1, Some(false))
        );
        delivery.ack()?;
    }
    consumer.close().await?;
    bare.delete(&name).await
}

async fn at_most_once(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let broker = Amqp::connect(&url).await?;
    let name = quorum(&broker, "at-most-once").await?;
    fill(&broker, &name, 20).await?;
    let (started, mut running) = tokio::sync::mpsc::unbounded_channel();
    let run = Worker::new(&broker, Subscription::queue(name.as_str()))
        .prefetch(5)
        .concurrency(1)
        .guarantee(AtMostOnce)
        .run(move || {
            let _ = started.send(());
            std::future::pending::<()>()
        });
    let worker = tokio::spawn(run.into_future());
    soon("a handler at work", running.recv()).await?;
    // It is gone in the middle of its first message.
    worker.abort();
    let _ = worker.await;
    let over = async {
        while bare.consumers(&name).await? > 0 {
            tokio::task::yield_now().await;
        }
        Check::Ok(())
    };
    soon("the end of its consumer", over).await??;
    let mut consumer = open(&broker, &name, ConsumePlan::new()).await?;
    let mut left = 0;
    while let Ok(next) = tokio::time::timeout(QUIET, consumer.receive()).await {
        next?.expect("a delivery").ack()?;
        left += 1;
    }
    // At most its prefetch, and the one it was at for sure.
    assert!((15..20).contains(&left), "{left} of 20 are left");
    consumer.close().await?;
    clean(&url, &name).await
}

async fn stranger(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("stranger");
    bare.queue(&name, &[]).await?;
    bare.channel
        .basic_qos(1, BasicQosOptions::default())
        .await?;
    let mut nested = FieldTable::default();
    for depth in 0..100 {
        let mut outer = FieldTable::default();
        outer.insert(
            format!("{depth}").as_str().into(),
            AMQPValue::FieldTable(nested),
        );
        nested = outer;
    }
    nested.insert("array".into(), AMQPValue::FieldArray(FieldArray::default()));
    nested.insert("number".into(), AMQPValue::LongInt(7));
    nested.insert("mq-time".into(), argument("soon"));
    nested.insert("mq-attempt".into(), AMQPValue::Boolean(true));
    let properties = BasicProperties::default()
        .with_headers(nested)
        .with_message_id("a\u{7}b".into())
        .with_expiration("600000".into());
    bare.publish(&name, properties, b"\xff\x00").await?;
    bare.publish(&name, BasicProperties::default(), b"").await?;
    let broker = Amqp::connect(&url).await?;
    let mut consumer = open(&broker, &name, no_home()).await?;
    let first = next(&mut consumer).await?;
    assert_eq!(first.payload().map(AsRef::as_ref), Some(&b"\xff\x00"[..]));
    assert_eq!(
        (first.headers().text("number"), first.attempt()),
        (Some("7"), 1)
    );
    first.ack()?;
    let second = next(&mut consumer).await?;
    assert_eq!(second.payload().map(|p| p.len()), Some(0));
    second.ack()?;
    consumer.close().await?;
    bare.delete(&name).await
}

/// After so long without a delivery there is none.
const QUIET: Duration = Duration::from_secs(1);
