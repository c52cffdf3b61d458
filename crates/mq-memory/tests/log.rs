//! The shape of a log: partitions, groups, committed offsets, and the ways to fail.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

use std::{collections::BTreeMap, time::Duration};

use mq_core::{
    Broker, Capability, ConsumePlan, Consumer, Delivery, Destination, ErrorKind, Filter, Message,
    Position, Publisher, Receipt, Result, Subscription, headers,
};
use mq_memory::{Memory, MemoryConsumer};
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

async fn log(partitions: u32) -> (Memory, Destination) {
    let broker = Memory::builder().log(partitions).build();
    let queue = Destination::queue("q");
    broker.declare(&queue).await.expect("declared");
    (broker, queue)
}

async fn publish(broker: &Memory, to: &Destination, key: &str, payload: u32) -> Receipt {
    let message = Message::new(payload.to_string()).key(key);
    broker
        .publisher()
        .publish(to, message)
        .await
        .expect("confirmed")
}

async fn consume(broker: &Memory, prefetch: u16) -> MemoryConsumer {
    let plan = ConsumePlan::new().prefetch(prefetch);
    broker
        .consumer(&Subscription::queue("q"), plan)
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

async fn take(consumer: &mut MemoryConsumer, count: usize) -> Vec<Delivery> {
    let mut batch = Vec::new();
    while batch.len() < count {
        let missing = count - batch.len();
        let received = timeout(
            Duration::from_secs(3600),
            consumer.receive_many(&mut batch, missing),
        );
        assert_ne!(received.await.expect("in time").expect("no error"), 0);
    }
    batch
}

async fn nothing(consumer: &mut MemoryConsumer) {
    let received = timeout(SECOND, consumer.receive()).await;
    assert!(received.is_err(), "unexpected: {received:?}");
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.payload().expect("a payload")).into_owned()
}

fn offset(delivery: &Delivery) -> u64 {
    delivery.position().expect("a position").offset
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("an error").kind()
}

#[tokio::test(start_paused = true)]
async fn a_key_has_one_partition_and_positions_are_in_receipts_and_deliveries() {
    let (broker, queue) = log(4).await;
    let first = publish(&broker, &queue, "alice", 1)
        .await
        .position()
        .expect("a position");
    let second = publish(&broker, &queue, "alice", 2)
        .await
        .position()
        .expect("a position");
    assert_eq!(
        second,
        Position {
            offset: first.offset + 1,
            ..first
        }
    );
    let mut consumer = consume(&broker, 10).await;
    let batch = take(&mut consumer, 2).await;
    assert_eq!(batch[0].position(), Some(first));
    assert_eq!((batch[0].redelivered(), batch[0].attempt()), (None, 1));
    assert_eq!(batch[1].position(), Some(second));
}

