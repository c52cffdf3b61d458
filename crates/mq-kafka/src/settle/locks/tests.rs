//! What becomes of records whose partition leaves their member. No member is there to be told.

use futures::FutureExt;
use mq_core::{ErrorKind, Message, Position};

use super::*;
use crate::{Kafka, KafkaEvents};

const LIMITS: Limits = Limits {
    deliveries: 5,
    lock: Duration::from_secs(30),
    renews: true,
};

fn locks() -> (Arc<Locks>, KafkaEvents) {
    let config = Kafka::builder("localhost:9092");
    let events = Events::new();
    let told = events.watch();
    let locks = Locks::new(
        Subscription::queue("orders"),
        Window::new(10),
        Homes::default(),
        LIMITS,
        config.watch(),
        events,
    );
    (locks, told)
}

fn record(partition: u32, offset: u64) -> (Received, u32) {
    let received = Received::new(Message::new("x").build(), "orders".into(), None);
    (received.with_position(Position { partition, offset }), 1)
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
