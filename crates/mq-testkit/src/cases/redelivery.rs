//! Redelivery: what comes again, how it is counted, and what the broker says about it.

use mq_core::{ConsumePlan, MessageBuilder, Received, Settlement};

use super::case::list;
use crate::{
    Check, Fixture,
    checks::{each_once, number, numbered, numbers},
    failure::ensure_eq,
    scene::Scene,
};

list![
    a_requeued_message_comes_again_and_is_counted needs WholeMessages,
    a_dropped_settlement_counts_as_a_requeue,
    a_released_message_comes_again_uncounted needs UncountedRelease,
    a_released_message_is_counted_where_the_broker_counts lacks UncountedRelease,
    a_message_requeued_ten_times_still_comes,
    the_broker_tells_what_was_delivered_before needs RedeliveredFlag,
    no_redelivered_flag_is_made_up lacks RedeliveredFlag,
    a_dropped_consumer_gives_back_what_it_held needs KeptVerdicts,
    a_dropped_consumer_counts_only_what_was_handed_out needs ExactAttempts,
    a_closed_consumer_gives_back_what_it_held,
    a_lost_client_gives_back_what_it_held,
];

/// Settles the first delivery of a message with a verb and returns what comes next.
async fn next_after<F: Fixture>(
    scene: &Scene<F>,
    message: MessageBuilder,
    verb: fn(Settlement) -> mq_core::Result<()>,
) -> Check<Received> {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, message).await?;
    let mut reader = scene.open(&queue.from).await?;
    let delivery = reader.next().await?;
    ensure_eq!(delivery.attempt(), 1, "the first attempt");
    let id = delivery.id().clone();
    verb(delivery.into_settlement())?;
    let again = reader.ack(1).await?.remove(0);
    ensure_eq!(number(&again)?, 7, "the number that comes again");
    ensure_eq!(again.id(), &id, "the id that comes again");
    reader.nothing().await?;
    reader.close().await?;
    scene.is_empty(&queue).await?;
    Ok(again)
}

async fn a_requeued_message_comes_again_and_is_counted<F: Fixture>(scene: &Scene<F>) -> Check {
    let message = numbered(7).header("kept", "yes");
    let again = next_after(scene, message, Settlement::requeue).await?;
    ensure_eq!(again.attempt(), 2, "attempt after a requeue");
    let kept = again.headers().text("kept");
    ensure_eq!(kept, Some("yes"), "the header that comes again");
    Ok(())
}

async fn a_dropped_settlement_counts_as_a_requeue<F: Fixture>(scene: &Scene<F>) -> Check {
    let dropped = next_after(scene, numbered(7), |settlement| {
        drop(settlement);
        Ok(())
    });
    ensure_eq!(dropped.await?.attempt(), 2, "attempt after a drop");
    Ok(())
}

async fn a_released_message_comes_again_uncounted<F: Fixture>(scene: &Scene<F>) -> Check {
    let again = next_after(scene, numbered(7), Settlement::release).await?;
    ensure_eq!(again.attempt(), 1, "attempt after a release");
    Ok(())
}

async fn a_released_message_is_counted_where_the_broker_counts<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let again = next_after(scene, numbered(7), Settlement::release).await?;
    ensure_eq!(again.attempt(), 2, "attempt after a release");
    Ok(())
}

async fn a_message_requeued_ten_times_still_comes<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(0)).await?;
    let mut reader = scene.open(&queue.from).await?;
    for attempt in 1..=10 {
        let delivery = reader.next().await?;
        ensure_eq!(delivery.attempt(), attempt, "attempt");
        delivery.into_settlement().requeue()?;
    }
    ensure_eq!(reader.ack(1).await?[0].attempt(), 11, "attempt");
    reader.close().await
}

async fn the_broker_tells_what_was_delivered_before<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(0)).await?;
    let mut reader = scene.open(&queue.from).await?;
    let delivery = reader.next().await?;
    ensure_eq!(
        delivery.redelivered(),
        Some(false),
        "flag of the first delivery"
    );
    delivery.into_settlement().requeue()?;
    ensure_eq!(
        reader.ack(1).await?[0].redelivered(),
        Some(true),
        "flag of the second delivery"
    );
    reader.close().await
}

async fn no_redelivered_flag_is_made_up<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(0)).await?;
    let mut reader = scene.open(&queue.from).await?;
    let delivery = reader.next().await?;
    ensure_eq!(delivery.redelivered(), None, "flag of the first delivery");
    delivery.into_settlement().requeue()?;
    ensure_eq!(
        reader.ack(1).await?[0].redelivered(),
        None,
        "flag of the second delivery"
    );
    reader.close().await
}

async fn a_dropped_consumer_gives_back_what_it_held<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 30).await?;
    let mut reader = scene.open(&queue.from).await?;
    let mut open = reader.take(20).await?;
    let acked = open.split_off(10);
    let mut seen = Vec::new();
    for delivery in acked {
        seen.push(number(&delivery)?);
        delivery.ack()?;
    }
    reader.settled().await?;
    // Ten are handed out and unsettled, ten at most buffered.
    drop(reader);
    drop(open);
    let mut reader = scene.open_elsewhere(&queue.from).await?;
    while seen.len() < 30 {
        let again = number(&reader.ack(1).await?[0])?;
        // A log has to repeat what was acknowledged behind an open one.
        if !seen.contains(&again) {
            seen.push(again);
        }
    }
    each_once(&seen, 0..30)?;
    reader.close().await
}

async fn a_dropped_consumer_counts_only_what_was_handed_out<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    for n in 0..10 {
        scene.publish(&queue.to, numbered(n).key("k")).await?;
    }
    let mut reader = scene.open(&queue.from).await?;
    let open = reader.take(3).await?;
    drop(reader);
    drop(open);
    let mut reader = scene.open_elsewhere(&queue.from).await?;
    let received = reader.ack(10).await?;
    each_once(&numbers(&received)?, 0..10)?;
    for one in received {
        let number = number(&one)?;
        let attempt = if number < 3 { 2 } else { 1 };
        ensure_eq!(one.attempt(), attempt, "attempt at message {number}");
    }
    reader.close().await
}

async fn a_closed_consumer_gives_back_what_it_held<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 20).await?;
    let mut reader = scene.open(&queue.from).await?;
    let open = reader.take(10).await?;
    reader.close().await?;
    drop(open);
    let mut reader = scene.open(&queue.from).await?;
    each_once(&numbers(&reader.ack(20).await?)?, 0..20)?;
    reader.nothing().await?;
    reader.close().await
}

async fn a_lost_client_gives_back_what_it_held<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 20).await?;
    let client = scene.client().await?;
    let mut reader = scene
        .open_on(&client, &queue.from, ConsumePlan::new())
        .await?;
    let open = reader.take(10).await?;
    // As a crash does: nothing is settled, nothing is closed.
    open.into_iter().for_each(std::mem::forget);
    drop(reader);
    drop(client);
    let mut reader = scene.open(&queue.from).await?;
    each_once(&numbers(&reader.ack(20).await?)?, 0..20)?;
    reader.close().await
}
