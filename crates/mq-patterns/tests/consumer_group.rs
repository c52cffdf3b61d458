//! Consumer groups on the in-process broker.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mq_core::{
    Attempt, ErrorKind, Failure, Filter, Json, Result, Subscription, codec::PostcardCodec, headers,
};
use mq_memory::Memory;
use mq_patterns::consumer_group::ConsumerGroup;
use proptest::prelude::*;
use support::{drain, queue, reports, start, take};
use tokio::sync::Notify;

/// Numbers, with one of three keys.
async fn declared(broker: &Memory, group: &str) -> ConsumerGroup<u32, Memory> {
    let group = ConsumerGroup::new(broker, "numbers", group)
        .envelope(|number: &u32, message| message.key(key(*number)));
    group.declare().await.expect("a group");
    group
}

fn key(number: u32) -> String {
    format!("key {}", number % 3)
}

fn ok(outcomes: &[Result<mq_core::Receipt>]) {
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

#[tokio::test]
async fn a_failed_message_holds_up_its_own_key_and_no_other() {
    let broker = Memory::new();
    let group = declared(&broker, "g").await;
    ok(&group.publish_all(&[0, 1, 2, 3, 4, 5, 6]).await);
    let (to, mut handled) = reports();
    let open = Arc::new(Notify::new());
    let opened = Arc::clone(&open);
    let worker = group
        .member(3)
        .run(move |Json(number): Json<u32>, Attempt(attempt)| {
            let (to, opened) = (to.clone(), Arc::clone(&opened));
            async move {
                if number == 0 && attempt == 1 {
                    return Err("not yet");
                }
                if number == 0 {
                    opened.notified().await;
                }
                to.try_send(number).map_err(|_| "the test has ended")
            }
        });
    let worker = start(worker);
    // The other keys go on while the first one is at its second attempt.
    let mut others = take(&mut handled, 4).await;
    others.sort_unstable();
    assert_eq!(others, [1, 2, 4, 5]);
    open.notify_one();
    assert_eq!(take(&mut handled, 3).await, [0, 3, 6]);
    worker.stop().await;
}

#[tokio::test]
async fn a_message_that_never_succeeds_goes_to_the_groups_dead_letters_and_its_key_goes_on() {
    let broker = Memory::new();
    let (group, other) = (
        declared(&broker, "g").await,
        declared(&broker, "other").await,
    );
    ok(&group.publish_all(&[0, 3]).await);
    let (to, mut handled) = reports();
    let worker = start(
        group
            .member(1)
            .max_attempts(2)
            .run(move |Json(number): Json<u32>| {
                let to = to.clone();
                async move {
                    match number {
                        0 => Err(Failure::from("never")),
                        _ => Ok(to.send(number).await?),
                    }
                }
            }),
    );
    assert_eq!(take(&mut handled, 1).await, [3]);
    worker.stop().await;
    let letter = queue(&broker, "numbers.g.dead", 1).await.remove(0);
    let text = |name| letter.headers().text(name);
    assert_eq!(text(headers::DEAD_REASON), Some("exhausted"));
    assert_eq!(text(headers::DEAD_ATTEMPTS), Some("2"));
    // The other group has its own copy of both.
    let from = Subscription::durable("numbers", "other");
    assert_eq!(drain(&broker, &from, 2).await.len(), 2);
    drop(other);
}

#[tokio::test]
async fn the_partitions_of_a_member_that_dies_go_to_the_others() {
    let broker = Memory::builder().log(4).build();
    let group = declared(&broker, "g").await;
    let (to, mut begun) = reports();
    let doomed = start(group.member(4).run(move || {
        let _ = to.try_send(());
        std::future::pending::<()>()
    }));
    let numbers: Vec<u32> = (0..60).collect();
    ok(&group.publish_all(&numbers).await);
    take(&mut begun, 1).await;
    doomed.abort().await;
    let (to, mut handled) = reports();
    let member = |name: &'static str| {
        let to = to.clone();
        start(group.member(4).run(move |Json(number): Json<u32>| {
            let to = to.clone();
            async move { to.send((name, number)).await }
        }))
    };
    let members = [member("a"), member("b")];
    let got = take(&mut handled, 60).await;
    let done: BTreeSet<u32> = got.iter().map(|(_, number)| *number).collect();
    assert_eq!(done, numbers.into_iter().collect());
    let mut owners: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (member, number) in got {
        owners.entry(key(number)).or_default().insert(member);
    }
    assert!(
        owners.values().all(|members| members.len() == 1),
        "{owners:?}"
    );
    for member in members {
        member.stop().await;
    }
}

#[tokio::test]
async fn a_filter_belongs_to_the_group() {
    let broker = Memory::new();
    let even = Filter::AllHeaders(vec![("parity".into(), "even".into())]);
    let parity = |number: &u32| {
        if number.is_multiple_of(2) {
            "even"
        } else {
            "odd"
        }
    };
    let group = ConsumerGroup::new(&broker, "numbers", "even")
        .filter(even.clone())
        .envelope(move |number: &u32, message| message.header("parity", parity(number)))
        .codec::<PostcardCodec>();
    group.declare().await.expect("a group");
    ok(&group.publish_all(&[1, 2, 3, 300]).await);
    let from = Subscription::durable("numbers", "even").filter(even);
    let got = drain(&broker, &from, 2).await;
    let numbers: Vec<u32> = got
        .iter()
        .map(|m| m.decode::<PostcardCodec, _>().expect("postcard"))
        .collect();
    assert_eq!(numbers, [2, 300]);
}

#[tokio::test]
async fn a_group_that_was_not_declared_is_not_found_and_made_by_nobody() {
    let broker = Memory::new();
    let group = ConsumerGroup::<u32, _>::new(&broker, "numbers", "g");
    for _ in 0..2 {
        let error = group
            .member(1)
            .run(|| async {})
            .await
            .expect_err("nothing is there");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    let error = group.publish(&7).await.expect_err("no topic");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    group.declare().await.expect("a group");
    group.declare().await.expect("the same again");
    group.publish(&7).await.expect("stored");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn one_members_keys_are_in_order_whatever_fails_and_however_many_run(
        fails in prop::collection::vec(0_u32..4, 1..80),
        concurrency in 1_usize..9,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let broker = Memory::new();
            let group = declared(&broker, "g").await;
            let numbers: Vec<u32> = (0..u32::try_from(fails.len()).unwrap()).collect();
            ok(&group.publish_all(&numbers).await);
            let (to, mut handled) = reports();
            let all = numbers.len();
            let worker = group.member(concurrency).run(move |Json(number): Json<u32>, Attempt(attempt)| {
                let (to, fails) = (to.clone(), fails[number as usize]);
                async move {
                    tokio::task::yield_now().await;
                    if attempt <= fails {
                        return Err("not yet");
                    }
                    to.try_send(number).map_err(|_| "the test has ended")
                }
            });
            let worker = start(worker);
            let mut by_key: BTreeMap<String, Vec<u32>> = BTreeMap::new();
            for number in take(&mut handled, all).await {
                by_key.entry(key(number)).or_default().push(number);
            }
            worker.stop().await;
            prop_assert!(by_key.values().all(|numbers| numbers.is_sorted()), "{by_key:?}");
            Ok(())
        })?;
    }
}
