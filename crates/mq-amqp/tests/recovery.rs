//! Lost connections, channels, consumers and queues come back, and nothing that was confirmed is lost.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use mq_amqp::{
    Amqp, AmqpEvent, AmqpEvents, AmqpRole, QueueSettings, Recovery,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Message, Publisher,
        Received, Subscription, Worker,
    },
};
use mq_testkit::{Check, Failure, Suite, broker_address};
use support::{
    Bare, builder, expect_kind, fill, next,
    relay::{Flow, Relay},
    soon, text, unique,
};

fn main() -> ExitCode {
    Suite::new("recovery", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case("publishes_go_on_over_a_cut_and_none_is_lost", |url| {
            publishing(url, Flow::Cut)
        })
        .case(
            "publishes_go_on_when_the_broker_closes_the_connection",
            |url| publishing(url, Flow::Garbage),
        )
        .case(
            "a_publish_that_no_connection_took_in_time_was_never_sent",
            unsent,
        )
        .case("unknown_publishes_are_handed_back_where_asked", handed_back)
        .case(
            "one_publish_that_ends_its_channel_is_told_apart_from_all_others",
            culprit,
        )
        .case("a_flush_waits_for_what_is_sent_again", flushed)
        .case("a_consumer_comes_back_after_a_cut", |url| {
            consuming(url, Flow::Cut)
        })
        .case(
            "a_consumer_comes_back_when_the_broker_closes_its_connection",
            |url| consuming(url, Flow::Garbage),
        )
        .case(
            "a_settlement_of_the_old_channel_is_stale_and_its_message_comes_again",
            stale,
        )
        .case("the_prefetch_comes_back", prefetch)
        .case(
            "a_deleted_queue_is_declared_again_with_its_bindings",
            deleted,
        )
        .case(
            "a_queue_that_is_made_anew_elsewhere_is_read_again",
            recreated,
        )
        .case(
            "an_ephemeral_subscription_comes_back_under_a_new_name",
            ephemeral,
        )
        .case("an_exclusive_queue_is_declared_again", exclusive)
        .case(
            "connecting_again_outlasts_a_link_cut_in_its_handshake",
            handshake,
        )
        .case("the_next_host_is_tried", hosts)
        .case("recovery_gives_up_at_its_limit", gives_up)
        .case("closing_while_connecting_again_ends_every_wait", closing)
        .case("a_worker_goes_on_over_cuts", worker)
        .run()
}

/// A client behind a relay that connects again soon.
async fn behind(relay: &Relay) -> Check<Amqp> {
    Ok(quick(relay)?.connect().await?)
}

fn quick(relay: &Relay) -> Check<mq_amqp::AmqpBuilder> {
    let second = Duration::from_secs(1);
    let recovery = Recovery::endless().backoff(Duration::from_millis(50), second);
    let builder = builder(relay.url())?.connect_timeout(2 * second);
    Ok(builder.recovery(recovery))
}

/// Waits for an event.
async fn until<T>(
    events: &mut AmqpEvents,
    what: &str,
    mut is_it: impl FnMut(AmqpEvent) -> Option<T>,
) -> Check<T> {
    let waiting = async {
        while let Some(event) = events.next().await {
            if let Some(it) = is_it(event) {
                return Ok(it);
            }
        }
        Err(Failure::new("the events ended"))
    };
    soon(what, waiting).await?
}

async fn reconnected(events: &mut AmqpEvents, role: AmqpRole) -> Check<u32> {
    until(events, "connected again", |event| match event {
        AmqpEvent::Reconnected {
            role: of, attempt, ..
        } if of == role => Some(attempt),
        _ => None,
    })
    .await
}

async fn restored(events: &mut AmqpEvents) -> Check<String> {
    until(events, "a consumer is there again", |event| match event {
        AmqpEvent::ConsumerRestored { queue, .. } => Some(queue),
        _ => None,
    })
    .await
}

fn no_letters() -> ConsumePlan {
    ConsumePlan::new().dead_letters(DeadLetters::None)
}

/// Takes messages until each of so many is there; yields how often each came.
async fn drain(url: &str, queue: &str, messages: usize) -> Check<BTreeMap<String, usize>> {
    let broker = Amqp::connect(url).await?;
    let from = Subscription::queue(queue);
    let mut consumer = broker.consumer(&from, no_letters()).await?;
    let mut seen = BTreeMap::new();
    while seen.len() < messages {
        let delivery = next(&mut consumer).await?;
        *seen.entry(text(&delivery)).or_insert(0) += 1;
        delivery.ack()?;
    }
    consumer.close().await?;
    Ok(seen)
}

async fn publishing(url: String, fault: Flow) -> Check {
    const MESSAGES: usize = 3000;
    let bare = Bare::connect(&url).await?;
    let name = unique("over");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let broker = behind(&relay).await?;
    let mut events = broker.events();
    let to = Destination::queue(name.as_str());
    let publisher = broker.publisher();
    let mut pending = Vec::new();
    let mut sent_again = 0;
    for i in 0..MESSAGES {
        if i % 1000 == 500 {
            // So that there is room, and then some are on their way for sure.
            publisher.flush().await?;
            relay.set(Flow::Frozen);
        }
        pending.push(publisher.enqueue(&to, Message::new(i.to_string())).await?);
        if i % 1000 == 900 {
            soon("a held write", relay.until_held()).await?;
            relay.set(fault);
            let lost = until(&mut events, "lost publishes", |event| match event {
                AmqpEvent::PublishesLost {
                    resent, unknown, ..
                } => Some((resent, unknown)),
                _ => None,
            });
            let (resent, unknown) = lost.await?;
            assert!(resent > 0 && unknown == 0, "{resent} and {unknown}");
            sent_again += resent;
            // Both, so that nothing but a publish is held up in the next round.
            let mut roles = BTreeSet::new();
            relay.set(Flow::Open);
            while roles.len() < 2 {
                let role = until(&mut events, "connected again", |event| match event {
                    AmqpEvent::Reconnected { role, .. } => Some(role.to_string()),
                    _ => None,
                });
                roles.insert(role.await?);
            }
        }
    }
    for one in pending {
        soon("an outcome", one).await??;
    }
    let seen = drain(&url, &name, MESSAGES).await?;
    let duplicates = seen.values().sum::<usize>() - seen.len();
    assert!(duplicates <= sent_again, "{duplicates} of {sent_again}");
    bare.delete(&name).await
}

async fn unsent(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("unsent");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let limit = Duration::from_secs(3);
    let broker = quick(&relay)?.publish_timeout(limit).connect().await?;
    let mut events = broker.events();
    let to = Destination::queue(name.as_str());
    broker
        .publisher()
        .publish(&to, Message::new("first"))
        .await?;
    relay.set(Flow::Cut);
    until(&mut events, "a lost connection", |event| {
        matches!(
            event,
            AmqpEvent::Disconnected {
                role: AmqpRole::Publish,
                ..
            }
        )
        .then_some(())
    })
    .await?;
    let publisher = broker.publisher();
    let late = publisher.publish(&to, Message::new("late"));
    let error = expect_kind(soon("its deadline", late).await?, ErrorKind::Timeout)?;
    assert!(!error.possibly_delivered(), "{error}");
    relay.set(Flow::Open);
    reconnected(&mut events, AmqpRole::Publish).await?;
    broker
        .publisher()
        .publish(&to, Message::new("last"))
        .await?;
    let seen = drain(&url, &name, 2).await?;
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["first", "last"]);
    bare.delete(&name).await
}

