//! Delays: `defer` and first sends at a later time, through the cascade that all tests of a virtual host share.
//! What asks for a cascade that is missing or another one is in `mq-chaos/tests/rabbitmq_delays.rs`.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mq_amqp::{
    Amqp, Overflow, QueueSettings,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Filter, Message,
        MessageId, Publisher, Received, Subscription, flow::FlowKind as Kind, headers, time,
    },
};
use mq_testkit::{Check, Suite, broker_address, flow::FlowRecorder};
use support::{Bare, builder, expect_kind, next, text, unique};
use tokio::sync::OnceCell;

fn main() -> ExitCode {
    Suite::new("delays", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .deadline(Duration::from_secs(120))
        .case(
            "no_delay_is_early_and_a_short_one_is_not_held_up_by_a_long_one",
            in_time,
        )
        .case("a_deferred_message_keeps_what_it_is_over_many_hops", kept)
        .case("a_delayed_publish_arrives_as_it_was_sent", as_sent)
        .case("a_high_priority_does_not_hold_up_what_is_due", priority)
        .case("an_ephemeral_subscription_gets_what_it_deferred", ephemeral)
        .case("what_cannot_be_delayed_is_refused", refused)
        .case(
            "a_delayed_publish_to_a_missing_queue_is_not_found",
            missing_queue,
        )
        .case(
            "a_queue_declared_again_gets_what_waits_for_it",
            declared_again,
        )
        .case("a_deferral_tells_its_flow_in_order", flow)
        .run()
}

async fn connect(url: &str) -> Check<Amqp> {
    with_cascade(builder(url)?.operation_timeout(SLOW).connect().await?).await
}

async fn with_cascade(broker: Amqp) -> Check<Amqp> {
    static THERE: OnceCell<()> = OnceCell::const_new();
    let declare = || async { broker.delays().declare().await };
    THERE.get_or_try_init(declare).await?;
    Ok(broker)
}

async fn clean(url: &str, queues: &[&str]) -> Check {
    let bare = Bare::connect(url).await?;
    for queue in queues {
        bare.delete(queue).await?;
    }
    Ok(())
}

const SECOND: Duration = Duration::from_secs(1);
/// A broker that shares its machine makes a quorum queue slowly.
const SLOW: Duration = Duration::from_secs(60);
/// The most that a delivery may come after its time: other tests share the machine.
const LATE: Duration = Duration::from_secs(8);

async fn in_time(url: String) -> Check {
    let broker = connect(&url).await?;
    let name = unique("in-time");
    let queue = Destination::queue(name.as_str());
    broker.declare(&queue).await?;
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
        .await?;
    // Milliseconds, in the order of sending; 1,001 takes two levels fewer than 3,000 and is rounded up.
    let delays = [11_000, 6_000, 3_000, 1_001, 1_000, 0];
    let publisher = broker.publisher();
    let mut sent = Vec::new();
    for delay in delays {
        let begun = Instant::now();
        let delayed = publisher.delayed(Duration::from_millis(delay));
        delayed
            .publish(&queue, Message::new(delay.to_string()))
            .await?;
        sent.push((delay, begun));
    }
    let mut order = Vec::new();
    for _ in delays {
        let delivery = next(&mut consumer).await?;
        let now = (Instant::now(), time::to_millis(SystemTime::now()));
        let delay: u64 = text(&delivery).parse()?;
        let (_, begun) = sent
            .iter()
            .find(|(sent, _)| *sent == delay)
            .expect("one of ours");
        let waited = now.0 - *begun;
        let least = Duration::from_millis(delay).max(SECOND);
        assert!(waited >= least, "{delay} ms came after {waited:?}");
        assert!(
            waited <= least + SECOND + LATE,
            "{delay} ms came after {waited:?}"
        );
        let due: u64 = delivery
            .headers()
            .text(headers::DUE)
            .expect("a due time")
            .parse()?;
        assert!(now.1 >= due, "{delay} ms came {} ms early", due - now.1);
        order.push(delay);
        delivery.ack()?;
    }
    let place = |delay| order.iter().position(|seen| *seen == delay);
    assert!(
        place(0) < place(6_000) && place(6_000) < place(11_000),
        "{order:?}"
    );
    consumer.close().await?;
    clean(&url, &[&name, &format!("{name}.dead")]).await
}

/// What a consumer sees of a message, without the two headers that a hop changes.
fn seen(received: &Received) -> (String, Vec<(String, String)>) {
    let plain = received
        .headers()
        .iter()
        .filter(|(name, _)| ![headers::ATTEMPT, headers::DUE].contains(name))
        .map(|(name, value)| (name.to_owned(), format!("{value:?}")));
    let mut plain: Vec<_> = plain.collect();
    plain.sort();
    let whole = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        received.id(),
        received.key(),
        received.payload(),
        received.time(),
        received.content_type(),
        received.correlation_id(),
        received.reply_to(),
        received.expires_in(),
        received.priority(),
        received.routing_key(),
    );
    (whole, plain)
}

