//! Fan-out on the in-process broker.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::time::Duration;

use mq_core::{
    Broker, DeadLetters, Destination, ErrorKind, Json, Message, Publisher, Result, Subscription,
    Worker, codec::PostcardCodec, headers,
};
use mq_memory::Memory;
use mq_patterns::fan_out::FanOut;
use proptest::prelude::*;
use support::{DEADLINE, bytes, fickle, in_order, queue, reports, start, take};
use tokio::time::timeout;

async fn declared(broker: &Memory, topic: &str, subscribers: &[&str]) -> FanOut<u32, Memory> {
    let topic = FanOut::new(broker, topic);
    topic.declare().await.expect("a topic");
    for name in subscribers {
        topic
            .subscriber(*name)
            .declare()
            .await
            .expect("a subscriber");
    }
    topic
}

#[tokio::test]
async fn a_listener_is_not_held_up_by_what_it_was_handed() {
    let broker = Memory::new();
    let topic = declared(&broker, "events", &[]).await;
    let mut listener = topic.listener().await.expect("a listener");
    let events: Vec<u32> = (0..350).collect();
    let outcomes = topic.publish_all(&events).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let mut kept = Vec::new();
    // More than any prefetch, and all of them kept: each was acknowledged when it was handed over.
    for expected in events {
        let heard = timeout(DEADLINE, listener.next()).await;
        let heard = heard
            .expect("in time")
            .expect("no error")
            .expect("an event");
        assert_eq!(heard.event().expect("a number"), expected);
        kept.push(heard);
    }
    listener.close().await.expect("closed");
}