async fn handed_back(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("back");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let broker = quick(&relay)?.resend(false).connect().await?;
    let mut events = broker.events();
    let to = Destination::queue(name.as_str());
    let publisher = broker.publisher();
    publisher.publish(&to, Message::new("first")).await?;
    relay.set(Flow::Frozen);
    let mut pending = Vec::new();
    for _ in 0..50 {
        pending.push(publisher.enqueue(&to, Message::new("lost")).await?);
    }
    soon("a held write", relay.until_held()).await?;
    relay.set(Flow::Cut);
    let lost = until(&mut events, "lost publishes", |event| match event {
        AmqpEvent::PublishesLost {
            resent, unknown, ..
        } => Some((resent, unknown)),
        _ => None,
    });
    let (resent, unknown) = lost.await?;
    assert!(resent == 0 && unknown > 0, "{resent} and {unknown}");
    relay.set(Flow::Open);
    let mut handed_back = 0;
    for one in pending {
        // What was not written yet goes out by the new connection.
        match soon("an outcome", one).await? {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Unknown => handed_back += 1,
            Err(other) => return Err(other.into()),
        }
    }
    assert_eq!(handed_back, unknown);
    publisher.publish(&to, Message::new("last")).await?;
    bare.delete(&name).await
}

async fn culprit(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let (name, topic) = (unique("good"), unique("gone"));
    bare.queue(&name, &[]).await?;
    bare.exchange(&topic, "topic").await?;
    let broker = Amqp::connect(&url).await?;
    let mut events = broker.events();
    let publisher = broker.publisher();
    let (to, gone) = (
        Destination::queue(name.as_str()),
        Destination::topic(topic.as_str()).routing_key("k"),
    );
    // It is looked up here, and not again.
    publisher.publish(&gone, Message::new("x")).await?;
    bare.delete_exchange(&topic).await?;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for i in 0..300 {
        if i == 100 || i == 200 {
            match publisher.enqueue(&gone, Message::new("x")).await {
                Ok(pending) => bad.push(pending),
                // The first one may have ended its channel by then; the topic is looked up again, and nothing is sent.
                Err(error) if i == 200 => drop(expect_kind::<()>(Err(error), ErrorKind::NotFound)?),
                Err(error) => return Err(error.into()),
            }
        }
        good.push(publisher.enqueue(&to, Message::new(i.to_string())).await?);
    }
    for one in bad {
        let error = expect_kind(soon("an outcome", one).await?, ErrorKind::NotFound)?;
        assert!(error.to_string().contains(&topic), "{error}");
    }
    for one in good {
        soon("an outcome", one).await??;
    }
    until(&mut events, "lost publishes", |event| {
        matches!(event, AmqpEvent::PublishesLost { unknown: 0, .. }).then_some(())
    })
    .await?;
    drain(&url, &name, 300).await?;
    bare.delete(&name).await
}

