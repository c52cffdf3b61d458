//! Under load: many consumers, many queues, consumers and publishers that go away in the middle.

use std::collections::BTreeSet;

use futures::future::{join_all, try_join_all};
use mq_core::{Broker, ConsumePlan, Consumer, ErrorKind, Message, Publisher};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::case::list;
use crate::{
    Check, Failure, Fixture,
    checks::{each_once, number, numbered, numbers},
    failure::{ensure, ensure_eq},
    reader::Reader,
    scene::{Queue, Scene},
};

list![
    five_thousand_messages_through_fifty_consumers needs SharedQueues,
    five_thousand_messages_outlast_five_consumers needs SharedQueues,
    consumers_closed_in_the_middle_lose_nothing needs SharedQueues,
    a_publisher_closed_under_load_confirms_or_refuses_each_message,
    twenty_queues_at_once_do_not_mix,
];

/// Messages with many keys, so that partitions share them.
fn spread(numbers: std::ops::Range<u64>) -> Vec<Message> {
    numbers
        .map(|n| numbered(n).key(format!("key-{}", n % 50)).build())
        .collect()
}

async fn fill<F: Fixture>(scene: &Scene<F>, queue: &Queue, count: u64) -> Check {
    for start in (0..count).step_by(1000) {
        let end = (start + 1000).min(count);
        scene.publish_all(&queue.to, spread(start..end)).await?;
    }
    Ok(())
}

/// Watermill's *concurrent subscribe*: 5,000 messages, 50 consumers of one queue.
async fn five_thousand_messages_through_fifty_consumers<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    // Five processes with ten consumers each.
    let clients = try_join_all((0..5).map(|_| scene.client())).await?;
    let open = (0..50).map(|n| scene.open_on(&clients[n % 5], &queue.from, ConsumePlan::new()));
    let readers = try_join_all(open).await?;
    let (running, stop) = watch::channel(());
    let (send, seen) = mpsc::channel(64);
    let consumers: Vec<_> = readers
        .into_iter()
        .map(|reader| tokio::spawn(acknowledge(reader, send.clone(), stop.clone())))
        .collect();
    drop(send);
    let collect = async {
        let numbers = collect(scene, seen, 5000, running).await;
        Ok::<_, Failure>(numbers)
    };
    let (_, numbers) = tokio::try_join!(fill(scene, &queue, 5000), collect)?;
    for consumer in consumers {
        consumer.await??;
    }
    each_once(&numbers, 0..5000)?;
    scene.is_empty(&queue).await
}

/// Acknowledges what comes and tells its number, until it is told to stop.
pub(super) async fn acknowledge<F: Fixture>(
    mut reader: Reader<F>,
    send: mpsc::Sender<u64>,
    mut stop: watch::Receiver<()>,
) -> Check {
    loop {
        // Without patience: one of many may have nothing to do.
        let received = tokio::select! {
            _ = stop.changed() => return reader.close().await,
            received = reader.inner().receive() => received?,
        };
        let delivery = received.ok_or_else(|| Failure::new("a consumer ended"))?;
        let number = number(&delivery)?;
        match delivery.ack() {
            // It comes again, maybe to another one: a group of this size is made anew now and then.
            Err(error) if error.kind() == ErrorKind::Stale => continue,
            settled => settled?,
        }
        // Nobody listens any more only after a failure, which is told there.
        let _ = send.send(number).await;
    }
}

/// So many numbers, and whatever comes beside them until all consumers have stopped.
async fn collect<F: Fixture>(
    scene: &Scene<F>,
    mut seen: mpsc::Receiver<u64>,
    count: usize,
    running: watch::Sender<()>,
) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count
        && let Ok(Some(number)) = timeout(scene.patience(), seen.recv()).await
    {
        numbers.push(number);
    }
    drop(running);
    while let Some(number) = seen.recv().await {
        numbers.push(number);
    }
    numbers
}

/// Watermill's *continue after subscriber close*: 5,000 messages in five batches, each with a
/// consumer of its own that is closed while it holds some.
async fn five_thousand_messages_outlast_five_consumers<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    fill(scene, &queue, 5000).await?;
    let mut seen = BTreeSet::new();
    for batch in 1..=5 {
        let mut reader = scene.open_elsewhere(&queue.from).await?;
        // What the one before it held comes again; a log repeats what was acknowledged behind it.
        while seen.len() < batch * 1000 {
            let delivery = reader.next().await?;
            seen.insert(number(&delivery)?);
            delivery.ack()?;
        }
        let held = if batch < 5 {
            reader.take(20).await?
        } else {
            Vec::new()
        };
        reader.close().await?;
        drop(held);
    }
    each_once(&seen.into_iter().collect::<Vec<_>>(), 0..5000)?;
    scene.is_empty(&queue).await
}

