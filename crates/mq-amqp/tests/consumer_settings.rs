//! What a consumer can be besides one of many: the single active one, one with a priority, one that has
//! only so much time.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    time::{Duration, Instant},
};

use mq_amqp::{
    Amqp, AmqpEvent, QueueSettings,
    core::{
        Broker, Capability, ConsumePlan, Consumer, Deletion, Destination, ErrorKind, Message,
        Publisher, Subscription,
    },
};
use mq_testkit::{Check, Failure, Suite, broker_address};
use support::{Bare, argument, expect_kind, fill, next, patient, soon, text, unique};

fn main() -> ExitCode {
    let address = broker_address("MQ_RABBITMQ_URL");
    Suite::new("consumer_settings", "mq-amqp", address)
        .deadline(Duration::from_secs(240))
        .case(
            "a_single_active_consumer_needs_a_queue_that_has_it",
            needs_a_queue,
        )
        .case(
            "the_next_takes_over_when_the_active_closes_or_dies",
            takes_over,
        )
        .case("a_higher_priority_gets_the_messages_first", priority)
        .case(
            "a_delivery_that_takes_too_long_comes_again_and_its_consumer_is_told_lost",
            timeout,
        )
        .run()
}

fn single() -> ConsumePlan {
    let mut plan = ConsumePlan::new().prefetch(1);
    plan.single_active_consumer = true;
    plan
}

async fn with(url: &str, name: &str, settings: QueueSettings) -> Check<Amqp> {
    let broker = patient(url)?.queue(name, settings).connect().await?;
    broker.declare(Destination::queue(name)).await?;
    Ok(broker)
}

async fn clean(broker: &Amqp, name: &str) -> Check {
    let queue = Destination::queue(name);
    broker.delete(Deletion::of(queue).with_messages()).await?;
    Ok(())
}

/// Waits until the broker has seen that the connections of all readers are gone.
async fn unread(url: &str, name: &str) -> Check {
    let bare = Bare::connect(url).await?;
    let gone = async {
        while bare.consumers(name).await? > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Check::Ok(())
    };
    soon("a queue without consumers", gone).await?
}

async fn needs_a_queue(url: String) -> Check {
    let name = unique("not-single");
    let broker = with(&url, &name, QueueSettings::classic()).await?;
    assert!(broker.capabilities().has(Capability::SingleActiveConsumer));
    let subscription = Subscription::queue(name.as_str());
    let opened = broker.consumer(&subscription, single()).await.map(drop);
    let error = expect_kind(opened, ErrorKind::Config)?;
    let context = |name| error.context(name).unwrap_or_default();
    assert_eq!(context("queue"), name, "{error}");
    assert!(
        context("setting").contains("single_active_consumer"),
        "{error}"
    );
    assert!(context("against").contains("QueueSettings"), "{error}");
    // The settings say so, and what is there is another one.
    let settings = QueueSettings::classic().single_active_consumer();
    let wrong = patient(&url)?
        .queue(name.as_str(), settings)
        .connect()
        .await?;
    let opened = wrong.consumer(&subscription, single()).await.map(drop);
    let error = expect_kind(opened, ErrorKind::Mismatch)?;
    let argument_of = error.context("argument");
    assert_eq!(argument_of, Some("x-single-active-consumer"), "{error}");
    // Without the plan's wish it is opened as ever.
    let plain = broker.consumer(&subscription, ConsumePlan::new()).await?;
    plain.close().await?;
    clean(&broker, &name).await?;
    // A queue of a stranger that has it, whatever else it has.
    let bare = Bare::connect(&url).await?;
    let arguments = [
        ("x-queue-type", argument("classic")),
        ("x-max-length", lapin::types::AMQPValue::LongInt(9)),
        (
            "x-single-active-consumer",
            lapin::types::AMQPValue::Boolean(true),
        ),
    ];
    bare.queue(&name, &arguments).await?;
    wrong
        .declare(Destination::queue(format!("{name}.dead")))
        .await?;
    let opened = wrong.consumer(&subscription, single()).await?;
    opened.close().await?;
    clean(&wrong, &name).await
}

