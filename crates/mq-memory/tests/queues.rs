//! The shape of queues: settlement, places, limits, and the ways to fail.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

use std::time::Duration;

use futures::FutureExt;
use mq_core::{
    Broker, Capability, ConsumePlan, Consumer, DeadLetters, Delivery, Destination, ErrorKind,
    Filter, Message, MessageBuilder, Publisher, Result, Subscription, Unconfirmed, headers,
};
use mq_memory::{Memory, MemoryConsumer};
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

async fn queue(broker: &Memory) -> Destination {
    let queue = Destination::queue("q");
    broker.declare(&queue).await.expect("declared");
    queue
}

async fn consume(broker: &Memory, name: &'static str, prefetch: u16) -> MemoryConsumer {
    let plan = ConsumePlan::new().prefetch(prefetch);
    broker
        .consumer(&Subscription::queue(name), plan)
        .await
        .expect("a consumer")
}

async fn next(consumer: &mut MemoryConsumer) -> Delivery {
    let received = timeout(Duration::from_secs(3600), consumer.receive()).await;
    received
        .expect("in time")
        .expect("no error")
        .expect("not over")
}

async fn nothing(consumer: &mut MemoryConsumer) {
    let received = timeout(SECOND, consumer.receive()).await;
    assert!(received.is_err(), "unexpected: {received:?}");
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.payload().expect("a payload")).into_owned()
}

async fn publish(broker: &Memory, to: &Destination, payload: &'static str) {
    broker
        .publisher()
        .publish(to, Message::new(payload))
        .await
        .expect("confirmed");
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("an error").kind()
}