async fn consumers_closed_in_the_middle_lose_nothing<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let open = (0..6).map(|_| scene.open(&queue.from));
    let readers = try_join_all(open).await?;
    let publishing = fill(scene, &queue, 1000);
    let closing = async {
        let some = readers.into_iter().map(|mut reader| async move {
            let mut acked = Vec::new();
            let mut held = Vec::new();
            // One of several may get nothing.
            while acked.len() < 20
                && let Ok(received) = timeout(SOON, reader.inner().receive()).await
            {
                let delivery = received?.ok_or_else(|| Failure::new("a consumer ended"))?;
                match held.len() < 10 {
                    true => held.push(delivery),
                    false => {
                        acked.push(number(&delivery)?);
                        delivery.ack()?;
                    }
                }
            }
            reader.close().await?;
            drop(held);
            Ok::<_, Failure>(acked)
        });
        let acked = try_join_all(some).await?;
        Ok::<_, Failure>(acked.concat())
    };
    let (_, acked) = tokio::try_join!(publishing, closing)?;
    let mut seen: BTreeSet<u64> = acked.into_iter().collect();
    let mut reader = scene.open(&queue.from).await?;
    while seen.len() < 1000 {
        let next = reader.next().await;
        let delivery = next.map_err(|f| f.while_doing(&format!("{} of 1000", seen.len())))?;
        seen.insert(number(&delivery)?);
        delivery.ack()?;
    }
    reader.close().await?;
    each_once(&seen.into_iter().collect::<Vec<_>>(), 0..1000)
}

async fn a_publisher_closed_under_load_confirms_or_refuses_each_message<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    let client = scene.client().await?;
    let (started, mut under_load) = mpsc::channel(1);
    let task = |task: u64| {
        let (publisher, to, started) = (client.publisher(), queue.to.clone(), started.clone());
        async move {
            let mut confirmed = Vec::new();
            for n in task * 10_000.. {
                match publisher.publish(&to, numbered(n)).await {
                    Ok(_) => confirmed.push(n),
                    Err(error) if error.kind() == ErrorKind::Closed => break,
                    Err(error) => return Err(Failure::from(error)),
                }
                if confirmed.len() == 20 {
                    // The first of them closes the publisher.
                    let _ = started.try_send(());
                }
                ensure!(confirmed.len() < 10_000, "nothing closed the publisher");
                // In this process a publish may never wait.
                tokio::task::yield_now().await;
            }
            Ok(confirmed)
        }
    };
    let tasks: Vec<_> = (0..8).map(|n| tokio::spawn(task(n))).collect();
    under_load.recv().await;
    client.publisher().close().await?;
    let mut expected = BTreeSet::new();
    for task in tasks {
        expected.extend(task.await??);
    }
    let mut reader = scene.open(&queue.from).await?;
    let received = numbers(&reader.ack(expected.len()).await?)?;
    ensure!(
        received.len() == expected.len() && received.iter().all(|n| expected.contains(n)),
        "a message is there that was refused, or twice"
    );
    reader.nothing().await?;
    reader.close().await
}

/// Watermill's *many topics*.
async fn twenty_queues_at_once_do_not_mix<F: Fixture>(scene: &Scene<F>) -> Check {
    let names = (0..10).flat_map(|n| [format!("{n}.even"), format!("{n}.odd")]);
    let names: Vec<String> = names.collect();
    let queues = try_join_all(names.iter().map(|name| scene.further_queue(name))).await?;
    let publishing = queues.iter().zip(0..).map(|(queue, index)| {
        let messages = (0..50).map(move |n| numbered(index * 50 + n).build());
        scene.publish_all(&queue.to, messages.collect())
    });
    try_join_all(publishing).await?;
    let reading = queues.iter().zip(0..).map(|(queue, index)| async move {
        let mut reader = scene.open(&queue.from).await?;
        let received = numbers(&reader.ack(50).await?)?;
        ensure_eq!(received.len(), 50, "messages in {}", queue.to);
        each_once(&received, index * 50..(index + 1) * 50)?;
        reader.nothing().await?;
        reader.close().await
    });
    join_all(reading).await.into_iter().collect()
}

const SOON: std::time::Duration = std::time::Duration::from_secs(2);
