//! Cancellation: a future that is dropped where it waits loses nothing and leaves nothing behind.

use std::{collections::BTreeSet, time::Duration};

use futures::FutureExt;
use mq_core::{Broker, ConsumePlan, Consumer, ErrorKind, Publisher};
use tokio::time::timeout;

use super::case::list;
use crate::{
    Check, Fixture,
    checks::{all_known, each_once, number, numbered, numbers, refused},
    failure::ensure,
    scene::{Queue, Scene},
};

list![
    a_dropped_enqueue_sends_nothing,
    a_dropped_publish_is_stored_at_most_once_and_the_publisher_goes_on,
    a_dropped_flush_changes_nothing,
    a_dropped_settled_changes_nothing,
    a_dropped_close_of_a_consumer_loses_nothing,
    a_dropped_close_of_a_publisher_is_taken_up_by_the_next,
    a_dropped_declare_is_completed_by_the_next,
    a_dropped_opening_leaves_no_consumer,
];

/// Moments at which an operation of a broker is somewhere in its middle.
const MOMENTS: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_micros(200),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(20),
];

async fn a_dropped_enqueue_sends_nothing<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let publisher = scene.broker.publisher();
    // What a client looks up for the first message is there afterwards.
    publisher.publish(&queue.to, numbered(0).key("k")).await?;
    let (mut handles, mut enqueued) = (Vec::new(), vec![0]);
    // More than fit into most windows, so that some have to wait and are dropped there.
    for n in 1..3000 {
        let enqueue = publisher.enqueue(&queue.to, numbered(n).key("k"));
        if let Some(handle) = enqueue.now_or_never() {
            handles.push(handle?);
            enqueued.push(n);
        }
    }
    publisher.flush().await?;
    for handle in handles {
        handle.await?;
    }
    let mut reader = scene.open(&queue.from).await?;
    let received = scene.in_order(numbers(&reader.ack(enqueued.len()).await?)?);
    ensure!(
        received == enqueued,
        "what is in the queue is not what was enqueued"
    );
    reader.nothing().await?;
    reader.close().await
}

async fn a_dropped_publish_is_stored_at_most_once_and_the_publisher_goes_on<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    let publisher = scene.broker.publisher();
    let mut confirmed = BTreeSet::new();
    for n in 0..100 {
        let moment = MOMENTS[(n % 4) as usize];
        let publish = publisher.publish(&queue.to, numbered(n).key("k"));
        if let Ok(outcome) = timeout(moment, publish).await {
            outcome?;
            confirmed.insert(n);
        }
    }
    publisher
        .publish(&queue.to, numbered(LAST).key("k"))
        .await?;
    let mut reader = scene.open(&queue.from).await?;
    let mut seen = BTreeSet::new();
    loop {
        let found = number(&reader.ack(1).await?[0])?;
        if found == LAST {
            break;
        }
        ensure!(seen.insert(found), "message {found} is there twice");
    }
    reader.nothing().await?;
    let missing: Vec<_> = confirmed.difference(&seen).collect();
    ensure!(missing.is_empty(), "confirmed and not there: {missing:?}");
    reader.close().await
}

async fn a_dropped_flush_changes_nothing<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let publisher = scene.broker.publisher();
    let mut handles = Vec::new();
    for n in 0..200 {
        handles.push(publisher.enqueue(&queue.to, numbered(n)).await?);
        if n % 40 == 0 {
            let _ = timeout(MOMENTS[(n / 40) as usize], publisher.flush()).await;
        }
    }
    publisher.flush().await?;
    all_known(handles)?;
    let mut reader = scene.open(&queue.from).await?;
    each_once(&numbers(&reader.ack(200).await?)?, 0..200)?;
    reader.close().await
}

async fn a_dropped_settled_changes_nothing<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 100).await?;
    let client = scene.client().await?;
    let plan = ConsumePlan::new();
    let mut reader = scene.open_on(&client, &queue.from, plan).await?;
    let mut seen = Vec::new();
    for moment in MOMENTS {
        seen.extend(numbers(&reader.ack(20).await?)?);
        let _ = timeout(moment, reader.settled()).await;
    }
    each_once(&seen, 0..100)?;
    reader.settled().await?;
    // As a crash does.
    drop(reader);
    drop(client);
    scene.is_empty(&queue).await
}

async fn a_dropped_close_of_a_consumer_loses_nothing<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 100).await?;
    let mut acked = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for moment in MOMENTS {
        let mut reader = scene.open_elsewhere(&queue.from).await?;
        let mut held = Vec::new();
        // Some of these may come again: the verdict did not reach the broker.
        for delivery in reader.take(10).await? {
            seen.insert(number(&delivery)?);
            match held.len() < 5 {
                true => held.push(delivery),
                false => {
                    acked.insert(number(&delivery)?);
                    delivery.ack()?;
                }
            }
        }
        let _ = timeout(moment, reader.close()).await;
    }
    let mut reader = scene.open(&queue.from).await?;
    while (0..100).any(|n| !acked.contains(&n)) {
        let delivery = reader.next().await;
        let delivery = delivery.map_err(|f| f.while_doing("what was not acknowledged"))?;
        acked.insert(number(&delivery)?);
        delivery.ack()?;
    }
    reader.close().await
}

async fn a_dropped_close_of_a_publisher_is_taken_up_by_the_next<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    for (moment, client) in MOMENTS.into_iter().zip(0..) {
        let first = client * 100;
        let client = scene.client().await?;
        let publisher = client.publisher();
        let mut handles = Vec::new();
        for n in first..first + 100 {
            handles.push(publisher.enqueue(&queue.to, numbered(n)).await?);
        }
        let _ = timeout(moment, publisher.close()).await;
        let result = publisher.publish(&queue.to, numbered(LAST)).await;
        refused(result, ErrorKind::Closed, "a publish after a dropped close")?;
        publisher.close().await?;
        all_known(handles)?;
        client.close().await?;
    }
    let mut reader = scene.open(&queue.from).await?;
    each_once(&numbers(&reader.ack(500).await?)?, 0..500)?;
    reader.nothing().await?;
    reader.close().await
}

async fn a_dropped_declare_is_completed_by_the_next<F: Fixture>(scene: &Scene<F>) -> Check {
    for moment in MOMENTS {
        let queue = Queue::named(&scene.name(&moment.as_micros().to_string()));
        let _ = timeout(moment, scene.broker.declare(&queue.to)).await;
        scene.broker.declare(&queue.to).await?;
        scene.broker.verify(&queue.to).await?;
        scene.broker.verify(&queue.dead().to).await?;
        scene.publish(&queue.to, numbered(7)).await?;
        let mut reader = scene.open(&queue.from).await?;
        each_once(&numbers(&reader.ack(1).await?)?, 7..8)?;
        reader.close().await?;
    }
    Ok(())
}

async fn a_dropped_opening_leaves_no_consumer<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 40).await?;
    for moment in MOMENTS {
        let opening = scene.broker.consumer(&queue.from, ConsumePlan::new());
        if let Ok(consumer) = timeout(moment, opening).await {
            consumer?.close().await?;
        }
    }
    // One that nobody holds would keep what it was given.
    let mut reader = scene.open(&queue.from).await?;
    let received = reader.ack(40).await?;
    each_once(&numbers(&received)?, 0..40)?;
    reader.nothing().await?;
    reader.close().await
}

const LAST: u64 = 1_000_000;
