//! Lost connections of a client that does not come back: typed errors in bounded time, never a hang.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{process::ExitCode, time::Duration};

use futures::future::join_all;
use mq_amqp::{
    Amqp, Recovery,
    core::{
        Broker, ConsumePlan, Consumer, Destination, ErrorKind, Message, Publisher, Subscription,
        Unconfirmed,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{
    Bare, builder, expect_kind, fill, next,
    relay::{Flow, Relay},
    soon, unique,
};

fn main() -> ExitCode {
    Suite::new("faults", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case(
            "a_cut_connection_leaves_unknowns_and_ends_the_publisher",
            |url| publishing(url, Flow::Cut),
        )
        .case(
            "a_connection_closed_by_the_broker_leaves_unknowns_and_ends_the_publisher",
            |url| publishing(url, Flow::Garbage),
        )
        .case(
            "a_cut_connection_ends_the_consumer_and_makes_settlements_stale",
            |url| consuming(url, Flow::Cut),
        )
        .case(
            "a_connection_closed_by_the_broker_ends_the_consumer",
            |url| consuming(url, Flow::Garbage),
        )
        .case("what_was_not_settled_comes_again_after_a_cut", comes_again)
        .case(
            "a_deleted_queue_ends_the_consumer_with_an_error",
            deleted_queue,
        )
        .case("a_frozen_broker_ends_every_wait", frozen)
        .case(
            "a_consumer_of_a_frozen_broker_ends_by_the_heartbeat",
            silent,
        )
        .case("closing_the_broker_ends_its_consumers_as_closed", closed)
        .case("many_that_hand_over_wait_no_longer_than_one", together)
        .run()
}

/// A client that gives up at once what it lost.
fn forsaken(url: &str) -> Check<mq_amqp::AmqpBuilder> {
    let builder = builder(url)?.recovery(Recovery::within(Duration::ZERO));
    Ok(builder.resend(false))
}

async fn publishing(url: String, fault: Flow) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("cut");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let broker = forsaken(relay.url())?.connect().await?;
    let publisher = broker.publisher();
    let to = Destination::queue(name.as_str());
    publisher.publish(&to, Message::new("x")).await?;

    // The relay stops first, so that some are on their way for sure when it is cut.
    relay.set(Flow::Frozen);
    let mut pending = Vec::new();
    for _ in 0..500 {
        pending.push(publisher.enqueue(&to, Message::new("x")).await?);
    }
    soon("the first of them", relay.until_held()).await?;
    relay.set(fault);
    let mut unknown = 0;
    for one in pending {
        let error = soon("an outcome", one)
            .await?
            .expect_err("nobody confirmed it");
        assert!(error.is_retryable(), "{error}");
        match error.kind() {
            ErrorKind::Unknown => unknown += 1,
            // Never written.
            ErrorKind::Disconnected => assert!(!error.possibly_delivered()),
            other => panic!("{other:?}: {error}"),
        }
    }
    assert!(unknown > 0, "none was on its way");
    let after = soon("an answer", publisher.publish(&to, Message::new("x"))).await?;
    let error = expect_kind(after, ErrorKind::Disconnected)?;
    assert!(error.to_string().contains("connect again"), "{error}");
    let batch = vec![Message::new("x").build()];
    for outcome in soon("an answer", publisher.publish_batch(&to, batch)).await? {
        expect_kind(outcome, ErrorKind::Disconnected)?;
    }
    expect_kind(
        broker.unconfirmed().hand_over(&to, Message::new("x")).await,
        ErrorKind::Disconnected,
    )?;
    let error = soon("declare", broker.declare(&to))
        .await?
        .expect_err("no connection");
    // The consuming connection may hear only now that the broker did not like what it got.
    assert!(
        matches!(error.kind(), ErrorKind::Disconnected | ErrorKind::Bug),
        "{error}"
    );
    soon("flush", publisher.flush()).await??;
    soon("close", broker.close()).await??;
    expect_kind(
        publisher.publish(&to, Message::new("x")).await,
        ErrorKind::Closed,
    )?;
    // What was reported as never sent was never sent.
    bare.until_settled(&name).await?;
    assert!(bare.ready(&name).await? <= 1 + unknown);
    bare.delete(&name).await
}

async fn together(url: String) -> Check {
    let relay = Relay::start(&url).await?;
    let limit = Duration::from_millis(500);
    let broker = builder(relay.url())?
        .publish_timeout(limit)
        .connect()
        .await?;
    relay.set(Flow::Cut);
    let (publisher, to) = (broker.unconfirmed(), Destination::queue(unique("none")));
    let start = tokio::time::Instant::now();
    let all = (0..20).map(|_| publisher.hand_over(&to, Message::new("x")));
    for ended in soon("their end", join_all(all)).await? {
        let error = ended.expect_err("no connection");
        let kinds = [ErrorKind::Timeout, ErrorKind::Disconnected];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
    assert!(start.elapsed() < 4 * limit, "{:?}", start.elapsed());
    Ok(())
}

async fn consuming(url: String, fault: Flow) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("cut");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let broker = forsaken(relay.url())?.connect().await?;
    fill(&broker, &name, 5).await?;
    let plan = ConsumePlan::new().dead_letters(mq_amqp::core::DeadLetters::None);
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), plan)
        .await?;
    let (first, second) = (next(&mut consumer).await?, next(&mut consumer).await?);
    relay.set(Flow::Frozen);
    // Marked, but it cannot reach the broker.
    first.ack()?;
    relay.set(fault);
    // What the client had in its buffer comes first. Dropped, it would be a verdict of its own.
    let mut held = Vec::new();
    let error = loop {
        match soon("the end", consumer.receive()).await? {
            Ok(Some(more)) => held.push(more),
            other => break expect_kind(other, ErrorKind::Disconnected)?,
        }
    };
    assert!(
        error.to_string().contains(&name) && error.is_retryable(),
        "{error}"
    );
    expect_kind(second.ack(), ErrorKind::Stale)?;
    assert!(soon("after the end", consumer.receive()).await??.is_none());
    drop(consumer);
    let again = broker
        .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
        .await;
    expect_kind(again.map(drop), ErrorKind::Disconnected)?;
    bare.until_ready(&name, 5).await?;
    bare.delete(&name).await
}

