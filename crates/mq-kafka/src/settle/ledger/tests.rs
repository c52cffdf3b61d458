//! How much is handed out without a commit.

use mq_core::{Destination, Message};

use super::{super::staging::Room, *};

pub(in crate::settle) fn ledger(records: i64) -> Arc<Ledger> {
    let ledger = one_of(&Window::new(usize::MAX));
    ledger.push((0..records).map(record).collect());
    ledger
}

/// One of the ledgers of a consumer.
fn one_of(window: &Arc<Window>) -> Arc<Ledger> {
    let source = Subscription::queue("orders");
    let homes = Homes {
        dead: Some(Destination::queue("orders.dead")),
        ..Homes::default()
    };
    let logs = (source.clone(), source);
    let watch = Watch::default();
    let window = Arc::clone(window);
    let ledger = Ledger::new(logs, window, 5_000, Deferred::Aside, homes, watch);
    ledger.assign(0, 0, "");
    ledger
}

fn record(offset: i64) -> Incoming {
    record_of(0, offset, "x".into())
}

fn record_of(partition: i32, offset: i64, payload: Vec<u8>) -> Incoming {
    let place = Position {
        partition: partition as u32,
        offset: offset as u64,
    };
    let received = Received::new(Message::new(payload).into(), "orders".into(), None);
    Incoming {
        partition,
        offset,
        received: Some(received.with_position(place)),
        wait: None,
        time: 0,
    }
}

/// One of so many records, all of them acknowledged and none committed.
pub(in crate::settle) fn acknowledged(records: i64) -> Arc<Ledger> {
    let ledger = ledger(records);
    work(&ledger);
    ledger
}

/// Takes and acknowledges all there is, one by one.
pub(in crate::settle) fn work(ledger: &Arc<Ledger>) -> usize {
    let mut taken = Vec::new();
    let mut worked = 0;
    while let Taken::Some(_) = ledger.take(&mut taken, 1) {
        worked += 1;
        taken.remove(0).ack().unwrap();
    }
    worked
}

#[test]
fn so_many_are_handed_out_without_a_commit_and_no_more() {
    let ledger = ledger(25_000);
    assert_eq!(work(&ledger), 10_000);
    let under_way = ledger.snapshot(None);
    assert_eq!(work(&ledger), 0, "a commit under way is not one");
    ledger.committed(under_way);
    assert_eq!(work(&ledger), 10_000);
    // One of a partition that is given up says nothing of the others.
    let one = ledger.snapshot(Some(&[0]));
    ledger.committed(one);
    assert_eq!(work(&ledger), 0);
    ledger.committed(ledger.snapshot(None));
    assert_eq!(work(&ledger), 5_000);
}

#[test]
fn a_rejected_record_counts_when_it_is_copied() {
    let ledger = ledger(10_001);
    let mut taken = Vec::new();
    ledger.take(&mut taken, 10_000);
    for delivery in taken {
        delivery.into_settlement().reject("poison").unwrap();
    }
    let rejects = ledger.take_moves();
    assert_eq!(rejects.len(), 10_000);
    for reject in &rejects {
        ledger.copied(reject);
    }
    assert_eq!(work(&ledger), 0);
    ledger.committed(ledger.snapshot(None));
    assert_eq!(work(&ledger), 1);
}

#[test]
fn nothing_is_handed_out_after_a_commit_that_was_not_taken() {
    let ledger = ledger(10);
    let mut taken = Vec::new();
    ledger.take(&mut taken, 4);
    taken.remove(0).ack().unwrap();
    drop(ledger.snapshot(None));
    ledger.refused();
    assert_eq!(work(&ledger), 0);
    taken.remove(0).ack().unwrap();
    ledger.committed(ledger.snapshot(None));
    assert_eq!(work(&ledger), 6);
}

