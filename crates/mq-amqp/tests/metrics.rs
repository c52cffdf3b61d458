//! The counts of a connection: the same as its flow events in the same run, and what is held now.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{process::ExitCode, sync::Arc};

use lapin::types::AMQPValue;
use mq_amqp::{
    Amqp, AmqpMetrics,
    core::{
        Broker, ConsumePlan, Consumer, Destination, ErrorKind, Message, Publisher, Subscription,
        Unconfirmed, flow::FlowKind as Kind,
    },
};
use mq_testkit::{Check, Suite, broker_address, flow::FlowRecorder};
use support::{
    Bare, argument, builder, expect_kind, fill, next,
    relay::{Flow, Relay},
    soon, unique,
};

fn main() -> ExitCode {
    Suite::new("metrics", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case("counts_are_those_of_the_flow_events", agree)
        .case("what_is_held_is_told_until_it_is_settled_or_over", held)
        .case("a_publish_is_in_flight_until_it_is_unknown", in_flight)
        .run()
}

async fn connect(url: &str) -> Check<(Amqp, Arc<FlowRecorder>)> {
    let recorder = Arc::new(FlowRecorder::new());
    let builder = builder(url)?.flow(recorder.clone());
    Ok((builder.connect().await?, recorder))
}

/// One of each: confirmed, refused, unroutable, handed over; acked, failed, redelivered, given back
/// and dead-lettered.
async fn agree(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let full = unique("counted-full");
    let limits = [
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", argument("reject-publish")),
    ];
    bare.queue(&full, &limits).await?;
    let (broker, recorder) = connect(&url).await?;
    let publisher = broker.publisher();
    let to = Destination::queue(full.as_str());
    publisher.publish(&to, Message::new("x")).await?;
    let refused = publisher.publish(&to, Message::new("x")).await;
    expect_kind(refused, ErrorKind::Rejected)?;
    let nowhere = Destination::queue(unique("counted-nowhere"));
    let lost = publisher.publish(&nowhere, Message::new("x")).await;
    expect_kind(lost, ErrorKind::Unroutable)?;
    let handed = broker.unconfirmed();
    soon("a write", handed.hand_over(&to, Message::new("x"))).await??;

    let queue = unique("counted");
    broker.declare(&Destination::queue(queue.as_str())).await?;
    fill(&broker, &queue, 4).await?;
    let source = Subscription::queue(queue.as_str());
    let mut consumer = broker.consumer(&source, ConsumePlan::new()).await?;
    next(&mut consumer).await?.into_settlement().reject("no")?;
    next(&mut consumer).await?.into_settlement().requeue()?;
    next(&mut consumer).await?.into_settlement().release()?;
    let mut redelivered = 0;
    for _ in 0..3 {
        let delivery = next(&mut consumer).await?;
        redelivered += u64::from(delivery.received().redelivered() == Some(true));
        delivery.ack()?;
    }
    soon("the end", consumer.close()).await??;
    broker.close().await?;
    bare.delete(&full).await?;

    let told = |kind| recorder.steps().iter().filter(|s| s.kind == kind).count() as u64;
    let now = broker.metrics();
    let counted = [
        (Kind::Published, now.published),
        (Kind::HandedOver, now.handed_over),
        (Kind::Confirmed, now.confirmed),
        (Kind::Unroutable, now.unroutable),
        (Kind::Rejected, now.rejected),
        (Kind::Unknown, now.unknown),
        (Kind::Delivered, now.delivered),
        (Kind::Acked, now.acked),
        (Kind::Requeued, now.requeued),
        (Kind::Released, now.released),
        (Kind::DeadLettered, now.dead_lettered),
    ];
    for (kind, count) in counted {
        assert_eq!(count, told(kind), "{kind:?} in {now:?}");
    }
    // And they are what was done: 4 and 3 publishes, a dead letter; 4 deliveries and 2 again.
    let done = (now.published, now.confirmed, now.delivered, now.acked);
    assert_eq!(done, (8, 6, 6, 4), "{now:?}");
    assert_eq!((now.requeued, now.released, now.dead_lettered), (1, 1, 1));
    assert_eq!((redelivered, now.redelivered), (2, 2));
    assert_eq!((now.in_flight, now.unsettled), (0, 0), "{now:?}");
    Ok(())
}

async fn held(url: String) -> Check {
    let broker = builder(&url)?.connect().await?;
    assert_eq!(broker.metrics(), AmqpMetrics::default());
    let queue = unique("held");
    broker.declare(&Destination::queue(queue.as_str())).await?;
    fill(&broker, &queue, 3).await?;
    let source = Subscription::queue(queue.as_str());
    let mut consumer = broker.consumer(&source, ConsumePlan::new()).await?;
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(next(&mut consumer).await?);
    }
    assert_eq!(broker.metrics().unsettled, 3);
    taken.remove(0).ack()?;
    soon("settled", consumer.settled()).await??;
    let now = broker.metrics();
    assert_eq!((now.unsettled, now.acked), (2, 1), "{now:?}");
    // What is handed out and not settled is the broker's again.
    soon("the end", consumer.close()).await??;
    let now = broker.metrics();
    assert_eq!(
        (now.unsettled, now.delivered, now.acked),
        (0, 3, 1),
        "{now:?}"
    );
    drop(taken);
    assert_eq!(broker.metrics(), now);
    Ok(())
}

async fn in_flight(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("in-flight");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let broker = builder(relay.url())?.resend(false).connect().await?;
    let (to, publisher) = (Destination::queue(name.as_str()), broker.publisher());
    relay.set(Flow::Frozen);
    let pending = publisher.enqueue(&to, Message::new("x")).await?;
    soon("a write", relay.until_held()).await?;
    let now = broker.metrics();
    assert_eq!(
        (now.published, now.in_flight, now.unknown),
        (1, 1, 0),
        "{now:?}"
    );
    relay.set(Flow::Cut);
    expect_kind(soon("an outcome", pending).await?, ErrorKind::Unknown)?;
    let now = broker.metrics();
    assert_eq!(
        (now.published, now.in_flight, now.unknown),
        (1, 0, 1),
        "{now:?}"
    );
    bare.delete(&name).await
}