async fn kept(url: String) -> Check {
    let broker = connect(&url).await?;
    let topic = Destination::topic(unique("kept"));
    broker.declare(&topic).await?;
    let subscription = |name: &str| {
        Subscription::durable(Arc::clone(topic.name()), name).filter(Filter::pattern("eu.*"))
    };
    let (mine, other) = (subscription("mine"), subscription("other"));
    for subscription in [&mine, &other] {
        broker.declare(subscription.clone()).await?;
    }
    let to = topic.clone().routing_key("eu.paid");
    let full = Message::new("tea")
        .id(MessageId::new("order-7")?)
        .key("customer-7")
        .content_type("text/plain")
        .correlation_id("c")
        .reply_to("replies")
        .expires_in(Duration::from_secs(3600))
        .priority(9)
        .header("mine", "yes")
        .header("bytes", vec![0xff_u8, 0]);
    broker.publisher().publish(&to, full).await?;
    let tombstone = Message::tombstone().key("customer-8");
    broker.publisher().publish(&to, tombstone).await?;

    // Without delays in its plan too: only then it is not checked when it opens.
    let mut consumer = broker.consumer(&mine, ConsumePlan::new()).await?;
    let mut first = Vec::new();
    for hop in 1..=4 {
        let mut settlements = Vec::new();
        for at in 0..2 {
            let (received, settlement) = next(&mut consumer).await?.into_parts();
            assert_eq!(received.attempt(), hop);
            let seen = seen(&received);
            match hop {
                1 => first.push(seen),
                _ => assert_eq!(seen, first[at], "after {} hops", hop - 1),
            }
            settlements.push(settlement);
        }
        // In this order they come again: both wait in the same level.
        for settlement in settlements {
            match hop {
                4 => settlement.ack()?,
                _ => settlement.defer(Duration::from_millis(900))?,
            }
        }
    }
    assert!(
        first[0].0.contains("eu.paid") && first[0].0.contains("3600s"),
        "{first:?}"
    );
    assert_eq!(first[0].1.len(), 2, "{first:?}");
    consumer.close().await?;
    let mut consumer = broker.consumer(&other, ConsumePlan::new()).await?;
    for _ in 0..2 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.attempt(), 1);
        delivery.ack()?;
    }
    consumer.settled().await?;
    consumer.close().await?;
    let bare = Bare::connect(&url).await?;
    for name in ["mine", "other"] {
        let queue = format!("{name}@{}", topic.name());
        assert_eq!(bare.ready(&queue).await?, 0, "{name}");
        bare.delete(&queue).await?;
    }
    Ok(())
}

