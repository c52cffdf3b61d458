//! Durable subscriptions of a topic (EIP *Durable Subscriber*).

use mq_core::{Broker, ConsumePlan, Destination, ErrorKind, Subscription};

use super::{case::list, ordering::both};
use crate::{
    Check, Fixture,
    checks::{each_once, numbered, numbers, refused},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    a_subscription_gets_what_is_published_after_its_declaration needs DurableSubscriptions,
    a_subscription_keeps_its_place_while_nobody_reads needs DurableSubscriptions,
    two_topics_do_not_mix needs DurableSubscriptions,
    every_subscription_gets_every_message needs DurableSubscriptions,
    the_members_of_a_subscription_compete needs DurableSubscriptions,
    the_routing_key_is_delivered needs DurableSubscriptions,
    a_subscription_that_was_not_declared_is_not_found needs DurableSubscriptions,
    a_durable_subscription_is_refused_where_there_is_none lacks DurableSubscriptions,
];

async fn a_subscription_gets_what_is_published_after_its_declaration<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let topic = scene.topic().await?;
    scene.publish(&topic, numbered(99)).await?;
    let subscription = scene.subscribe(&topic, "audit").await?;
    scene.fill(&topic, 20).await?;
    let mut reader = scene.open(&subscription).await?;
    each_once(&numbers(&reader.ack(20).await?)?, 0..20)?;
    reader.nothing().await?;
    reader.close().await
}

async fn a_subscription_keeps_its_place_while_nobody_reads<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let subscription = scene.subscribe(&topic, "audit").await?;
    scene.fill(&topic, 10).await?;
    let mut reader = scene.open(&subscription).await?;
    let mut seen = numbers(&reader.ack(10).await?)?;
    reader.close().await?;
    for n in 10..20 {
        scene.publish(&topic, numbered(n)).await?;
    }
    // Declaring it again must not move it.
    scene.broker.declare(&subscription).await?;
    let mut reader = scene.open_elsewhere(&subscription).await?;
    seen.extend(numbers(&reader.ack(10).await?)?);
    each_once(&seen, 0..20)?;
    reader.nothing().await?;
    reader.close().await
}

/// Watermill's *topic isolation*.
async fn two_topics_do_not_mix<F: Fixture>(scene: &Scene<F>) -> Check {
    let mut subscriptions = Vec::new();
    for (name, first) in [("even", 0), ("odd", 50)] {
        let topic = Destination::topic(scene.name(name));
        scene.broker.declare(&topic).await?;
        // One name of a subscription at both.
        subscriptions.push((
            topic.clone(),
            scene.subscribe(&topic, "audit").await?,
            first,
        ));
    }
    for n in 0..50 {
        for (topic, _, first) in &subscriptions {
            scene.publish(topic, numbered(first + n)).await?;
        }
    }
    for (_, subscription, first) in subscriptions {
        let mut reader = scene.open(&subscription).await?;
        each_once(&numbers(&reader.ack(50).await?)?, first..first + 50)?;
        reader.nothing().await?;
        reader.close().await?;
    }
    Ok(())
}

async fn every_subscription_gets_every_message<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let subscriptions = [
        scene.subscribe(&topic, "audit").await?,
        scene.subscribe(&topic, "billing").await?,
    ];
    scene.fill(&topic, 50).await?;
    for subscription in subscriptions {
        let mut reader = scene.open(&subscription).await?;
        let received = reader.ack(50).await?;
        each_once(&numbers(&received)?, 0..50)?;
        ensure_eq!(received[0].source(), subscription.name(), "source");
        reader.nothing().await?;
        reader.close().await?;
    }
    Ok(())
}

async fn the_members_of_a_subscription_compete<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let subscription = scene.subscribe(&topic, "audit").await?;
    let mut first = scene.open(&subscription).await?;
    let mut second = scene.open_elsewhere(&subscription).await?;
    let keyed = |n: u64| numbered(n).key(format!("key-{}", n % 50)).build();
    scene
        .publish_all(&topic, (0..300).map(keyed).collect())
        .await?;
    let got = both(&mut first, &mut second, 300).await?;
    each_once(&numbers(got.iter().flatten())?, 0..300)?;
    first.close().await?;
    second.close().await
}

async fn the_routing_key_is_delivered<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let subscription = scene.subscribe(&topic, "audit").await?;
    let keyed = topic.clone().routing_key("eu.order.paid");
    scene.publish(&keyed, numbered(0)).await?;
    let mut reader = scene.open(&subscription).await?;
    let received = reader.ack(1).await?.remove(0);
    ensure_eq!(received.routing_key(), Some("eu.order.paid"), "routing key");
    ensure!(
        received.headers().is_empty(),
        "headers: {:?}",
        received.headers()
    );
    reader.close().await
}

async fn a_subscription_that_was_not_declared_is_not_found<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let missing = Subscription::durable(topic.name().clone(), "nobody");
    let text = scene
        .refuses_to_open(&missing, ConsumePlan::new(), ErrorKind::NotFound)
        .await?;
    ensure!(
        text.contains("nobody"),
        "the error does not name the subscription: {text}"
    );
    refused(
        scene.broker.verify(&missing).await,
        ErrorKind::NotFound,
        "verifying it",
    )
    .map(drop)
}

async fn a_durable_subscription_is_refused_where_there_is_none<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let subscription = Subscription::durable(scene.name("topic"), "audit");
    let result = scene.broker.declare(&subscription).await;
    refused(
        result,
        ErrorKind::Unsupported,
        "declaring a durable subscription",
    )?;
    let plan = ConsumePlan::new();
    scene
        .refuses_to_open(&subscription, plan, ErrorKind::Unsupported)
        .await
        .map(drop)
}
