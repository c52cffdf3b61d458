//! The counts of a connection: the same as its flow events in the same run, and what is held now.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mq_kafka::{
    Kafka,
    core::{
        Broker, ConsumePlan, Consumer, Destination, ErrorKind, Message, Publisher, Subscription,
        Unconfirmed, flow::FlowKind as Kind,
    },
};
use mq_testkit::{Check, Suite, broker_address, flow::FlowRecorder};
use support::{Bare, fill, open, punctual_queue, same, take, text, unique, within};

fn main() -> ExitCode {
    Suite::new("metrics", "mq-kafka", broker_address("MQ_KAFKA_SERVERS"))
        .case("counts_are_those_of_the_flow_events", agree)
        .case("the_age_of_the_oldest_unhandled_message_is_told", age)
        .case(
            "without_a_sink_a_publish_counts_when_it_is_heard_of",
            unheard,
        )
        .run()
}

/// One of each: confirmed, refused, unroutable, handed over; acked, failed, redelivered, given back
/// and dead-lettered; assigned, committed, revoked.
async fn agree(servers: String) -> Check {
    let recorder = Arc::new(FlowRecorder::new());
    let builder = Kafka::builder(&servers).partitions(2);
    let kafka = builder.flow(recorder.clone()).connect().await?;
    let bare = Bare::connect(&servers).await?;
    let queue = punctual_queue(&kafka, &bare, "counted", 2).await?;
    let publisher = kafka.publisher();
    let ahead = SystemTime::now() + Duration::from_secs(48 * 3600);
    let refused = publisher
        .publish(&queue, Message::new("x").time(ahead))
        .await;
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::Rejected);
    let nowhere = Destination::queue(unique("nowhere"));
    let lost = publisher.publish(&nowhere, Message::new("x")).await;
    assert_eq!(lost.expect_err("lost").kind(), ErrorKind::Unroutable);
    fill(&kafka, &queue, 0..4).await?;
    let elsewhere = Destination::queue(unique("handed-over"));
    kafka.declare(&elsewhere).await?;
    let unconfirmed = kafka.unconfirmed();
    within(30, unconfirmed.hand_over(&elsewhere, Message::new("x"))).await??;

    let source = Subscription::queue(queue.name().clone());
    let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
    let mut taken = take(&mut consumer, 4).await?;
    let now = kafka.metrics();
    assert_eq!((now.unsettled, now.partitions), (4, 2), "{now:?}");
    taken.remove(0).into_settlement().reject("no")?;
    taken.remove(0).into_settlement().requeue()?;
    taken.remove(0).into_settlement().release()?;
    taken.remove(0).ack()?;
    let again = take(&mut consumer, 2).await?;
    for delivery in again {
        delivery.ack()?;
    }
    within(30, consumer.close()).await??;
    within(30, kafka.close()).await??;

    let told = |kind| recorder.steps().iter().filter(|s| s.kind == kind).count() as u64;
    let now = kafka.metrics();
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
        (Kind::Assigned, now.assigned),
        (Kind::Revoked, now.revoked),
        (Kind::Lost, now.lost),
    ];
    for (kind, count) in counted {
        assert_eq!(count, told(kind), "{kind:?} in {now:?}");
    }
    // And they are what was done: 6 publishes and a dead letter; 4 deliveries and 2 again.
    let done = (now.published, now.confirmed, now.delivered, now.acked);
    assert_eq!(done, (7, 5, 6, 4), "{now:?}");
    // Only the failed one counts as an attempt.
    assert_eq!(
        (now.redelivered, now.requeued, now.released),
        (1, 1, 1),
        "{now:?}"
    );
    assert_eq!(
        (now.in_flight, now.unsettled, now.partitions),
        (0, 0, 0),
        "{now:?}"
    );
    // A commit may move several partitions, or only what is noted beside an offset.
    assert!(now.commits > 0 && now.failed_commits == 0, "{now:?}");
    assert!(told(Kind::Committed) > 0 && now.rebalances > 0, "{now:?}");
    Ok(())
}

async fn unheard(servers: String) -> Check {
    let kafka = Kafka::connect(&servers).await?;
    let queue = Destination::queue(unique("unheard"));
    kafka.declare(&queue).await?;
    let publisher = kafka.publisher();
    let heard = publisher.enqueue(&queue, Message::new("1")).await?;
    let unheard = publisher.enqueue(&queue, Message::new("2")).await?;
    let now = kafka.metrics();
    assert_eq!((now.published, now.in_flight), (2, 2), "{now:?}");
    drop(unheard);
    within(30, heard).await??;
    let now = kafka.metrics();
    assert_eq!(
        (now.confirmed, now.unheard, now.in_flight),
        (1, 1, 0),
        "{now:?}"
    );
    Ok(())
}

/// By the messages' own time, over all partitions, and of what is not handled alone.
async fn age(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(2).connect().await?;
    let queue = Destination::queue(unique("age"));
    kafka.declare(&queue).await?;
    let mut consumer = open(&kafka, &queue).await?;
    same(kafka.progress()[0].oldest(), None, "age of nothing")?;
    let now = SystemTime::now();
    for (partition, minutes) in [(0, 30), (1, 90), (0, 1), (1, 5)] {
        let message = Message::new(minutes.to_string()).time(now - Duration::from_mins(minutes));
        let to = kafka.publisher().partition(partition);
        to.publish(&queue, message).await?;
    }
    let mut held = take(&mut consumer, 4).await?;
    for expected in [90, 30, 5, 1] {
        for told in [kafka.progress().remove(0), consumer.progress()] {
            let minutes = told.oldest().map(|age| age.as_secs() / 60);
            same(minutes, Some(expected), "minutes of the oldest")?;
        }
        let oldest = held.iter().position(|d| text(d) == expected.to_string());
        held.remove(oldest.expect("it came")).ack()?;
        within(30, consumer.settled()).await??;
    }
    same(consumer.progress().oldest(), None, "age of what is handled")
}
