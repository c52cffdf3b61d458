//! What becomes of records whose partition leaves their member, whose lock ends, or whose copy fails.
//! No member is there to be told.

use futures::FutureExt;
use mq_core::{Destination, ErrorKind, Message, Position};
use tokio::time::advance;

use super::*;
use crate::{Kafka, KafkaEvents, settle::copier::Moves};

const LIMITS: Limits = Limits {
    deliveries: 5,
    lock: Duration::from_secs(30),
    renews: true,
};

fn locks() -> (Arc<Locks>, KafkaEvents) {
    with_homes(Homes::default())
}

fn with_homes(homes: Homes) -> (Arc<Locks>, KafkaEvents) {
    let config = Kafka::builder("localhost:9092");
    let events = Events::new();
    let told = events.watch();
    let locks = Locks::new(
        Subscription::queue("orders"),
        Window::new(10),
        homes,
        LIMITS,
        config.watch(),
        events,
    );
    (locks, told)
}

fn with_dead_letters() -> (Arc<Locks>, KafkaEvents) {
    with_homes(Homes {
        dead: Some(Destination::queue("orders.dead")),
        ..Homes::default()
    })
}

fn record(partition: u32, offset: u64) -> (Received, u32) {
    let received = Received::new(Message::new("x").build(), "orders".into(), None);
    (received.with_position(Position { partition, offset }), 1)
}

/// The same on a later delivery.
fn delivered(offset: u64, deliveries: u32) -> (Received, u32) {
    let (received, _) = record(0, offset);
    (received.with_attempt(deliveries), deliveries)
}

/// The only copy that is on its way.
fn copy(locks: &Locks) -> Move {
    let mut moves = locks.take_moves();
    assert_eq!(moves.len(), 1);
    moves.remove(0)
}

fn refused() -> Error {
    Error::new(
        ErrorKind::Rejected,
        "publish",
        "too few replicas are in sync",
    )
}

#[test]
fn what_leaves_with_its_partition_is_told_and_not_handed_out() {
    let (locks, mut told) = locks();
    locks.assigned(0, vec![0, 1]);
    locks.assigned(1, vec![1]);
    let records = vec![record(0, 0), record(1, 0), record(1, 1)];
    locks.take_in(0, records, Instant::now());
    locks.take_in(1, vec![record(1, 2)], Instant::now());
    let mut out = Vec::new();
    // One of each partition is with its handler when the member loses the second one.
    assert!(matches!(locks.take(&mut out, 2), Taken::Some(2)));
    locks.assigned(0, vec![0]);
    let Some(Some(KafkaEvent::LockLost {
        partition, offsets, ..
    })) = told.next().now_or_never()
    else {
        panic!("it was not told");
    };
    assert_eq!((partition, offsets), (1, vec![0, 1]));
    let gone = out.remove(1).ack().expect_err("it is not ours");
    assert_eq!(gone.kind(), ErrorKind::Stale);
    // The other member has what it had, and nothing else is left.
    assert!(matches!(locks.take(&mut out, 10), Taken::Some(1)));
    assert_eq!(out[1].position().map(|at| at.offset), Some(2));
    assert!(!locks.is_free(0) && !locks.is_free(1));
}

#[tokio::test(start_paused = true)]
async fn what_waits_here_past_its_lock_is_told_and_not_handed_out() {
    let (locks, mut told) = locks();
    locks.assigned(0, vec![0]);
    locks.take_in(0, vec![record(0, 0), record(0, 1)], Instant::now());
    let mut out = Vec::new();
    advance(LIMITS.lock - Duration::from_millis(1)).await;
    assert!(matches!(locks.take(&mut out, 1), Taken::Some(1)));
    advance(Duration::from_millis(1)).await;
    locks.take_in(0, vec![record(0, 2)], Instant::now());
    assert!(matches!(locks.take(&mut out, 10), Taken::Some(1)));
    assert_eq!(out[1].position().map(|at| at.offset), Some(2));
    let Some(Some(KafkaEvent::LockLost { offsets, .. })) = told.next().now_or_never() else {
        panic!("it was not told");
    };
    assert_eq!(offsets, [1]);
    // Given back by its handler, it is not handed out either.
    out.remove(0).into_settlement().release().unwrap();
    assert!(matches!(locks.take(&mut out, 10), Taken::Nothing));
}

