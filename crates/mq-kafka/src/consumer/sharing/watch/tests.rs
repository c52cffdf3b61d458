//! Looks around, at the client's own fake of a broker.

use krafka::{
    error::ErrorCode,
    testing::{ApiKey, Control, FakeBroker},
};
use mq_core::{Message, Position, Received, Subscription};
use tokio::time::{advance, pause, resume};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    Kafka,
    consumer::assignment::Assigned,
    settle::{Homes, Limits, Locks, Window},
};

/// A member of a share group at the client's own fake of a broker.
async fn member(topic: &str) -> (FakeBroker, Vec<ShareConsumer>) {
    let fake = FakeBroker::start_in_memory(1);
    fake.create_topic("orders", 1);
    let kafka = fake.kafka().connect().await.unwrap();
    let member = kafka.share_consumer("orders").build().await.unwrap();
    member.subscribe([topic]).await.unwrap();
    (fake, vec![member])
}

#[tokio::test(start_paused = true)]
async fn a_group_that_refuses_its_member_is_told_at_once() {
    let (fake, members) = member("orders").await;
    let mut standing = Standing::new(LONG, LONG);
    standing.ask(&members, "orders").await.unwrap();
    for (code, kind) in [
        (ErrorCode::GroupAuthorizationFailed, ErrorKind::Permission),
        (ErrorCode::TopicAuthorizationFailed, ErrorKind::Permission),
        (ErrorCode::GroupIdNotFound, ErrorKind::Broker),
    ] {
        fake.on(ApiKey::ShareGroupHeartbeat, move |_| Control::Error(code));
        let error = standing.ask(&members, "orders").await.expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        fake.clear_hooks();
    }
    standing.ask(&members, "orders").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_group_that_does_not_answer_is_told_once_it_has_lasted() {
    let (fake, members) = member("orders").await;
    let mut standing = Standing::new(LONG, LONG);
    let moving = || Control::Error(ErrorCode::CoordinatorNotAvailable);
    fake.on(ApiKey::ShareGroupHeartbeat, move |_| moving());
    standing.ask(&members, "orders").await.unwrap();
    fake.clear_hooks();
    advance(LONG).await;
    standing.ask(&members, "orders").await.unwrap();
    fake.on(ApiKey::ShareGroupHeartbeat, move |_| moving());
    standing.ask(&members, "orders").await.unwrap();
    advance(LONG).await;
    let error = standing.ask(&members, "orders").await.expect_err("silent");
    assert_eq!(error.kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_gives_no_partition_is_told_once_it_has_lasted() {
    let (_fake, members) = member("another").await;
    let mut standing = Standing::new(LONG, LONG);
    standing.ask(&members, "another").await.unwrap();
    advance(LONG).await;
    let error = standing.ask(&members, "another").await.expect_err("none");
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.to_string().contains("no partition"), "{error}");
}

/// A consumer without members. The fake knows neither settings nor the lag of a group.
async fn sharing(fake: &FakeBroker) -> Sharing {
    let kafka = Kafka::connect(fake.bootstrap_servers()).await.unwrap();
    let inner = kafka.inner();
    let limits = Limits {
        deliveries: 5,
        lock: LONG,
        renews: true,
    };
    Sharing {
        inner: Arc::clone(inner),
        locks: Locks::new(
            Subscription::queue("orders"),
            Window::new(10),
            Homes::default(),
            limits,
            inner.watch.clone(),
            inner.events.clone(),
        ),
        assigned: Arc::new(Assigned::new()),
        topic: "orders".into(),
        topic_id: fake.topic_id("orders").unwrap(),
        stop: CancellationToken::new(),
    }
}

#[tokio::test]
async fn a_leader_that_moves_away_from_the_others_ends_the_consumer() {
    let fake = FakeBroker::start_cluster(2).await.unwrap();
    fake.create_topic("orders", 2);
    for partition in 0..2 {
        fake.set_leader("orders", partition, 0);
    }
    let sharing = sharing(&fake).await;
    let admin = &sharing.inner.admin;
    let mut presence = Presence::new(admin, "orders", sharing.topic_id, LONG);
    let mut standing = Standing::new(LONG, LONG);
    let mut waiting = Waiting::new();
    let mut look = async || {
        let looked = sharing.look(&mut presence, &mut standing, &mut waiting);
        let error = looked.await.expect_err("either way");
        error.context("brokers").map(str::to_owned)
    };
    assert_eq!(look().await, None);
    fake.set_leader("orders", 1, 1);
    assert_eq!(look().await, Some("2".into()));
}

/// The leader of the queue gives records while the coordinator of the group is away.
#[tokio::test]
async fn a_consumer_that_gets_records_goes_on_without_its_coordinator() {
    let fake = FakeBroker::start().await.unwrap();
    fake.create_topic("orders", 1);
    let sharing = sharing(&fake).await;
    let admin = &sharing.inner.admin;
    let mut presence = Presence::new(admin, "orders", sharing.topic_id, LONG);
    let (mut standing, mut waiting) = (Standing::new(LONG, LONG), Waiting::new());
    for (offset, comes) in [(0, true), (1, false), (2, true)] {
        pause();
        advance(LONG).await;
        resume();
        if comes {
            let received = Received::new(Message::new("x").build(), "orders".into(), None);
            let at = Position {
                partition: 0,
                offset,
            };
            let records = vec![(received.with_position(at), 1)];
            sharing.locks.take_in(0, records, Instant::now());
        }
        // What else it looks at the fake does not know.
        let looked = sharing.look(&mut presence, &mut standing, &mut waiting);
        looked.await.expect_err("no settings");
        assert_eq!(standing.had.elapsed() < LONG, comes);
        assert_eq!(waiting.answered.elapsed() < LONG, comes);
    }
}

#[tokio::test]
async fn a_group_that_cannot_be_counted_for_too_long_ends_its_consumer() {
    let fake = FakeBroker::start().await.unwrap();
    fake.create_topic("orders", 1);
    let sharing = sharing(&fake).await;
    let mut waiting = Waiting::new();
    sharing.look_for_more(&mut waiting, 1).await.unwrap();
    // The clock alone: the fake is real, and so is the wait for it.
    pause();
    advance(sharing.inner.config.unreachable_after).await;
    resume();
    let looked = sharing.look_for_more(&mut waiting, 1).await;
    looked.expect_err("it cannot be counted");
}

#[tokio::test(start_paused = true)]
async fn messages_that_do_not_come_are_told_once() {
    let mut waiting = Waiting::new();
    let mut saw = |had, lag| waiting.saw(had, lag, LONG);
    // An empty queue, however long, and then a message that only just came.
    assert_eq!(saw(Some(3), 0), None);
    advance(LONG * 2).await;
    assert_eq!(saw(Some(3), 1), None);
    advance(LONG / 2).await;
    assert_eq!(saw(None, 0), None, "it was given one");
    assert_eq!(saw(Some(4), 2), None);
    advance(LONG / 2).await;
    assert_eq!(saw(Some(5), 2), None, "one came and went");
    advance(LONG).await;
    assert_eq!(saw(Some(5), 2), Some(LONG));
    assert_eq!(saw(Some(5), 2), None, "it was told");
    assert_eq!(saw(Some(6), 2), None);
    advance(LONG).await;
    assert_eq!(saw(Some(6), 2), Some(LONG), "another time");
}

const LONG: Duration = Duration::from_mins(10);
