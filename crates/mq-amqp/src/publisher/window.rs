//! Which publish got which answer: the join of confirmations and returns.
//!
//! RabbitMQ sends the return of an unroutable message before its confirmation, but the client
//! hangs each return on whichever confirmation it completes next. So a plain `Ack` proves nothing
//! by itself, and a return says nothing about the publish it hangs on.
//!
//! What holds is this: a confirmation that carries *no* return was completed while the client had
//! no return in store. Every return that came before it hangs on an earlier completion. So once
//! all completions up to that one are seen, the returns among them, told apart by the number that
//! each publish carries in a header, are all there are for the publishes confirmed so far. The
//! same holds when nothing is outstanding. A publish whose confirmation carried somebody else's
//! return waits for one of these two; all others are answered at once, and the window never has to
//! be closed for it.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// The publishes that are on their way, by number, from the oldest.
#[derive(Debug)]
pub(crate) struct Window<R> {
    /// The number of the first entry.
    first: u64,
    entries: VecDeque<Entry<R>>,
    /// Publishes whose confirmation has not come.
    outstanding: usize,
    /// Numbers whose confirmation carried a stranger's return while their own may be in store.
    doubtful: Vec<u64>,
    /// All publishes below this number have been answered.
    answered: u64,
    limit: Duration,
}

#[derive(Debug)]
struct Entry<R> {
    /// Who waits for the outcome; taken when it is told.
    reply: Option<R>,
    deadline: Instant,
    returned: Option<String>,
    done: bool,
}

/// What the client said about one publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Completion {
    /// The publish.
    pub(crate) number: u64,
    /// Acked, as opposed to nacked.
    pub(crate) acked: bool,
    /// The return that hangs on it, whose ever it is: its number and the broker's text.
    pub(crate) returned: Option<(u64, String)>,
}

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Confirmed,
    Rejected,
    Unroutable(String),
}

impl<R> Window<R> {
    /// An empty window whose first publish has this number.
    pub(crate) fn new(first: u64, limit: Duration) -> Self {
        Self {
            first,
            entries: VecDeque::new(),
            outstanding: 0,
            doubtful: Vec::new(),
            answered: first,
            limit,
        }
    }

    /// Takes in a publish and gives it its number.
    pub(crate) fn push(&mut self, reply: R, enqueued: Instant) -> u64 {
        let number = self.next();
        let deadline = enqueued + self.limit;
        self.entries.push_back(Entry { reply: Some(reply), deadline, returned: None, done: false });
        self.outstanding += 1;
        number
    }

    /// The number that the next publish gets.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// True if every publish below this number has been answered.
    pub(crate) fn answered(&self, below: u64) -> bool {
        self.answered >= below
    }

    /// True if neither a confirmation nor a verdict is missing.
    pub(crate) fn is_empty(&self) -> bool {
        self.held() == 0
    }

    /// How many publishes are in the window.
    pub(crate) fn held(&self) -> usize {
        self.outstanding + self.doubtful.len()
    }

    /// Judges a round of completions. The round must be complete: it holds every completion that
    /// the client made before the last one in it.
    ///
    /// Returns how many publishes left the window.
    pub(crate) fn round(
        &mut self,
        completions: impl IntoIterator<Item = Completion>,
        mut tell: impl FnMut(R, Outcome),
    ) -> usize {
        let before = self.held();
        let mut quiet = Vec::new();
        let mut carriers = Vec::new();
        for completion in completions {
            self.outstanding -= 1;
            match completion {
                Completion { number, acked, returned: Some((of, text)) } => {
                    if let Some(entry) = self.entry(of) {
                        entry.returned = Some(text);
                    } else {
                        tracing::error!(of, "a returned message has no publish");
                    }
                    carriers.push((number, acked));
                }
                Completion { number, acked, returned: None } => quiet.push((number, acked)),
            }
        }
        // Whoever was in doubt before this round was confirmed before any completion of it.
        let closed = self.outstanding == 0;
        let proved = closed || !quiet.is_empty();
        let doubtful = std::mem::take(&mut self.doubtful);
        for number in doubtful {
            self.judge_ack(number, proved, &mut tell);
        }
        for (number, acked) in quiet {
            self.judge(number, acked, true, &mut tell);
        }
        for (number, acked) in carriers {
            self.judge(number, acked, closed, &mut tell);
        }
        self.compact();
        before - self.held()
    }

    /// Answers what is past its deadline. It stays in the window: its confirmation may still come.
    pub(crate) fn expire(&mut self, now: Instant, mut late: impl FnMut(R)) {
        for entry in &mut self.entries {
            if entry.deadline > now {
                break;
            }
            if let Some(reply) = entry.reply.take() {
                late(reply);
            }
        }
        self.compact();
    }

    /// When the oldest unanswered publish is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let entry = self.entries.get(usize::try_from(self.answered - self.first).ok()?)?;
        Some(entry.deadline)
    }

    /// Empties the window, for a channel that is gone; yields whoever still waits.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = R> {
        let next = self.next();
        let entries = std::mem::take(&mut self.entries);
        (self.first, self.answered, self.outstanding) = (next, next, 0);
        self.doubtful.clear();
        entries.into_iter().filter_map(|entry| entry.reply)
    }

    fn judge(&mut self, number: u64, acked: bool, proved: bool, tell: &mut impl FnMut(R, Outcome)) {
        if acked {
            return self.judge_ack(number, proved, tell);
        }
        self.finish(number, Outcome::Rejected, tell);
    }

    fn judge_ack(&mut self, number: u64, proved: bool, tell: &mut impl FnMut(R, Outcome)) {
        let returned = self.entry(number).and_then(|entry| entry.returned.take());
        match returned {
            Some(text) => self.finish(number, Outcome::Unroutable(text), tell),
            None if proved => self.finish(number, Outcome::Confirmed, tell),
            None => self.doubtful.push(number),
        }
    }

    fn finish(&mut self, number: u64, outcome: Outcome, tell: &mut impl FnMut(R, Outcome)) {
        let Some(entry) = self.entry(number) else { return };
        entry.done = true;
        if let Some(reply) = entry.reply.take() {
            tell(reply, outcome);
        }
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry<R>> {
        self.entries.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn compact(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.done) {
            self.entries.pop_front();
            self.first += 1;
        }
        self.answered = self.answered.max(self.first);
        let unanswered = |entry: &&Entry<R>| entry.reply.is_none();
        let from = usize::try_from(self.answered - self.first).unwrap_or(usize::MAX);
        self.answered += self.entries.iter().skip(from).take_while(unanswered).count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn ack(number: u64, of: Option<u64>) -> Completion {
        Completion { number, acked: true, returned: of.map(|of| (of, "NO_ROUTE".into())) }
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
        window.round([ack(2, Some(1))], |r, o| assert!(told.insert(r, o).is_none()));
        assert!(told.is_empty(), "2 may have a return in store, 1 is not confirmed");
        window.round([ack(1, None)], |r, o| assert!(told.insert(r, o).is_none()));
        assert_eq!(told, [("a", unroutable()), ("b", Outcome::Confirmed)].into());
        assert!(window.answered(3) && !window.answered(4));
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
                let group: Vec<u64> = (0..groups.next().unwrap_or(1))
                    .filter_map(|_| (!open.is_empty()).then(|| open.remove(pick(open.len()))))
                    .collect();
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
}