async fn flushed(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("flush");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let broker = behind(&relay).await?;
    let publisher = broker.publisher();
    let to = Destination::queue(name.as_str());
    publisher.publish(&to, Message::new("first")).await?;
    relay.set(Flow::Frozen);
    let mut pending = Vec::new();
    for i in 0..100 {
        pending.push(publisher.enqueue(&to, Message::new(i.to_string())).await?);
    }
    let flush = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.flush().await }
    });
    soon("a held write", relay.until_held()).await?;
    relay.set(Flow::Cut);
    assert!(!flush.is_finished());
    relay.set(Flow::Open);
    soon("the flush", flush).await???;
    for one in pending {
        use futures::FutureExt;
        one.now_or_never().expect("it is there")?;
    }
    bare.delete(&name).await
}

async fn consuming(url: String, fault: Flow) -> Check {
    const MESSAGES: usize = 400;
    let bare = Bare::connect(&url).await?;
    let name = unique("back");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let broker = behind(&relay).await?;
    let mut events = broker.events();
    let direct = Amqp::connect(&url).await?;
    fill(&direct, &name, MESSAGES / 2).await?;
    let from = Subscription::queue(name.as_str());
    let mut consumer = broker.consumer(&from, no_letters()).await?;
    let mut seen = BTreeSet::new();
    for round in 0..2 {
        for _ in 0..50 {
            let delivery = next(&mut consumer).await?;
            seen.insert(text(&delivery));
            // One that was in the buffer of an old channel comes again.
            let _ = delivery.ack();
        }
        relay.set(fault);
        let lost = until(&mut events, "a lost connection", |event| match event {
            AmqpEvent::Disconnected {
                role: AmqpRole::Consume,
                ..
            } => Some(()),
            _ => None,
        });
        lost.await?;
        relay.set(Flow::Open);
        reconnected(&mut events, AmqpRole::Consume).await?;
        if round == 0 {
            let more = (MESSAGES / 2..MESSAGES).map(|i| Message::new(i.to_string()).build());
            let to = Destination::queue(name.as_str());
            for outcome in direct.publisher().publish_batch(&to, more.collect()).await {
                outcome?;
            }
        }
    }
    while seen.len() < MESSAGES {
        let delivery = next(&mut consumer).await?;
        seen.insert(text(&delivery));
        let _ = delivery.ack();
    }
    assert_eq!(restored(&mut events).await?, name);
    consumer.close().await?;
    bare.until_settled(&name).await?;
    bare.delete(&name).await
}

