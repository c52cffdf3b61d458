//! Declaring, verifying, deleting, and what is not there.

use mq_core::{Broker, ConsumePlan, Deletion, Destination, ErrorKind, Publisher, Subscription};

use super::case::list;
use crate::{
    Check, Failure, Fixture,
    checks::{numbered, numbers, refused},
    failure::{ensure, ensure_eq},
    scene::{Queue, Scene},
};

list![
    declaring_twice_changes_nothing,
    what_was_declared_verifies,
    a_declared_subscription_verifies needs DurableSubscriptions,
    verifying_what_is_missing_is_not_found,
    verifying_names_everything_that_is_missing,
    a_consumer_on_a_missing_queue_is_not_found_and_creates_nothing,
    a_subscription_of_a_missing_topic_is_not_found needs DurableSubscriptions,
    a_name_that_no_broker_takes_is_refused,
    a_plan_without_prefetch_is_refused,
    a_deleted_queue_is_gone_and_can_be_declared_again,
    deleting_what_is_not_there_is_no_error,
    a_queue_that_holds_messages_is_deleted_only_with_them,
    a_queue_that_is_read_is_not_deleted needs SharedQueues,
    a_dead_letter_outlasts_its_queue needs WholeMessages,
    a_deleted_subscription_is_gone_and_its_topic_stays needs DurableSubscriptions,
    a_topic_is_deleted_after_its_subscriptions needs DurableSubscriptions,
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

async fn verifying_names_everything_that_is_missing<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.missing_queue();
    let verified = scene.broker.verify(&queue.to).await;
    let error = match verified {
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        other => return Err(Failure::new(format!("expected NotFound, got {other:?}"))),
    };
    let named = |name: &str| {
        error
            .parts()
            .iter()
            .any(|part| part.to_string().contains(name))
    };
    for name in [queue.to.name(), queue.dead().to.name()] {
        ensure!(named(name), "no part of the error names {name}: {error:?}");
    }
    Ok(())
}

/// Passes if nothing of the queue is left.
async fn gone<F: Fixture>(scene: &Scene<F>, broker: &F::Broker, queue: &Queue) -> Check {
    let not_found = ErrorKind::NotFound;
    for part in [&queue.to, &queue.dead().to] {
        let what = format!("verifying {part} after it was deleted");
        refused(broker.verify(part).await, not_found, &what)?;
    }
    scene
        .refuses_to_open(&queue.from, ConsumePlan::new(), not_found)
        .await
        .map(drop)
}

async fn a_deleted_queue_is_gone_and_can_be_declared_again<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(1)).await?;
    let mut reader = scene.open(&queue.from).await?;
    reader.ack(1).await?;
    reader.close().await?;
    scene.broker.delete(&queue.to).await?;
    gone(scene, &scene.broker, &queue).await?;
    let client = scene.client().await?;
    gone(scene, &client, &queue).await?;
    scene.broker.declare(&queue.to).await?;
    scene.publish(&queue.to, numbered(2)).await?;
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(
        numbers(&reader.ack(1).await?)?,
        [2],
        "what is in the new queue"
    );
    reader.close().await
}

async fn deleting_what_is_not_there_is_no_error<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.missing_queue();
    scene.broker.delete(&queue.to).await?;
    scene.broker.delete(&queue.from).await?;
    let queue = scene.queue().await?;
    for _ in 0..2 {
        scene.broker.delete(&queue.to).await?;
    }
    // What an interrupted `delete` leaves: the home without its queue.
    let home = queue.dead();
    scene.broker.declare(&home.to).await?;
    scene.broker.delete(&queue.to).await?;
    gone(scene, &scene.broker, &queue).await
}

async fn a_queue_that_holds_messages_is_deleted_only_with_them<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 3).await?;
    let text = refused(
        scene.broker.delete(&queue.to).await,
        ErrorKind::InUse,
        "deleting a queue with messages",
    )?;
    ensure!(
        text.contains(&**queue.to.name()),
        "the error does not name the queue: {text}"
    );
    let mut reader = scene.open(&queue.from).await?;
    let kept = numbers(&reader.ack(2).await?)?;
    ensure_eq!(kept, [0, 1], "what the refused deletion left");
    reader.close().await?;
    let deletion = Deletion::of(&queue.to).with_messages();
    scene.broker.delete(deletion).await?;
    gone(scene, &scene.broker, &queue).await
}

async fn a_queue_that_is_read_is_not_deleted<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let mut reader = scene.open_elsewhere(&queue.from).await?;
    // Its first delivery shows that it is there.
    scene.fill(&queue.to, 1).await?;
    reader.ack(1).await?;
    let deletion = Deletion::of(&queue.to).with_messages();
    refused(
        scene.broker.delete(deletion).await,
        ErrorKind::InUse,
        "deleting a queue under its consumer",
    )?;
    scene.broker.verify(&queue.to).await?;
    scene.publish(&queue.to, numbered(1)).await?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [1], "what came afterwards");
    reader.close().await?;
    scene.broker.delete(&queue.to).await?;
    gone(scene, &scene.broker, &queue).await
}

async fn a_dead_letter_outlasts_its_queue<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 1).await?;
    let mut reader = scene.open(&queue.from).await?;
    let letter = reader.next().await?;
    letter.into_settlement().reject("told to")?;
    reader.close().await?;
    let deletion = Deletion::of(&queue.to).with_messages();
    scene.broker.delete(deletion).await?;
    let home = queue.dead();
    let mut letters = scene.open(&home.from).await?;
    ensure_eq!(
        numbers(&letters.ack(1).await?)?,
        [0],
        "the letter of the deleted queue"
    );
    letters.close().await?;
    scene.broker.delete(&queue.to).await?;
    gone(scene, &scene.broker, &queue).await
}

async fn a_deleted_subscription_is_gone_and_its_topic_stays<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let audit = scene.subscribe(&topic, "audit").await?;
    let billing = scene.subscribe(&topic, "billing").await?;
    scene.publish(&topic, numbered(1)).await?;
    refused(
        scene.broker.delete(&audit).await,
        ErrorKind::InUse,
        "deleting a subscription with messages",
    )?;
    scene
        .broker
        .delete(Deletion::of(&audit).with_messages())
        .await?;
    for _ in 0..2 {
        let verified = scene.broker.verify(&audit).await;
        refused(verified, ErrorKind::NotFound, "verifying it")?;
        // Again: it is no error.
        scene.broker.delete(&audit).await?;
    }
    scene.broker.verify(&topic).await?;
    let mut reader = scene.open(&billing).await?;
    ensure_eq!(
        numbers(&reader.ack(1).await?)?,
        [1],
        "what the other subscription has"
    );
    reader.close().await?;
    // Declared again, it starts anew.
    scene.broker.declare(&audit).await?;
    scene.publish(&topic, numbered(2)).await?;
    let mut reader = scene.open(&audit).await?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [2], "what is new");
    reader.close().await
}

async fn a_topic_is_deleted_after_its_subscriptions<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let audit = scene.subscribe(&topic, "audit").await?;
    let text = refused(
        scene.broker.delete(&topic).await,
        ErrorKind::InUse,
        "deleting a topic with a subscription",
    )?;
    ensure!(
        text.contains(&**topic.name()),
        "the error does not name the topic: {text}"
    );
    scene.broker.verify(&audit).await?;
    scene.broker.delete(&audit).await?;
    for _ in 0..2 {
        scene.broker.delete(&topic).await?;
        let verified = scene.broker.verify(&topic).await;
        refused(verified, ErrorKind::NotFound, "verifying it")?;
    }
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