async fn as_sent(url: String) -> Check {
    let broker = connect(&url).await?;
    let name = unique("as-sent");
    let queue = Destination::queue(name.as_str());
    broker.declare(&queue).await?;
    let delayed = broker.publisher().delayed(SECOND);
    let messages = || {
        let expires = Message::new("tea")
            .key("k")
            .header("mine", "yes")
            .expires_in(60 * SECOND);
        [expires.build(), Message::tombstone().key("k").build()]
    };
    let sent = messages();
    for outcome in delayed.publish_batch(&queue, sent.to_vec()).await {
        outcome?;
    }
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
        .await?;
    for sent in sent {
        let delivery = next(&mut consumer).await?;
        let came = Received::new(sent, Arc::clone(delivery.source()), None);
        assert_eq!(seen(delivery.received()), seen(&came));
        assert_eq!(delivery.attempt(), 1);
        delivery.ack()?;
    }
    consumer.close().await?;
    clean(&url, &[&name, &format!("{name}.dead")]).await
}

async fn priority(url: String) -> Check {
    let broker = connect(&url).await?;
    let name = unique("priority");
    let queue = Destination::queue(name.as_str());
    broker.declare(&queue).await?;
    let delayed = broker.publisher().delayed(16 * SECOND);
    let begun = Instant::now();
    delayed.publish(&queue, Message::new("usual")).await?;
    // In the same level, and due at the end of it.
    tokio::time::sleep(12 * SECOND).await;
    delayed
        .publish(&queue, Message::new("high").priority(9))
        .await?;
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
        .await?;
    let first = next(&mut consumer).await?;
    assert_eq!(text(&first), "usual");
    let waited = begun.elapsed();
    assert!(waited < 16 * SECOND + LATE, "it came after {waited:?}");
    first.ack()?;
    let second = next(&mut consumer).await?;
    assert_eq!(
        (text(&second).as_str(), second.priority()),
        ("high", Some(9))
    );
    second.ack()?;
    consumer.close().await?;
    clean(&url, &[&name, &format!("{name}.dead")]).await
}

async fn ephemeral(url: String) -> Check {
    let broker = connect(&url).await?;
    let topic = Destination::topic(unique("ephemeral"));
    broker.declare(&topic).await?;
    let mut plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    plan.delays = vec![SECOND];
    let listen = Subscription::ephemeral(Arc::clone(topic.name()));
    let mut consumer = broker.consumer(&listen, plan).await?;
    broker
        .publisher()
        .publish(&topic, Message::new("tick"))
        .await?;
    let begun = Instant::now();
    next(&mut consumer).await?.into_settlement().defer(SECOND)?;
    let again = next(&mut consumer).await?;
    assert!(begun.elapsed() >= SECOND, "{:?}", begun.elapsed());
    assert_eq!((text(&again).as_str(), again.attempt()), ("tick", 2));
    again.ack()?;
    Ok(consumer.close().await?)
}

async fn refused(url: String) -> Check {
    let (plain, full, latest) = (unique("plain"), unique("full"), unique("latest"));
    let wild = format!("{}.#", unique("wild"));
    let limited = || QueueSettings::quorum().max_length(5);
    let broker = builder(&url)?
        .queue(full.as_str(), limited())
        .queue(latest.as_str(), limited().overflow(Overflow::DropHead))
        .connect()
        .await?;
    let broker = with_cascade(broker).await?;
    for queue in [&plain, &full, &latest, &wild] {
        broker.declare(Destination::queue(queue.as_str())).await?;
    }
    let unsupported = |result| expect_kind(result, ErrorKind::Unsupported);
    let too_long = Duration::from_secs(1 << 28);

    // The broker is not asked for these.
    let publisher = broker.publisher();
    let to = Destination::queue(plain.as_str());
    let error = unsupported(
        publisher
            .delayed(too_long)
            .publish(&to, Message::new("x"))
            .await
            .map(drop),
    )?;
    assert_eq!(error.context("most"), Some("268435455"));
    let topic = Destination::topic(unique("topic"));
    unsupported(
        publisher
            .delayed(SECOND)
            .publish(&topic, Message::new("x"))
            .await
            .map(drop),
    )?;
    let long = Destination::queue("q".repeat(200));
    unsupported(
        publisher
            .delayed(SECOND)
            .publish(&long, Message::new("x"))
            .await
            .map(drop),
    )?;
    for queue in [&full, &wild] {
        let to = Destination::queue(queue.as_str());
        unsupported(
            publisher
                .delayed(SECOND)
                .publish(&to, Message::new("x"))
                .await
                .map(drop),
        )?;
    }

    // So is a plan, before the consumer opens.
    for (queue, delay) in [(&plain, too_long), (&full, SECOND), (&wild, SECOND)] {
        let mut plan = ConsumePlan::new();
        plan.delays = vec![delay];
        let from = Subscription::queue(queue.as_str());
        unsupported(broker.consumer(&from, plan).await.map(drop))?;
    }

    // And a deferral: the message is given back, and counted.
    for (queue, delay) in [(&plain, too_long), (&full, SECOND), (&wild, SECOND)] {
        publisher
            .publish(&Destination::queue(queue.as_str()), Message::new("x"))
            .await?;
        let from = Subscription::queue(queue.as_str());
        let mut consumer = broker.consumer(&from, ConsumePlan::new()).await?;
        let settlement = next(&mut consumer).await?.into_settlement();
        unsupported(settlement.defer(delay))?;
        let again = next(&mut consumer).await?;
        assert_eq!(again.attempt(), 2);
        again.ack()?;
        consumer.close().await?;
    }

    // A queue that makes room for the newest refuses nothing.
    publisher
        .delayed(SECOND)
        .publish(&Destination::queue(latest.as_str()), Message::new("x"))
        .await?;
    let from = Subscription::queue(latest.as_str());
    let mut consumer = broker.consumer(&from, ConsumePlan::new()).await?;
    next(&mut consumer).await?.ack()?;
    consumer.close().await?;
    clean(&url, &[&plain, &full, &latest, &wild]).await
}

