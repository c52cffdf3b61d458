//! The ledger against a model of the broker.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn ledger(open: u64) -> Ledger {
    let mut ledger = Ledger::new();
    (1..=open).for_each(|tag| ledger.open(tag));
    ledger
}

#[test]
fn acks_are_sent_together_but_never_across_a_requeue() {
    let mut ledger = ledger(6);
    for tag in [1, 2, 4, 5, 6] {
        assert!(ledger.mark(tag, Mark::Ack));
    }
    assert!(ledger.mark(3, Mark::Requeue));
    let frames = ledger.take(false, &mut Vec::new());
    assert_eq!(
        frames,
        [Frame::AckUpTo(2), Frame::Requeue(3), Frame::AckUpTo(6)]
    );
    assert!(!ledger.is_dirty());
}

#[test]
fn a_slow_delivery_does_not_hold_up_the_acks_behind_it() {
    let mut ledger = ledger(4);
    for tag in [1, 3, 4] {
        ledger.mark(tag, Mark::Ack);
    }
    assert_eq!(ledger.take(false, &mut Vec::new()), [Frame::AckUpTo(1)]);
    assert_eq!(
        ledger.take(true, &mut Vec::new()),
        [Frame::Ack(3), Frame::Ack(4)]
    );
    ledger.mark(2, Mark::Ack);
    // 3 and 4 are settled; the multiple one covers just what is left.
    assert_eq!(ledger.take(true, &mut Vec::new()), [Frame::AckUpTo(2)]);
}

#[test]
fn what_was_sent_behind_a_slow_delivery_is_not_looked_at_again() {
    let mut ledger = ledger(1);
    let start = std::time::Instant::now();
    for tag in 2..60_000 {
        ledger.open(tag);
        ledger.mark(tag, Mark::Ack);
        assert_eq!(ledger.take(true, &mut Vec::new()), [Frame::Ack(tag)]);
    }
    let took = start.elapsed();
    assert!(took < std::time::Duration::from_secs(3), "{took:?}");
}

#[test]
fn settles_a_delivery_once() {
    let mut ledger = ledger(1);
    assert!(ledger.mark(1, Mark::Ack) && !ledger.mark(1, Mark::Requeue));
    ledger.take(true, &mut Vec::new());
    assert!(!ledger.mark(1, Mark::Ack) && !ledger.mark(2, Mark::Ack));
}

proptest! {
    /// A broker that follows section 1.8.3.13: `multiple` takes all that is outstanding up to
    /// the tag, and a tag that is not outstanding ends the channel.
    #[test]
    fn the_broker_hears_every_verdict_once_and_as_given(
        verdicts in proptest::collection::vec(0u8..3, 1..80),
        order in proptest::collection::vec(any::<u16>(), 80),
        all in proptest::collection::vec(any::<bool>(), 80),
    ) {
        let count = verdicts.len() as u64;
        let mut ledger = ledger(count);
        let mut outstanding: BTreeMap<u64, u8> = (1..).zip(verdicts.iter().copied()).collect();
        let mut heard: BTreeMap<u64, u8> = BTreeMap::new();
        let mut left: Vec<u64> = (1..=count).collect();
        let mut step = 0;
        while !left.is_empty() {
            let tag = left.remove(order[step] as usize % left.len());
            let mark = match verdicts[tag as usize - 1] { 0 => Mark::Ack, 1 => Mark::Requeue, _ => Mark::Release };
            prop_assert!(ledger.mark(tag, mark));
            let now = all[step] || left.is_empty();
            step += 1;
            for frame in ledger.take(now, &mut Vec::new()) {
                let (tag, verdict) = match frame {
                    Frame::AckUpTo(tag) | Frame::Ack(tag) => (tag, 0),
                    Frame::Requeue(tag) => (tag, 1),
                    Frame::Release(tag) => (tag, 2),
                };
                prop_assert!(outstanding.contains_key(&tag), "the channel would end");
                let from = if matches!(frame, Frame::AckUpTo(_)) { 1 } else { tag };
                let taken: Vec<u64> = outstanding.range(from..=tag).map(|(t, _)| *t).collect();
                for taken in taken {
                    outstanding.remove(&taken);
                    prop_assert!(heard.insert(taken, verdict).is_none());
                }
            }
        }
        prop_assert!(outstanding.is_empty());
        for (tag, verdict) in heard {
            prop_assert_eq!(verdict, verdicts[tag as usize - 1]);
        }
    }
}
