//! Receiving: waiting, batches, streams, cancellation and resuming.

use std::{pin::pin, time::Duration};

use futures::StreamExt;
use mq_core::{Broker, Consumer, Publisher};
use tokio::time::timeout;

use super::case::list;
use crate::{
    Check, Failure, Fixture,
    checks::{each_once, number, numbered, numbers},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    a_waiting_consumer_gets_what_is_published_later,
    a_batch_has_at_most_what_was_asked_for,
    a_dropped_receive_loses_nothing,
    a_stream_yields_every_delivery,
    a_consumer_resumes_where_the_last_one_stopped,
];

async fn a_waiting_consumer_gets_what_is_published_later<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let mut reader = scene.open(&queue.from).await?;
    for n in 0..3 {
        let (delivery, published) =
            futures::future::join(reader.next(), scene.publish(&queue.to, numbered(n))).await;
        published?;
        let delivery = delivery?;
        ensure_eq!(number(&delivery)?, n, "what came");
        delivery.ack()?;
    }
    reader.close().await
}

async fn a_batch_has_at_most_what_was_asked_for<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 50).await?;
    let mut consumer = scene.open(&queue.from).await?.into_inner();
    let (mut seen, mut batch) = (Vec::new(), Vec::new());
    while seen.len() < 50 {
        let received = consumer.receive_many(&mut batch, 7);
        let count = timeout(scene.patience(), received).await??;
        ensure!(
            (1..=7).contains(&count),
            "{count} deliveries, at most 7 were asked for"
        );
        ensure_eq!(batch.len(), count, "length of the batch");
        for delivery in batch.drain(..) {
            seen.push(number(&delivery)?);
            delivery.ack()?;
        }
    }
    each_once(&seen, 0..50)?;
    Ok(consumer.close().await?)
}

async fn a_dropped_receive_loses_nothing<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let mut reader = scene.open(&queue.from).await?;
    let (publisher, to) = (scene.broker.publisher(), queue.to.clone());
    let publishing = tokio::spawn(async move {
        for n in 0..200 {
            publisher.publish(&to, numbered(n)).await?;
        }
        Ok::<_, mq_core::Error>(())
    });
    let mut seen = Vec::new();
    let all = async {
        while seen.len() < 200 {
            // Most of these are dropped while they wait.
            let receive = timeout(Duration::from_micros(200), reader.inner().receive());
            if let Ok(received) = receive.await {
                let delivery = received?.ok_or_else(|| Failure::new("the consumer ended"))?;
                ensure_eq!(
                    delivery.attempt(),
                    1,
                    "attempt of message {}",
                    number(&delivery)?
                );
                seen.push(number(&delivery)?);
                delivery.ack()?;
            }
        }
        Ok::<_, Failure>(())
    };
    timeout(scene.patience(), all).await??;
    publishing.await??;
    each_once(&seen, 0..200)?;
    reader.nothing().await?;
    reader.close().await
}

async fn a_stream_yields_every_delivery<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 150).await?;
    let stream = scene.open(&queue.from).await?.into_inner().into_stream();
    let mut stream = pin!(stream.take(150));
    let mut seen = Vec::new();
    while let Some(delivery) = timeout(scene.patience(), stream.next()).await? {
        let delivery = delivery?;
        seen.push(number(&delivery)?);
        delivery.ack()?;
    }
    each_once(&seen, 0..150)
}

async fn a_consumer_resumes_where_the_last_one_stopped<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    for n in 0..100 {
        scene.publish(&queue.to, numbered(n).key("k")).await?;
    }
    let mut reader = scene.open_elsewhere(&queue.from).await?;
    let mut seen = numbers(&reader.ack(50).await?)?;
    reader.settled().await?;
    reader.close().await?;
    let mut reader = scene.open(&queue.from).await?;
    seen.extend(numbers(&reader.ack(50).await?)?);
    let all = scene.in_order(seen);
    ensure!(
        all.iter().copied().eq(0..100),
        "not each once, in its order: {all:?}"
    );
    reader.nothing().await?;
    reader.close().await
}