async fn missing_queue(url: String) -> Check {
    let broker = connect(&url).await?;
    let name = unique("missing");
    let queue = Destination::queue(name.as_str());
    let delayed = broker.publisher().delayed(SECOND);
    let error = expect_kind(
        delayed.publish(&queue, Message::new("x")).await,
        ErrorKind::NotFound,
    )?;
    assert!(error.to_string().contains(&name), "{error}");
    broker.declare(&queue).await?;
    delayed.publish(&queue, Message::new("x")).await?;
    clean(&url, &[&name, &format!("{name}.dead")]).await
}

async fn declared_again(url: String) -> Check {
    let broker = connect(&url).await?;
    let name = unique("again");
    let queue = Destination::queue(name.as_str());
    broker.declare(&queue).await?;
    let delayed = broker.publisher().delayed(12 * SECOND);
    delayed.publish(&queue, Message::new("x")).await?;
    let bare = Bare::connect(&url).await?;
    bare.delete(&name).await?;
    broker.declare(&queue).await?;
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
        .await?;
    next(&mut consumer).await?.ack()?;
    consumer.close().await?;
    clean(&url, &[&name, &format!("{name}.dead")]).await
}

async fn flow(url: String) -> Check {
    let recorder = Arc::new(FlowRecorder::new());
    let broker = builder(&url)?.flow(recorder.clone()).connect().await?;
    let broker = with_cascade(broker).await?;
    let name = unique("flow");
    let queue = Destination::queue(name.as_str());
    broker.declare(&queue).await?;
    broker
        .publisher()
        .publish(&queue, Message::new("x"))
        .await?;
    let from = Subscription::queue(name.as_str());
    let mut consumer = broker.consumer(&from, ConsumePlan::new()).await?;
    next(&mut consumer).await?.into_settlement().defer(SECOND)?;
    next(&mut consumer).await?.ack()?;
    consumer.close().await?;
    let steps = recorder.steps().into_iter();
    let kinds: Vec<Kind> = steps
        .filter(|step| step.id.is_some())
        .map(|step| step.kind)
        .collect();
    let copy = [
        Kind::Published,
        Kind::Confirmed,
        Kind::Deferred,
        Kind::Acked,
    ];
    let wanted = [
        &[Kind::Published, Kind::Confirmed, Kind::Delivered],
        &copy[..],
        &[Kind::Delivered, Kind::Acked],
    ];
    assert_eq!(kinds, wanted.concat());
    clean(&url, &[&name, &format!("{name}.dead")]).await
}
