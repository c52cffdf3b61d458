//! Declaring, verifying, and what is not there.

use mq_core::{Broker, ConsumePlan, Destination, ErrorKind, Publisher, Subscription};

use super::case::list;
use crate::{
    Check, Failure, Fixture,
    checks::{numbered, numbers, refused},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    declaring_twice_changes_nothing,
    what_was_declared_verifies,
    a_declared_subscription_verifies needs DurableSubscriptions,
    verifying_what_is_missing_is_not_found,
    a_consumer_on_a_missing_queue_is_not_found_and_creates_nothing,
    a_subscription_of_a_missing_topic_is_not_found needs DurableSubscriptions,
    a_name_that_no_broker_takes_is_refused,
    a_plan_without_prefetch_is_refused,
];

async fn declaring_twice_changes_nothing<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(7)).await?;
    scene.broker.declare(&queue.to).await?;
    let client = scene.client().await?;
    client.declare(&queue.to).await?;
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(
        numbers(&reader.ack(1).await?)?,
        [7],
        "what was in the queue"
    );
    reader.close().await
}

async fn what_was_declared_verifies<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let client = scene.client().await?;
    client.verify(&queue.to).await?;
    client.verify(&queue.dead().to).await?;
    client.verify(&queue.from).await?;
    Ok(())
}

async fn a_declared_subscription_verifies<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let subscription = scene.subscribe(&topic, "audit").await?;
    let client = scene.client().await?;
    client.verify(&topic).await?;
    client.verify(&subscription).await?;
    let home = subscription.dead_letter_home();
    let home = home.ok_or_else(|| Failure::new("a durable subscription without home"))?;
    Ok(client.verify(&home).await?)
}

async fn verifying_what_is_missing_is_not_found<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.missing_queue();
    for _ in 0..2 {
        // Twice: to verify must not create.
        let text = refused(
            scene.broker.verify(&queue.to).await,
            ErrorKind::NotFound,
            "verifying",
        )?;
        ensure!(
            text.contains(&**queue.to.name()),
            "the error does not name the queue: {text}"
        );
    }
    let topic = Destination::topic(scene.name("missing-topic"));
    let text = refused(
        scene.broker.verify(&topic).await,
        ErrorKind::NotFound,
        "verifying",
    )?;
    ensure!(
        text.contains(&**topic.name()),
        "the error does not name the topic: {text}"
    );
    Ok(())
}

async fn a_consumer_on_a_missing_queue_is_not_found_and_creates_nothing<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.missing_queue();
    let plan = ConsumePlan::new();
    let text = scene
        .refuses_to_open(&queue.from, plan, ErrorKind::NotFound)
        .await?;
    ensure!(
        text.contains(&**queue.to.name()),
        "the error does not name the queue: {text}"
    );
    refused(
        scene.broker.verify(&queue.to).await,
        ErrorKind::NotFound,
        "verifying",
    )
    .map(drop)
}

async fn a_subscription_of_a_missing_topic_is_not_found<F: Fixture>(scene: &Scene<F>) -> Check {
    let name = scene.name("missing");
    let subscription = Subscription::durable(name.as_str(), "audit");
    let result = scene.broker.declare(&subscription).await;
    let text = refused(
        result,
        ErrorKind::NotFound,
        "declaring a subscription of it",
    )?;
    ensure!(
        text.contains(&name),
        "the error does not name the topic: {text}"
    );
    scene
        .refuses_to_open(&subscription, ConsumePlan::new(), ErrorKind::NotFound)
        .await?;
    Ok(())
}

async fn a_name_that_no_broker_takes_is_refused<F: Fixture>(scene: &Scene<F>) -> Check {
    let long = "x".repeat(241);
    for name in ["", ".", "..", "line\nbreak", "nul\0", &long] {
        let (queue, from) = (Destination::queue(name), Subscription::queue(name));
        let declared = scene.broker.declare(&queue).await;
        refused(
            declared,
            ErrorKind::InvalidName,
            &format!("declaring {name:?}"),
        )?;
        let published = scene.broker.publisher().publish(&queue, numbered(0)).await;
        refused(
            published,
            ErrorKind::InvalidName,
            &format!("publishing to {name:?}"),
        )?;
        scene
            .refuses_to_open(&from, ConsumePlan::new(), ErrorKind::InvalidName)
            .await?;
        let topic = scene.broker.declare(Destination::topic(name)).await;
        refused(
            topic,
            ErrorKind::InvalidName,
            &format!("declaring topic {name:?}"),
        )?;
    }
    Ok(())
}

async fn a_plan_without_prefetch_is_refused<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let unlimited = ConsumePlan::new().prefetch(0);
    scene
        .refuses_to_open(&queue.from, unlimited, ErrorKind::Config)
        .await
        .map(drop)
}
