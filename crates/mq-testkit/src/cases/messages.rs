//! Every field of a message, both ways.

use std::time::{Duration, SystemTime};

use mq_core::{Broker, Message, MessageId, Publisher, headers::Headers};

use super::case::list;
use crate::{
    Check, Fixture,
    checks::{each_once, numbered, numbers},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    every_field_arrives_as_it_was_sent needs WholeMessages,
    a_field_that_was_not_set_is_not_made_up,
    a_generated_id_is_kept needs WholeMessages,
    an_id_of_the_application_is_kept needs WholeMessages,
    the_time_is_kept_in_milliseconds needs WholeMessages,
    a_binary_key_is_kept,
    an_empty_key_is_not_a_missing_key needs WholeMessages,
    the_source_is_the_name_of_the_subscription,
    an_expired_message_is_not_delivered needs WholeMessages,
    a_higher_priority_is_delivered_sooner needs Priority,
    a_receipt_and_its_delivery_name_one_position needs Positions,
    no_position_is_made_up lacks Positions,
];

async fn every_field_arrives_as_it_was_sent<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let expires_in = Duration::from_secs(600);
    let sent = Message::new("payload")
        .id(MessageId::new("order-1")?)
        .key("customer-7")
        .header("region", "eu")
        .header("traceparent", "00-1-2-01")
        .content_type("text/plain; charset=utf-8")
        .correlation_id("request-ä")
        .reply_to("answers")
        .expires_in(expires_in)
        .priority(3)
        .build();
    scene.publish(&queue.to, sent.clone()).await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = &reader.ack(1).await?[0];
    ensure_eq!(received.id(), sent.id(), "id");
    ensure_eq!(received.key(), sent.key(), "key");
    ensure_eq!(
        sorted(received.headers()),
        sorted(sent.headers()),
        "headers"
    );
    ensure_eq!(received.payload(), sent.payload(), "payload");
    ensure_eq!(received.content_type(), sent.content_type(), "content type");
    ensure_eq!(
        received.correlation_id(),
        sent.correlation_id(),
        "correlation id"
    );
    ensure_eq!(received.reply_to(), sent.reply_to(), "reply-to");
    ensure_eq!(received.priority(), sent.priority(), "priority");
    ensure_eq!(received.time(), sent.time(), "time");
    // A log tells what is left of it.
    let left = received.expires_in();
    let near = expires_in - Duration::from_secs(30)..=expires_in;
    ensure!(
        left.is_some_and(|left| near.contains(&left)),
        "expiry: found {left:?}"
    );
    ensure_eq!(received.attempt(), 1, "attempt");
    reader.close().await
}

async fn a_field_that_was_not_set_is_not_made_up<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, Message::new("x")).await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = &reader.ack(1).await?[0];
    ensure_eq!(received.key(), None, "key");
    ensure_eq!(sorted(received.headers()), Vec::new(), "headers");
    ensure_eq!(received.content_type(), None, "content type");
    ensure_eq!(received.correlation_id(), None, "correlation id");
    ensure_eq!(received.reply_to(), None, "reply-to");
    ensure_eq!(received.expires_in(), None, "expiry");
    ensure_eq!(received.priority(), None, "priority");
    ensure_eq!(received.routing_key(), None, "routing key");
    reader.close().await
}

async fn a_generated_id_is_kept<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let sent: Vec<Message> = (0..10).map(|n| numbered(n).build()).collect();
    scene.publish_all(&queue.to, sent.clone()).await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = reader.ack(sent.len()).await?;
    each_once(&numbers(&received)?, 0..10)?;
    for one in &received {
        let original = sent
            .iter()
            .find(|message| message.payload() == one.payload());
        ensure_eq!(
            Some(one.id()),
            original.map(Message::id),
            "id of {:?}",
            one.payload()
        );
    }
    reader.close().await
}

