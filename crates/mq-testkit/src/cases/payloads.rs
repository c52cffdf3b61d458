//! Payloads of every kind and size.

use bytes::Bytes;
use mq_core::{Broker, ErrorKind, Message, Publisher};

use super::case::list;
use crate::{
    Check, Fixture,
    checks::{numbered, numbers, refused},
    failure::ensure_eq,
    scene::Scene,
};

list![
    a_tombstone_is_not_an_empty_payload needs WholeMessages,
    a_binary_payload_is_kept_byte_for_byte,
    payloads_of_10_kb_and_900_kb_arrive,
    an_oversized_message_is_refused_and_not_sent,
];

async fn a_tombstone_is_not_an_empty_payload<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene
        .publish(&queue.to, Message::tombstone().key("k"))
        .await?;
    scene.publish(&queue.to, Message::new("").key("k")).await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = reader.ack(2).await?;
    ensure_eq!(received[0].payload(), None, "payload of the tombstone");
    ensure_eq!(
        received[1].payload(),
        Some(&Bytes::new()),
        "the empty payload"
    );
    reader.close().await
}

async fn a_binary_payload_is_kept_byte_for_byte<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let payload: Vec<u8> = (0..=255).rev().chain(0..=255).collect();
    scene
        .publish(&queue.to, Message::new(payload.clone()))
        .await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = &reader.ack(1).await?[0];
    ensure_eq!(received.payload(), Some(&Bytes::from(payload)), "payload");
    reader.close().await
}

async fn payloads_of_10_kb_and_900_kb_arrive<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let mut reader = scene.open(&queue.from).await?;
    for size in [10_000, 900_000] {
        // Not one byte repeated: a piece in the wrong place has to show.
        let payload: Bytes = (0..size).map(|n: u32| (n % 251) as u8).collect();
        scene
            .publish(&queue.to, Message::new(payload.clone()))
            .await?;
        let received = &reader.ack(1).await?[0];
        let same = received.payload() == Some(&payload);
        ensure_eq!(same, true, "payload of {size} bytes is the same");
    }
    reader.close().await
}

async fn an_oversized_message_is_refused_and_not_sent<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let publisher = scene.broker.publisher();
    let huge = Message::new(vec![0; LARGER_THAN_ANY_DEFAULT]);
    refused(
        publisher.publish(&queue.to, huge).await,
        ErrorKind::TooLarge,
        "17 MiB",
    )?;
    // The publisher goes on.
    scene.publish(&queue.to, numbered(1)).await?;
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [1], "what was sent");
    reader.nothing().await?;
    reader.close().await
}

const LARGER_THAN_ANY_DEFAULT: usize = 17 * 1024 * 1024;