#[tokio::test(start_paused = true)]
async fn a_poison_event_is_heard_once_with_its_bytes() {
    let broker = Memory::new();
    let topic = declared(&broker, "events", &[]).await;
    let mut listener = topic.listener().await.expect("a listener");
    let publisher = broker.publisher();
    let poison = [Message::new("seven").build(), Message::tombstone().build()];
    for message in poison {
        let stored = publisher.publish(topic.destination(), message).await;
        stored.expect("stored");
    }
    topic.publish(&8).await.expect("stored");
    for expected in [Some(&b"seven"[..]), None] {
        let heard = listener.next().await.expect("no error").expect("a message");
        let error = heard.event().expect_err("no number");
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert_eq!(bytes(heard.received()), expected);
    }
    let heard = listener.next().await.expect("no error").expect("an event");
    assert_eq!(heard.event().expect("a number"), 8);
    let more = timeout(Duration::from_hours(1), listener.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn a_listener_that_loses_its_broker_says_so() {
    let broker = Memory::new();
    let topic = declared(&broker, "events", &[]).await;
    let mut listener = topic.listener().await.expect("a listener");
    broker.close().await.expect("closed");
    let next = timeout(DEADLINE, listener.next()).await.expect("in time");
    assert_eq!(next.expect_err("no silence").kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_worker_on_an_ephemeral_subscription_asks_where_rejected_events_go() {
    let broker = Memory::new();
    let topic = declared(&broker, "events", &[]).await;
    let ephemeral = || Worker::new(&broker, Subscription::ephemeral("events"));
    let ended = timeout(DEADLINE, ephemeral().run(|| async {}).into_future()).await;
    let error = ended.expect("an end in time").expect_err("no home");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("dead_letters"), "{error}");

    let home = Destination::queue("lost");
    broker.declare(&home).await.expect("a home");
    let (to, mut begun) = reports();
    let worker =
        ephemeral()
            .dead_letters(DeadLetters::To(home))
            .run(move |Json(event): Json<u32>| {
                let to = to.clone();
                async move { to.send(event).await }
            });
    let worker = start(worker);
    // It is open once it hears something.
    while begun.try_recv().is_err() {
        topic.publish(&1).await.expect("stored");
        tokio::task::yield_now().await;
    }
    let poison = Message::new("seven");
    let stored = broker
        .publisher()
        .publish(topic.destination(), poison)
        .await;
    stored.expect("stored");
    let letter = queue(&broker, "lost", 1).await.remove(0);
    assert_eq!(bytes(&letter), Some(&b"seven"[..]));
    worker.stop().await;
}

#[tokio::test]
async fn an_undecodable_event_is_dead_for_each_subscriber_apart() {
    let broker = Memory::new();
    let topic = declared(&broker, "events", &["a", "b"]).await;
    let poison = Message::new("seven").header("trace", "t");
    let stored = broker
        .publisher()
        .publish(topic.destination(), poison)
        .await;
    stored.expect("stored");
    topic.publish(&8).await.expect("stored");
    for name in ["a", "b"] {
        let (to, mut handled) = reports();
        let worker = start(
            topic
                .subscriber(name)
                .worker()
                .run(move |Json(event): Json<u32>| {
                    let to = to.clone();
                    async move { to.send(event).await }
                }),
        );
        assert_eq!(take(&mut handled, 1).await, [8]);
        worker.stop().await;
        let letter = queue(&broker, &format!("events.{name}.dead"), 1)
            .await
            .remove(0);
        assert_eq!(bytes(&letter), Some(&b"seven"[..]));
        let text = |name| letter.headers().text(name);
        assert_eq!(text(headers::DEAD_REASON), Some("undecodable"));
        assert_eq!(text(headers::DEAD_ORIGIN), Some(&*format!("{name}@events")));
        assert_eq!(text("trace"), Some("t"));
    }
}

#[tokio::test]
async fn names_with_dots_may_share_a_home_where_the_origin_tells_them_apart() {
    let broker = Memory::new();
    let one = declared(&broker, "shop.eu", &["bills"]).await;
    let other = declared(&broker, "shop", &["eu.bills"]).await;
    for (topic, name) in [(&one, "bills"), (&other, "eu.bills")] {
        topic.publish(&7).await.expect("stored");
        let (to, mut begun) = reports();
        let worker = start(
            topic
                .subscriber(name)
                .worker()
                .max_attempts(1)
                .run(move || {
                    let to = to.clone();
                    async move {
                        let _ = to.send(()).await;
                        Err::<(), _>("no")
                    }
                }),
        );
        take(&mut begun, 1).await;
        worker.stop().await;
    }
    let letters = queue(&broker, "shop.eu.bills.dead", 2).await;
    let origins = letters
        .iter()
        .map(|letter| letter.headers().text(headers::DEAD_ORIGIN));
    assert_eq!(
        origins.collect::<Vec<_>>(),
        [Some("bills@shop.eu"), Some("eu.bills@shop")]
    );
}

#[tokio::test]
async fn events_travel_in_their_envelope_and_codec() {
    let broker = Memory::new();
    let topic = FanOut::new(&broker, "events")
        .envelope(|event: &u32, message| message.key(format!("key {event}")).header("who", "me"))
        .codec::<PostcardCodec>();
    topic.declare().await.expect("declared");
    topic.subscriber("s").declare().await.expect("declared");
    let mut listener = topic.listener().await.expect("a listener");
    topic.publish(&300).await.expect("stored");
    let heard = listener.next().await.expect("no error").expect("an event");
    assert_eq!(heard.event().expect("postcard"), 300);
    let from = Subscription::durable("events", "s");
    let event = support::drain(&broker, &from, 1).await.remove(0);
    for event in [&event, heard.received()] {
        assert_eq!(event.key().and_then(|key| key.as_str()), Some("key 300"));
        assert_eq!(event.headers().text("who"), Some("me"));
        assert_eq!(event.decode::<PostcardCodec, u32>().expect("postcard"), 300);
    }
}

#[tokio::test]
async fn names_that_no_broker_takes_are_refused() {
    let broker = Memory::new();
    let topic = FanOut::<u32, _>::new(&broker, "");
    let error = topic.declare().await.expect_err("empty");
    assert_eq!(error.kind(), ErrorKind::InvalidName);
    let topic = declared(&broker, "events", &[]).await;
    let error = topic
        .subscriber("a\nb")
        .declare()
        .await
        .expect_err("control");
    assert_eq!(error.kind(), ErrorKind::InvalidName);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn outcomes_stand_in_the_order_of_the_events(writable in prop::collection::vec(any::<bool>(), 0..600)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let broker = Memory::builder().log(1).build();
            let topic = FanOut::new(&broker, "events");
            topic.declare().await.unwrap();
            let events = fickle(&writable);
            in_order(&events, topic.publish_all(&events).await);
        });
    }
}
