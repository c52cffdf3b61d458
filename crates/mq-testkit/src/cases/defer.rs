//! Defer: delivered again to this subscription after a delay, never earlier.

use std::time::{Duration, Instant};

use mq_core::{Capability, ConsumePlan, Deferred, ErrorKind};

use super::case::list;
use crate::{
    Check, Fixture,
    checks::{number, numbered, numbers, refused},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    a_deferred_message_comes_again_after_its_delay needs Defer,
    a_deferred_message_survives_its_consumer needs Defer,
    a_deferred_message_comes_to_its_own_subscription_only needs Defer | DurableSubscriptions,
    a_message_deferred_in_place_holds_the_later_ones_of_its_key needs DeferInPlace,
    holding_a_key_is_refused_where_there_is_none lacks DeferInPlace,
    a_defer_is_refused_where_there_is_none_and_the_message_comes_back lacks Defer,
    a_plan_with_delays_is_refused_where_there_are_none lacks Defer,
];

fn with_delay() -> ConsumePlan {
    let mut plan = ConsumePlan::new();
    plan.delays = vec![DELAY];
    plan
}

async fn a_deferred_message_comes_again_after_its_delay<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene
        .publish(&queue.to, numbered(0).header("kept", "yes"))
        .await?;
    let mut reader = scene.open_with(&queue.from, with_delay()).await?;
    let delivery = reader.next().await?;
    let (id, start) = (delivery.id().clone(), Instant::now());
    delivery.into_settlement().defer(DELAY)?;
    // Another message is not held up.
    scene.publish(&queue.to, numbered(1)).await?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [1], "what comes meanwhile");
    let again = reader.ack(1).await?.remove(0);
    let waited = start.elapsed();
    ensure_eq!(number(&again)?, 0, "what comes again");
    ensure!(
        waited >= DELAY,
        "it came after {waited:?}, before {DELAY:?}"
    );
    ensure_eq!(again.attempt(), 2, "attempt after a defer");
    ensure_eq!(again.id(), &id, "id");
    ensure_eq!(again.headers().text("kept"), Some("yes"), "header");
    reader.nothing().await?;
    reader.close().await?;
    scene.is_empty(&queue).await
}

async fn a_deferred_message_survives_its_consumer<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(0)).await?;
    let mut reader = scene.open_with(&queue.from, with_delay()).await?;
    reader.next().await?.into_settlement().defer(DELAY)?;
    reader.settled().await?;
    reader.close().await?;
    let mut reader = scene.open_elsewhere(&queue.from).await?;
    let again = reader.ack(1).await?.remove(0);
    ensure_eq!(number(&again)?, 0, "what comes again");
    ensure_eq!(again.attempt(), 2, "attempt after a defer");
    reader.nothing().await?;
    reader.close().await
}

async fn a_deferred_message_comes_to_its_own_subscription_only<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let topic = scene.topic().await?;
    let (audit, billing) = (
        scene.subscribe(&topic, "audit").await?,
        scene.subscribe(&topic, "billing").await?,
    );
    scene.publish(&topic, numbered(0)).await?;
    let mut reader = scene.open_with(&billing, with_delay()).await?;
    reader.next().await?.into_settlement().defer(DELAY)?;
    ensure_eq!(
        reader.ack(1).await?[0].attempt(),
        2,
        "attempt after a defer"
    );
    reader.close().await?;
    let mut reader = scene.open(&audit).await?;
    ensure_eq!(
        reader.ack(1).await?[0].attempt(),
        1,
        "attempt at the other subscription"
    );
    reader.nothing().await?;
    reader.close().await
}

fn in_place() -> ConsumePlan {
    let mut plan = ConsumePlan::new();
    plan.deferred = Deferred::InPlace;
    plan
}

async fn a_message_deferred_in_place_holds_the_later_ones_of_its_key<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    let key = |n| match n % 3 {
        0 => Some("held"),
        1 => Some("free"),
        _ => None,
    };
    let messages = (0..9).map(|n| match key(n) {
        Some(key) => numbered(n).key(key).build(),
        None => numbered(n).build(),
    });
    scene.publish_all(&queue.to, messages.collect()).await?;
    let mut reader = scene.open_with(&queue.from, in_place()).await?;
    // 0 is deferred twice, the others go by; 3 and 6 have its key.
    let mut seen = Vec::new();
    let (mut start, mut deferred) = (Instant::now(), 0);
    while seen.len() < 9 {
        let delivery = reader.next().await?;
        let n = number(&delivery)?;
        if n == 0 && deferred < 2 {
            ensure_eq!(delivery.attempt(), deferred + 1, "attempt");
            if deferred > 0 {
                ensure!(start.elapsed() >= DELAY, "it came early");
            }
            deferred += 1;
            start = Instant::now();
            delivery.into_settlement().defer(DELAY)?;
            continue;
        }
        if n == 0 {
            ensure!(start.elapsed() >= DELAY, "it came early");
            ensure_eq!(delivery.attempt(), 3, "attempt after two defers");
        }
        seen.push(n);
        delivery.ack()?;
    }
    let held: Vec<_> = seen.iter().filter(|n| *n % 3 == 0).collect();
    ensure_eq!(held, [&0, &3, &6], "the order of the held key");
    let mut others = seen[..6].to_vec();
    others.sort_unstable();
    ensure_eq!(others, [1, 2, 4, 5, 7, 8], "what was not held up");
    reader.nothing().await?;
    reader.close().await?;
    scene.is_empty(&queue).await
}

async fn holding_a_key_is_refused_where_there_is_none<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let refused = scene.refuses_to_open(&queue.from, in_place(), ErrorKind::Unsupported);
    let (text, missing) = (refused.await?, Capability::DeferInPlace.to_string());
    ensure!(
        text.contains(&missing),
        "the error does not name the capability: {text}"
    );
    Ok(())
}

async fn a_defer_is_refused_where_there_is_none_and_the_message_comes_back<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(7)).await?;
    let mut reader = scene.open(&queue.from).await?;
    let settlement = reader.next().await?.into_settlement();
    refused(settlement.defer(DELAY), ErrorKind::Unsupported, "a defer")?;
    let again = reader.ack(1).await?.remove(0);
    ensure_eq!(number(&again)?, 7, "what comes back");
    ensure_eq!(again.attempt(), 2, "attempt after a refused defer");
    reader.close().await
}

async fn a_plan_with_delays_is_refused_where_there_are_none<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let text = scene
        .refuses_to_open(&queue.from, with_delay(), ErrorKind::Unsupported)
        .await?;
    let missing = Capability::Defer.to_string();
    ensure!(
        text.contains(&missing),
        "the error does not name the capability: {text}"
    );
    Ok(())
}

/// A whole second: a broker's delays may have no finer steps.
const DELAY: Duration = Duration::from_secs(1);
