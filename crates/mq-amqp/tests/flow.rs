//! The flow events that only this broker has: a refusal, a cut, the numbers of deliveries, and a copy
//! where a queue does not count. The others are in `mq-testkit/tests/flow`.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{process::ExitCode, sync::Arc, time::Duration};

use lapin::types::AMQPValue;
use mq_amqp::{
    Amqp, Recovery,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Message, Publisher,
        Subscription, flow::FlowKind as Kind,
    },
};
use mq_testkit::{Check, Suite, broker_address, flow::FlowRecorder};
use support::{
    Bare, argument, builder, expect_kind, fill, next,
    relay::{Flow, Relay},
    soon, unique,
};

fn main() -> ExitCode {
    Suite::new("flow", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case("a_full_queue_rejects", rejected)
        .case("a_cut_leaves_unknowns", unknown)
        .case("each_delivery_has_its_number_and_its_own_ack", numbers)
        .case("a_classic_queue_counts_a_failure_in_a_copy", copied)
        .case(
            "a_consumer_without_acknowledgements_settles_nothing",
            no_ack,
        )
        .case("the_words_are_those_of_amqp", words)
        .run()
}

async fn connect(url: &str) -> Check<(Amqp, Arc<FlowRecorder>)> {
    let recorder = Arc::new(FlowRecorder::new());
    let builder = builder(url)?.name("shop").flow(recorder.clone());
    // What is cut stays lost.
    let builder = builder
        .resend(false)
        .recovery(Recovery::within(Duration::ZERO));
    Ok((builder.connect().await?, recorder))
}

fn kinds(recorder: &FlowRecorder) -> Vec<Kind> {
    let steps = recorder.steps().into_iter();
    steps
        .filter(|step| step.id.is_some())
        .map(|step| step.kind)
        .collect()
}

async fn rejected(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("full");
    let full = [
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-overflow", argument("reject-publish")),
    ];
    bare.queue(&name, &full).await?;
    let (broker, recorder) = connect(&url).await?;
    let to = Destination::queue(name.as_str());
    let publisher = broker.publisher();
    publisher.publish(&to, Message::new("x")).await?;
    let refused = publisher.publish(&to, Message::new("x")).await;
    expect_kind(refused, ErrorKind::Rejected)?;
    bare.delete(&name).await?;
    assert_eq!(
        kinds(&recorder),
        [
            Kind::Published,
            Kind::Confirmed,
            Kind::Published,
            Kind::Rejected
        ]
    );
    Ok(())
}

async fn unknown(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("cut");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let (broker, recorder) = connect(relay.url()).await?;
    let (to, publisher) = (Destination::queue(name.as_str()), broker.publisher());
    relay.set(Flow::Frozen);
    let pending = publisher.enqueue(&to, Message::new("x")).await?;
    soon("a write", relay.until_held()).await?;
    relay.set(Flow::Cut);
    expect_kind(soon("an outcome", pending).await?, ErrorKind::Unknown)?;
    // What comes now is never sent, so nothing is told of it.
    let refused = soon("a refusal", publisher.publish(&to, Message::new("x"))).await?;
    expect_kind(refused, ErrorKind::Disconnected)?;
    assert_eq!(kinds(&recorder), [Kind::Published, Kind::Unknown]);
    bare.delete(&name).await
}

async fn numbers(url: String) -> Check {
    let (broker, recorder) = connect(&url).await?;
    let queue = unique("numbers");
    broker.declare(&Destination::queue(queue.as_str())).await?;
    fill(&broker, &queue, 3).await?;
    let plan = ConsumePlan::new();
    let mut consumer = broker
        .consumer(&Subscription::queue(queue.as_str()), plan)
        .await?;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut consumer).await?);
    }
    // Not in order: the third waits for the gap to close, the broker hears of all.
    for at in [2, 0, 0] {
        held.remove(at).ack()?;
    }
    soon("the end", consumer.close()).await??;
    let steps = recorder.steps();
    let numbers = |kind| {
        let of_kind = steps.iter().filter(move |step| step.kind == kind);
        let mut all: Vec<_> = of_kind
            .map(|step| (step.delivery, step.id.clone()))
            .collect();
        all.sort_by_key(|(number, _)| *number);
        all
    };
    let delivered = numbers(Kind::Delivered);
    let given: Vec<_> = delivered.iter().map(|(number, _)| *number).collect();
    assert_eq!(given, [Some(1), Some(2), Some(3)]);
    assert_eq!(numbers(Kind::Acked), delivered);
    Ok(())
}

async fn copied(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("classic");
    bare.queue(&name, &[("x-queue-type", argument("classic"))])
        .await?;
    let (broker, recorder) = connect(&url).await?;
    fill(&broker, &name, 1).await?;
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), plan)
        .await?;
    // That the queue does not count shows with the second delivery.
    next(&mut consumer).await?.into_settlement().requeue()?;
    next(&mut consumer).await?.into_settlement().requeue()?;
    next(&mut consumer).await?.ack()?;
    soon("the end", consumer.close()).await??;
    bare.delete(&name).await?;
    let mut kinds = kinds(&recorder);
    // The copy may be delivered before its publish is confirmed.
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            Kind::Published,
            Kind::Published,
            Kind::Confirmed,
            Kind::Confirmed,
            Kind::Delivered,
            Kind::Delivered,
            Kind::Delivered,
            Kind::Acked,
            Kind::Acked,
            Kind::Requeued,
        ]
    );
    Ok(())
}

async fn no_ack(url: String) -> Check {
    let (broker, recorder) = connect(&url).await?;
    let queue = unique("no-ack");
    broker.declare(&Destination::queue(queue.as_str())).await?;
    fill(&broker, &queue, 1).await?;
    let source = Subscription::queue(queue.as_str());
    let mut consumer = broker.no_ack_consumer(&source, 1).await?;
    soon("a message", consumer.receive())
        .await??
        .expect("a message");
    consumer.close().await?;
    assert_eq!(
        kinds(&recorder),
        [Kind::Published, Kind::Confirmed, Kind::Delivered]
    );
    Ok(())
}

async fn words(url: String) -> Check {
    let (broker, recorder) = connect(&url).await?;
    let topic = unique("words");
    broker.declare(Destination::topic(topic.as_str())).await?;
    let mail = Subscription::durable(topic.as_str(), "mail");
    broker.declare(&mail).await?;
    let to = Destination::topic(topic.as_str());
    broker.publisher().publish(&to, Message::new("x")).await?;
    let mut consumer = broker.consumer(&mail, ConsumePlan::new()).await?;
    next(&mut consumer).await?.ack()?;
    soon("the end", consumer.close()).await??;
    assert_eq!(
        recorder.drawing().hide(topic.as_str()).diagram(),
        "\
sequenceDiagram
    participant p1 as shop
    participant p2 as exchange
    participant p3 as queue mail@
    p1->>p2: basic.publish m1
    p2-->>p1: confirm (basic.ack) m1
    p1->>p3: basic.consume
    p3->>p1: basic.deliver m1 (delivery 1)
    p1->>p3: basic.ack m1 (delivery 1)
    p1->>p3: basic.cancel
"
    );
    Ok(())
}
