//! Producer and consumer on the in-process broker.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

use std::time::Duration;

use mq_core::{
    Broker, ConsumePlan, Consumer as _, DeadLetters, Destination, ErrorKind, Failure, Message,
    Publisher, Received, Subscription, codec::PostcardCodec, headers,
};
use mq_memory::Memory;
use mq_patterns::producer_consumer::{Consumer, Item, Producer};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

async fn broker() -> (Memory, Destination, Subscription) {
    let broker = Memory::new();
    let queue = Destination::queue("items");
    broker.declare(&queue).await.expect("declared");
    (broker, queue, Subscription::queue("items"))
}

async fn open(broker: &Memory, plan: ConsumePlan) -> Consumer<u32, mq_memory::MemoryConsumer> {
    Consumer::open(broker, &Subscription::queue("items"), plan)
        .await
        .expect("a consumer")
}

async fn next(consumer: &mut Consumer<u32, mq_memory::MemoryConsumer>) -> Item<u32> {
    timeout(DEADLINE, consumer.next())
        .await
        .expect("an item in time")
        .expect("no error")
        .expect("an item")
}

/// The next dead letter, acknowledged.
async fn dead(broker: &Memory) -> Received {
    let dead = Subscription::queue("items.dead");
    let mut consumer = broker
        .consumer(&dead, ConsumePlan::new())
        .await
        .expect("a consumer");
    let delivery = timeout(DEADLINE, consumer.receive())
        .await
        .expect("a dead letter in time")
        .expect("no error")
        .expect("a dead letter");
    let received = delivery.received().clone();
    delivery.ack().expect("in time");
    consumer.close().await.expect("closed");
    received
}

#[tokio::test]
async fn items_arrive_typed_and_in_order() {
    let (broker, queue, items) = broker().await;
    let mut producer = Producer::new(&broker, queue)
        .envelope(|item: &u32, message| message.key(format!("key {}", item % 3)))
        .codec::<PostcardCodec>()
        .window(7);
    for item in 0..500 {
        producer.send(&item).await.expect("sent");
    }
    let sent = producer.finish().await;
    assert_eq!((sent.confirmed, sent.failed.len()), (500, 0));

    let mut consumer = Consumer::<u32, _>::open(&broker, &items, ConsumePlan::new())
        .await
        .expect("a consumer")
        .codec::<PostcardCodec>();
    for expected in 0..500 {
        let item = timeout(DEADLINE, consumer.next())
            .await
            .expect("an item in time")
            .expect("no error")
            .expect("an item");
        assert_eq!(*item, expected);
        let key = format!("key {}", expected % 3);
        assert_eq!(
            item.received().key().and_then(|key| key.as_str()),
            Some(&*key)
        );
        item.ack().expect("in time");
    }
    consumer.settled().await.expect("settled");
    consumer.close().await.expect("closed");
}

#[tokio::test]
async fn what_cannot_be_decoded_is_not_shown_and_goes_to_the_dead_letters() {
    let (broker, queue, _) = broker().await;
    let publisher = broker.publisher();
    for payload in ["{", "7"] {
        publisher
            .publish(&queue, Message::new(payload))
            .await
            .expect("stored");
    }
    let tombstone = Message::tombstone();
    publisher.publish(&queue, tombstone).await.expect("stored");
    publisher
        .publish(&queue, Message::new("8"))
        .await
        .expect("stored");

    let mut consumer = open(&broker, ConsumePlan::new()).await;
    for expected in [7, 8] {
        let item = next(&mut consumer).await;
        assert_eq!(*item, expected);
        item.ack().expect("in time");
    }
    for payload in [Some(&b"{"[..]), None] {
        let letter = dead(&broker).await;
        assert_eq!(letter.payload().map(|p| &p[..]), payload);
        assert_eq!(
            letter.headers().text(headers::DEAD_REASON),
            Some("undecodable")
        );
    }
}

#[tokio::test]
async fn a_failed_item_comes_back_until_its_attempts_are_used_up() {
    let (broker, queue, _) = broker().await;
    broker
        .publisher()
        .publish(&queue, Message::new("7"))
        .await
        .expect("stored");
    let mut plan = ConsumePlan::new();
    plan.max_attempts = 3;
    let mut consumer = open(&broker, plan).await;
    for attempt in 1..=3 {
        let item = next(&mut consumer).await;
        assert_eq!(item.received().attempt(), attempt);
        item.fail("no tea").expect("in time");
    }
    let letter = dead(&broker).await;
    let text = |name| letter.headers().text(name);
    assert_eq!(text(headers::DEAD_REASON), Some("exhausted"));
    assert_eq!(text(headers::DEAD_ATTEMPTS), Some("3"));
    assert_eq!(text(headers::DEAD_ERROR), Some("no tea"));
}

#[tokio::test]
async fn a_permanent_failure_is_rejected_at_once() {
    let (broker, queue, _) = broker().await;
    broker
        .publisher()
        .publish(&queue, Message::new("7"))
        .await
        .expect("stored");
    let mut consumer = open(&broker, ConsumePlan::new()).await;
    let item = next(&mut consumer).await;
    item.fail(Failure::permanent("never")).expect("in time");
    let letter = dead(&broker).await;
    let text = |name| letter.headers().text(name);
    assert_eq!(text(headers::DEAD_REASON), Some("permanent"));
    assert_eq!(text(headers::DEAD_ATTEMPTS), Some("1"));
}

#[tokio::test]
async fn an_item_that_nobody_ever_settled_is_not_shown_for_ever() {
    let (broker, queue, _) = broker().await;
    broker
        .publisher()
        .publish(&queue, Message::new("7"))
        .await
        .expect("stored");
    let mut plan = ConsumePlan::new();
    plan.max_attempts = 2;
    let mut consumer = open(&broker, plan).await;
    for _ in 0..2 {
        drop(next(&mut consumer).await);
    }
    broker
        .publisher()
        .publish(&queue, Message::new("8"))
        .await
        .expect("stored");
    let item = next(&mut consumer).await;
    assert_eq!(*item, 8);
    item.ack().expect("in time");
    let letter = dead(&broker).await;
    let text = |name| letter.headers().text(name);
    assert_eq!(text(headers::DEAD_REASON), Some("exhausted"));
    assert_eq!(text(headers::DEAD_ATTEMPTS), Some("2"));
}

#[tokio::test]
async fn a_consumer_without_a_home_for_rejected_messages_is_refused() {
    let (broker, _, items) = broker().await;
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let error = Consumer::<u32, _>::open(&broker, &items, plan)
        .await
        .expect_err("no home");
    assert_eq!(error.kind(), ErrorKind::Config);
}