async fn stale(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("stale");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let broker = behind(&relay).await?;
    let mut events = broker.events();
    fill(&broker, &name, 1).await?;
    let from = Subscription::queue(name.as_str());
    let mut consumer = broker.consumer(&from, no_letters()).await?;
    let old = next(&mut consumer).await?;
    relay.cut();
    let again = next(&mut consumer).await?;
    restored(&mut events).await?;
    expect_kind(old.ack(), ErrorKind::Stale)?;
    assert_eq!(again.redelivered(), Some(true));
    again.ack()?;
    consumer.settled().await?;
    consumer.close().await?;
    assert_eq!(bare.ready(&name).await?, 0);
    bare.delete(&name).await
}

async fn prefetch(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("prefetch");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let broker = behind(&relay).await?;
    let mut events = broker.events();
    let direct = Amqp::connect(&url).await?;
    fill(&direct, &name, 30).await?;
    let from = Subscription::queue(name.as_str());
    let plan = no_letters().prefetch(7);
    let mut consumer = broker.consumer(&from, plan).await?;
    let first = next(&mut consumer).await?;
    relay.cut();
    let mut held = Vec::new();
    let count = async {
        while held.len() < 7 {
            let delivery = next(&mut consumer).await?;
            // Those that the old channel had in its buffer come first.
            if first.id() == delivery.id() {
                held.clear();
            }
            held.push(delivery);
        }
        Ok::<_, Failure>(())
    };
    soon("seven deliveries", count).await??;
    restored(&mut events).await?;
    bare.until_ready(&name, 30 - 7).await?;
    bare.delete(&name).await
}

async fn deleted(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let topic = unique("topic");
    let broker = Amqp::connect(&url).await?;
    let mut events = broker.events();
    let events_topic = Destination::topic(topic.as_str());
    broker.declare(&events_topic).await?;
    let audit = Subscription::durable(topic.as_str(), "audit");
    broker.declare(&audit).await?;
    let mut consumer = broker.consumer(&audit, ConsumePlan::new()).await?;
    let queue = consumer.queue().to_owned();
    bare.delete(&queue).await?;
    let receiving = tokio::spawn(async move {
        let delivery = consumer.receive().await;
        (consumer, delivery)
    });
    assert_eq!(restored(&mut events).await?, queue);
    let to = events_topic.routing_key("k").mandatory();
    broker.publisher().publish(&to, Message::new("x")).await?;
    let (consumer, delivery) = soon("a delivery", receiving).await??;
    let delivery = delivery?.ok_or_else(|| Failure::new("the consumer ended"))?;
    assert_eq!(delivery.routing_key(), Some("k"));
    delivery.ack()?;
    consumer.close().await?;
    broker.verify(&audit).await?;
    bare.delete(&queue).await?;
    bare.delete(&format!("{topic}.audit.dead")).await?;
    bare.delete_exchange(&topic).await
}

