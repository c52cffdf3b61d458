//! Competing consumers (EIP *Competing Consumers*).

use mq_core::Message;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{case::list, load::acknowledge, ordering::both};
use crate::{
    Check, Failure, Fixture,
    checks::{each_once, numbered, numbers},
    failure::ensure,
    scene::Scene,
};

list![
    competing_consumers_get_each_message_once needs SharedQueues,
    a_consumer_that_joins_later_shares_the_work needs SharedQueues,
    ten_thousand_messages_through_four_consumers needs SharedQueues,
];

fn spread(numbers: std::ops::Range<u64>) -> Vec<Message> {
    numbers
        .map(|n| numbered(n).key(format!("key-{}", n % 50)).build())
        .collect()
}

async fn competing_consumers_get_each_message_once<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let mut first = scene.open(&queue.from).await?;
    let mut second = scene.open_elsewhere(&queue.from).await?;
    scene.publish_all(&queue.to, spread(0..500)).await?;
    let got = both(&mut first, &mut second, 500).await?;
    each_once(&numbers(got.iter().flatten())?, 0..500)?;
    for (n, received) in got.iter().enumerate() {
        ensure!(!received.is_empty(), "consumer {n} got nothing");
    }
    first.nothing().await?;
    second.nothing().await?;
    first.close().await?;
    second.close().await
}

async fn a_consumer_that_joins_later_shares_the_work<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish_all(&queue.to, spread(0..100)).await?;
    let mut first = scene.open(&queue.from).await?;
    let mut seen = numbers(&first.ack(100).await?)?;
    first.settled().await?;
    let mut second = scene.open_elsewhere(&queue.from).await?;
    scene.publish_all(&queue.to, spread(100..500)).await?;
    let got = both(&mut first, &mut second, 400).await?;
    ensure!(!got[1].is_empty(), "the consumer that joined got nothing");
    seen.extend(numbers(got.iter().flatten())?);
    each_once(&seen, 0..500)?;
    first.close().await?;
    second.close().await
}

async fn ten_thousand_messages_through_four_consumers<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let (running, stop) = watch::channel(());
    let (send, mut seen) = mpsc::channel(64);
    let mut consumers = Vec::new();
    for _ in 0..4 {
        let reader = scene.open_elsewhere(&queue.from).await?;
        let run = acknowledge(reader, send.clone(), stop.clone());
        consumers.push(tokio::spawn(run));
    }
    drop(send);
    let publish = async {
        for start in (0..10_000).step_by(1000) {
            scene
                .publish_all(&queue.to, spread(start..start + 1000))
                .await?;
        }
        Ok(())
    };
    let collect = async {
        let mut numbers = Vec::new();
        while numbers.len() < 10_000
            && let Ok(Some(number)) = timeout(scene.patience(), seen.recv()).await
        {
            numbers.push(number);
        }
        drop(running);
        // Whatever comes beside the 10,000 came twice.
        while let Some(number) = seen.recv().await {
            numbers.push(number);
        }
        Ok::<_, Failure>(numbers)
    };
    let (_, numbers) = tokio::try_join!(publish, collect)?;
    for consumer in consumers {
        consumer.await??;
    }
    each_once(&numbers, 0..10_000)?;
    scene.is_empty(&queue).await
}
