//! Ephemeral subscriptions: they live with their consumer and start at the end.

use mq_core::{ConsumePlan, DeadLetters, ErrorKind, Filter, Subscription};

use super::case::list;
use crate::{
    Check, Fixture,
    checks::{each_once, numbered, numbers, refused},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    an_ephemeral_subscription_gets_what_comes_after_it_opened needs EphemeralSubscriptions,
    every_ephemeral_subscription_gets_every_message needs EphemeralSubscriptions,
    an_ephemeral_subscription_has_a_filter needs EphemeralSubscriptions,
    an_ephemeral_subscription_has_no_home needs EphemeralSubscriptions,
    an_ephemeral_subscription_of_a_missing_topic_is_not_found needs EphemeralSubscriptions,
    an_ephemeral_subscription_is_refused_where_there_is_none lacks EphemeralSubscriptions,
];

async fn an_ephemeral_subscription_gets_what_comes_after_it_opened<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let topic = scene.topic().await?;
    let some = Subscription::ephemeral(topic.name().clone());
    scene.publish(&topic, numbered(99)).await?;
    let mut reader = scene.open(&some).await?;
    scene.fill(&topic, 20).await?;
    each_once(&numbers(&reader.ack(20).await?)?, 0..20)?;
    reader.nothing().await?;
    reader.close().await?;
    // It was gone with its consumer: the next one starts at the end again.
    scene.publish(&topic, numbered(98)).await?;
    let mut reader = scene.open(&some).await?;
    reader.nothing().await?;
    reader.close().await
}

async fn every_ephemeral_subscription_gets_every_message<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let some = Subscription::ephemeral(topic.name().clone());
    let mut readers = [scene.open(&some).await?, scene.open_elsewhere(&some).await?];
    scene.fill(&topic, 20).await?;
    for reader in &mut readers {
        each_once(&numbers(&reader.ack(20).await?)?, 0..20)?;
        reader.nothing().await?;
    }
    Ok(())
}

async fn an_ephemeral_subscription_has_a_filter<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let some = Subscription::ephemeral(topic.name().clone()).filter(Filter::pattern("eu.*"));
    let mut reader = scene.open(&some).await?;
    for (n, key) in (0..).zip(["us.order", "eu.order", "eu", "eu.invoice"]) {
        scene
            .publish(&topic.clone().routing_key(key), numbered(n).key("k"))
            .await?;
    }
    ensure_eq!(
        numbers(&reader.ack(2).await?)?,
        [1, 3],
        "what the filter takes"
    );
    reader.nothing().await?;
    reader.close().await
}

async fn an_ephemeral_subscription_has_no_home<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let some = Subscription::ephemeral(topic.name().clone());
    let mut reader = scene.open(&some).await?;
    scene.publish(&topic, numbered(7)).await?;
    let settlement = reader.next().await?.into_settlement();
    refused(
        settlement.reject("wrong"),
        ErrorKind::Unsupported,
        "a reject without a home",
    )?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [7], "what comes back");
    reader.close().await?;
    // Unless the plan names one.
    let home = scene.queue().await?;
    let plan = ConsumePlan::new().dead_letters(DeadLetters::To(home.to));
    let mut reader = scene.open_with(&some, plan).await?;
    scene.publish(&topic, numbered(8)).await?;
    reader.next().await?.into_settlement().reject("wrong")?;
    reader.close().await?;
    let mut dead = scene.open(&home.from).await?;
    ensure_eq!(
        numbers(&dead.ack(1).await?)?,
        [8],
        "what is in the named home"
    );
    dead.close().await
}

async fn an_ephemeral_subscription_of_a_missing_topic_is_not_found<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let name = scene.name("missing");
    let some = Subscription::ephemeral(name.as_str());
    let text = scene
        .refuses_to_open(&some, ConsumePlan::new(), ErrorKind::NotFound)
        .await?;
    ensure!(
        text.contains(&name),
        "the error does not name the topic: {text}"
    );
    Ok(())
}

async fn an_ephemeral_subscription_is_refused_where_there_is_none<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let some = Subscription::ephemeral(scene.name("topic"));
    let plan = ConsumePlan::new();
    scene
        .refuses_to_open(&some, plan, ErrorKind::Unsupported)
        .await
        .map(drop)
}