async fn an_id_of_the_application_is_kept<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let longest = "x".repeat(MessageId::MAX);
    let uuid = "018F3A6E-0000-7000-8000-00000000000A";
    for text in ["order/2026-1", "заказ-7", uuid, &longest] {
        scene
            .publish(&queue.to, Message::new("x").id(MessageId::new(text)?))
            .await?;
        let mut reader = scene.open(&queue.from).await?;
        let received = &reader.ack(1).await?[0];
        ensure_eq!(received.id().to_string(), text, "id");
        reader.close().await?;
    }
    Ok(())
}

async fn the_time_is_kept_in_milliseconds<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    // A minute ago, not on a full second: AMQP's own time has only seconds.
    let minute_ago = mq_core::time::to_millis(SystemTime::now()) - 60_000;
    let millis = minute_ago - minute_ago % 1000 + 123;
    let time = mq_core::time::from_millis(millis).unwrap_or(SystemTime::UNIX_EPOCH);
    scene
        .publish(&queue.to, Message::new("x").time(time))
        .await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = &reader.ack(1).await?[0];
    ensure_eq!(
        mq_core::time::to_millis(received.time()),
        millis,
        "time in ms"
    );
    reader.close().await
}

async fn a_binary_key_is_kept<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let key: Vec<u8> = (0..=255).collect();
    scene
        .publish(&queue.to, Message::new("x").key(key.clone()))
        .await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = &reader.ack(1).await?[0];
    ensure_eq!(
        received.key().map(|key| key.as_bytes().to_vec()),
        Some(key),
        "key"
    );
    reader.close().await
}

async fn an_empty_key_is_not_a_missing_key<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, Message::new("x").key("")).await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = &reader.ack(1).await?[0];
    ensure_eq!(received.key().and_then(|key| key.as_str()), Some(""), "key");
    reader.close().await
}

async fn the_source_is_the_name_of_the_subscription<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, Message::new("x")).await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = &reader.ack(1).await?[0];
    ensure_eq!(received.source(), queue.from.name(), "source");
    reader.close().await
}

async fn an_expired_message_is_not_delivered<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let expiry = Duration::from_millis(200);
    scene
        .publish(&queue.to, numbered(0).key("k").expires_in(expiry))
        .await?;
    // Time itself is what this case is about.
    tokio::time::sleep(expiry + Duration::from_millis(200)).await;
    scene.publish(&queue.to, numbered(1).key("k")).await?;
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [1], "what is delivered");
    reader.nothing().await?;
    reader.close().await
}

async fn a_higher_priority_is_delivered_sooner<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    for (number, priority) in [(0, 1), (1, 9), (2, 1), (3, 9)] {
        scene
            .publish(&queue.to, numbered(number).priority(priority))
            .await?;
    }
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(
        numbers(&reader.ack(4).await?)?,
        [1, 3, 0, 2],
        "the order of delivery"
    );
    reader.close().await
}

async fn a_receipt_and_its_delivery_name_one_position<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let first = scene
        .broker
        .publisher()
        .publish(&queue.to, numbered(0).key("k"))
        .await?;
    let second = scene
        .broker
        .publisher()
        .publish(&queue.to, numbered(1).key("k"))
        .await?;
    ensure!(first.position().is_some(), "the receipt has no position");
    ensure!(
        first.position() < second.position(),
        "positions of one key do not rise"
    );
    let mut reader = scene.open(&queue.from).await?;
    let received = reader.ack(2).await?;
    ensure_eq!(
        received[0].position(),
        first.position(),
        "position of the first"
    );
    ensure_eq!(
        received[1].position(),
        second.position(),
        "position of the second"
    );
    reader.close().await
}

async fn no_position_is_made_up<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let receipt = scene
        .broker
        .publisher()
        .publish(&queue.to, Message::new("x"))
        .await?;
    ensure_eq!(receipt.position(), None, "position of the receipt");
    let mut reader = scene.open(&queue.from).await?;
    ensure_eq!(
        reader.ack(1).await?[0].position(),
        None,
        "position of the delivery"
    );
    reader.close().await
}

/// Brokers need not keep the order of headers.
fn sorted(headers: &Headers) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_owned(), format!("{value:?}")))
        .collect();
    pairs.sort();
    pairs
}
