//! Dead letters in the hands of a worker.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

use std::time::Duration;

use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, Message, Publisher, Reason, Received,
    Rejection, Subscription, Worker, dead_letter_copy,
};
use mq_memory::Memory;
use mq_reliability::dead_letter::DeadLetter;
use tokio::{sync::mpsc, time::timeout};

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_handler_takes_dead_letters_and_rejects_what_is_none() {
    let broker = Memory::new();
    let [dead, strange] = ["orders.dead", "strange"].map(Destination::queue);
    for queue in [&dead, &strange] {
        broker.declare(queue).await.expect("declared");
    }
    let paid = Some("eu.paid".into());
    let original = Received::new(Message::new("tea").build(), "orders".into(), paid);
    let copy = dead_letter_copy(&original, &Rejection::new(Reason::Permanent, "no tea"));
    for message in [Message::new("no dead letter").build(), copy] {
        broker
            .publisher()
            .publish(&dead, message)
            .await
            .expect("stored");
    }

    let (seen, mut letters) = mpsc::channel(2);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = Worker::new(&broker, Subscription::queue("orders.dead"))
        .dead_letters(DeadLetters::To(strange))
        .run(move |letter: DeadLetter, original: Received| {
            let seen = seen.clone();
            async move { seen.try_send((letter, original)).map_err(|e| e.to_string()) }
        })
        .with_graceful_shutdown(async move {
            let _ = stopped.await;
        });
    let worker = tokio::spawn(worker.into_future());

    let (letter, original) = timeout(DEADLINE, letters.recv())
        .await
        .expect("a letter in time")
        .expect("a letter");
    assert_eq!(
        (letter.origin(), letter.error(), letter.reason()),
        ("orders", "no tea", Reason::Permanent)
    );
    assert_eq!(letter.routing_key(), Some("eu.paid"));
    assert_eq!(original.payload().map(|p| &p[..]), Some(&b"tea"[..]));

    let mut consumer = broker
        .consumer(&Subscription::queue("strange"), ConsumePlan::new())
        .await
        .expect("a consumer");
    let rejected = timeout(DEADLINE, consumer.receive())
        .await
        .expect("a rejected one in time")
        .expect("no error")
        .expect("a rejected one");
    let letter = DeadLetter::of(rejected.received()).expect("now it is a dead letter");
    assert_eq!(letter.reason(), Reason::Undecodable);
    assert!(
        letter.error().contains("mq-dead-origin"),
        "{}",
        letter.error()
    );
    rejected.ack().expect("in time");
    stop.send(()).expect("the worker waits");
    worker.await.expect("no panic").expect("a clean end");
}