async fn recreated(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("anew");
    bare.queue(&name, &[]).await?;
    let broker = Amqp::connect(&url).await?;
    let from = Subscription::queue(name.as_str());
    let mut consumer = broker.consumer(&from, no_letters()).await?;
    // At the time that the consumer looks for it, it is there again.
    bare.delete_and_declare(&name).await?;
    fill(&broker, &name, 1).await?;
    next(&mut consumer).await?.ack()?;
    consumer.close().await?;
    bare.delete(&name).await
}

async fn ephemeral(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let topic = unique("news");
    bare.exchange(&topic, "topic").await?;
    let relay = Relay::start(&url).await?;
    let broker = behind(&relay).await?;
    let mut events = broker.events();
    let news = Subscription::ephemeral(topic.as_str());
    let mut consumer = broker.consumer(&news, ConsumePlan::new()).await?;
    let before = consumer.queue().to_owned();
    relay.cut();
    let receiving = tokio::spawn(async move {
        let delivery = consumer.receive().await;
        (consumer, delivery)
    });
    let after = restored(&mut events).await?;
    assert_ne!(before, after);
    let to = Destination::topic(topic.as_str())
        .routing_key("k")
        .mandatory();
    broker.publisher().publish(&to, Message::new("x")).await?;
    let (consumer, delivery) = soon("a delivery", receiving).await??;
    let delivery = delivery?.ok_or_else(|| Failure::new("the consumer ended"))?;
    assert_eq!(consumer.queue(), after);
    delivery.ack()?;
    consumer.close().await?;
    bare.delete_exchange(&topic).await
}

async fn exclusive(url: String) -> Check {
    let name = unique("mine");
    let relay = Relay::start(&url).await?;
    let builder = quick(&relay)?.queue(&*name, QueueSettings::exclusive());
    let broker = builder.connect().await?;
    let mut events = broker.events();
    let to = Destination::queue(name.as_str());
    broker.declare(&to).await?;
    relay.cut();
    reconnected(&mut events, AmqpRole::Consume).await?;
    // The broker was told of it before anybody was told of the connection.
    soon(
        "a publish",
        broker.publisher().publish(&to, Message::new("x")),
    )
    .await??;
    let bare = Bare::connect(&url).await?;
    broker.close().await?;
    bare.delete(&format!("{name}.dead")).await
}

async fn handshake(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("hands");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let limit = Duration::from_millis(300);
    let broker = quick(&relay)?.connect_timeout(limit).connect().await?;
    let mut events = broker.events();
    relay.set(Flow::Cut);
    // Cut at once, then frozen: the handshake never ends.
    let mut failed = 0;
    while failed < 8 {
        failed += until(&mut events, "a failed attempt", |event| {
            matches!(event, AmqpEvent::ConnectFailed { .. }).then_some(1)
        })
        .await?;
        if failed == 4 {
            relay.set(Flow::Frozen);
        }
    }
    relay.set(Flow::Open);
    let attempt = reconnected(&mut events, AmqpRole::Publish).await?;
    assert!(attempt > 2, "{attempt}");
    fill(&broker, &name, 1).await?;
    bare.delete(&name).await
}

async fn hosts(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("hosts");
    bare.queue(&name, &[]).await?;
    let (first, second) = (Relay::start(&url).await?, Relay::start(&url).await?);
    // Nobody listens there.
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await?
        .local_addr()?;
    let broker = builder(first.url())?
        .another_host(dead.to_string())
        .another_host(second.address().to_string())
        .connect()
        .await?;
    let mut events = broker.events();
    first.set(Flow::Cut);
    let address = until(&mut events, "connected again", |event| match event {
        AmqpEvent::Reconnected {
            role: AmqpRole::Publish,
            address,
            ..
        } => Some(address),
        _ => None,
    });
    assert_eq!(address.await?, second.address().to_string());
    fill(&broker, &name, 1).await?;
    // The first connection as well goes to the first host that answers.
    let again = Amqp::builder()
        .url(&url)?
        .host("127.0.0.1")
        .port(dead.port())
        .another_host(second.address().to_string())
        .connect()
        .await?;
    fill(&again, &name, 1).await?;
    bare.delete(&name).await
}

