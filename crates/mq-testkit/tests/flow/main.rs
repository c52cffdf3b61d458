//! The flow events of each broker are what happened, message by message: on the in-process broker in
//! both shapes, on RabbitMQ (`MQ_RABBITMQ_URL`) and on Kafka (`MQ_KAFKA_SERVERS`).
#![allow(clippy::expect_used, reason = "a test may panic")]

mod scene;

use std::{process::ExitCode, sync::Arc};

use mq_amqp::Amqp;
use mq_core::{
    Broker, ConsumePlan, Consumer, Destination, Failure, Outcome, Publisher, Received, Result,
    Unconfirmed,
    flow::{FlowKind as Kind, FlowSink},
};
use mq_kafka::Kafka;
use mq_memory::Memory;
use mq_testkit::{Address, Check, Suite, broker_address, flow::FlowRecorder};
use scene::{Scene, message, numbered, same};

fn main() -> ExitCode {
    let suite = |broker, address| Suite::new("flow", broker, address);
    let (rabbit, kafka) = ("MQ_RABBITMQ_URL", "MQ_KAFKA_SERVERS");
    mq_testkit::run([
        cases(suite("mq-memory", Address::in_process()), |_, sink| async {
            Ok(Memory::builder().name(CLIENT).flow(sink).build())
        })
        .case("a_full_queue_rejects", |_| full())
        .case("a_deferred_message_is_acked_and_delivered_later", |_| {
            deferred()
        }),
        cases(
            suite("mq-memory (log)", Address::in_process()),
            |_, sink| async { Ok(Memory::builder().log(2).name(CLIENT).flow(sink).build()) },
        ),
        cases(
            suite("mq-amqp", broker_address(rabbit)),
            |url, sink| async move {
                let builder = Amqp::builder().url(&url)?;
                builder.name(CLIENT).flow(sink).connect().await
            },
        ),
        cases(
            suite("mq-kafka", broker_address(kafka)),
            |servers, sink| async move {
                let builder = Kafka::builder(&servers).partitions(2);
                builder.name(CLIENT).flow(sink).connect().await
            },
        ),
    ])
}

const CLIENT: &str = "flow test";

fn cases<B: Broker, F: Future<Output = Result<B>> + Send>(
    suite: Suite,
    connect: impl Fn(String, Arc<dyn FlowSink>) -> F + Copy + Send + 'static,
) -> Suite {
    macro_rules! cases {
        ($($case:ident)+) => {
            suite$(.case(stringify!($case), move |address| async move {
                let recorder = Arc::new(FlowRecorder::new());
                let broker = connect(address, recorder.clone()).await?;
                let scene = Scene::new(broker, recorder);
                $case(&scene).await?;
                scene.one_end_each()?;
                scene.close().await
            }))+
        };
    }
    cases! {
        a_message_is_published_confirmed_delivered_handled_acked
        a_failed_attempt_is_requeued_and_delivered_again
        a_message_that_is_given_back_unattempted_is_released
        a_rejected_message_is_copied_then_dead_lettered_then_acked
        a_message_to_no_queue_is_unroutable
        what_is_handed_over_has_no_end
        a_batch_has_an_end_for_each_message
        an_outcome_that_nobody_awaits_is_told
        every_publish_has_one_end_and_every_delivery_one_settlement
        every_event_names_the_client_and_the_source
    }
}

async fn a_message_is_published_confirmed_delivered_handled_acked<B: Broker>(
    scene: &Scene<B>,
) -> Check {
    let queue = scene.queue("plain").await?;
    scene.publish(&queue, "one").await?;
    let run = scene.work(&queue, |_| Outcome::ack());
    scene.reached(Kind::Acked, 1).await?;
    scene.stop(run).await?;
    scene.message(
        "one",
        &[
            Kind::Published,
            Kind::Confirmed,
            Kind::Delivered,
            Kind::Handled,
            Kind::Acked,
        ],
    )?;
    // The consumer was open before, and closed behind.
    let of_consumer = scene.steps(|step| step.id.is_none());
    same(of_consumer.first().map(|s| s.kind), Some(Kind::Opened))?;
    same(of_consumer.last().map(|s| s.kind), Some(Kind::Closed))
}