#[test]
fn what_waits_here_under_a_lowered_limit_is_copied_and_not_handed_out() {
    let (locks, _) = locks();
    locks.take_in(0, vec![delivered(0, 3), delivered(1, 1)], Instant::now());
    let fewer = Limits {
        deliveries: 4,
        ..LIMITS
    };
    locks.limit(fewer);
    let mut out = Vec::new();
    // The copy first, as with any that is condemned.
    assert!(matches!(locks.take(&mut out, 10), Taken::Nothing));
    let moved = copy(&locks);
    assert!(matches!(moved.what, What::Again { attempts: 2 }));
    locks.copied(&moved);
    assert!(matches!(locks.take(&mut out, 10), Taken::Some(1)));
    assert_eq!(out[0].position().map(|at| at.offset), Some(1));
    // And what comes later goes by the new one.
    locks.take_in(0, vec![delivered(2, 3)], Instant::now());
    assert!(matches!(locks.take(&mut out, 10), Taken::Nothing));
}

#[test]
fn a_last_delivery_goes_to_the_end_of_its_queue_if_its_home_takes_no_copy() {
    let (locks, _) = with_dead_letters();
    locks.take_in(0, vec![delivered(0, 5)], Instant::now());
    let moved = copy(&locks);
    assert!(matches!(moved.what, What::Reject(_)));
    locks.failed(&moved, refused());
    assert!(!locks.has_ended() && locks.had().is_none());
    let moved = copy(&locks);
    assert!(matches!(moved.what, What::Again { attempts: 4 }));
    let mut out = Vec::new();
    locks.take_in(0, vec![record(0, 1)], Instant::now());
    assert!(matches!(locks.take(&mut out, 1), Taken::Nothing));
    // That one too: nothing is given up while it is held, the others go on, and a close tries it once more.
    locks.failed(&moved, refused());
    assert!(!locks.has_ended() && locks.is_copying());
    assert!(matches!(locks.take(&mut out, 1), Taken::Some(1)));
    locks.end(None);
    locks.give_back();
    let moved = copy(&locks);
    assert!(matches!(moved.what, What::Again { attempts: 4 }));
    locks.copied(&moved);
    assert!(locks.had().is_some() && !locks.is_copying());
}

#[test]
fn a_last_delivery_has_its_second_home_during_a_close_too() {
    let (locks, _) = with_dead_letters();
    locks.take_in(0, vec![delivered(0, 5)], Instant::now());
    let moved = copy(&locks);
    locks.end(None);
    locks.give_back();
    locks.failed(&moved, refused());
    let moved = copy(&locks);
    assert!(matches!(moved.what, What::Again { attempts: 4 }));
    locks.failed(&moved, refused());
    assert!(!locks.is_copying(), "the close goes on");
}

#[test]
fn a_last_delivery_that_comes_during_a_close_goes_to_the_end_of_its_queue_at_once() {
    let (locks, _) = with_dead_letters();
    locks.end(None);
    locks.take_in(0, vec![delivered(0, 5)], Instant::now());
    assert!(matches!(copy(&locks).what, What::Again { attempts: 4 }));
    // One that has a delivery left has its home, as ever.
    locks.take_in(0, vec![delivered(1, 4)], Instant::now());
    assert!(matches!(copy(&locks).what, What::Reject(_)));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_shorter_now_is_not_taken_for_the_longer_one() {
    let (locks, _) = locks();
    locks.assigned(0, vec![0]);
    locks.take_in(0, vec![record(0, 0)], Instant::now());
    let shorter = LIMITS.lock / 2;
    locks.limit(Limits {
        lock: shorter,
        ..LIMITS
    });
    advance(shorter).await;
    let mut out = Vec::new();
    assert!(matches!(locks.take(&mut out, 1), Taken::Nothing));
}
