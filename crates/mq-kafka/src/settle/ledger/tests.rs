//! How much is handed out without a commit.

use mq_core::Message;

use super::*;

fn ledger(records: i64) -> Arc<Ledger> {
    let source = Subscription::queue("orders");
    let home = Some(Destination::queue("orders.dead"));
    let ledger = Ledger::new(source, usize::MAX, home, Flow::default());
    ledger.assign(0, 0, "");
    let record = |offset| Incoming {
        partition: 0,
        offset,
        received: Some(
            Received::new(Message::new("x").into(), "orders".into(), None).with_position(
                Position {
                    partition: 0,
                    offset: offset as u64,
                },
            ),
        ),
    };
    ledger.push((0..records).map(record).collect());
    ledger
}

/// Takes and acknowledges all there is, one by one.
fn work(ledger: &Arc<Ledger>) -> usize {
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
    let rejects = ledger.take_rejects();
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
