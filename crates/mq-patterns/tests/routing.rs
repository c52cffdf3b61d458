//! Routing on the in-process broker.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use mq_core::{
    Broker, Destination, ErrorKind, Filter, Message, Publisher, Result, Subscription,
    codec::PostcardCodec, headers,
};
use mq_memory::Memory;
use mq_patterns::routing::Routing;
use proptest::prelude::*;
use support::{Fickle, bytes, drain, fickle, in_order, queue, reports, start, take};

/// Numbers, routed by their parity.
async fn declared(broker: &Memory) -> Routing<u32, Memory> {
    let topic = Routing::new(broker, "numbers").route(|number: &u32| parity(*number).to_owned());
    topic.declare().await.expect("a topic");
    topic
}

fn parity(number: u32) -> &'static str {
    if number.is_multiple_of(2) {
        "even"
    } else {
        "odd"
    }
}

#[tokio::test]
async fn without_a_route_an_event_has_the_empty_key() {
    let broker = Memory::new();
    let topic = Routing::new(&broker, "numbers");
    topic.declare().await.expect("a topic");
    let filter = Filter::exact("");
    let declared = topic.subscriber("s", filter.clone()).declare().await;
    declared.expect("a subscriber");
    topic.publish(&7).await.expect("stored");
    let from = Subscription::durable("numbers", "s").filter(filter);
    let event = drain(&broker, &from, 1).await.remove(0);
    assert_eq!(
        (bytes(&event), event.routing_key()),
        (Some(&b"7"[..]), None)
    );
}

#[tokio::test]
async fn an_event_goes_to_every_subscriber_whose_filter_takes_it() {
    let broker = Memory::new();
    let topic = declared(&broker).await;
    let filters = [
        ("odd", Filter::exact("odd"), vec![1, 3]),
        ("too", Filter::pattern("od*"), vec![]),
        ("word", Filter::pattern("*"), vec![0, 1, 2, 3]),
    ];
    for (name, filter, _) in &filters {
        let declared = topic.subscriber(*name, filter.clone()).declare().await;
        declared.expect("a subscriber");
    }
    assert!(
        topic
            .publish_all(&[0, 1, 2, 3])
            .await
            .iter()
            .all(Result::is_ok)
    );
    for (name, filter, expected) in filters {
        let from = Subscription::durable("numbers", name).filter(filter);
        let got = drain(&broker, &from, expected.len()).await;
        let numbers: Vec<u32> = got
            .iter()
            .map(|event| {
                event
                    .decode::<mq_core::codec::JsonCodec, _>()
                    .expect("a number")
            })
            .collect();
        assert_eq!(numbers, expected, "{name}");
    }
}

#[tokio::test]
async fn events_are_counted_as_unroutable_one_by_one_where_somebody_has_to_take_them() {
    let broker = Memory::new();
    let topic = declared(&broker).await.mandatory();
    let odd = topic
        .subscriber("odd", Filter::exact("odd"))
        .declare()
        .await;
    odd.expect("a subscriber");
    let outcomes = topic.publish_all(&[0, 1, 2, 3]).await;
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|o| o.as_ref().err().map(|e| e.kind()))
        .collect();
    let nobody = Some(ErrorKind::Unroutable);
    assert_eq!(kinds, [nobody, None, nobody, None]);
    let possibly = outcomes.iter().filter_map(|o| o.as_ref().err());
    assert!(
        possibly
            .into_iter()
            .all(|error| !error.possibly_delivered())
    );
}

#[tokio::test]
async fn mandatory_is_refused_on_a_log_before_anything_is_published() {
    let broker = Memory::builder().log(2).build();
    let topic = Routing::<u32, _>::new(&broker, "numbers").mandatory();
    let error = topic.declare().await.expect_err("it cannot be told");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.context("capability"), Some("mandatory-topics"));
    // Nothing was made either.
    let error = broker.verify(&Destination::topic("numbers")).await;
    assert_eq!(error.expect_err("no topic").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_filter_that_no_broker_keeps_is_refused_when_it_is_declared() {
    let broker = Memory::new();
    let topic = declared(&broker).await;
    for filter in [Filter::exact("k".repeat(256)), Filter::AnyHeader(vec![])] {
        let error = topic.subscriber("s", filter).declare().await;
        assert_eq!(error.expect_err("refused").kind(), ErrorKind::Config);
    }
}

#[tokio::test]
async fn an_undecodable_event_goes_to_the_subscribers_own_dead_letters() {
    let broker = Memory::new();
    let topic = declared(&broker).await;
    let odd = || Filter::exact("odd");
    topic
        .subscriber("s", odd())
        .declare()
        .await
        .expect("a subscriber");
    let to = topic.destination(&7);
    let stored = broker.publisher().publish(&to, Message::new("seven")).await;
    stored.expect("stored");
    topic.publish(&9).await.expect("stored");
    let (seen, mut handled) = reports();
    let worker =
        topic
            .subscriber("s", odd())
            .worker()
            .run(move |mq_core::Json(n): mq_core::Json<u32>| {
                let seen = seen.clone();
                async move { seen.send(n).await }
            });
    let worker = start(worker);
    assert_eq!(take(&mut handled, 1).await, [9]);
    worker.stop().await;
    let letter = queue(&broker, "numbers.s.dead", 1).await.remove(0);
    assert_eq!(bytes(&letter), Some(&b"seven"[..]));
    let origin = letter.headers().text(headers::DEAD_ORIGIN);
    assert_eq!(origin, Some("s@numbers"));
}

#[tokio::test]
async fn events_travel_in_their_envelope_and_codec() {
    let broker = Memory::new();
    let topic = Routing::new(&broker, "numbers")
        .route(|number: &u32| parity(*number).to_owned())
        .envelope(|number: &u32, message| message.header("parity", parity(*number)))
        .codec::<PostcardCodec>();
    topic.declare().await.expect("a topic");
    let wanted = Filter::AllHeaders(vec![("parity".into(), "even".into())]);
    let declared = topic.subscriber("s", wanted.clone()).declare().await;
    declared.expect("a subscriber");
    assert!(
        topic
            .publish_all(&[299, 300])
            .await
            .iter()
            .all(Result::is_ok)
    );
    let from = Subscription::durable("numbers", "s").filter(wanted);
    let event = drain(&broker, &from, 1).await.remove(0);
    assert_eq!(event.decode::<PostcardCodec, u32>().expect("postcard"), 300);
    assert_eq!(event.routing_key(), Some("even"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn outcomes_and_records_stand_in_the_order_of_the_events_whatever_their_routes(
        writable in prop::collection::vec(any::<bool>(), 0..600),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let broker = Memory::builder().log(1).build();
            let topic = Routing::new(&broker, "events")
                .route(|event: &Fickle| format!("{}", event.0.unwrap_or_default() % 3));
            topic.declare().await.unwrap();
            let events = fickle(&writable);
            in_order(&events, topic.publish_all(&events).await);
        });
    }
}
