//! The legacy client beside the default one, both ways.

use mq_kafka::{
    Kafka,
    core::{
        Broker, Consumer, Delivery, Message, MessageId, Publisher, Stored, Subscription,
        Unconfirmed,
    },
    legacy::LegacyConsumer,
};
use mq_testkit::{Check, Failure};

use crate::{
    refused::{legacy, plan},
    support::{check, fill, open, queue, same, take, text, within},
};

/// Takes so many from the legacy client.
pub(crate) async fn some(consumer: &mut LegacyConsumer, count: usize) -> Check<Vec<Delivery>> {
    let mut taken = Vec::new();
    let all = async {
        while taken.len() < count {
            let missing = count - taken.len();
            if consumer.receive_many(&mut taken, missing).await? == 0 {
                return Err(Failure::new("the consumer ended"));
            }
        }
        Ok(())
    };
    within(60, all).await??;
    Ok(taken)
}

pub(crate) async fn keys(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "keys").await?;
    let legacy = legacy(&servers).await?;
    for n in 0..300_u32 {
        // Of every length up to 39 bytes, and no text.
        let key: Vec<u8> = (0..n % 40).map(|at| (at * 37 + n) as u8).collect();
        let message = Message::new("x").key(key).build();
        let ours = legacy.publisher().publish(&queue, message.clone()).await?;
        let theirs = kafka.publisher().publish(&queue, message).await?;
        let partition = |receipt: mq_kafka::core::Receipt| receipt.position().map(|p| p.partition);
        check(ours.position().is_some(), "a receipt without its place")?;
        same(partition(ours), partition(theirs), &format!("key {n}"))?;
    }
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn receipts(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "receipts").await?;
    let legacy = legacy(&servers).await?;
    let all = legacy.publisher();
    let leader = all.leader_only();
    let mut handles = Vec::new();
    for n in 0..400_u32 {
        let publisher = if n % 3 == 0 { &leader } else { &all };
        let message = Message::new(n.to_string()).key("one");
        handles.push((n, publisher.enqueue(&queue, message).await?));
    }
    let mut offsets = Vec::new();
    for (n, handle) in handles {
        let receipt = handle.await?;
        let stored = if n % 3 == 0 {
            Stored::Leader
        } else {
            Stored::InSync
        };
        same(receipt.stored(), stored, "what was asked for")?;
        offsets.push((receipt.position().map(|p| p.offset), n));
    }
    legacy
        .unconfirmed()
        .hand_over(&queue, Message::new("400").key("one"))
        .await?;
    let mut consumer = open(&kafka, &queue).await?;
    for delivery in take(&mut consumer, 401).await? {
        let number: u32 = text(&delivery).parse().expect("a number");
        let told = offsets.iter().find(|(_, n)| *n == number);
        let place = delivery.position().map(|p| p.offset);
        if let Some((offset, _)) = told {
            same(place, *offset, &format!("the place of {number}"))?;
        }
        delivery.ack()?;
    }
    consumer.close().await?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn written(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "written").await?;
    let legacy = legacy(&servers).await?;
    let binary: Vec<u8> = (0..=255).collect();
    let sent = [
        Message::new("plain").build(),
        Message::new("keyed").key("k").build(),
        Message::new(binary.clone()).key(binary).build(),
        Message::new("").key("empty payload").build(),
        Message::tombstone().key("tombstone").build(),
        Message::new("empty key").key("").build(),
    ];
    let mut places = Vec::new();
    for message in &sent {
        let receipt = legacy.publisher().publish(&queue, message.clone()).await?;
        places.push(receipt.position());
    }
    let mut consumer = open(&kafka, &queue).await?;
    for delivery in take(&mut consumer, sent.len()).await? {
        let at = places
            .iter()
            .position(|place| *place == delivery.position());
        let original = &sent[at.expect("a place of a receipt")];
        same(delivery.key(), original.key(), "key")?;
        same(delivery.payload(), original.payload(), "payload")?;
        same(delivery.headers().len(), 0, "headers")?;
        // The id is not on the wire: the place is it.
        let place = delivery.position().expect("a place");
        let id = format!("{}:{}:{}", queue.name(), place.partition, place.offset);
        same(delivery.id(), &MessageId::new(id)?, "id")?;
        delivery.ack()?;
    }
    consumer.close().await?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn read(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "read").await?;
    let legacy = legacy(&servers).await?;
    let sent = [
        Message::new("plain").build(),
        Message::new("keyed")
            .key("k")
            .header("region", "eu")
            .content_type("text/plain")
            .build(),
        Message::new(vec![0, 255, 7]).key(vec![255, 0]).build(),
        // The differences: of these two it cannot tell what was sent.
        Message::tombstone().key("tombstone").build(),
        Message::new("empty key").key("").build(),
    ];
    let mut places = Vec::new();
    for message in &sent {
        let receipt = kafka.publisher().publish(&queue, message.clone()).await?;
        places.push(receipt.position());
    }
    let source = Subscription::queue(queue.name().clone());
    let mut consumer = legacy.consumer(&source, plan()).await?;
    for delivery in some(&mut consumer, sent.len()).await? {
        let at = places
            .iter()
            .position(|place| *place == delivery.position());
        let at = at.expect("a place of a receipt");
        let original = &sent[at];
        let key = original.key().filter(|key| !key.as_bytes().is_empty());
        same(delivery.key(), key, "key")?;
        let payload = original.payload().cloned().unwrap_or_default();
        same(delivery.payload(), Some(&payload), "payload")?;
        same(delivery.headers().len(), 0, "headers")?;
        same(delivery.content_type(), None, "content type")?;
        check(
            delivery.id() != original.id(),
            "an id that is not on the wire",
        )?;
        delivery.ack()?;
    }
    consumer.close().await?;
    legacy.close().await?;
    Ok(kafka.close().await?)
}

pub(crate) async fn take_over(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "take-over").await?;
    let legacy = legacy(&servers).await?;
    let source = Subscription::queue(queue.name().clone());
    fill(&kafka, &queue, 0..40).await?;
    let numbers = |taken: Vec<Delivery>| {
        let mut numbers = Vec::new();
        for delivery in taken {
            numbers.push(text(&delivery));
            delivery.ack()?;
        }
        Ok::<_, mq_kafka::core::Error>(numbers)
    };
    let expected = |from: u32| (from..from + 10).map(|n| n.to_string()).collect::<Vec<_>>();
    for turn in [0, 20] {
        let mut old = legacy.consumer(&source, plan()).await?;
        same(
            numbers(some(&mut old, 10).await?)?,
            expected(turn),
            "the legacy client",
        )?;
        old.close().await?;
        let mut new = open(&kafka, &queue).await?;
        same(
            numbers(take(&mut new, 10).await?)?,
            expected(turn + 10),
            "the default client",
        )?;
        new.close().await?;
    }
    legacy.close().await?;
    Ok(Kafka::close(&kafka).await?)
}
