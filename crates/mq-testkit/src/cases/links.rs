//! A lost connection: every wait ends with an error that says what is known, and nothing is lost.
//!
//! Whether a client comes back by itself is its crate's matter; here its link stays cut.

use std::collections::BTreeSet;

use mq_core::{Broker, ConsumePlan, Consumer, Error, ErrorKind, Publisher, Result};
use tokio::time::timeout;

use super::case::list;
use crate::{
    Check, Failure, Fixture,
    checks::{each_once, number, numbered, numbers},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    a_publish_whose_answer_never_comes_is_unknown with Link,
    a_lost_link_ends_every_wait with Link,
    a_settlement_after_a_lost_link_is_not_taken with Link,
    what_a_lost_link_held_comes_to_the_next_client needs KeptVerdicts with Link,
];

/// The error that an operation ends with once its link is gone.
async fn ends<F: Fixture, T>(
    scene: &Scene<F>,
    what: &str,
    operation: impl Future<Output = Result<T>>,
    allowed: &[ErrorKind],
) -> Check<Error> {
    match timeout(scene.patience(), operation).await {
        Err(_) => Err(Failure::new(format!(
            "{what} did not end within {:?}",
            scene.patience()
        ))),
        Ok(Ok(_)) => Err(Failure::new(format!("{what} succeeded without a link"))),
        Ok(Err(error)) if allowed.contains(&error.kind()) => Ok(error),
        Ok(Err(error)) => {
            Err(Failure::from(error)
                .while_doing(&format!("{what} has to end as one of {allowed:?}")))
        }
    }
}

async fn a_publish_whose_answer_never_comes_is_unknown<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let (client, link) = scene.client_by_link().await?;
    let publisher = client.publisher();
    publisher.publish(&queue.to, numbered(0)).await?;
    link.freeze();
    let mut handles = Vec::new();
    for n in 1..=20 {
        handles.push(publisher.enqueue(&queue.to, numbered(n)).await?);
    }
    // Until they are on their way: one that was never written would be known not to be there.
    let mut first = Box::pin(handles.remove(0));
    let early = timeout(scene.quiet(), first.as_mut()).await;
    ensure!(
        early.is_err(),
        "a publish ended before its answer: {early:?}"
    );
    link.cut();
    let error = ends(scene, "publish 1", first, &[ErrorKind::Unknown]).await?;
    ensure!(
        error.possibly_delivered(),
        "{error} says that it was not stored"
    );
    for (n, handle) in (2..).zip(handles) {
        let what = format!("publish {n}");
        // One that is still with the client when the link is cut, behind the first, is known not to be there.
        const KINDS: &[ErrorKind] = &[ErrorKind::Unknown, ErrorKind::Timeout];
        let error = ends(scene, &what, handle, KINDS).await?;
        ensure_eq!(
            error.possibly_delivered(),
            error.kind() == ErrorKind::Unknown,
            "what {error} says of the message"
        );
    }
    let mut reader = scene.open(&queue.from).await?;
    let first = reader.ack(1).await?;
    ensure_eq!(numbers(&first)?, [0], "what was confirmed");
    reader.close().await
}

async fn a_lost_link_ends_every_wait<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let (client, link) = scene.client_by_link().await?;
    let publisher = client.publisher();
    publisher.publish(&queue.to, numbered(0)).await?;
    let plan = ConsumePlan::new();
    let mut consumer = client.consumer(&queue.from, plan.clone()).await?;
    let delivery = timeout(scene.patience(), consumer.receive()).await??;
    let delivery = delivery.ok_or_else(|| Failure::new("the consumer ended"))?;
    link.cut();
    const GONE: &[ErrorKind] = &[ErrorKind::Disconnected, ErrorKind::Lost];
    ends(scene, "receive", consumer.receive(), GONE).await?;
    drop(delivery);
    const LATE: &[ErrorKind] = &[
        ErrorKind::Disconnected,
        ErrorKind::Connect,
        ErrorKind::Timeout,
        ErrorKind::Unknown,
        ErrorKind::Closed,
    ];
    let publish = publisher.publish(&queue.to, numbered(1));
    ends(scene, "a publish", publish, LATE).await?;
    let open = async { client.consumer(&queue.from, plan).await.map(drop) };
    ends(scene, "opening a consumer", open, LATE).await?;
    ends(scene, "declare", client.declare(&queue.to), LATE).await?;
    ends(scene, "verify", client.verify(&queue.to), LATE).await?;
    // Closing ends as well, with or without an error: nothing was under way any more.
    for (what, closing) in [
        (
            "the consumer",
            timeout(scene.patience(), consumer.close()).await.is_ok(),
        ),
        (
            "the client",
            timeout(scene.patience(), client.close()).await.is_ok(),
        ),
    ] {
        ensure!(closing, "closing {what} did not end");
    }
    Ok(())
}

async fn a_settlement_after_a_lost_link_is_not_taken<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(0)).await?;
    let (client, link) = scene.client_by_link().await?;
    let plan = ConsumePlan::new();
    let mut consumer = client.consumer(&queue.from, plan).await?;
    let delivery = timeout(scene.patience(), consumer.receive()).await??;
    let delivery = delivery.ok_or_else(|| Failure::new("the consumer ended"))?;
    link.cut();
    const GONE: &[ErrorKind] = &[ErrorKind::Disconnected, ErrorKind::Lost];
    ends(scene, "receive", consumer.receive(), GONE).await?;
    let late = async { delivery.ack() };
    ends(scene, "an ack", late, &[ErrorKind::Stale]).await?;
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [0], "what comes again");
    reader.close().await
}

async fn what_a_lost_link_held_comes_to_the_next_client<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 40).await?;
    let (client, link) = scene.client_by_link().await?;
    let plan = ConsumePlan::new();
    let mut consumer = client.consumer(&queue.from, plan).await?;
    let mut held = Vec::new();
    let mut acked = BTreeSet::new();
    while held.len() + acked.len() < 20 {
        let delivery = timeout(scene.patience(), consumer.receive()).await??;
        let delivery = delivery.ok_or_else(|| Failure::new("the consumer ended"))?;
        match held.len() < 10 {
            true => held.push(delivery),
            false => {
                acked.insert(number(&delivery)?);
                delivery.ack()?;
            }
        }
    }
    timeout(scene.patience(), consumer.settled()).await??;
    link.cut();
    // What it had buffered may still be handed out.
    let lost = async {
        loop {
            match consumer.receive().await {
                Ok(Some(delivery)) => held.push(delivery),
                Ok(None) => return Err(Failure::new("the consumer ended without an error")),
                Err(_) => return Ok(()),
            }
        }
    };
    timeout(scene.patience(), lost).await??;
    let mut seen = acked.clone();
    let mut reader = scene.open(&queue.from).await?;
    while seen.len() < 40 {
        let delivery = reader.next().await;
        let delivery = delivery.map_err(|f| f.while_doing(&format!("{} of 40", seen.len())))?;
        // A log repeats what was acknowledged behind an open one.
        seen.insert(number(&delivery)?);
        delivery.ack()?;
    }
    drop((held, consumer, client));
    each_once(&seen.into_iter().collect::<Vec<_>>(), 0..40)?;
    reader.close().await?;
    scene.is_empty(&queue).await
}