async fn a_failed_attempt_is_requeued_and_delivered_again<B: Broker>(scene: &Scene<B>) -> Check {
    let queue = scene.queue("again").await?;
    scene.publish(&queue, "one").await?;
    let run = scene.work(&queue, |received| match received.attempt() {
        1 => Outcome::retry("not yet"),
        _ => Outcome::ack(),
    });
    scene.reached(Kind::Acked, 1).await?;
    scene.stop(run).await?;
    scene.message(
        "one",
        &[
            Kind::Published,
            Kind::Confirmed,
            Kind::Delivered,
            Kind::Handled,
            Kind::Requeued,
            Kind::Delivered,
            Kind::Handled,
            Kind::Acked,
        ],
    )?;
    let handled = scene.steps(|step| step.kind == Kind::Handled);
    let told: Vec<_> = handled.iter().map(|s| (s.decision, s.attempt)).collect();
    same(told, vec![(Some("retry"), Some(1)), (Some("ack"), Some(2))])
}

async fn a_message_that_is_given_back_unattempted_is_released<B: Broker>(
    scene: &Scene<B>,
) -> Check {
    let queue = scene.queue("released").await?;
    scene.publish(&queue, "one").await?;
    let mut consumer = scene.consumer(&queue).await?;
    let delivery = scene.soon(consumer.receive()).await??.expect("a delivery");
    delivery.into_settlement().release()?;
    scene.soon(consumer.settled()).await??;
    let delivery = scene.soon(consumer.receive()).await??.expect("a delivery");
    delivery.ack()?;
    scene.soon(consumer.close()).await??;
    scene.message(
        "one",
        &[
            Kind::Published,
            Kind::Confirmed,
            Kind::Delivered,
            Kind::Released,
            Kind::Delivered,
            Kind::Acked,
        ],
    )
}

async fn a_rejected_message_is_copied_then_dead_lettered_then_acked<B: Broker>(
    scene: &Scene<B>,
) -> Check {
    let queue = scene.queue("rejected").await?;
    scene.publish(&queue, "one").await?;
    let run = scene.work(&queue, |_| Outcome::reject("never"));
    scene.reached(Kind::Acked, 1).await?;
    scene.stop(run).await?;
    // The copy has the id of its original.
    scene.message(
        "one",
        &[
            Kind::Published,
            Kind::Confirmed,
            Kind::Delivered,
            Kind::Handled,
            Kind::Published,
            Kind::Confirmed,
            Kind::DeadLettered,
            Kind::Acked,
        ],
    )?;
    let home = queue.dead_letter_home().expect("a home");
    let to_home = scene.steps(|step| {
        step.destination
            .as_ref()
            .is_some_and(|to| to.name() == home.name())
    });
    let kinds: Vec<_> = to_home.iter().map(|step| step.kind).collect();
    same(
        kinds,
        vec![Kind::Published, Kind::Confirmed, Kind::DeadLettered],
    )
}

async fn a_message_to_no_queue_is_unroutable<B: Broker>(scene: &Scene<B>) -> Check {
    let nowhere = Destination::queue(scene.name("nowhere"));
    let publisher = scene.broker.publisher();
    let sent = publisher.publish(&nowhere, message("one"));
    let error = scene.soon(sent).await?.expect_err("unroutable");
    same(error.kind(), mq_core::ErrorKind::Unroutable)?;
    scene.message("one", &[Kind::Published, Kind::Unroutable])
}

async fn what_is_handed_over_has_no_end<B: Broker>(scene: &Scene<B>) -> Check {
    let queue = scene.queue("handed").await?;
    let handed = scene.broker.unconfirmed();
    scene
        .soon(handed.hand_over(&queue, message("one")))
        .await??;
    let mut consumer = scene.consumer(&queue).await?;
    let delivery = scene.soon(consumer.receive()).await??.expect("a delivery");
    delivery.ack()?;
    scene.soon(consumer.close()).await??;
    let kinds = scene.kinds_of("one");
    same(
        kinds
            .iter()
            .filter(|kind| **kind == Kind::HandedOver)
            .count(),
        1,
    )?;
    let others: Vec<_> = kinds
        .into_iter()
        .filter(|kind| *kind != Kind::HandedOver)
        .collect();
    same(others, vec![Kind::Delivered, Kind::Acked])
}

async fn a_batch_has_an_end_for_each_message<B: Broker>(scene: &Scene<B>) -> Check {
    let queue = scene.queue("batch").await?;
    let messages = numbered(100).map(|id| message(&id).build()).collect();
    let publisher = scene.broker.publisher();
    scene
        .soon(publisher.publish_batch(&queue, messages))
        .await?
        .all_confirmed()?;
    for id in numbered(100) {
        scene.message(&id, &[Kind::Published, Kind::Confirmed])?;
    }
    Ok(())
}

