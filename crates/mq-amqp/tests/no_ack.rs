//! The consumer that acknowledges nothing: what is gone, what is held, how it ends.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{process::ExitCode, time::Duration};

use mq_amqp::{
    Amqp, AmqpNoAckConsumer,
    core::{Broker, Destination, ErrorKind, Filter, Message, Publisher, Received, Subscription},
};
use mq_testkit::{Check, Failure, Suite, broker_address};
use support::{
    Bare, argument, builder, expect_kind, fill,
    relay::{Flow, Relay},
    soon, unique,
};

fn main() -> ExitCode {
    Suite::new("no_ack", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case("what_is_received_is_gone_without_an_acknowledgement", gone)
        .case(
            "a_classic_queue_is_read_in_order_and_no_faster_than_it_is_taken",
            |url| bounded(url, "classic"),
        )
        .case(
            "a_quorum_queue_is_read_in_order_and_no_faster_than_it_is_taken",
            |url| bounded(url, "quorum"),
        )
        .case("a_full_buffer_does_not_cost_the_connection", patient)
        .case("messages_larger_than_a_read_arrive", large)
        .case(
            "an_ephemeral_subscription_is_read_without_acknowledgements",
            ephemeral,
        )
        .case("a_cut_connection_ends_it_after_what_had_come", cut)
        .case("a_deleted_queue_ends_it_with_an_error", deleted)
        .case("closing_the_broker_ends_it", closed)
        .case("what_cannot_be_read_is_refused", refused)
        .run()
}

/// What one read of 32 KiB can bring beyond the buffer: a delivery takes at least 90 bytes.
const SLACK: usize = 32 * 1024 / 90;

async fn open(broker: &Amqp, queue: &str, buffer: usize) -> Check<AmqpNoAckConsumer> {
    Ok(broker
        .no_ack_consumer(&Subscription::queue(queue), buffer)
        .await?)
}

async fn next(consumer: &mut AmqpNoAckConsumer) -> Check<Received> {
    soon("a message", consumer.receive())
        .await??
        .ok_or_else(|| Failure::new("the consumer ended"))
}

fn text(received: &Received) -> String {
    String::from_utf8_lossy(received.payload().map(AsRef::as_ref).unwrap_or_default()).into_owned()
}

async fn gone(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("gone");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    fill(&broker, &name, 3).await?;
    let mut consumer = open(&broker, &name, 10).await?;
    assert_eq!(consumer.queue(), name);
    let first = next(&mut consumer).await?;
    assert_eq!(
        (text(&first).as_str(), first.attempt(), first.redelivered()),
        ("0", 1, Some(false))
    );
    bare.until_ready(&name, 0).await?;
    // Two are not received, and nothing was ever acknowledged.
    drop(consumer);
    let over = async {
        while bare.consumers(&name).await? > 0 {
            tokio::task::yield_now().await;
        }
        Check::Ok(())
    };
    soon("the end of a dropped consumer", over).await??;
    bare.until_settled(&name).await?;
    assert_eq!(bare.ready(&name).await?, 0, "something came back");
    bare.delete(&name).await
}

async fn bounded(url: String, kind: &str) -> Check {
    const COUNT: usize = 20_000;
    const BUFFER: usize = 100;
    let bare = Bare::connect(&url).await?;
    let name = unique("bounded");
    bare.queue(&name, &[("x-queue-type", argument(kind))])
        .await?;
    let broker = Amqp::connect(&url).await?;
    let mut consumer = open(&broker, &name, BUFFER).await?;
    let (publishing, queue) = (broker.clone(), name.clone());
    let publishing = tokio::spawn(async move { fill(&publishing, &queue, COUNT).await });
    let mut most = 0;
    for expected in 0..COUNT {
        if expected % 5_000 == 0 {
            // Nobody takes anything until everything is published, or the buffer is full.
            let held = async {
                while consumer.waiting() < BUFFER && !publishing.is_finished() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            soon("a full buffer", held).await?;
        }
        most = most.max(consumer.waiting());
        let message = next(&mut consumer).await?;
        assert_eq!(
            text(&message),
            expected.to_string(),
            "lost, doubled or out of order"
        );
    }
    soon("the publisher", publishing).await???;
    assert!(
        (BUFFER..=BUFFER + SLACK).contains(&most),
        "{most} messages waited"
    );
    assert_eq!(consumer.waiting(), 0);
    consumer.close().await?;
    assert_eq!(bare.ready(&name).await?, 0);
    bare.delete(&name).await
}

async fn patient(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("patient");
    bare.queue(&name, &[]).await?;
    let heartbeat = Duration::from_secs(5);
    let broker = builder(&url)?.heartbeat(heartbeat).connect().await?;
    fill(&broker, &name, 5_000).await?;
    let mut consumer = open(&broker, &name, 10).await?;
    // Both sides give a silent peer up after two heartbeats.
    tokio::time::sleep(heartbeat * 3).await;
    assert!(
        consumer.waiting() <= 10 + SLACK,
        "{} messages waited",
        consumer.waiting()
    );
    for expected in 0..5_000 {
        assert_eq!(text(&next(&mut consumer).await?), expected.to_string());
    }
    consumer.close().await?;
    bare.delete(&name).await
}

async fn large(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("large");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    let mut consumer = open(&broker, &name, 1).await?;
    let sizes = [1, 5_000_000, 0, 131_072, 32_768, 2];
    for size in sizes {
        let message = Message::new(vec![7; size]);
        broker
            .publisher()
            .publish(&Destination::queue(name.as_str()), message)
            .await?;
    }
    for size in sizes {
        assert_eq!(
            next(&mut consumer).await?.payload().map(|p| p.len()),
            Some(size)
        );
    }
    consumer.close().await?;
    bare.delete(&name).await
}

async fn ephemeral(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let topic = Destination::topic(unique("events"));
    broker.declare(&topic).await?;
    let filtered = Subscription::ephemeral(topic.name().clone()).filter(Filter::pattern("eu.#"));
    let mut consumer = broker.no_ack_consumer(&filtered, 10).await?;
    for key in ["us.paid", "eu.paid"] {
        let to = topic.clone().routing_key(key);
        broker.publisher().publish(&to, Message::new(key)).await?;
    }
    let message = next(&mut consumer).await?;
    assert_eq!(
        (text(&message).as_str(), message.routing_key()),
        ("eu.paid", Some("eu.paid"))
    );
    let queue = consumer.queue().to_owned();
    consumer.close().await?;
    // Its queue was its own, and went with it.
    let bare = Bare::connect(&url).await?;
    assert!(bare.ready(&queue).await.is_err());
    let bare = Bare::connect(&url).await?;
    bare.channel
        .exchange_delete(topic.name().as_ref().into(), Default::default())
        .await?;
    Ok(())
}

async fn cut(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("cut");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let broker = Amqp::connect(relay.url()).await?;
    fill(&broker, &name, 3).await?;
    let mut consumer = open(&broker, &name, 10).await?;
    next(&mut consumer).await?;
    bare.until_ready(&name, 0).await?;
    while consumer.waiting() < 2 {
        tokio::task::yield_now().await;
    }
    relay.set(Flow::Cut);
    let noticed = async {
        while format!("{consumer:?}").contains("connected: true") {
            tokio::task::yield_now().await;
        }
    };
    soon("the cut", noticed).await?;
    for expected in ["1", "2"] {
        assert_eq!(text(&next(&mut consumer).await?), expected);
    }
    let error = expect_kind(
        soon("the end", consumer.receive()).await?,
        ErrorKind::Disconnected,
    )?;
    assert_eq!(error.context("source"), Some(name.as_str()), "{error}");
    assert!(
        error.is_retryable() && error.to_string().contains("open it again"),
        "{error}"
    );
    assert!(soon("after the end", consumer.receive()).await??.is_none());
    bare.delete(&name).await
}

async fn deleted(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("deleted");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    let mut consumer = open(&broker, &name, 10).await?;
    bare.delete(&name).await?;
    let error = expect_kind(soon("the end", consumer.receive()).await?, ErrorKind::Lost)?;
    assert_eq!(error.context("source"), Some(name.as_str()), "{error}");
    assert!(soon("after the end", consumer.receive()).await??.is_none());
    soon("close", consumer.close()).await??;
    Ok(())
}

async fn closed(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("closed");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    // More than fits, so that the answer to the closing is behind what nobody takes.
    fill(&broker, &name, 2_000).await?;
    let mut consumer = open(&broker, &name, 5).await?;
    while consumer.waiting() < 5 {
        tokio::task::yield_now().await;
    }
    soon("close", broker.close()).await??;
    let error = loop {
        match soon("the end", consumer.receive()).await? {
            Ok(Some(_)) => {}
            other => break expect_kind(other, ErrorKind::Closed)?,
        }
    };
    assert_eq!(error.context("source"), Some(name.as_str()), "{error}");
    let again = broker
        .no_ack_consumer(&Subscription::queue(name.as_str()), 5)
        .await;
    expect_kind(again.map(drop), ErrorKind::Closed)?;
    bare.delete(&name).await
}

async fn refused(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let missing = unique("missing");
    for subscription in [
        Subscription::queue(missing.as_str()),
        Subscription::durable("events", missing.as_str()),
        Subscription::ephemeral(missing.as_str()),
    ] {
        let error = expect_kind(
            broker.no_ack_consumer(&subscription, 5).await.map(drop),
            ErrorKind::NotFound,
        )?;
        assert!(error.to_string().contains(&missing), "{error}");
    }
    let none = broker
        .no_ack_consumer(&Subscription::queue(missing.as_str()), 0)
        .await;
    expect_kind(none.map(drop), ErrorKind::Config)?;
    let filtered = Subscription::queue(missing.as_str()).filter(Filter::exact("eu"));
    expect_kind(
        broker.no_ack_consumer(&filtered, 5).await.map(drop),
        ErrorKind::Config,
    )?;
    let name = Subscription::queue("..");
    expect_kind(
        broker.no_ack_consumer(&name, 5).await.map(drop),
        ErrorKind::InvalidName,
    )?;
    Ok(())
}
