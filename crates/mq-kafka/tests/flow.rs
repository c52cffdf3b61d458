//! The flow events that only this broker has: what a group gives, takes and commits, and a refusal.
//! The others are in `mq-testkit/tests/flow`.
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
        Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Message, Position,
        Publisher, Subscription, flow::FlowKind as Kind,
    },
};
use mq_testkit::{Check, Suite, broker_address, flow::FlowRecorder};
use support::{Bare, fill, punctual_queue, take, unique, within};

fn main() -> ExitCode {
    Suite::new("flow", "mq-kafka", broker_address("MQ_KAFKA_SERVERS"))
        .case("a_refused_time_is_a_rejected_publish", rejected)
        .case(
            "a_commit_is_told_when_it_moved_the_offset_and_a_partition_from_when_to_when",
            committed,
        )
        .case("an_ephemeral_subscription_commits_nothing", ephemeral)
        .case("the_words_are_those_of_kafka", words)
        .run()
}

async fn connect(servers: &str) -> Check<(Kafka, Arc<FlowRecorder>)> {
    let recorder = Arc::new(FlowRecorder::new());
    let builder = Kafka::builder(servers).partitions(1).name("shop");
    Ok((builder.flow(recorder.clone()).connect().await?, recorder))
}

async fn rejected(servers: String) -> Check {
    let (kafka, recorder) = connect(&servers).await?;
    let bare = Bare::connect(&servers).await?;
    let queue = punctual_queue(&kafka, &bare, "flow-refused", 1).await?;
    let ahead = SystemTime::now() + Duration::from_secs(48 * 3600);
    let refused = kafka
        .publisher()
        .publish(&queue, Message::new("x").time(ahead))
        .await;
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::Rejected);
    let kinds: Vec<_> = recorder.steps().iter().map(|step| step.kind).collect();
    assert_eq!(kinds, [Kind::Published, Kind::Rejected]);
    Ok(())
}

async fn committed(servers: String) -> Check {
    let (kafka, recorder) = connect(&servers).await?;
    let queue = Destination::queue(unique("flow-commit"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..3).await?;
    let source = Subscription::queue(queue.name().clone());
    let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
    let mut taken = take(&mut consumer, 3).await?;
    // The one in the middle stays open: the offset stops at it.
    taken.remove(2).ack()?;
    taken.remove(0).ack()?;
    within(30, consumer.settled()).await??;
    let told = |kind| -> Vec<_> {
        let steps = recorder.steps().into_iter();
        steps
            .filter(|step| step.kind == kind)
            .filter_map(|step| step.position.map(|at| (at.partition, at.offset)))
            .collect()
    };
    assert_eq!(told(Kind::Assigned), [(0, 0)]);
    assert_eq!(told(Kind::Committed), [(0, 1)]);
    assert_eq!(told(Kind::Acked), [(0, 2), (0, 0)]);
    taken.remove(0).ack()?;
    within(30, consumer.close()).await??;
    assert_eq!(told(Kind::Committed), [(0, 1), (0, 3)]);
    assert_eq!(told(Kind::Revoked), [(0, 3)]);
    let last = recorder.steps().pop().map(|step| step.kind);
    assert_eq!(last, Some(Kind::Closed));
    Ok(())
}

async fn ephemeral(servers: String) -> Check {
    let (kafka, recorder) = connect(&servers).await?;
    let topic = Destination::topic(unique("flow-ephemeral"));
    kafka.declare(&topic).await?;
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let source = Subscription::ephemeral(topic.name().clone());
    let mut consumer = kafka.consumer(&source, plan).await?;
    kafka.publisher().publish(&topic, Message::new("x")).await?;
    take(&mut consumer, 1).await?.remove(0).ack()?;
    within(30, consumer.settled()).await??;
    within(30, consumer.close()).await??;
    let kinds: Vec<_> = recorder.steps().iter().map(|step| step.kind).collect();
    assert!(kinds.contains(&Kind::Acked), "{kinds:?}");
    assert!(!kinds.contains(&Kind::Committed), "{kinds:?}");
    Ok(())
}

async fn words(servers: String) -> Check {
    let (kafka, recorder) = connect(&servers).await?;
    let topic = Destination::topic(unique("flow-words"));
    let mail = Subscription::durable(topic.name().clone(), "mail");
    kafka.declare(&topic).await?;
    kafka.declare(&mail).await?;
    let stored = kafka.publisher().publish(&topic, Message::new("x")).await?;
    let at = Position {
        partition: 0,
        offset: 0,
    };
    assert_eq!(stored.position(), Some(at));
    let mut consumer = kafka.consumer(&mail, ConsumePlan::new()).await?;
    take(&mut consumer, 1).await?.remove(0).ack()?;
    within(30, consumer.close()).await??;
    assert_eq!(
        recorder.drawing().hide(topic.name().to_string()).diagram(),
        "\
sequenceDiagram
    participant p1 as shop
    participant p2 as topic
    p1->>p2: produce (acks=all) m1
    p2-->>p1: stored m1 at partition 0 offset 0
    p1->>p2: subscribe group mail@
    p2-->>p1: assigned partition 0 from offset 0
    p2->>p1: fetch m1 at partition 0 offset 0
    Note over p1: m1 is done
    p1->>p2: commit offset 1 of partition 0 group mail@
    p2->>p1: revoked partition 0
    p1->>p2: leave
"
    );
    Ok(())
}
