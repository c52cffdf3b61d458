//! Every publish is told what became of it.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test may panic, and this one shows a figure"
)]

mod support;

use std::{process::ExitCode, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};

use lapin::{
    Confirmation, ExchangeKind,
    options::{
        BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    },
    types::{AMQPValue, FieldTable},
};
use mq_amqp::{
    Amqp, QueueSettings,
    core::{
        Broker, Destination, ErrorKind, Message, Publisher, Receipt, Result, Stored, Subscription,
        Unconfirmed,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{
    Bare, argument, builder, expect_kind,
    relay::{Flow, Relay},
    soon, unique,
};

fn main() -> ExitCode {
    Suite::new("outcomes", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        // For the two that publish 200,000 messages each, on a machine that has other work.
        .deadline(Duration::from_secs(180))
        .case(
            "tells_each_of_100000_publishes_to_a_classic_queue_apart",
            |url| apart(url, "classic"),
        )
        .case(
            "tells_each_of_100000_publishes_to_a_quorum_queue_apart",
            |url| apart(url, "quorum"),
        )
        .case("a_queue_that_is_full_rejects", rejects)
        .case("a_batch_has_one_completion_and_every_outcome", batch)
        .case(
            "a_missing_topic_is_not_found_and_harms_nobody",
            missing_topic,
        )
        .case(
            "a_topic_deleted_under_a_publisher_leaves_unknowns_and_the_publisher_goes_on",
            deleted_topic,
        )
        .case(
            "a_topic_without_subscribers_is_unroutable_only_on_request",
            mandatory_topic,
        )
        .case("too_large_is_refused_and_harms_nobody", too_large)
        .case(
            "a_limit_of_the_broker_below_ours_is_learned_from_its_first_refusal",
            broker_limit,
        )
        .case("a_queue_that_is_full_of_bytes_rejects", full_of_bytes)
        .case(
            "a_rejected_event_is_with_the_subscriptions_that_have_room",
            rejected_by_one,
        )
        .case(
            "publishes_end_at_their_deadline_and_the_window_bounds_them",
            deadline,
        )
        .case("unconfirmed_publishes_arrive", unconfirmed)
        .run()
}

const COUNT: usize = 100_000;

fn unroutable(i: usize) -> bool {
    i % 10 == 3
}

async fn apart(url: String, kind: &str) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("apart");
    bare.queue(&name, &[("x-queue-type", argument(kind))])
        .await?;
    let wrong = bare_pairing(&bare, &name).await?;
    println!("{kind}: the bare client reports {wrong} of {COUNT} publishes wrong");

    let broker = Amqp::connect(&url).await?;
    let publisher = broker.publisher();
    let (here, nowhere) = (
        Destination::queue(name.as_str()),
        Destination::queue(unique("nowhere")),
    );
    let mut pending = Vec::with_capacity(COUNT);
    for i in 0..COUNT {
        let to = if unroutable(i) { &nowhere } else { &here };
        pending.push(
            publisher
                .enqueue(to, Message::new("0123456789abcdef"))
                .await?,
        );
    }
    let mut wrong = 0;
    for (i, one) in pending.into_iter().enumerate() {
        wrong += usize::from(is_unroutable(&soon("an outcome", one).await?)? != unroutable(i));
    }
    assert_eq!(wrong, 0, "publishes reported wrong");
    // The bare client's and ours.
    bare.until_ready(&name, 2 * (COUNT - COUNT / 10) as u32)
        .await?;
    bare.delete(&name).await
}

fn is_unroutable(outcome: &Result<Receipt>) -> Check<bool> {
    match outcome {
        Ok(receipt) if receipt.stored() == Stored::Queues => Ok(false),
        Err(error) if error.kind() == ErrorKind::Unroutable => Ok(true),
        other => Err(mq_testkit::Failure::new(format!("{other:?}"))),
    }
}

/// How many publishes the client's own pairing of returns and confirmations reports wrong.
async fn bare_pairing(bare: &Bare, queue: &str) -> Check<usize> {
    let select = ConfirmSelectOptions::default();
    bare.channel.confirm_select(select).await?;
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    let publish = |i| async move {
        let key = if unroutable(i) {
            "no-such-queue"
        } else {
            queue
        };
        let properties = lapin::BasicProperties::default().with_delivery_mode(2);
        let body = b"0123456789abcdef";
        let publish = bare
            .channel
            .basic_publish("".into(), key.into(), options, body, properties);
        let returned = matches!(publish.await?.await?, Confirmation::Ack(Some(_)));
        Check::Ok(usize::from(returned != unroutable(i)))
    };
    let wrong = stream::iter(0..COUNT).map(publish).buffered(1000);
    wrong
        .try_fold(0, |sum, one| async move { Ok(sum + one) })
        .await
}

async fn rejects(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    for kind in ["classic", "quorum"] {
        let name = unique("full");
        let full = [
            ("x-queue-type", argument(kind)),
            ("x-max-length", AMQPValue::LongInt(1)),
            ("x-overflow", argument("reject-publish")),
        ];
        bare.queue(&name, &full).await?;
        let publisher = Amqp::connect(&url).await?.publisher();
        let to = Destination::queue(name.as_str());
        let mut kinds = Vec::new();
        for _ in 0..6 {
            kinds.push(
                publisher
                    .publish(&to, Message::new("x"))
                    .await
                    .map_err(|e| e.kind()),
            );
        }
        assert!(kinds[0].is_ok(), "{kinds:?}");
        assert_eq!(kinds[5].err(), Some(ErrorKind::Rejected), "{kinds:?}");
        bare.delete(&name).await?;
    }
    Ok(())
}

async fn batch(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("batch");
    bare.queue(&name, &[]).await?;
    // A window that is smaller than the batch.
    let broker = builder(&url)?.publish_window(7).connect().await?;
    let publisher = broker.publisher();
    let mut messages: Vec<Message> = (0..100)
        .map(|i| Message::new(i.to_string()).build())
        .collect();
    messages[40] = Message::new("x").header("CC", "other").build();
    let to = Destination::queue(name.as_str());
    let outcomes = soon("a batch", publisher.publish_batch(&to, messages)).await?;
    assert_eq!(outcomes.len(), 100);
    for (i, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(
            outcome.map_err(|e| e.kind()).err(),
            (i == 40).then_some(ErrorKind::InvalidMessage)
        );
    }
    let nowhere = Destination::queue(unique("nowhere"));
    let messages = vec![Message::new("x").build(), Message::new("y").build()];
    for outcome in soon("a batch", publisher.publish_batch(&nowhere, messages)).await? {
        let error = expect_kind(outcome, ErrorKind::Unroutable)?;
        assert!(
            error.context("to").is_some_and(|to| to.contains("nowhere")),
            "{error}"
        );
    }
    assert!(publisher.publish_batch(&to, Vec::new()).await.is_empty());
    bare.until_ready(&name, 99).await?;
    bare.delete(&name).await
}

async fn missing_topic(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("beside");
    bare.queue(&name, &[]).await?;
    let publisher = Amqp::connect(&url).await?.publisher();
    let to = Destination::queue(name.as_str());
    let mut pending = Vec::new();
    for _ in 0..200 {
        pending.push(publisher.enqueue(&to, Message::new("x")).await?);
    }
    let missing = unique("missing");
    let error = expect_kind(
        publisher
            .publish(&Destination::topic(missing.as_str()), Message::new("x"))
            .await,
        ErrorKind::NotFound,
    )?;
    assert!(error.to_string().contains(&missing), "{error}");
    for one in pending {
        soon("an outcome", one).await??;
    }
    bare.delete(&name).await
}

async fn deleted_topic(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let (queue, topic) = (unique("beside"), unique("deleted"));
    bare.queue(&queue, &[]).await?;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let declare = bare.channel.exchange_declare(
        topic.as_str().into(),
        ExchangeKind::Topic,
        options,
        FieldTable::default(),
    );
    declare.await?;
    let publisher = builder(&url)?.resend(false).connect().await?.publisher();
    let to = Destination::topic(topic.as_str());
    publisher.publish(&to, Message::new("seen")).await?;
    bare.channel
        .exchange_delete(topic.as_str().into(), ExchangeDeleteOptions::default())
        .await?;

    let beside = Destination::queue(queue.as_str());
    let mut pending = Vec::new();
    for i in 0..100 {
        let to = if i == 50 { &to } else { &beside };
        pending.push(publisher.enqueue(to, Message::new("x")).await?);
    }
    let (mut unknown, mut confirmed) = (0, 0);
    for (i, one) in pending.into_iter().enumerate() {
        match soon("an outcome", one).await? {
            // What came long before the topic's turn, or after it on the next channel.
            Ok(_) => {
                assert_ne!(i, 50, "an exchange that is gone has confirmed");
                confirmed += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
                assert!(error.to_string().contains(&topic), "{error}");
                unknown += 1;
            }
        }
    }
    assert!(unknown >= 1);
    soon(
        "the next channel",
        publisher.publish(&beside, Message::new("after")),
    )
    .await??;
    expect_kind(
        publisher.publish(&to, Message::new("x")).await,
        ErrorKind::NotFound,
    )?;
    // What was confirmed is there, and the one after it.
    assert!(bare.ready(&queue).await? > confirmed);
    bare.delete(&queue).await
}

async fn mandatory_topic(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let topic = Destination::topic(unique("silent"));
    broker.declare(&topic).await?;
    broker
        .publisher()
        .publish(&topic, Message::new("x"))
        .await?;
    let mandatory = topic.mandatory();
    expect_kind(
        broker
            .publisher()
            .publish(&mandatory, Message::new("x"))
            .await,
        ErrorKind::Unroutable,
    )?;
    Ok(())
}

async fn too_large(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("large");
    bare.queue(&name, &[]).await?;
    let publisher = Amqp::connect(&url).await?.publisher();
    let to = Destination::queue(name.as_str());
    let pending = publisher.enqueue(&to, Message::new("before")).await?;
    let payload = Message::new(vec![0; 16 * 1024 * 1024 + 1]);
    expect_kind(publisher.enqueue(&to, payload).await, ErrorKind::TooLarge)?;
    let header = Message::new("x").header("big", "h".repeat(140_000));
    expect_kind(publisher.enqueue(&to, header).await, ErrorKind::TooLarge)?;
    // What is just allowed gets through: the limits are the broker's, not stricter ones.
    let full = Message::new(vec![0; 16 * 1024 * 1024]).header("big", "h".repeat(128_000));
    soon("a large publish", publisher.publish(&to, full)).await??;
    soon("an outcome", pending).await??;
    bare.delete(&name).await
}

async fn broker_limit(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("limit");
    bare.queue(&name, &[]).await?;
    // Four times what the broker takes by default.
    let broker = builder(&url)?.max_message_size(64 << 20).connect().await?;
    let publisher = broker.publisher();
    let to = Destination::queue(name.as_str());
    let large = || Message::new(vec![0; (16 << 20) + 1]);
    // Its channel is lost by it. Those on their way are sent again, and it is too large then.
    let first = publisher.enqueue(&to, large()).await?;
    let beside = publisher.enqueue(&to, Message::new("beside")).await?;
    let error = expect_kind(soon("an outcome", first).await?, ErrorKind::TooLarge)?;
    assert_eq!(error.context("limit"), Some("16777216"), "{error}");
    soon("an outcome", beside).await??;
    let error = expect_kind(publisher.enqueue(&to, large()).await, ErrorKind::TooLarge)?;
    assert_eq!(error.context("limit"), Some("16777216"), "{error}");
    assert!(
        error.context("to").is_some_and(|to| to.contains(&name)),
        "{error}"
    );
    expect_kind(
        broker.unconfirmed().hand_over(&to, large()).await,
        ErrorKind::TooLarge,
    )?;
    soon(
        "the next channel",
        publisher.publish(&to, Message::new("after")),
    )
    .await??;
    bare.until_ready(&name, 2).await?;
    bare.delete(&name).await
}

async fn full_of_bytes(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    for kind in ["classic", "quorum"] {
        let name = unique("bytes");
        let full = [
            ("x-queue-type", argument(kind)),
            ("x-max-length-bytes", AMQPValue::LongInt(1_000)),
            ("x-overflow", argument("reject-publish")),
        ];
        bare.queue(&name, &full).await?;
        let publisher = Amqp::connect(&url).await?.publisher();
        let to = Destination::queue(name.as_str());
        let mut last = Ok(());
        // A queue takes messages until it is over its limit, so the first may pass.
        for _ in 0..4 {
            last = publisher
                .publish(&to, Message::new(vec![0; 2_000]))
                .await
                .map(drop);
        }
        let error = expect_kind(last, ErrorKind::Rejected)?;
        assert!(
            error.context("to").is_some_and(|to| to.contains(&name)),
            "{error}"
        );
        bare.delete(&name).await?;
    }
    Ok(())
}

/// Two subscriptions of one topic; the queue of one is full.
async fn rejected_by_one(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let topic = unique("events");
    let (full, free) = (format!("full@{topic}"), format!("free@{topic}"));
    let limit = QueueSettings::classic().max_length(1);
    let broker = builder(&url)?.queue(full.as_str(), limit).connect().await?;
    let to = Destination::topic(topic.as_str());
    broker.declare(&to).await?;
    for name in ["full", "free"] {
        let subscription = Subscription::durable(topic.as_str(), name);
        broker.declare(&subscription).await?;
    }
    let publisher = broker.publisher();
    publisher.publish(&to, Message::new("first")).await?;
    for _ in 0..4 {
        let refused = publisher.publish(&to, Message::new("x")).await;
        let error = expect_kind(refused, ErrorKind::Rejected)?;
        assert!(error.possibly_delivered(), "{error}");
    }
    bare.until_ready(&free, 5).await?;
    assert_eq!(bare.ready(&full).await?, 1);
    for queue in [&full, &free] {
        bare.delete(queue).await?;
    }
    for name in ["full", "free"] {
        bare.delete(&format!("{topic}.{name}.dead")).await?;
    }
    Ok(())
}

async fn deadline(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("frozen");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let limit = Duration::from_millis(700);
    let broker = builder(relay.url())?
        .publish_timeout(limit)
        .publish_window(10)
        .connect()
        .await?;
    let publisher = broker.publisher();
    let to = Destination::queue(name.as_str());
    publisher.publish(&to, Message::new("x")).await?;
    relay.set(Flow::Frozen);
    let mut pending = Vec::new();
    for _ in 0..10 {
        pending.push(publisher.enqueue(&to, Message::new("x")).await?);
    }
    let full = tokio::time::Instant::now();
    let error = expect_kind(
        publisher.enqueue(&to, Message::new("x")).await,
        ErrorKind::Timeout,
    )?;
    assert!(error.to_string().contains("window=10"), "{error}");
    assert!(
        (limit..limit * 3).contains(&full.elapsed()),
        "{:?}",
        full.elapsed()
    );
    for one in pending {
        expect_kind(soon("an outcome", one).await?, ErrorKind::Unknown)?;
    }
    publisher.flush().await?;
    // The answers come late, and make room again.
    relay.set(Flow::Open);
    soon("room", publisher.publish(&to, Message::new("x"))).await??;
    bare.until_ready(&name, 12).await?;
    bare.delete(&name).await
}

async fn unconfirmed(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("handed");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    let publisher = broker.unconfirmed();
    let to = Destination::queue(name.as_str());
    for _ in 0..50 {
        publisher.hand_over(&to, Message::new("x")).await?;
    }
    // Lost without a word; the channel that the broker closes for it is replaced.
    publisher
        .hand_over(&Destination::topic(unique("missing")), Message::new("x"))
        .await?;
    publisher.flush().await?;
    bare.until_ready(&name, 50).await?;
    let replaced = async {
        loop {
            // One that meets the end of the channel, and of the connection if the client writes behind it, is told.
            if let Err(error) = publisher.hand_over(&to, Message::new("after")).await {
                expect_kind::<()>(Err(error), ErrorKind::Disconnected)?;
            }
            if bare.ready(&name).await? > 50 {
                return Check::Ok(());
            }
        }
    };
    soon("a message on the new channel", replaced).await??;
    bare.delete(&name).await
}
