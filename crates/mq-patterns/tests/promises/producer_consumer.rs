//! What the page of producer-consumer promises.

use std::collections::BTreeMap;

use mq_core::{Broker, ConsumePlan, Destination, Message, Publisher, Subscription, headers};
use mq_patterns::producer_consumer::{Consumer, Producer};
use mq_testkit::{Check, Failure, Fixture};

use crate::scene::{Item, Scene, items, numbers, same};

/// Declares the case's queue.
async fn queue<F: Fixture>(scene: &Scene<F>) -> Check<(Destination, Subscription)> {
    let name = scene.name("items");
    let queue = Destination::queue(name.as_str());
    scene.broker.declare(&queue).await?;
    Ok((queue, Subscription::queue(name)))
}

/// Sends the items by a producer with a small window; all have to be confirmed.
async fn send<F: Fixture>(scene: &Scene<F>, to: &Destination, items: &[Item]) -> Check {
    let mut producer = Producer::new(&scene.broker, to.clone())
        .envelope(|item: &Item, message| message.key(&item.key))
        .window(50);
    for item in items {
        producer.send(item).await?;
    }
    let sent = scene.soon("all outcomes", producer.finish()).await?;
    same(sent.failed.len(), 0, "failed items")?;
    same(sent.confirmed, items.len() as u64, "confirmed items")
}

/// Receives and acknowledges so many items.
async fn receive<F: Fixture>(
    scene: &Scene<F>,
    from: &Subscription,
    count: usize,
) -> Check<Vec<Item>> {
    let mut consumer = Consumer::<Item, _>::open(&scene.broker, from, ConsumePlan::new()).await?;
    let mut received = Vec::new();
    while received.len() < count {
        let item = scene.soon("an item", consumer.next()).await??;
        let item = item.ok_or_else(|| Failure::new("the consumer ended"))?;
        received.push(Item::clone(&item));
        item.ack()?;
    }
    scene.quiet("one more item", consumer.next()).await?;
    consumer.settled().await?;
    consumer.close().await?;
    Ok(received)
}

pub(crate) async fn received<F: Fixture>(scene: &Scene<F>) -> Check {
    let (queue, from) = queue(scene).await?;
    let items = items(500, 7);
    send(scene, &queue, &items).await?;
    let received = receive(scene, &from, items.len()).await?;
    same(numbers(&received), numbers(&items), "the numbers received")
}

pub(crate) async fn ordered<F: Fixture>(scene: &Scene<F>) -> Check {
    let (queue, from) = queue(scene).await?;
    let items = items(300, 5);
    send(scene, &queue, &items).await?;
    let by_key = |items: Vec<Item>| {
        let mut keys: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for item in items {
            keys.entry(item.key).or_default().push(item.number);
        }
        keys
    };
    let received = receive(scene, &from, items.len()).await?;
    same(by_key(received), by_key(items), "the order of each key")
}

pub(crate) async fn undecodable<F: Fixture>(scene: &Scene<F>) -> Check {
    let (queue, from) = queue(scene).await?;
    let bytes = b"\xff{ no item".as_slice();
    // One key, so that the good one waits behind the bad one in its partition.
    let bad = Message::new(bytes).key("key-0");
    scene.broker.publisher().publish(&queue, bad).await?;
    let items = items(1, 1);
    send(scene, &queue, &items).await?;
    same(receive(scene, &from, 1).await?, items, "the items")?;
    let letter = scene.dead(&from).await?;
    same(letter.payload().map(|p| &p[..]), Some(bytes), "the payload")?;
    let reason = letter.headers().text(headers::DEAD_REASON);
    same(reason, Some("undecodable"), "the reason")
}
