//! Headers: what is kept, what is refused, what is counted.

use bytes::Bytes;
use mq_core::{
    Broker, ErrorKind, Message, MessageBuilder, Publisher,
    headers::{self, HeaderValue},
};

use super::case::list;
use crate::{
    Check, Fixture,
    checks::{numbered, numbers, refused},
    failure::{ensure, ensure_eq},
    scene::Scene,
};

list![
    unicode_binary_null_and_empty_headers_are_kept needs WholeMessages,
    many_headers_are_kept needs WholeMessages,
    repeated_headers_are_kept_in_their_order needs RepeatedHeaders,
    repeated_headers_are_refused lacks RepeatedHeaders,
    the_name_of_a_mapped_header_is_refused,
    an_attempt_header_counts_as_attempts_made needs WholeMessages,
    a_garbled_attempt_header_counts_as_none needs WholeMessages,
];

async fn unicode_binary_null_and_empty_headers_are_kept<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let binary = Bytes::from_static(&[0, 0xff, 0xfe, b'a', 0x80]);
    let sent: [(&str, HeaderValue); 6] = [
        ("text", "plain".into()),
        ("größe", "über 10 \u{1f98a}".into()),
        ("binary", binary.into()),
        ("empty", "".into()),
        ("null", HeaderValue::null()),
        ("number", 42.into()),
    ];
    let message = sent
        .iter()
        .cloned()
        .fold(Message::new("x"), |m, (n, v)| m.header(n, v));
    scene.publish(&queue.to, message).await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = &reader.ack(1).await?[0];
    for (name, value) in &sent {
        ensure_eq!(received.headers().get(name), Some(value), "header {name}");
    }
    ensure_eq!(received.headers().len(), sent.len(), "number of headers");
    reader.close().await
}

async fn many_headers_are_kept<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let add = |message: MessageBuilder, n: u64| message.header(format!("header-{n}"), n);
    scene
        .publish(&queue.to, (0..200).fold(Message::new("x"), add))
        .await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = &reader.ack(1).await?[0];
    for n in 0..200 {
        let text = received
            .headers()
            .text(&format!("header-{n}"))
            .map(str::to_owned);
        ensure_eq!(text, Some(n.to_string()), "header-{n}");
    }
    ensure_eq!(received.headers().len(), 200, "number of headers");
    reader.close().await
}

fn repeated() -> MessageBuilder {
    Message::new("x")
        .header("via", "a")
        .header("other", "o")
        .header("via", "b")
}

async fn repeated_headers_are_kept_in_their_order<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, repeated()).await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = &reader.ack(1).await?[0];
    let values: Vec<_> = received
        .headers()
        .all("via")
        .filter_map(HeaderValue::as_str)
        .collect();
    ensure_eq!(values, ["a", "b"], "values of the repeated header");
    ensure_eq!(received.headers().len(), 3, "number of headers");
    reader.close().await
}

async fn repeated_headers_are_refused<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let publisher = scene.broker.publisher();
    let result = publisher.publish(&queue.to, repeated()).await;
    let text = refused(result, ErrorKind::InvalidMessage, "a repeated header")?;
    ensure!(
        text.contains("via"),
        "the error does not name the header: {text}"
    );
    scene.is_empty(&queue).await
}

async fn the_name_of_a_mapped_header_is_refused<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let publisher = scene.broker.publisher();
    for name in MAPPED {
        let message = Message::new("x").header(name, "1");
        let result = publisher.publish(&queue.to, message).await;
        let text = refused(result, ErrorKind::InvalidMessage, name)?;
        ensure!(
            text.contains(name),
            "the error does not name the header {name}: {text}"
        );
    }
    scene.is_empty(&queue).await
}

async fn an_attempt_header_counts_as_attempts_made<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene
        .publish(&queue.to, Message::new("x").header(headers::ATTEMPT, 2))
        .await?;
    let mut reader = scene.open(&queue.from).await?;
    let delivery = reader.next().await?;
    ensure_eq!(delivery.attempt(), 3, "attempt after two made");
    delivery.into_settlement().requeue()?;
    ensure_eq!(
        reader.ack(1).await?[0].attempt(),
        4,
        "attempt after a requeue"
    );
    reader.close().await
}

async fn a_garbled_attempt_header_counts_as_none<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let binary: HeaderValue = vec![0xff, 0x00].into();
    let garbled = [
        "many".into(),
        "-1".into(),
        "".into(),
        HeaderValue::null(),
        binary,
    ];
    for (n, value) in (0..).zip(garbled) {
        let message = numbered(n).key("k").header(headers::ATTEMPT, value);
        scene.publish(&queue.to, message).await?;
    }
    let mut reader = scene.open(&queue.from).await?;
    let received = reader.ack(5).await?;
    for one in &received {
        let garbled = one.headers().get(headers::ATTEMPT);
        ensure_eq!(one.attempt(), 1, "attempt with {garbled:?} in the header");
    }
    ensure_eq!(numbers(&received)?, [0, 1, 2, 3, 4], "what was delivered");
    reader.close().await
}

const MAPPED: [&str; 11] = [
    headers::ID,
    headers::KEY,
    headers::TIME,
    headers::PUBLISH_NUMBER,
    headers::TOMBSTONE,
    headers::EXPIRES,
    headers::PRIORITY,
    headers::CORRELATION_ID,
    headers::REPLY_TO,
    headers::CONTENT_TYPE,
    headers::ROUTING_KEY,
];