async fn comes_again(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let name = unique("again");
    broker.declare(Destination::queue(name.as_str())).await?;
    fill(&broker, &name, 3).await?;
    let relay = Relay::start(&url).await?;
    let lost = forsaken(relay.url())?.connect().await?;
    let mut consumer = lost
        .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
        .await?;
    next(&mut consumer).await?.ack()?;
    consumer.settled().await?;
    let open = next(&mut consumer).await?;
    relay.set(Flow::Frozen);
    let marked = next(&mut consumer).await?;
    marked.ack()?;
    relay.set(Flow::Cut);
    expect_kind(soon("settled", consumer.settled()).await?, ErrorKind::Stale)?;
    expect_kind(open.ack(), ErrorKind::Stale)?;

    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), ConsumePlan::new())
        .await?;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(
            (delivery.attempt(), delivery.redelivered()),
            (2, Some(true))
        );
        seen.push(support::text(&delivery));
        delivery.ack()?;
    }
    seen.sort();
    assert_eq!(seen, ["1", "2"]);
    consumer.close().await?;
    let bare = Bare::connect(&url).await?;
    bare.delete(&name).await?;
    bare.delete(&format!("{name}.dead")).await
}

async fn deleted_queue(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("deleted");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    fill(&broker, &name, 4).await?;
    let plan = ConsumePlan::new().dead_letters(mq_amqp::core::DeadLetters::None);
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), plan)
        .await?;
    let delivery = next(&mut consumer).await?;
    bare.until_ready(&name, 0).await?;
    bare.delete(&name).await?;
    // So many round trips later on its channel, the consumer's end has come.
    for _ in 0..50 {
        consumer.settled().await?;
    }
    // The end may come in one batch with the last deliveries, and must not be missed.
    let mut rest = Vec::new();
    while rest.len() < 3 {
        soon("what is buffered", consumer.receive_many(&mut rest, 100)).await??;
    }
    // It was declared elsewhere, so nobody here can declare it again.
    let error = expect_kind(
        soon("the end", consumer.receive()).await?,
        ErrorKind::NotFound,
    )?;
    assert_eq!(error.context("source"), Some(name.as_str()));
    expect_kind(delivery.ack(), ErrorKind::Stale)?;
    Ok(())
}

async fn frozen(url: String) -> Check {
    let relay = Relay::start(&url).await?;
    let limit = Duration::from_millis(500);
    let broker = forsaken(relay.url())?
        .operation_timeout(limit)
        .publish_timeout(limit)
        .connect()
        .await?;
    let to = Destination::queue(unique("frozen"));
    // The publisher has its channel then, which may take longer than a publish may.
    let ready = async {
        let publisher = broker.publisher();
        while let Err(error) = publisher.publish(&to, Message::new("x")).await
            && error.kind() != ErrorKind::Unroutable
        {}
    };
    soon("a channel", ready).await?;
    relay.set(Flow::Frozen);
    expect_kind(
        soon("declare", broker.declare(&to)).await?,
        ErrorKind::Timeout,
    )?;
    expect_kind(
        soon("verify", broker.verify(&to)).await?,
        ErrorKind::Timeout,
    )?;
    let any = Subscription::queue("any");
    let consumer = broker.consumer(&any, ConsumePlan::new());
    expect_kind(
        soon("consumer", consumer).await?.map(drop),
        ErrorKind::Timeout,
    )?;
    expect_kind(
        soon(
            "publish",
            broker.publisher().publish(&to, Message::new("x")),
        )
        .await?,
        ErrorKind::Unknown,
    )?;
    expect_kind(soon("close", broker.close()).await?, ErrorKind::Timeout)?;
    Ok(())
}

async fn silent(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("silent");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let heartbeat = Duration::from_secs(5);
    let broker = forsaken(relay.url())?
        .heartbeat(heartbeat)
        .connect()
        .await?;
    fill(&broker, &name, 1).await?;
    let plan = ConsumePlan::new().dead_letters(mq_amqp::core::DeadLetters::None);
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), plan)
        .await?;
    let held = next(&mut consumer).await?;
    relay.set(Flow::Frozen);
    let frozen = tokio::time::Instant::now();
    // Two heartbeats, and what had come before the first of them.
    expect_kind(
        soon("the end", consumer.receive()).await?,
        ErrorKind::Disconnected,
    )?;
    assert!(frozen.elapsed() >= heartbeat, "{:?}", frozen.elapsed());
    expect_kind(held.ack(), ErrorKind::Stale)?;
    // The broker has it again when it notices in its turn.
    relay.set(Flow::Cut);
    bare.until_ready(&name, 1).await?;
    bare.delete(&name).await
}

async fn closed(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("closed");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    let plan = ConsumePlan::new().dead_letters(mq_amqp::core::DeadLetters::None);
    let mut consumer = broker
        .consumer(&Subscription::queue(name.as_str()), plan)
        .await?;
    broker.close().await?;
    expect_kind(
        soon("the end", consumer.receive()).await?,
        ErrorKind::Closed,
    )?;
    bare.delete(&name).await
}
