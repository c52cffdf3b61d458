//! Outcomes of a publish: unroutable is never confirmed, and never blamed on another message.

use mq_core::{Broker, ConsumePlan, Destination, ErrorKind, Publisher};

use super::case::list;
use crate::{
    Check, Failure, Fixture,
    checks::{each_once, numbered, numbers, refused},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    a_publish_to_a_missing_queue_is_unroutable,
    an_unroutable_publish_is_told_apart_among_many,
    an_event_without_listeners_is_confirmed needs DurableSubscriptions,
    a_mandatory_event_without_listeners_is_unroutable needs DurableSubscriptions | MandatoryTopics,
    a_mandatory_event_is_refused_where_its_outcome_is_not_told
        needs DurableSubscriptions lacks MandatoryTopics,
    a_publish_to_a_missing_topic_fails_and_harms_no_other needs DurableSubscriptions,
    a_refused_message_is_rejected_and_harms_no_other with RefusingQueue,
];

async fn a_publish_to_a_missing_queue_is_unroutable<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.missing_queue();
    let publisher = scene.broker.publisher();
    let result = publisher.publish(&queue.to, numbered(0)).await;
    let text = refused(
        result,
        ErrorKind::Unroutable,
        "a publish to a missing queue",
    )?;
    ensure!(
        text.contains(&**queue.to.name()),
        "the error does not name the queue: {text}"
    );
    // It was stored nowhere, and created nothing.
    let missing = scene.broker.verify(&queue.to).await;
    refused(
        missing,
        ErrorKind::NotFound,
        "verifying the queue after a publish to it",
    )?;
    scene.broker.declare(&queue.to).await?;
    scene.publish(&queue.to, numbered(1)).await?;
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [1], "what is in the queue");
    reader.nothing().await?;
    reader.close().await
}

async fn an_unroutable_publish_is_told_apart_among_many<F: Fixture>(scene: &Scene<F>) -> Check {
    let (queue, missing) = (scene.queue().await?, scene.missing_queue());
    let publisher = scene.broker.publisher();
    let routable = |n: u64| !n.is_multiple_of(10);
    let mut handles = Vec::new();
    for n in 0..1000 {
        let to = if routable(n) { &queue.to } else { &missing.to };
        handles.push(publisher.enqueue(to, numbered(n)).await?);
    }
    for (n, handle) in (0..).zip(handles) {
        match (routable(n), handle.await) {
            (true, outcome) => outcome
                .map(drop)
                .map_err(|e| Failure::from(e).while_doing(&format!("message {n} has a queue")))?,
            (false, outcome) => drop(refused(outcome, ErrorKind::Unroutable, "a missing queue")?),
        }
    }
    let mut reader = scene.open(&queue.from).await?;
    let received = numbers(&reader.ack(900).await?)?;
    ensure!(
        received.iter().all(|n| routable(*n)),
        "a message is in the wrong queue"
    );
    each_once(
        &received.iter().map(|n| n - n / 10 - 1).collect::<Vec<_>>(),
        0..900,
    )?;
    reader.close().await
}

async fn an_event_without_listeners_is_confirmed<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    scene.publish(&topic, numbered(0)).await
}

async fn a_mandatory_event_without_listeners_is_unroutable<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let mandatory = topic.clone().mandatory();
    let publisher = scene.broker.publisher();
    let result = publisher.publish(&mandatory, numbered(0)).await;
    refused(
        result,
        ErrorKind::Unroutable,
        "a mandatory publish that nobody takes",
    )?;
    let subscription = scene.subscribe(&topic, "audit").await?;
    scene.publish(&mandatory, numbered(1)).await?;
    let mut reader = scene.open(&subscription).await?;
    ensure_eq!(
        numbers(&reader.ack(1).await?)?,
        [1],
        "what the subscription got"
    );
    reader.close().await
}

async fn a_mandatory_event_is_refused_where_its_outcome_is_not_told<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let topic = scene.topic().await?.mandatory();
    let publisher = scene.broker.publisher();
    let result = publisher.publish(&topic, numbered(0)).await;
    refused(
        result,
        ErrorKind::Unsupported,
        "a mandatory publish to a topic",
    )
    .map(drop)
}

async fn a_publish_to_a_missing_topic_fails_and_harms_no_other<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    let missing = Destination::topic(scene.name("missing"));
    let publisher = scene.broker.publisher();
    let mut handles = Vec::new();
    for n in 0..20 {
        handles.push(publisher.enqueue(&queue.to, numbered(n)).await?);
    }
    match publisher.publish(&missing, numbered(99)).await {
        Err(e) if [ErrorKind::NotFound, ErrorKind::Unroutable].contains(&e.kind()) => {}
        Err(e) => return Err(Failure::from(e).while_doing("NotFound or Unroutable expected")),
        Ok(_) => return Err(Failure::new("a publish to a missing topic was confirmed")),
    }
    for n in 20..40 {
        handles.push(publisher.enqueue(&queue.to, numbered(n)).await?);
    }
    for handle in handles {
        handle.await?;
    }
    let mut reader = scene.open(&queue.from).await?;
    each_once(&numbers(&reader.ack(40).await?)?, 0..40)?;
    reader.close().await
}

async fn a_refused_message_is_rejected_and_harms_no_other<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let (client, refusing) = scene.refusing_queue().await?;
    client.declare(&queue.to).await?;
    let publisher = client.publisher();
    let mut handles = Vec::new();
    for n in 0..40 {
        let to = if n % 2 == 0 { &queue.to } else { &refusing };
        handles.push(publisher.enqueue(to, numbered(n)).await?);
    }
    for (n, handle) in (0..).zip(handles) {
        match (n % 2, handle.await) {
            (0, outcome) => outcome.map(drop).map_err(|e| {
                Failure::from(e).while_doing(&format!("message {n} was not refused"))
            })?,
            (_, outcome) => drop(refused(outcome, ErrorKind::Rejected, "a refused message")?),
        }
    }
    let mut reader = scene
        .open_on(&client, &queue.from, ConsumePlan::new())
        .await?;
    let received = numbers(&reader.ack(20).await?)?;
    each_once(&received.iter().map(|n| n / 2).collect::<Vec<_>>(), 0..20)?;
    reader.nothing().await?;
    reader.close().await?;
    Ok(client.close().await?)
}