async fn an_outcome_that_nobody_awaits_is_told<B: Broker>(scene: &Scene<B>) -> Check {
    let queue = scene.queue("dropped").await?;
    let publisher = scene.broker.publisher();
    let pending = publisher.enqueue(&queue, message("one"));
    drop(scene.soon(pending).await??);
    scene.reached(Kind::Confirmed, 1).await?;
    scene.message("one", &[Kind::Published, Kind::Confirmed])
}

/// Many at a time, with every verdict; [`Scene::one_end_each`] then looks at all of them.
async fn every_publish_has_one_end_and_every_delivery_one_settlement<B: Broker>(
    scene: &Scene<B>,
) -> Check {
    const COUNT: usize = 300;
    let queue = scene.queue("many").await?;
    let publisher = scene.broker.publisher();
    let mut pending = Vec::new();
    for id in numbered(COUNT) {
        pending.push(publisher.enqueue(&queue, message(&id)).await?);
    }
    let run = scene.work_with(&queue, 8, |received: &Received| {
        let id = received.id().to_string();
        let number: usize = id
            .rsplit('-')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        match (number % 7, received.attempt()) {
            (1, 1) => Outcome::retry("not yet"),
            (2, _) => Outcome::reject("never"),
            (4, 1 | 2) => Outcome::retry(Failure::transient("twice")),
            _ => Outcome::ack(),
        }
    });
    for one in pending {
        scene.soon(one).await??;
    }
    scene.reached(Kind::Acked, COUNT).await?;
    scene.stop(run).await?;
    let of_queue = |kind| {
        let ours = |step: &mq_testkit::flow::FlowStep| step.kind == kind;
        scene.steps(ours).len()
    };
    same(of_queue(Kind::Acked), COUNT)?;
    same(of_queue(Kind::DeadLettered), COUNT.div_ceil(7))?;
    let decided = scene.steps(|step| step.kind == Kind::Handled);
    same(decided.len(), of_queue(Kind::Delivered))
}

async fn every_event_names_the_client_and_the_source<B: Broker>(scene: &Scene<B>) -> Check {
    let queue = scene.queue("names").await?;
    scene.publish(&queue, "one").await?;
    let run = scene.work(&queue, |_| Outcome::ack());
    scene.reached(Kind::Acked, 1).await?;
    scene.stop(run).await?;
    for step in scene.steps(|_| true) {
        same(&*step.client, CLIENT)?;
        let place = match (&step.destination, &step.source) {
            (Some(to), None) => to.name().clone(),
            (None, Some(source)) => source.name().clone(),
            other => panic!("{:?}: {other:?}", step.kind),
        };
        same(&place, queue.name())?;
    }
    Ok(())
}

async fn full() -> Check {
    let recorder = Arc::new(FlowRecorder::new());
    let broker = Memory::builder()
        .max_messages(1)
        .flow(recorder.clone())
        .build();
    let scene = Scene::new(broker, recorder);
    let queue = scene.queue("full").await?;
    scene.publish(&queue, "one").await?;
    let refused = scene
        .broker
        .publisher()
        .publish(&queue, message("two"))
        .await;
    same(
        refused.expect_err("full").kind(),
        mq_core::ErrorKind::Rejected,
    )?;
    scene.message("two", &[Kind::Published, Kind::Rejected])
}

async fn deferred() -> Check {
    let recorder = Arc::new(FlowRecorder::new());
    let scene = Scene::new(Memory::builder().flow(recorder.clone()).build(), recorder);
    let queue = scene.queue("later").await?;
    scene.publish(&queue, "one").await?;
    let subscription = mq_core::Subscription::queue(queue.name().clone());
    let mut consumer = scene
        .broker
        .consumer(&subscription, ConsumePlan::new())
        .await?;
    let delivery = consumer.receive().await?.expect("a delivery");
    delivery
        .into_settlement()
        .defer(std::time::Duration::from_millis(5))?;
    let delivery = scene.soon(consumer.receive()).await??.expect("a delivery");
    delivery.ack()?;
    scene.message(
        "one",
        &[
            Kind::Published,
            Kind::Confirmed,
            Kind::Delivered,
            Kind::Deferred,
            Kind::Acked,
            Kind::Delivered,
            Kind::Acked,
        ],
    )
}
