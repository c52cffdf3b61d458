//! Closing: nothing is lost, nothing hangs, nobody else is touched.

use futures::future::try_join_all;
use mq_core::{Broker, ConsumePlan, Consumer, ErrorKind, Publisher};
use tokio::time::timeout;

use super::case::list;
use crate::{
    Check, Fixture,
    checks::{all_known, each_once, numbered, numbers, refused},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    closing_a_publisher_flushes_what_was_enqueued,
    closing_a_client_flushes_what_was_enqueued,
    a_closed_publisher_refuses_messages,
    a_closed_client_refuses_messages_and_ends_its_consumers,
    closing_again_is_harmless,
    a_closed_client_harms_no_other,
    consumers_and_publishers_close_at_the_same_time needs SharedQueues,
];

/// Enqueues 500 messages, closes, and passes if all were confirmed and are there.
async fn flushes<F, C>(scene: &Scene<F>, close: impl FnOnce(F::Broker) -> C) -> Check
where
    F: Fixture,
    C: Future<Output = mq_core::Result<()>>,
{
    let queue = scene.queue().await?;
    let client = scene.client().await?;
    let publisher = client.publisher();
    let mut handles = Vec::new();
    for n in 0..500 {
        handles.push(publisher.enqueue(&queue.to, numbered(n)).await?);
    }
    close(client).await?;
    all_known(handles)?;
    let mut reader = scene.open(&queue.from).await?;
    each_once(&numbers(&reader.ack(500).await?)?, 0..500)?;
    reader.close().await
}

async fn closing_a_publisher_flushes_what_was_enqueued<F: Fixture>(scene: &Scene<F>) -> Check {
    flushes(
        scene,
        |client| async move { client.publisher().close().await },
    )
    .await
}

async fn closing_a_client_flushes_what_was_enqueued<F: Fixture>(scene: &Scene<F>) -> Check {
    flushes(scene, |client| async move { client.close().await }).await
}

async fn a_closed_publisher_refuses_messages<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let client = scene.client().await?;
    let (publisher, clone) = (client.publisher(), client.publisher());
    publisher.publish(&queue.to, numbered(0)).await?;
    publisher.close().await?;
    for publisher in [publisher, clone] {
        let result = publisher.publish(&queue.to, numbered(1)).await;
        refused(result, ErrorKind::Closed, "a publish after close")?;
    }
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [0], "what was published");
    reader.nothing().await?;
    reader.close().await
}

async fn a_closed_client_refuses_messages_and_ends_its_consumers<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    let client = scene.client().await?;
    let reader = scene
        .open_on(&client, &queue.from, ConsumePlan::new())
        .await?;
    client.close().await?;
    let result = client.publisher().publish(&queue.to, numbered(0)).await;
    refused(result, ErrorKind::Closed, "a publish after close")?;
    let mut consumer = reader.into_inner();
    let ended = timeout(scene.patience(), consumer.receive()).await?;
    refused(ended, ErrorKind::Closed, "receiving after close")?;
    let opened = client
        .consumer(&queue.from, ConsumePlan::new())
        .await
        .map(drop);
    refused(opened, ErrorKind::Closed, "opening a consumer after close").map(drop)
}

async fn closing_again_is_harmless<F: Fixture>(scene: &Scene<F>) -> Check {
    let client = scene.client().await?;
    let publisher = client.publisher();
    publisher.close().await?;
    publisher.close().await?;
    client.close().await?;
    Ok(client.close().await?)
}

async fn a_closed_client_harms_no_other<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let mut reader = scene.open(&queue.from).await?;
    let client = scene.client().await?;
    client.publisher().publish(&queue.to, numbered(0)).await?;
    client.close().await?;
    scene.publish(&queue.to, numbered(1)).await?;
    each_once(&numbers(&reader.ack(2).await?)?, 0..2)?;
    reader.close().await
}

async fn consumers_and_publishers_close_at_the_same_time<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(scene.open(&queue.from).await?);
    }
    let publishers = [scene.client().await?, scene.client().await?];
    let mut handles = Vec::new();
    for n in 0..100 {
        let publisher = publishers[usize::from(n % 2 == 0)].publisher();
        handles.push(publisher.enqueue(&queue.to, numbered(n)).await?);
    }
    let closing = async {
        let publishers = try_join_all(publishers.iter().map(Broker::close));
        let readers = try_join_all(
            readers
                .into_iter()
                .map(|reader| reader.into_inner().close()),
        );
        futures::future::try_join(publishers, readers).await
    };
    timeout(scene.patience(), closing).await??;
    for handle in handles {
        handle.await?;
    }
    let mut reader = scene.open(&queue.from).await?;
    let received = numbers(&reader.ack(100).await?)?;
    each_once(&received, 0..100)?;
    ensure!(received.len() == 100, "{} messages", received.len());
    reader.close().await
}