fn waiting(offset: i64, wait: Wait) -> Incoming {
    let record = record(offset);
    Incoming {
        received: record.received.map(|received| received.with_attempt(3)),
        wait: Some(wait),
        ..record
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_time_is_not_stalled() {
    let ledger = ledger(0);
    let wait = Wait {
        until: Instant::now() + Duration::from_secs(600),
        goes_on: None,
    };
    ledger.push(vec![waiting(0, wait)]);
    let after = Duration::from_secs(300);
    tokio::time::advance(Duration::from_secs(899)).await;
    assert_eq!(ledger.newly_stalled(after), []);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(ledger.newly_stalled(after).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_handed_out_when_it_is_due_and_not_before() {
    let ledger = ledger(0);
    let now = Instant::now();
    let wait = |seconds| Wait {
        until: now + Duration::from_secs(seconds),
        goes_on: None,
    };
    // The later one is first in the log.
    ledger.push(vec![waiting(0, wait(9)), waiting(1, wait(5))]);
    assert_eq!(work(&ledger), 0);
    assert_eq!(ledger.next_due(), Some(now + Duration::from_secs(5)));
    tokio::time::advance(Duration::from_millis(4999)).await;
    assert_eq!(work(&ledger), 0);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(work(&ledger), 1);
    assert_eq!(ledger.ends(), [(0, 2)]);
    let place = |ledger: &Ledger| ledger.snapshot(None).places.remove(0).offset;
    assert_eq!(place(&ledger), 0, "the watermark waits for the first");
    tokio::time::advance(Duration::from_secs(4)).await;
    assert_eq!(work(&ledger), 1);
    assert_eq!(place(&ledger), 2);
    assert_eq!(ledger.next_due(), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_later_goes_on_with_the_attempts_it_had() {
    let ledger = ledger(0);
    let wait = Wait {
        until: Instant::now() + Duration::from_secs(1),
        goes_on: Some(77),
    };
    ledger.push(vec![waiting(0, wait)]);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(work(&ledger), 0);
    assert!(ledger.is_copying());
    let moves = ledger.take_moves();
    assert!(
        matches!(
            moves[0].what,
            What::GoOn {
                due: 77,
                attempts: 2
            }
        ),
        "{moves:?}"
    );
    ledger.copied(&moves[0]);
    assert_eq!(ledger.snapshot(None).places[0].offset, 1);
    assert!(ledger.window.room() == usize::MAX, "nothing is handed out");
}

#[tokio::test(start_paused = true)]
async fn a_partition_where_much_waits_takes_no_more_until_it_is_due() {
    let ledger = ledger(0);
    let wait = Wait {
        until: Instant::now() + Duration::from_secs(1),
        goes_on: None,
    };
    ledger.push((0..999).map(|offset| waiting(offset, wait)).collect());
    assert!(ledger.clogged().is_empty());
    ledger.push(vec![waiting(999, wait)]);
    assert_eq!(ledger.clogged(), [0]);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(work(&ledger), 1000);
    assert!(ledger.clogged().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_given_up_partition_forgets_what_waits() {
    let ledger = ledger(0);
    let wait = Wait {
        until: Instant::now() + Duration::from_secs(1),
        goes_on: None,
    };
    ledger.push(vec![waiting(0, wait)]);
    ledger.drain(&[0]);
    assert_eq!(ledger.next_due(), None);
    ledger.remove(&[0], FlowKind::Revoked);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(work(&ledger), 0);
}

/// One whose verdicts wait for transactions, each of its records on its way to an attempt.
fn in_transactions() -> Arc<Ledger> {
    let ledger = ledger(0);
    assert!(ledger.begin_transactions(&Arc::default()));
    ledger
}

/// The room of a transaction that has nothing yet.
fn all() -> Room {
    Room::new(usize::MAX, 0)
}

#[test]
fn each_partition_has_its_turn_in_small_transactions() {
    let ledger = in_transactions();
    (1..4).for_each(|partition| ledger.assign(partition, 0, ""));
    let of = |partition| (0..10).map(move |offset| record_of(partition, offset, vec![]));
    ledger.push((0..4).flat_map(of).collect());
    work(&ledger);
    let turns = (0..8).map(|_| {
        let slices = ledger.take_staged(Room::new(1, 0));
        assert_eq!(slices.len(), 1);
        (slices[0].partition, slices[0].next)
    });
    let turns: Vec<_> = turns.collect();
    let first = [0, 1, 2, 3].map(|partition| (partition, 1));
    let second = [0, 1, 2, 3].map(|partition| (partition, 2));
    assert_eq!(turns, [first, second].concat());
}

#[test]
fn a_transaction_takes_no_more_bytes_than_may_wait_for_it() {
    let ledger = in_transactions();
    let large = |offset| record_of(0, offset, vec![0; 1024 * 1024]);
    ledger.push((0..40).map(large).collect());
    let mut taken = Vec::new();
    ledger.take(&mut taken, 40);
    for delivery in taken {
        delivery.into_settlement().reject("poison").unwrap();
    }
    let slices = ledger.take_staged(all());
    assert_eq!((slices[0].next, slices[0].staged.len()), (32, 32));
    let full = Room::new(usize::MAX, slices[0].bytes());
    assert!(full.is_none());
    assert!(ledger.take_staged(full).is_empty());
    // One that is larger than what is left is taken.
    let next = ledger.take_staged(Room::new(usize::MAX, slices[0].bytes() - 1024 * 1024));
    assert_eq!((next[0].next, next[0].staged.len()), (33, 1));
    assert_eq!(ledger.take_staged(all())[0].next, 40);
}

#[test]
fn a_flush_is_asked_for_until_transactions_have_what_was_settled_before_it() {
    let ledger = in_transactions();
    ledger.push((0..3).map(record).collect());
    let mut taken = Vec::new();
    ledger.take(&mut taken, 3);
    taken.remove(0).ack().unwrap();
    let first = ledger.take_staged(all());
    // While the outputs of that one are sent.
    taken.remove(0).ack().unwrap();
    ledger.request_flush();
    assert!(ledger.take_flush());
    ledger.transacted(&[Moved::from(&first[0])]);
    assert!(ledger.take_flush(), "it did not have the second record");
    assert_eq!(ledger.take_staged(all())[0].next, 2);
    // What is settled later has time.
    taken.remove(0).ack().unwrap();
    assert!(ledger.take_flush());
    assert!(!ledger.take_flush());
}

#[test]
fn an_abort_forgets_no_failed_attempt_of_what_was_done() {
    let ledger = in_transactions();
    ledger.push((0..2).map(record).collect());
    let deliver = |ledger: &Arc<Ledger>| {
        let mut taken = Vec::new();
        ledger.take(&mut taken, 2);
        taken
    };
    for delivery in deliver(&ledger) {
        delivery.into_settlement().requeue().unwrap();
    }
    for delivery in deliver(&ledger) {
        assert_eq!(delivery.received().attempt(), 2);
        delivery.into_settlement().reject("poison").unwrap();
    }
    let taken = ledger.take_staged(Room::new(1, 0));
    ledger.transacted(&[Moved::from(&taken[0])]);
    ledger.take_staged(all());
    ledger.rewind(None);
    let failures = ledger.lock().unplaced[&0].clone().unwrap();
    assert_eq!(failures.get(0), None, "it is committed");
    ledger.assign(0, 1, "");
    ledger.push(vec![record(1)]);
    assert_eq!(deliver(&ledger)[0].received().attempt(), 2);
}

#[test]
fn a_partition_is_before_a_place_until_that_is_committed_or_it_is_gone() {
    let ledger = in_transactions();
    ledger.push((0..2).map(record).collect());
    work(&ledger);
    let taken = ledger.take_staged(all());
    assert!(ledger.is_before(0, 2), "it is taken, and not committed");
    ledger.rewind(None);
    assert!(ledger.is_before(0, 2), "it comes again");
    ledger.assign(0, 0, "");
    ledger.push((0..2).map(record).collect());
    work(&ledger);
    let again = ledger.take_staged(all());
    ledger.transacted(&[Moved::from(&taken[0])]);
    assert!(ledger.is_before(0, 2), "that was another assignment");
    ledger.transacted(&[Moved::from(&again[0])]);
    assert!(!ledger.is_before(0, 2));
    assert!(ledger.is_before(0, 3));
    ledger.remove(&[0], FlowKind::Revoked);
    assert!(!ledger.is_before(0, 3));
}

#[tokio::test(start_paused = true)]
async fn what_waits_and_holds_up_a_full_transaction_comes_when_it_is_due() {
    let ledger = in_transactions();
    let until = Instant::now() + Duration::from_secs(1);
    let wait = Wait {
        until,
        goes_on: None,
    };
    ledger.push(vec![waiting(0, wait), waiting(1, wait)]);
    ledger.push((2..12_000).map(record).collect());
    assert_eq!(
        work(&ledger),
        10_000,
        "what waits for a transaction is bounded"
    );
    assert_eq!(ledger.next_due(), Some(until));
    assert!(ledger.take_staged(all()).is_empty());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(work(&ledger), 1, "the lowest, and nothing behind it");
    assert_eq!(
        ledger.next_due(),
        None,
        "what is held up is no reason to wake"
    );
    let slices = ledger.take_staged(all());
    assert_eq!((slices[0].next, slices[0].staged.len()), (1, 1));
    assert_eq!(work(&ledger), 1);
    let slices = ledger.take_staged(all());
    assert_eq!((slices[0].next, slices[0].staged.len()), (10_002, 10_001));
    assert_eq!(work(&ledger), 1_998);
}

#[tokio::test(start_paused = true)]
async fn what_was_overtaken_and_holds_up_a_full_transaction_comes() {
    let ledger = in_transactions();
    let wait = Wait {
        until: Instant::now() + Duration::from_secs(1),
        goes_on: None,
    };
    ledger.push(vec![record(0)]);
    ledger.push((1..=10_000).map(|offset| waiting(offset, wait)).collect());
    tokio::time::advance(Duration::from_secs(1)).await;
    // What was let go is handed out before what is buffered.
    assert_eq!(work(&ledger), 10_001);
    assert_eq!(ledger.take_staged(all())[0].next, 10_001);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_later_goes_on_in_a_transaction() {
    let ledger = in_transactions();
    let wait = Wait {
        until: Instant::now() + Duration::from_secs(1),
        goes_on: Some(77),
    };
    ledger.push(vec![waiting(0, wait)]);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(work(&ledger), 0);
    assert!(
        !ledger.is_copying(),
        "that copy would be beside the transaction"
    );
    let slice = ledger.take_staged(all()).remove(0);
    let going_on = slice.staged[0].moved.as_ref().map(|moved| &moved.what);
    let expected = matches!(
        going_on,
        Some(What::GoOn {
            due: 77,
            attempts: 2
        })
    );
    assert!(expected, "{going_on:?}");
    assert_eq!(slice.next, 1);
}

#[test]
fn a_tag_names_one_delivery_of_all_topics_of_a_consumer() {
    let window = Window::new(usize::MAX);
    let tags = [one_of(&window), one_of(&window)].map(|ledger| {
        ledger.push(vec![record(0)]);
        let mut taken = Vec::new();
        ledger.take(&mut taken, 1);
        taken.remove(0).into_settlement().tag()
    });
    assert_ne!(tags[0], tags[1]);
}

#[test]
fn what_is_deferred_in_place_and_due_by_now_comes_again() {
    let ledger = ledger(1);
    let mut taken = Vec::new();
    assert!(matches!(ledger.take(&mut taken, 1), Taken::Some(1)));
    let (received, settlement) = taken.remove(0).into_parts();
    let tag = Tag::unpack(0, settlement.tag());
    drop(settlement);
    assert!(matches!(ledger.take(&mut taken, 1), Taken::Some(1)));
    // A clock that went on between two looks at it.
    assert_eq!(ledger.lock().hold(tag, 1, received), None);
    assert!(matches!(ledger.take(&mut taken, 1), Taken::Some(1)));
}
