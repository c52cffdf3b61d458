//! The join against a model of the client.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const LIMIT: Duration = Duration::from_secs(30);

fn ack(number: u64, of: Option<u64>) -> Completion {
    Completion {
        number,
        acked: true,
        returned: of.map(|of| (of, "NO_ROUTE".into())),
    }
}

fn unroutable() -> Outcome {
    Outcome::Unroutable("NO_ROUTE".into())
}

#[test]
fn a_return_on_a_strangers_confirmation_finds_its_publish() {
    let mut window = Window::new(1, LIMIT);
    for reply in ["a", "b", "c"] {
        window.push(reply, Instant::now());
    }
    let mut told = HashMap::new();
    // The return of 1 hangs on the confirmation of 2.
    window.round([ack(2, Some(1))], |r, o| {
        assert!(told.insert(r, o).is_none())
    });
    assert!(
        told.is_empty(),
        "2 may have a return in store, 1 is not confirmed"
    );
    window.round([ack(1, None)], |r, o| assert!(told.insert(r, o).is_none()));
    assert_eq!(
        told,
        [("a", unroutable()), ("b", Outcome::Confirmed)].into()
    );
    assert!(window.answered(3) && !window.answered(4));
}

#[test]
fn one_that_is_never_confirmed_keeps_nothing_behind_it() {
    let mut window = Window::new(1, LIMIT);
    let now = Instant::now();
    window.push(0, now);
    let mut late = Vec::new();
    window.expire(now + LIMIT, |reply| late.push(reply));
    assert_eq!((late, window.held()), (vec![0], 1));
    for number in 2..1000_u64 {
        assert_eq!(window.push(number, now + LIMIT), number);
        let mut told = Vec::new();
        window.round([ack(number, None)], |reply, outcome| {
            told.push((reply, outcome))
        });
        assert_eq!(told, [(number, Outcome::Confirmed)]);
        assert!(
            window.entries.len() + window.stragglers.len() <= 2,
            "after {number}"
        );
    }
    assert!(window.answered(1000) && !window.is_empty());
    // It is confirmed after all, when nobody waits for it any more.
    assert_eq!(
        window.round([ack(1, None)], |_, _| panic!("it was told")),
        1
    );
    assert!(window.is_empty() && window.stragglers.is_empty());
}

#[test]
fn a_late_answer_keeps_its_place_but_is_told_once() {
    let mut window = Window::new(1, LIMIT);
    let now = Instant::now();
    window.push("a", now);
    let mut told = Vec::new();
    window.expire(now + LIMIT, |r| told.push(r));
    assert!(window.answered(2) && !window.is_empty());
    assert_eq!(window.round([ack(1, None)], |r, _| told.push(r)), 1);
    assert_eq!(told, ["a"]);
    assert!(window.is_empty());
}

proptest! {
    /// The client as it is: returns wait in a queue, and each confirmation that completes takes
    /// the first, whose ever it is; a `multiple` confirmation completes in any order.
    #[test]
    fn every_publish_is_told_its_own_outcome(
        kinds in proptest::collection::vec(0u8..4, 1..120),
        groups in proptest::collection::vec(1usize..9, 120),
        seed in any::<u64>(),
        rounds in proptest::collection::vec(1usize..6, 240),
        depth in 1usize..40,
    ) {
        let mut random = seed;
        let mut pick = move |n: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % n.max(1)
        };
        let mut window = Window::new(1, LIMIT);
        let mut told: HashMap<u64, Outcome> = HashMap::new();
        let (mut sent, mut open, mut store) = (0u64, Vec::new(), VecDeque::new());
        let mut made: VecDeque<Completion> = VecDeque::new();
        let (mut groups, mut rounds) = (groups.into_iter(), rounds.into_iter());
        let mut finished = 0;
        while told.len() < kinds.len() {
            while open.len() + made.len() < depth && (sent as usize) < kinds.len() {
                sent += 1;
                prop_assert_eq!(window.push(sent, Instant::now()), sent);
                open.push(sent);
            }
            // The broker: some returns come early, all of a group's before its confirmation.
            let size = groups.next().unwrap_or(1).min(open.len());
            let group: Vec<u64> = (0..size).map(|_| open.remove(pick(open.len()))).collect();
            for &n in &group {
                if kinds[n as usize - 1] == 0 {
                    store.push_back(n);
                }
            }
            for n in group {
                let of = store.pop_front();
                let acked = kinds[n as usize - 1] != 1;
                made.push_back(Completion { number: n, acked, returned: of.map(|n| (n, "NO_ROUTE".into())) });
            }
            // We: see a prefix of what was completed.
            let seen = if open.is_empty() { made.len() } else { rounds.next().unwrap_or(1).min(made.len()) };
            finished += window.round(made.drain(..seen).collect::<Vec<_>>(), |n, o| {
                assert!(told.insert(n, o).is_none(), "told twice");
            });
        }
        prop_assert_eq!(finished, kinds.len());
        for (i, kind) in kinds.iter().enumerate() {
            let right = match kind { 0 => unroutable(), 1 => Outcome::Rejected, _ => Outcome::Confirmed };
            prop_assert_eq!(&told[&(i as u64 + 1)], &right);
        }
        prop_assert!(window.is_empty() && window.answered(sent + 1));
    }
}