#[tokio::test(start_paused = true)]
async fn requeued_messages_come_back_first_and_count_their_failures() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    publish(&broker, &queue, "a").await;
    publish(&broker, &queue, "b").await;
    let mut consumer = consume(&broker, "q", 1).await;
    let first = next(&mut consumer).await;
    assert_eq!((first.attempt(), first.redelivered()), (1, Some(false)));
    first.into_settlement().requeue().expect("requeued");
    let again = next(&mut consumer).await;
    assert_eq!(
        (&*text(&again), again.attempt(), again.redelivered()),
        ("a", 2, Some(true))
    );
    again.into_settlement().release().expect("released");
    let third = next(&mut consumer).await;
    assert_eq!((&*text(&third), third.attempt()), ("a", 2));
    drop(third);
    assert_eq!(next(&mut consumer).await.attempt(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_prefetch_bound_is_exact_and_a_settlement_makes_room() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    for _ in 0..10 {
        publish(&broker, &queue, "x").await;
    }
    let mut consumer = consume(&broker, "q", 3).await;
    let mut batch = Vec::new();
    assert_eq!(consumer.receive_many(&mut batch, 2).await.expect("some"), 2);
    assert_eq!(
        consumer.receive_many(&mut batch, 10).await.expect("some"),
        1
    );
    nothing(&mut consumer).await;
    let settlement = batch.pop().expect("three").into_settlement();
    let waiting = tokio::spawn(async move {
        let delivery = next(&mut consumer).await;
        (consumer, delivery)
    });
    tokio::task::yield_now().await;
    settlement.ack().expect("in time");
    let (mut consumer, _open) = timeout(SECOND, waiting)
        .await
        .expect("woken")
        .expect("no panic");
    nothing(&mut consumer).await;
}

#[tokio::test(start_paused = true)]
async fn one_batch_wakes_as_many_consumers_as_it_has_work_for() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut consumer = consume(&broker, "q", 1).await;
        // It stays: one that goes would wake the next by that.
        waiting.push(tokio::spawn(async move {
            (next(&mut consumer).await, consumer)
        }));
    }
    tokio::task::yield_now().await;
    let batch = (0..3).map(|_| Message::new("x").build()).collect();
    let stored = broker.publisher().publish_batch(&queue, batch).await;
    stored.all_confirmed().expect("confirmed");
    let mut open = Vec::new();
    for consumer in waiting {
        open.push(
            timeout(SECOND, consumer)
                .await
                .expect("woken")
                .expect("no panic"),
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_deferred_message_is_never_early_and_carries_its_attempts() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    publish(&broker, &queue, "later").await;
    let mut consumer = consume(&broker, "q", 1).await;
    let start = Instant::now();
    next(&mut consumer)
        .await
        .into_settlement()
        .defer(90 * SECOND)
        .expect("deferred");
    publish(&broker, &queue, "now").await;
    let now = next(&mut consumer).await;
    assert_eq!(text(&now), "now");
    now.ack().expect("acked");
    let later = next(&mut consumer).await;
    assert!(
        start.elapsed() >= 90 * SECOND,
        "{:?} is early",
        start.elapsed()
    );
    assert!(
        start.elapsed() < 91 * SECOND,
        "{:?} is late",
        start.elapsed()
    );
    assert_eq!((&*text(&later), later.attempt()), ("later", 2));
    assert_eq!(later.headers().text(headers::ATTEMPT), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_consumer_hears_of_a_nearer_time_although_another_heard_it_first() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    publish(&broker, &queue, "x").await;
    let mut holder = consume(&broker, "q", 1).await;
    let held = next(&mut holder).await;
    let mut first = consume(&broker, "q", 1).await;
    let mut second = consume(&broker, "q", 1).await;
    let mut impatient = tokio::spawn(async move {
        let _ = timeout(SECOND, first.receive()).await;
        first
    });
    let mut patient = tokio::spawn(async move { next(&mut second).await });
    tokio::task::yield_now().await;
    held.into_settlement().defer(5 * SECOND).expect("deferred");
    let _first = (&mut impatient).await.expect("no panic");
    let delivery = timeout(6 * SECOND, &mut patient)
        .await
        .expect("woken when due");
    assert_eq!(text(&delivery.expect("no panic")), "x");
}

#[tokio::test(start_paused = true)]
async fn expired_messages_are_never_delivered() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    let publisher = broker.publisher();
    let brief = Message::new("brief").expires_in(SECOND);
    publisher.publish(&queue, brief).await.expect("confirmed");
    publish(&broker, &queue, "lasting").await;
    tokio::time::advance(SECOND).await;
    let mut consumer = consume(&broker, "q", 10).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(text(&delivery), "lasting");
    nothing(&mut consumer).await;
}

#[tokio::test(start_paused = true)]
async fn higher_priorities_are_delivered_first() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    for (payload, priority) in [("low", 1), ("high", 9), ("none", 0)] {
        let message = Message::new(payload).priority(priority);
        broker
            .publisher()
            .publish(&queue, message)
            .await
            .expect("confirmed");
    }
    let mut consumer = consume(&broker, "q", 10).await;
    let mut order = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        order.push(text(&delivery));
        delivery.ack().expect("acked");
    }
    assert_eq!(order, ["high", "low", "none"]);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_message_is_in_the_dead_letter_home_once_and_nowhere_else() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    publish(&broker, &queue, "bad").await;
    let mut consumer = consume(&broker, "q", 1).await;
    let bad = next(&mut consumer).await;
    let id = bad.id().clone();
    bad.into_settlement()
        .reject("no such customer")
        .expect("rejected");
    consumer.settled().await.expect("the copy is stored");
    nothing(&mut consumer).await;
    let mut dead = consume(&broker, "q.dead", 10).await;
    let letter = next(&mut dead).await;
    assert_eq!((letter.id(), &*text(&letter)), (&id, "bad"));
    assert_eq!(
        letter.headers().text(headers::DEAD_ERROR),
        Some("no such customer")
    );
    nothing(&mut dead).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_home_reject_is_refused_and_the_message_given_back() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    publish(&broker, &queue, "x").await;
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let mut consumer = broker
        .consumer(&Subscription::queue("q"), plan)
        .await
        .expect("open");
    let refused = next(&mut consumer).await.into_settlement().reject("no");
    assert_eq!(kind(refused), ErrorKind::Unsupported);
    assert_eq!(next(&mut consumer).await.attempt(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_not_confirmed_leaves_the_original_unsettled_and_ends_the_consumer() {
    let broker = Memory::builder().max_messages(1).build();
    let queue = queue(&broker).await;
    publish(&broker, &queue, "x").await;
    publish(&broker, &Destination::queue("q.dead"), "fills it").await;
    let mut consumer = consume(&broker, "q", 1).await;
    next(&mut consumer)
        .await
        .into_settlement()
        .reject("no")
        .expect("marked");
    assert_eq!(kind(consumer.settled().await), ErrorKind::Rejected);
    assert_eq!(kind(consumer.receive().await), ErrorKind::Rejected);
    drop(consumer);
    let mut other = consume(&broker, "q", 1).await;
    assert_eq!(next(&mut other).await.attempt(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_consumer_gives_back_as_failed_and_a_closed_one_as_not_tried() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    publish(&broker, &queue, "x").await;
    let mut dropped = consume(&broker, "q", 1).await;
    let late = next(&mut dropped).await;
    drop(dropped);
    assert_eq!(kind(late.ack()), ErrorKind::Stale);
    let mut closed = consume(&broker, "q", 1).await;
    let late = next(&mut closed).await;
    assert_eq!(late.attempt(), 2);
    closed.close().await.expect("closed");
    assert_eq!(kind(late.ack()), ErrorKind::Stale);
    let mut last = consume(&broker, "q", 1).await;
    let delivery = next(&mut last).await;
    assert_eq!(
        (delivery.attempt(), delivery.redelivered()),
        (2, Some(true))
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_real_broker_refuses_is_refused() {
    let broker = Memory::builder().max_message_bytes(8).build();
    let queue = queue(&broker).await;
    let publisher = broker.publisher();
    let publish = async |to: &Destination, message: MessageBuilder| {
        kind(publisher.publish(to, message).await)
    };
    let missing = Destination::queue("missing");
    assert_eq!(
        publish(&missing, Message::new("x")).await,
        ErrorKind::Unroutable
    );
    let topic = Destination::topic("missing");
    assert_eq!(
        publish(&topic, Message::new("x")).await,
        ErrorKind::NotFound
    );
    let broken = Destination::queue("a\nb");
    assert_eq!(
        publish(&broken, Message::new("x")).await,
        ErrorKind::InvalidName
    );
    assert_eq!(
        publish(&queue, Message::new("123456789")).await,
        ErrorKind::TooLarge
    );
    let mapped = Message::new("").header(headers::ID, "x");
    assert_eq!(publish(&queue, mapped).await, ErrorKind::InvalidMessage);
    let repeated = Message::new("").header("a", "1").header("a", "2");
    assert_eq!(publish(&queue, repeated).await, ErrorKind::InvalidMessage);
    assert!(!broker.capabilities().has(Capability::RepeatedHeaders));

    let reserved = Destination::queue("amq.q");
    assert_eq!(
        kind(broker.declare(&reserved).await),
        ErrorKind::InvalidName
    );
    let subscription = Subscription::queue("missing");
    let opened = broker.consumer(&subscription, ConsumePlan::new()).await;
    let error = opened.expect_err("no such queue");
    assert_eq!(
        (error.kind(), error.context("queue")),
        (ErrorKind::NotFound, Some("missing"))
    );
    let homeless = ConsumePlan::new().dead_letters(DeadLetters::To(missing));
    let error = broker
        .consumer(&Subscription::queue("q"), homeless)
        .await
        .expect_err("no home");
    assert_eq!(
        (error.kind(), error.context("home")),
        (ErrorKind::NotFound, Some("queue missing"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_rejects_and_unsettled_messages_count() {
    let broker = Memory::builder().max_messages(2).build();
    let queue = queue(&broker).await;
    let publisher = broker.publisher();
    let batch = (0..3).map(|_| Message::new("x").build()).collect();
    let outcomes = publisher.publish_batch(&queue, batch).await;
    assert!(outcomes[0].is_ok() && outcomes[1].is_ok());
    assert_eq!(kind(outcomes[2].clone()), ErrorKind::Rejected);
    let mut consumer = consume(&broker, "q", 2).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(
        kind(publisher.publish(&queue, Message::new("x")).await),
        ErrorKind::Rejected
    );
    delivery.ack().expect("acked");
    publisher
        .publish(&queue, Message::new("x"))
        .await
        .expect("room again");
}

#[tokio::test(start_paused = true)]
async fn a_batch_reports_each_message_in_its_place() {
    let broker = Memory::builder().max_message_bytes(3).build();
    let queue = queue(&broker).await;
    let batch = ["a", "long", "b", "longer"].map(|payload| Message::new(payload).build());
    let outcomes = broker.publisher().publish_batch(&queue, batch.into()).await;
    let confirmed: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(confirmed, [true, false, true, false]);
}

#[tokio::test(start_paused = true)]
async fn after_close_everything_ends_with_closed() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    publish(&broker, &queue, "x").await;
    let mut full = consume(&broker, "q", 1).await;
    let delivery = next(&mut full).await;
    let mut idle = consume(&broker, "q", 1).await;
    let waiting = tokio::spawn(async move { idle.receive().await });
    let at_prefetch = tokio::spawn(async move { full.receive().await });
    tokio::task::yield_now().await;
    broker.close().await.expect("closed");
    for task in [waiting, at_prefetch] {
        let ended = timeout(SECOND, task)
            .await
            .expect("woken")
            .expect("no panic");
        assert_eq!(kind(ended), ErrorKind::Closed);
    }
    assert_eq!(kind(delivery.ack()), ErrorKind::Stale);
    assert_eq!(
        kind(broker.publisher().publish(&queue, Message::new("x")).await),
        ErrorKind::Closed
    );
    let handed = broker
        .unconfirmed()
        .hand_over(&queue, Message::new("x"))
        .await;
    assert_eq!(kind(handed), ErrorKind::Closed);
    assert_eq!(kind(broker.declare(&queue).await), ErrorKind::Closed);
    let plan = ConsumePlan::new();
    let opened = broker.consumer(&Subscription::queue("q"), plan).await;
    assert_eq!(kind(opened), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_single_active_consumer_stands_aside_only_when_it_goes() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    let mut plan = ConsumePlan::new();
    plan.single_active_consumer = true;
    let subscription = Subscription::queue("q");
    let mut active = broker
        .consumer(&subscription, plan.clone())
        .await
        .expect("open");
    let mut standby = broker.consumer(&subscription, plan).await.expect("open");
    publish(&broker, &queue, "a").await;
    nothing(&mut standby).await;
    next(&mut active).await.ack().expect("acked");
    let waiting = tokio::spawn(async move { text(&next(&mut standby).await) });
    tokio::task::yield_now().await;
    publish(&broker, &queue, "b").await;
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    active.close().await.expect("closed");
    assert_eq!(
        timeout(SECOND, waiting)
            .await
            .expect("woken")
            .expect("no panic"),
        "b"
    );
}

#[tokio::test(start_paused = true)]
async fn topics_go_to_every_subscription_whose_filter_takes_them() {
    let broker = Memory::new();
    let events = Destination::topic("events");
    broker.declare(&events).await.expect("declared");
    let header = Filter::AllHeaders(vec![("kind".into(), "order".into())]);
    let subscriptions = [
        Subscription::durable("events", "all"),
        Subscription::durable("events", "exact").filter(Filter::exact("eu.paid")),
        Subscription::durable("events", "pattern").filter(Filter::pattern("eu.*")),
        Subscription::durable("events", "headers").filter(header),
    ];
    for subscription in &subscriptions {
        broker.declare(subscription).await.expect("declared");
        broker.verify(subscription).await.expect("there");
    }
    let mut live = broker
        .consumer(&Subscription::ephemeral("events"), ConsumePlan::new())
        .await
        .expect("open");
    for (key, kind) in [
        ("eu.paid", "order"),
        ("eu.open", "invoice"),
        ("us.paid", "order"),
    ] {
        let message = Message::new(key).header("kind", kind);
        broker
            .publisher()
            .publish(&events.clone().routing_key(key), message)
            .await
            .expect("stored");
    }
    let expected: [&[&str]; 4] = [
        &["eu.paid", "eu.open", "us.paid"],
        &["eu.paid"],
        &["eu.paid", "eu.open"],
        &["eu.paid", "us.paid"],
    ];
    for (subscription, expected) in subscriptions.iter().zip(expected) {
        let mut consumer = broker
            .consumer(subscription, ConsumePlan::new())
            .await
            .expect("a consumer");
        let mut batch = Vec::new();
        consumer.receive_many(&mut batch, 10).await.expect("some");
        assert_eq!(
            batch.iter().map(text).collect::<Vec<_>>(),
            expected,
            "{subscription:?}"
        );
        assert_eq!(batch[0].routing_key(), Some("eu.paid"));
        assert_eq!(batch[0].source(), subscription.name());
    }
    for key in ["eu.paid", "eu.open", "us.paid"] {
        let delivery = next(&mut live).await;
        assert_eq!(text(&delivery), key);
        delivery.ack().expect("acked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_publish_that_nobody_takes_is_unroutable_only_if_asked() {
    let broker = Memory::new();
    let topic = Destination::topic("t");
    broker.declare(&topic).await.expect("declared");
    publish(&broker, &topic, "nobody").await;
    let mandatory = topic.clone().mandatory();
    let publisher = broker.publisher();
    assert_eq!(
        kind(publisher.publish(&mandatory, Message::new("x")).await),
        ErrorKind::Unroutable
    );
    let ephemeral = Subscription::ephemeral("t");
    let live = broker
        .consumer(&ephemeral, ConsumePlan::new())
        .await
        .expect("open");
    publish(&broker, &mandatory, "somebody").await;
    drop(live);
    assert_eq!(
        kind(publisher.publish(&mandatory, Message::new("x")).await),
        ErrorKind::Unroutable
    );
}

#[tokio::test(start_paused = true)]
async fn verify_names_what_is_missing_or_different_and_changes_nothing() {
    let broker = Memory::new();
    let queue = Destination::queue("q");
    for _ in 0..2 {
        let error = broker.verify(&queue).await.expect_err("not there");
        assert_eq!(
            (error.kind(), error.context("queue")),
            (ErrorKind::NotFound, Some("q"))
        );
    }
    broker
        .declare(&Destination::topic("t"))
        .await
        .expect("declared");
    let subscription = Subscription::durable("t", "s");
    assert_eq!(
        kind(broker.verify(&subscription).await),
        ErrorKind::NotFound
    );
    broker.declare(&subscription).await.expect("declared");
    broker.declare(&subscription).await.expect("idempotent");
    let other = subscription.filter(Filter::exact("x"));
    assert_eq!(kind(broker.verify(&other).await), ErrorKind::Mismatch);
    assert_eq!(kind(broker.declare(&other).await), ErrorKind::Mismatch);
    let homeless = Subscription::durable("missing", "s");
    assert_eq!(kind(broker.declare(&homeless).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn tight_loops_of_publishes_and_of_receives_let_other_tasks_run() {
    let broker = Memory::new();
    let queue = queue(&broker).await;
    let other = tokio::spawn(async {});
    for _ in 0..1000 {
        publish(&broker, &queue, "x").await;
    }
    assert!(other.is_finished());
    let mut consumer = consume(&broker, "q", 1).await;
    let other = tokio::spawn(async {});
    for _ in 0..1000 {
        next(&mut consumer).await.ack().expect("acked");
    }
    assert!(other.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_consumer_sleeps_while_a_message_waits() {
    let broker = Memory::new();
    let to = queue(&broker).await;
    let (taken, mut takes) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..3 {
        let (mut consumer, taken) = (consume(&broker, "q", 1).await, taken.clone());
        tokio::spawn(async move {
            loop {
                let delivery = consumer.receive().await;
                let delivery = delivery.expect("no error").expect("not over");
                taken.send(text(&delivery)).expect("somebody listens");
                delivery.ack().expect("in time");
            }
        });
    }
    let publisher = broker.publisher();
    for round in 0..5_000 {
        // Two at once: who is woken for the first has to wake another one for the second.
        let messages = (0..2).map(|n| Message::new(format!("{round}.{n}")).into());
        let outcomes = publisher.publish_batch(&to, messages.collect()).await;
        outcomes.all_confirmed().expect("confirmed");
        for _ in 0..2 {
            let text = timeout(10 * SECOND, takes.recv()).await;
            let text = text.expect("a message waits, and nobody takes it");
            let round = format!("{round}.");
            assert!(text.expect("consumers are there").starts_with(&round));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_urgent_overtakes_what_nobody_has_looked_at_yet() {
    let broker = Memory::new();
    let to = queue(&broker).await;
    let mut consumer = consume(&broker, "q", 9).await;
    publish(&broker, &to, "a").await;
    publish(&broker, &to, "b").await;
    let first = next(&mut consumer).await;
    assert_eq!(text(&first), "a");
    let urgent = Message::new("urgent").priority(5);
    let urgent = broker.publisher().publish(&to, urgent).await;
    urgent.expect("confirmed");
    publish(&broker, &to, "c").await;
    for expected in ["urgent", "b", "c"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(text(&delivery), expected);
        delivery.ack().expect("in time");
    }
    drop(first);
}

#[tokio::test]
async fn a_wake_up_that_its_consumer_does_not_hear_any_more_goes_to_the_next_one() {
    let broker = Memory::new();
    let to = queue(&broker).await;
    let (mut one, mut other) = (
        consume(&broker, "q", 1).await,
        consume(&broker, "q", 1).await,
    );
    let mut waits = Box::pin(one.receive());
    let mut goes_on = Box::pin(other.receive());
    assert!(waits.as_mut().now_or_never().is_none());
    assert!(goes_on.as_mut().now_or_never().is_none());
    publish(&broker, &to, "x").await;
    drop(waits);
    let delivery = timeout(10 * SECOND, goes_on).await.expect("it was woken");
    assert_eq!(text(&delivery.expect("no error").expect("one")), "x");
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_behind_a_message_that_is_taken_makes_room_at_once() {
    let broker = Memory::builder().max_messages(2).build();
    let to = queue(&broker).await;
    let mut consumer = consume(&broker, "q", 1).await;
    publish(&broker, &to, "lives").await;
    let short = Message::new("late").expires_in(SECOND);
    let stored = broker.publisher().publish(&to, short).await;
    stored.expect("confirmed");
    tokio::time::advance(2 * SECOND).await;
    let held = next(&mut consumer).await;
    publish(&broker, &to, "fits").await;
    let full = broker.publisher().publish(&to, Message::new("x")).await;
    assert_eq!(kind(full), ErrorKind::Rejected);
    drop(held);
}
