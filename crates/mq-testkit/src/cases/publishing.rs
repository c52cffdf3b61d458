//! Publishing: one by one, pipelined, in batches, and handed over.

use std::iter;

use mq_core::{Broker, ErrorKind, Message, Publisher, Unconfirmed, headers};

use super::case::list;
use crate::{
    Check, Failure, Fixture,
    checks::{all_known, each_once, number, numbered, numbers, refused},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    a_confirmed_message_is_there_for_another_process,
    a_thousand_enqueued_messages_are_each_confirmed,
    a_message_whose_handle_was_dropped_is_published,
    publishers_in_many_tasks_share_one_connection,
    after_a_flush_every_outcome_is_known,
    a_batch_reports_its_outcomes_in_order,
    an_empty_batch_has_no_outcomes,
    a_message_handed_over_arrives needs WholeMessages,
    a_message_that_cannot_be_sent_is_not_handed_over,
    two_queues_do_not_mix,
];

async fn a_confirmed_message_is_there_for_another_process<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 3).await?;
    let mut reader = scene.open_elsewhere(&queue.from).await?;
    each_once(&numbers(&reader.ack(3).await?)?, 0..3)?;
    reader.close().await
}

async fn a_thousand_enqueued_messages_are_each_confirmed<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let publisher = scene.broker.publisher();
    let mut handles = Vec::new();
    for n in 0..1000 {
        handles.push(publisher.enqueue(&queue.to, numbered(n).key("k")).await?);
    }
    for handle in handles {
        handle.await?;
    }
    let mut reader = scene.open(&queue.from).await?;
    let received = scene.in_order(numbers(&reader.ack(1000).await?)?);
    ensure!(
        received.iter().copied().eq(0..1000),
        "not in the order of enqueueing: {received:?}"
    );
    reader.nothing().await?;
    reader.close().await
}

async fn a_message_whose_handle_was_dropped_is_published<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let publisher = scene.broker.publisher();
    for n in 0..10 {
        drop(publisher.enqueue(&queue.to, numbered(n)).await?);
    }
    publisher.flush().await?;
    let mut reader = scene.open(&queue.from).await?;
    each_once(&numbers(&reader.ack(10).await?)?, 0..10)?;
    reader.close().await
}

async fn publishers_in_many_tasks_share_one_connection<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let task = |task: u64| {
        let (publisher, to) = (scene.broker.publisher(), queue.to.clone());
        async move {
            for n in 0..50 {
                publisher.publish(&to, numbered(task * 50 + n)).await?;
            }
            Ok::<_, Failure>(())
        }
    };
    futures::future::try_join_all((0..8).map(task)).await?;
    let mut reader = scene.open(&queue.from).await?;
    each_once(&numbers(&reader.ack(400).await?)?, 0..400)?;
    reader.nothing().await?;
    reader.close().await
}

async fn after_a_flush_every_outcome_is_known<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let publisher = scene.broker.publisher();
    let mut handles = Vec::new();
    for n in 0..200 {
        handles.push(publisher.enqueue(&queue.to, numbered(n)).await?);
    }
    // By a clone: a flush is for all of them.
    scene.broker.publisher().flush().await?;
    all_known(handles)
}

async fn a_batch_reports_its_outcomes_in_order<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let publisher = scene.broker.publisher();
    let bad = |n| [3, 7].contains(&n);
    let message = |n| match numbered(n).key("k") {
        message if bad(n) => message.header(headers::ID, "mapped").build(),
        message => message.build(),
    };
    let outcomes = publisher
        .publish_batch(&queue.to, (0..10).map(message).collect())
        .await;
    ensure_eq!(outcomes.len(), 10, "number of outcomes");
    for (n, outcome) in (0..).zip(outcomes) {
        match bad(n) {
            true => drop(refused(
                outcome,
                ErrorKind::InvalidMessage,
                "a mapped header",
            )?),
            false => drop(outcome?),
        }
    }
    let mut reader = scene.open(&queue.from).await?;
    let received = numbers(&reader.ack(8).await?)?;
    ensure_eq!(
        received,
        [0, 1, 2, 4, 5, 6, 8, 9],
        "what the batch left in the queue"
    );
    reader.nothing().await?;
    reader.close().await
}

async fn an_empty_batch_has_no_outcomes<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let outcomes = scene
        .broker
        .publisher()
        .publish_batch(&queue.to, Vec::new())
        .await;
    ensure!(
        outcomes.is_empty(),
        "{} outcomes of no message",
        outcomes.len()
    );
    Ok(())
}

async fn a_message_handed_over_arrives<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let unconfirmed = scene.broker.unconfirmed();
    for n in 0..10 {
        unconfirmed
            .hand_over(&queue.to, numbered(n).header("region", "eu"))
            .await?;
    }
    unconfirmed.flush().await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = reader.ack(10).await?;
    each_once(&numbers(&received)?, 0..10)?;
    ensure_eq!(received[0].headers().text("region"), Some("eu"), "header");
    reader.close().await
}

async fn a_message_that_cannot_be_sent_is_not_handed_over<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let unconfirmed = scene.broker.unconfirmed();
    let message = Message::new("x").header(headers::ID, "mapped");
    let result = unconfirmed.hand_over(&queue.to, message).await;
    refused(result, ErrorKind::InvalidMessage, "a mapped header")?;
    let huge = Message::new(vec![0; 17 * 1024 * 1024]);
    let result = unconfirmed.hand_over(&queue.to, huge).await;
    refused(result, ErrorKind::TooLarge, "17 MiB")?;
    unconfirmed.hand_over(&queue.to, numbered(1)).await?;
    unconfirmed.flush().await?;
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [1], "what was handed over");
    reader.close().await
}

async fn two_queues_do_not_mix<F: Fixture>(scene: &Scene<F>) -> Check {
    let (even, odd) = (
        scene.further_queue("even").await?,
        scene.further_queue("odd").await?,
    );
    let publisher = scene.broker.publisher();
    let queues = iter::repeat([&even, &odd]).flatten();
    let mut handles = Vec::new();
    for (n, queue) in (0..100).zip(queues) {
        handles.push(publisher.enqueue(&queue.to, numbered(n)).await?);
    }
    for handle in handles {
        handle.await?;
    }
    for (queue, rest) in [(even, 0), (odd, 1)] {
        let mut reader = scene.open(&queue.from).await?;
        for received in reader.ack(50).await? {
            ensure_eq!(
                number(&received)? % 2,
                rest,
                "remainder of a number in {}",
                queue.to
            );
        }
        reader.nothing().await?;
        reader.close().await?;
    }
    Ok(())
}