async fn gives_up(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("up");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let limit = Duration::from_millis(400);
    let recovery = Recovery::within(limit).backoff(limit / 10, limit / 5);
    let broker = builder(relay.url())?.recovery(recovery).connect().await?;
    let mut events = broker.events();
    let from = Subscription::queue(name.as_str());
    let mut consumer = broker.consumer(&from, no_letters()).await?;
    relay.set(Flow::Cut);
    let error = expect_kind(
        soon("the end", consumer.receive()).await?,
        ErrorKind::Disconnected,
    )?;
    assert_eq!(error.context("source"), Some(name.as_str()), "{error}");
    until(&mut events, "the end of it", |event| {
        matches!(
            event,
            AmqpEvent::GivenUp {
                role: AmqpRole::Publish,
                ..
            }
        )
        .then_some(())
    })
    .await?;
    let to = Destination::queue(name.as_str());
    let publisher = broker.publisher();
    let publish = publisher.publish(&to, Message::new("x"));
    expect_kind(soon("a publish", publish).await?, ErrorKind::Disconnected)?;
    expect_kind(
        soon("declare", broker.declare(&to)).await?,
        ErrorKind::Disconnected,
    )?;
    soon("close", broker.close()).await??;
    bare.delete(&name).await
}

async fn closing(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("closing");
    bare.queue(&name, &[]).await?;
    let relay = Relay::start(&url).await?;
    let limit = Duration::from_secs(1);
    let broker = quick(&relay)?.publish_timeout(limit).connect().await?;
    let from = Subscription::queue(name.as_str());
    let mut consumer = broker.consumer(&from, no_letters()).await?;
    relay.set(Flow::Cut);
    let receiving = tokio::spawn(async move { consumer.receive().await.map(drop) });
    let to = Destination::queue(name.as_str());
    let pending = broker.publisher().enqueue(&to, Message::new("x")).await?;
    soon("close", broker.close()).await??;
    let ended = soon("the consumer's end", receiving).await??;
    expect_kind(ended, ErrorKind::Closed)?;
    // It was waited for as long as its deadline lets it.
    let late = soon("an outcome", pending).await?;
    assert!(late.is_err(), "{late:?}");
    bare.delete(&name).await
}

async fn worker(url: String) -> Check {
    const MESSAGES: usize = 500;
    let name = unique("worker");
    let relay = Relay::start(&url).await?;
    let broker = behind(&relay).await?;
    let mut events = broker.events();
    let to = Destination::queue(name.as_str());
    broker.declare(&to).await?;
    fill(&broker, &name, MESSAGES).await?;
    let handled = Arc::new(Mutex::new(BTreeSet::new()));
    let (done, all) = tokio::sync::oneshot::channel();
    let done = Arc::new(Mutex::new(Some(done)));
    let running = tokio::spawn({
        let (broker, handled) = (broker.clone(), Arc::clone(&handled));
        let from = Subscription::queue(name.as_str());
        async move {
            Worker::new(&broker, from)
                .concurrency(8)
                .run(move |message: Received| {
                    let (handled, done) = (Arc::clone(&handled), Arc::clone(&done));
                    async move {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        let mut handled = handled.lock().expect("no panic inside");
                        handled.insert(message.id().to_string());
                        if handled.len() == MESSAGES
                            && let Some(done) = done.lock().expect("no panic inside").take()
                        {
                            let _ = done.send(());
                        }
                    }
                })
                .with_graceful_shutdown(async move {
                    let _ = all.await;
                })
                .await
        }
    });
    for cut in 1..=3 {
        let some = async {
            while handled.lock().expect("no panic inside").len() < cut * 100 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("some of them", some).await?;
        relay.cut();
        restored(&mut events).await?;
    }
    soon("all of them", running).await???;
    assert_eq!(handled.lock().expect("no panic inside").len(), MESSAGES);
    let bare = Bare::connect(&url).await?;
    bare.until_settled(&name).await?;
    assert_eq!(bare.ready(&name).await?, 0);
    bare.delete(&name).await?;
    bare.delete(&format!("{name}.dead")).await
}
