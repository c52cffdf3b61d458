//! Settlement: what an acknowledgement means, and when it comes too late.

use mq_core::{ConsumePlan, ErrorKind};

use super::case::list;
use crate::{
    Check, Fixture,
    checks::{each_once, number, numbered, numbers, refused},
    failure::ensure_eq,
    scene::Scene,
};

list![
    an_acked_message_does_not_come_again,
    settled_means_that_a_crash_redelivers_nothing,
    acks_in_any_order_are_kept needs FilledPrefetch,
    a_close_waits_for_the_verdicts,
    prefetch_bounds_what_is_unsettled needs FilledPrefetch,
    a_delivery_that_waits_holds_up_no_other needs SettleEach,
    a_settlement_after_close_is_stale,
];

async fn an_acked_message_does_not_come_again<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 20).await?;
    let mut reader = scene.open(&queue.from).await?;
    each_once(&numbers(&reader.ack(20).await?)?, 0..20)?;
    reader.nothing().await?;
    reader.close().await?;
    scene.is_empty(&queue).await
}

async fn settled_means_that_a_crash_redelivers_nothing<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 50).await?;
    let client = scene.client().await?;
    let mut reader = scene
        .open_on(&client, &queue.from, ConsumePlan::new())
        .await?;
    reader.ack(50).await?;
    reader.settled().await?;
    drop(reader);
    drop(client);
    scene.is_empty(&queue).await
}

async fn acks_in_any_order_are_kept<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 40).await?;
    let mut reader = scene.open(&queue.from).await?;
    let mut open = reader.take(40).await?;
    // Every second one from the end, then the others from the front.
    let late: Vec<_> = (0..20).map(|n| open.remove(n)).collect();
    for delivery in open.into_iter().rev().chain(late) {
        delivery.ack()?;
    }
    reader.settled().await?;
    drop(reader);
    scene.is_empty(&queue).await
}

async fn a_close_waits_for_the_verdicts<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 50).await?;
    let client = scene.client().await?;
    let mut reader = scene
        .open_on(&client, &queue.from, ConsumePlan::new())
        .await?;
    reader.ack(50).await?;
    reader.close().await?;
    drop(client);
    scene.is_empty(&queue).await
}

async fn prefetch_bounds_what_is_unsettled<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 10).await?;
    let mut reader = scene
        .open_with(&queue.from, ConsumePlan::new().prefetch(3))
        .await?;
    let mut open = reader.take(3).await?;
    reader.nothing().await?;
    let mut seen = Vec::new();
    for _ in 3..10 {
        let delivery = open.remove(0);
        seen.push(number(&delivery)?);
        delivery.ack()?;
        open.push(reader.next().await?);
    }
    reader.nothing().await?;
    for delivery in open {
        seen.push(number(&delivery)?);
        delivery.ack()?;
    }
    each_once(&seen, 0..10)?;
    reader.close().await
}

async fn a_delivery_that_waits_holds_up_no_other<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 20).await?;
    let mut reader = scene
        .open_with(&queue.from, ConsumePlan::new().prefetch(2))
        .await?;
    let held = reader.next().await?;
    let waiting = number(&held)?;
    reader.ack(19).await?;
    reader.settled().await?;
    drop(reader);
    drop(held);
    let mut reader = scene.open_elsewhere(&queue.from).await?;
    ensure_eq!(
        numbers(&reader.ack(1).await?)?,
        [waiting],
        "what comes again"
    );
    reader.nothing().await?;
    reader.close().await
}

async fn a_settlement_after_close_is_stale<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(0)).await?;
    let mut reader = scene.open(&queue.from).await?;
    let (_, settlement) = reader.next().await?.into_parts();
    reader.close().await?;
    refused(settlement.ack(), ErrorKind::Stale, "an ack after close")?;
    // A late verdict changes nothing: the message comes again, and its next ack counts.
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [0], "what comes again");
    reader.close().await?;
    scene.is_empty(&queue).await
}