async fn takes_over(url: String) -> Check {
    for settings in [QueueSettings::quorum(), QueueSettings::classic()] {
        let name = unique("single");
        let settings = settings.single_active_consumer();
        let broker = with(&url, &name, settings.clone()).await?;
        let mut consumers = Vec::new();
        let mut owners = Vec::new();
        for _ in 0..3 {
            let owner = patient(&url)?.queue(name.as_str(), settings.clone());
            let owner = owner.connect().await?;
            let subscription = Subscription::queue(name.as_str());
            consumers.push(owner.consumer(&subscription, single()).await?);
            owners.push(owner);
        }
        fill(&broker, &name, 30).await?;
        let mut seen = Vec::new();
        for (turn, owner) in owners.iter().enumerate() {
            let mut active = consumers.remove(0);
            for _ in 0..9 {
                let delivery = next(&mut active).await?;
                seen.push(text(&delivery).parse::<u32>()?);
                delivery.ack()?;
                active.settled().await?;
                for waiting in &mut consumers {
                    let wait = Duration::from_millis(1);
                    let other = tokio::time::timeout(wait, waiting.receive()).await;
                    assert!(other.is_err(), "one that stands by got {other:?}");
                }
            }
            if turn == 0 {
                active.close().await?;
            } else {
                // It dies with one in hand, which the next one gets first, and in its place.
                let held = next(&mut active).await?;
                drop(owner.close().await);
                drop((held, active));
            }
        }
        // A close hands over first, and gives back then what was on its way: that one message may come
        // late to the next, however late, and all others are in their order.
        let once: BTreeSet<u32> = seen.iter().copied().collect();
        assert_eq!(once.len(), seen.len(), "no message comes twice: {seen:?}");
        let late: Vec<_> = seen.windows(2).filter(|two| two[0] > two[1]).collect();
        assert!(late.len() <= 2, "one for each that took over: {seen:?}");
        assert!(
            seen.iter().all(|n| *n < 27 + 2),
            "none is left out: {seen:?}"
        );
        unread(&url, &name).await?;
        clean(&broker, &name).await?;
    }
    Ok(())
}

async fn priority(url: String) -> Check {
    for settings in [QueueSettings::quorum(), QueueSettings::classic()] {
        let name = unique("priority");
        let subscription = Subscription::queue(name.as_str());
        let broker = with(&url, &name, settings.clone()).await?;
        let mut readers = Vec::new();
        for priority in [-1, 0, 7] {
            let client = patient(&url)?
                .queue(name.as_str(), settings.clone())
                .consumer_priority(&subscription, priority)
                .connect()
                .await?;
            let plan = ConsumePlan::new().prefetch(5);
            readers.push((client.consumer(&subscription, plan).await?, client));
        }
        fill(&broker, &name, 11).await?;
        let (mut got, mut held) = (Vec::new(), Vec::new());
        for ((consumer, _), expected) in readers.iter_mut().zip([1, 5, 5]) {
            let mut mine = 0;
            while mine < expected {
                let delivery = next(consumer).await?;
                let number: usize = text(&delivery).parse()?;
                got.push(number);
                // It is held, so that no place gets free.
                held.push(delivery);
                mine += 1;
            }
        }
        // The first five went to the highest, the next five to the middle, the rest to the lowest.
        assert_eq!(got, [10, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4]);
        for (consumer, client) in readers {
            drop(consumer);
            client.close().await?;
        }
        drop(held);
        unread(&url, &name).await?;
        clean(&broker, &name).await?;
    }
    Ok(())
}

async fn timeout(url: String) -> Check {
    let name = unique("timeout");
    let limit = Duration::from_secs(2);
    let broker = with(&url, &name, QueueSettings::quorum().consumer_timeout(limit)).await?;
    let queue = Destination::queue(name.as_str());
    broker
        .publisher()
        .publish(&queue, Message::new("slow"))
        .await?;
    let subscription = Subscription::queue(name.as_str());
    let mut events = broker.events();
    let mut consumer = broker.consumer(&subscription, ConsumePlan::new()).await?;
    let late = next(&mut consumer).await?;
    let begun = Instant::now();
    // The consumer is opened again meanwhile.
    let delivery = next(&mut consumer).await?;
    assert!(begun.elapsed() >= limit / 2, "{:?}", begun.elapsed());
    let lost = async {
        loop {
            match events.next().await {
                Some(AmqpEvent::ConsumerLost { why, .. }) => break Ok(why),
                Some(_) => {}
                None => break Err(Failure::new("the events ended")),
            }
        }
    };
    let why = soon("why it was lost", lost).await??;
    assert_eq!(why.kind(), ErrorKind::Lost, "{why}");
    assert_eq!(why.context("consumer_timeout"), Some("2s"), "{why}");
    assert!(why.to_string().contains("acknowledgement timeout"), "{why}");
    // Too late: it is the one of the new channel.
    expect_kind(late.ack(), ErrorKind::Stale)?;
    assert_eq!(text(&delivery), "slow");
    delivery.ack()?;
    consumer.close().await?;
    // The channel of the first one may still be closing.
    unread(&url, &name).await?;
    clean(&broker, &name).await
}