#[tokio::test(start_paused = true)]
async fn a_key_keeps_its_order_under_redelivery() {
    let (broker, queue) = log(3).await;
    let keys = ["a", "b", "c", "d", "e"];
    for n in 0..40 {
        publish(&broker, &queue, keys[n as usize % keys.len()], n).await;
    }
    let mut consumer = consume(&broker, 1).await;
    let mut done: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for round in 0.. {
        let delivery = next(&mut consumer).await;
        if round % 3 == 0 {
            delivery.into_settlement().requeue().expect("requeued");
            continue;
        }
        let key = delivery
            .key()
            .and_then(|key| key.as_str())
            .expect("a key")
            .to_owned();
        done.entry(key)
            .or_default()
            .push(text(&delivery).parse().expect("a number"));
        delivery.ack().expect("acked");
        if done.values().map(Vec::len).sum::<usize>() == 40 {
            break;
        }
    }
    for (key, numbers) in done {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_requeued_record_comes_before_those_not_handed_out_and_counts() {
    let (broker, queue) = log(1).await;
    for n in 0..4 {
        publish(&broker, &queue, "k", n).await;
    }
    let mut consumer = consume(&broker, 2).await;
    let mut batch = take(&mut consumer, 2).await;
    let second = batch.pop().expect("two");
    batch
        .pop()
        .expect("one")
        .into_settlement()
        .requeue()
        .expect("requeued");
    let again = next(&mut consumer).await;
    assert_eq!((offset(&again), again.attempt()), (0, 2));
    again.into_settlement().release().expect("released");
    let again = next(&mut consumer).await;
    assert_eq!((offset(&again), again.attempt()), (0, 2));
    second.ack().expect("acked");
    again.ack().expect("acked");
    assert_eq!(offset(&next(&mut consumer).await), 2);
}

#[tokio::test(start_paused = true)]
async fn a_group_resumes_behind_what_it_finished_without_a_gap() {
    let (broker, queue) = log(1).await;
    for n in 0..5 {
        publish(&broker, &queue, "k", n).await;
    }
    let mut first = consume(&broker, 10).await;
    let mut batch = take(&mut first, 5).await;
    let last = batch.pop().expect("five");
    // Offsets 0, 1 and 4 are finished, 2 and 3 are not: the group stands at 2.
    let open = batch.split_off(2);
    for delivery in batch {
        delivery.ack().expect("acked");
    }
    last.ack().expect("acked");
    drop(first);
    let mut second = consume(&broker, 10).await;
    let batch = take(&mut second, 3).await;
    let seen: Vec<(u64, u32)> = batch.iter().map(|d| (offset(d), d.attempt())).collect();
    assert_eq!(
        seen,
        [(2, 2), (3, 2), (4, 1)],
        "unfinished ones count as failed"
    );
    for stale in open {
        assert_eq!(kind(stale.ack()), ErrorKind::Stale);
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_are_shared_and_move_without_losing_their_place() {
    let (broker, queue) = log(4).await;
    for n in 0..40 {
        publish(&broker, &queue, &format!("k{n}"), n).await;
    }
    let mut first = consume(&broker, 100).await;
    let early = take(&mut first, 10).await;
    let mut second = consume(&broker, 100).await;
    // Partitions with open records stay until those are settled.
    let mut seen: Vec<Position> = Vec::new();
    for delivery in early {
        seen.extend(delivery.position());
        delivery.ack().expect("still the owner");
    }
    let mut owners: BTreeMap<u32, usize> = BTreeMap::new();
    while seen.len() < 40 {
        for (at, consumer) in [&mut first, &mut second].into_iter().enumerate() {
            let mut batch = Vec::new();
            let _ = timeout(SECOND, consumer.receive_many(&mut batch, 100)).await;
            for delivery in batch {
                let position = delivery.position().expect("a position");
                assert_eq!(*owners.entry(position.partition).or_insert(at), at);
                seen.push(position);
                delivery.ack().expect("acked");
            }
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 40, "each record once");
    let of_first = owners.values().filter(|at| **at == 0).count();
    assert_eq!((of_first, owners.len()), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_taken_from_a_member_that_does_not_settle_and_it_is_stale_then() {
    let (broker, queue) = log(2).await;
    let mut first = consume(&broker, 100).await;
    for n in 0..20 {
        publish(&broker, &queue, &format!("k{n}"), n).await;
    }
    let held = take(&mut first, 20).await;
    let mut second = consume(&broker, 100).await;
    nothing(&mut second).await;
    let start = Instant::now();
    let moved = next(&mut second).await;
    assert!(start.elapsed() > 25 * SECOND && start.elapsed() < 35 * SECOND);
    let partition = moved.position().expect("a position").partition;
    for delivery in held {
        let is_moved = delivery.position().expect("a position").partition == partition;
        assert_eq!(delivery.ack().is_err(), is_moved);
    }
    assert_eq!(moved.attempt(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_partition_goes_to_its_heir_as_soon_as_nothing_is_open() {
    let (broker, queue) = log(2).await;
    let mut stored = 0;
    for n in 0..40 {
        let key = format!("k{}", n % 20);
        let receipt = publish(&broker, &queue, &key, n).await;
        stored += u32::from(
            receipt
                .position()
                .is_some_and(|position| position.partition == 1),
        );
    }
    let mut first = consume(&broker, 40).await;
    let mut held = take(&mut first, 40).await;
    held.retain(|delivery| {
        delivery
            .position()
            .is_some_and(|position| position.partition == 1)
    });
    assert_eq!(held.len() as u32, stored);
    let last = held.pop().expect("one in the partition");
    let mut second = consume(&broker, 40).await;
    let waiting = tokio::spawn(async move { next(&mut second).await.position() });
    tokio::task::yield_now().await;
    for delivery in held {
        delivery.ack().expect("still the owner");
    }
    let key = last
        .key()
        .and_then(|key| key.as_str())
        .expect("a key")
        .to_owned();
    let position = publish(&broker, &queue, &key, 40).await.position();
    last.ack().expect("still the owner");
    let inherited = timeout(SECOND, waiting)
        .await
        .expect("woken at once")
        .expect("no panic");
    assert_eq!(inherited, position);
}

#[tokio::test(start_paused = true)]
async fn a_stale_settlement_makes_room_too() {
    let (broker, queue) = log(2).await;
    let mut first = consume(&broker, 1).await;
    for n in 0..20 {
        publish(&broker, &queue, &format!("k{n}"), n).await;
    }
    // One of the two partitions goes to the second member: the first one is full of it, or not.
    let mut stale = None;
    while stale.is_none() {
        let held = next(&mut first).await;
        let mut second = consume(&broker, 100).await;
        tokio::time::advance(31 * SECOND).await;
        let _ = timeout(SECOND, second.receive()).await;
        let waiting = tokio::spawn(async move {
            let delivery = next(&mut first).await;
            (first, delivery)
        });
        tokio::task::yield_now().await;
        let settled = held.ack();
        let (owner, delivery) = timeout(SECOND, waiting)
            .await
            .expect("woken")
            .expect("no panic");
        stale = settled.err();
        delivery.ack().expect("acked");
        first = owner;
    }
    assert_eq!(stale.map(|error| error.kind()), Some(ErrorKind::Stale));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_goes_leaves_its_partitions_to_the_others() {
    let (broker, queue) = log(3).await;
    let mut first = consume(&broker, 100).await;
    let second = consume(&broker, 100).await;
    let third = consume(&broker, 100).await;
    second.close().await.expect("closed");
    drop(third);
    for n in 0..30 {
        publish(&broker, &queue, &format!("k{n}"), n).await;
    }
    assert_eq!(take(&mut first, 30).await.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_member_is_woken_for_its_partition_only_and_for_what_it_inherits() {
    let (broker, queue) = log(2).await;
    let mut first = consume(&broker, 1).await;
    let mut second = consume(&broker, 1).await;
    let one = tokio::spawn(async move { (next(&mut first).await, first) });
    let two = tokio::spawn(async move { (next(&mut second).await, second) });
    tokio::task::yield_now().await;
    let mut partitions = Vec::new();
    for n in 0..8 {
        let receipt = publish(&broker, &queue, &format!("k{n}"), n).await;
        partitions.extend(receipt.position().map(|position| position.partition));
    }
    assert!(partitions.contains(&0) && partitions.contains(&1));
    let (held, first) = timeout(SECOND, one)
        .await
        .expect("woken")
        .expect("no panic");
    let (mine, mut second) = timeout(SECOND, two)
        .await
        .expect("woken")
        .expect("no panic");
    mine.ack().expect("acked");
    let all = tokio::spawn(async move {
        let mut count = 1;
        while count < 8 {
            next(&mut second).await.ack().expect("acked");
            count += 1;
        }
    });
    tokio::task::yield_now().await;
    drop((held, first));
    timeout(SECOND, all)
        .await
        .expect("woken for what it inherits")
        .expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_deferred_record_lets_others_pass_and_is_never_early() {
    let (broker, queue) = log(1).await;
    publish(&broker, &queue, "k", 0).await;
    publish(&broker, &queue, "k", 1).await;
    let mut consumer = consume(&broker, 1).await;
    let start = Instant::now();
    next(&mut consumer)
        .await
        .into_settlement()
        .defer(60 * SECOND)
        .expect("deferred");
    let other = next(&mut consumer).await;
    assert_eq!(
        (text(&other), start.elapsed()),
        ("1".to_owned(), Duration::ZERO)
    );
    other.ack().expect("acked");
    let later = next(&mut consumer).await;
    assert!(
        start.elapsed() >= 60 * SECOND,
        "{:?} is early",
        start.elapsed()
    );
    assert_eq!((text(&later), later.attempt()), ("0".to_owned(), 2));
    drop(consumer);
    assert_eq!(kind(later.ack()), ErrorKind::Stale);
    let mut other = consume(&broker, 1).await;
    let again = next(&mut other).await;
    assert_eq!((text(&again), again.attempt()), ("0".to_owned(), 3));
    again.ack().expect("acked");
    nothing(&mut other).await;
}

#[tokio::test(start_paused = true)]
async fn a_rejected_record_is_in_the_dead_letter_home_with_its_position() {
    let (broker, queue) = log(2).await;
    let stored = publish(&broker, &queue, "k", 0)
        .await
        .position()
        .expect("a position");
    let mut consumer = consume(&broker, 1).await;
    next(&mut consumer)
        .await
        .into_settlement()
        .reject("no")
        .expect("rejected");
    consumer.close().await.expect("the copy is stored");
    let dead = Subscription::queue("q.dead");
    let mut dead = broker
        .consumer(&dead, ConsumePlan::new())
        .await
        .expect("open");
    let letter = next(&mut dead).await;
    let position = letter.headers().text(headers::DEAD_POSITION);
    assert_eq!(position, Some(&*stored.to_string()));
    let mut again = consume(&broker, 1).await;
    nothing(&mut again).await;
}

#[tokio::test(start_paused = true)]
async fn a_log_forgets_only_what_every_group_has_behind_it() {
    let broker = Memory::builder().log(1).max_messages(2).build();
    let queue = Destination::queue("q");
    broker.declare(&queue).await.expect("declared");
    publish(&broker, &queue, "k", 0).await;
    publish(&broker, &queue, "k", 1).await;
    let message = || Message::new("2").key("k");
    let full = broker.publisher().publish(&queue, message()).await;
    assert_eq!(kind(full), ErrorKind::Rejected);
    let mut consumer = consume(&broker, 2).await;
    next(&mut consumer).await.ack().expect("acked");
    broker
        .publisher()
        .publish(&queue, message())
        .await
        .expect("room for one");
    let full = broker.publisher().publish(&queue, message()).await;
    assert_eq!(kind(full), ErrorKind::Rejected);
    assert_eq!(text(&next(&mut consumer).await), "1");
}

#[tokio::test(start_paused = true)]
async fn subscriptions_start_where_they_were_declared_and_filters_pass_by_offset() {
    let broker = Memory::builder().log(2).build();
    let topic = Destination::topic("t");
    broker.declare(&topic).await.expect("declared");
    publish(&broker, &topic, "k", 0).await;
    let paid = Subscription::durable("t", "paid").filter(Filter::exact("paid"));
    broker.declare(&paid).await.expect("declared");
    publish(&broker, &topic.clone().routing_key("open"), "k", 1).await;
    let live = Subscription::ephemeral("t");
    let mut live = broker
        .consumer(&live, ConsumePlan::new())
        .await
        .expect("open");
    publish(&broker, &topic.clone().routing_key("paid"), "k", 2).await;
    let mut durable = broker
        .consumer(&paid, ConsumePlan::new())
        .await
        .expect("open");
    for consumer in [&mut durable, &mut live] {
        let delivery = next(consumer).await;
        assert_eq!(
            (&*text(&delivery), delivery.routing_key()),
            ("2", Some("paid"))
        );
        delivery.ack().expect("acked");
    }
    let message = Message::new("expired").key("k").expires_in(SECOND);
    let to = topic.routing_key("paid");
    broker
        .publisher()
        .publish(&to, message)
        .await
        .expect("confirmed");
    tokio::time::advance(SECOND).await;
    nothing(&mut durable).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_real_broker_refuses_is_refused() {
    let (broker, queue) = log(1).await;
    let publisher = broker.publisher();
    for name in ["a b", "ä", "s@t"] {
        let declared = broker.declare(&Destination::queue(name)).await;
        assert_eq!(kind(declared), ErrorKind::InvalidName, "{name}");
    }
    assert_eq!(
        kind(broker.declare(&Destination::topic("q")).await),
        ErrorKind::Mismatch
    );
    let topic = Destination::topic("t");
    broker.declare(&topic).await.expect("declared");
    let mandatory = publisher
        .publish(&topic.mandatory(), Message::new(""))
        .await;
    assert_eq!(kind(mandatory), ErrorKind::Unsupported);
    let missing = publisher
        .publish(&Destination::queue("t"), Message::new(""))
        .await;
    assert_eq!(kind(missing), ErrorKind::Unroutable);
    let repeated = Message::new("").key("k").header("a", "1").header("a", "2");
    publisher.publish(&queue, repeated).await.expect("kept");
    let mut consumer = consume(&broker, 1).await;
    assert_eq!(next(&mut consumer).await.headers().all("a").count(), 2);
    assert!(broker.capabilities().has(Capability::RepeatedHeaders));
    let mut plan = ConsumePlan::new();
    plan.single_active_consumer = true;
    let opened = broker.consumer(&Subscription::queue("q"), plan).await;
    assert_eq!(kind(opened), ErrorKind::Unsupported);
}
