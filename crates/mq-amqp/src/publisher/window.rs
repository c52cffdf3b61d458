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

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

/// The publishes that are on their way, by number, from the oldest.
#[derive(Debug)]
pub(crate) struct Window<R> {
    /// The number of the first entry. All publishes below it have been answered, and it waits for its answer.
    first: u64,
    entries: VecDeque<Entry<R>>,
    /// Before the first entry: told to be late, and never confirmed so far. No more than the window has room for.
    stragglers: HashMap<u64, Entry<R>>,
    /// Publishes whose confirmation has not come.
    outstanding: usize,
    /// Numbers whose confirmation carried a stranger's return while their own may be in store.
    doubtful: Vec<u64>,
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
            stragglers: HashMap::new(),
            outstanding: 0,
            doubtful: Vec::new(),
            limit,
        }
    }

    /// Takes in a publish and gives it its number.
    pub(crate) fn push(&mut self, reply: R, enqueued: Instant) -> u64 {
        let number = self.next();
        let deadline = enqueued + self.limit;
        self.entries.push_back(Entry {
            reply: Some(reply),
            deadline,
            returned: None,
            done: false,
        });
        self.outstanding += 1;
        number
    }

    /// The number that the next publish gets.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// True if every publish below this number has been answered.
    pub(crate) fn answered(&self, below: u64) -> bool {
        self.first >= below
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
                Completion {
                    number,
                    acked,
                    returned: Some((of, text)),
                } => {
                    if let Some(entry) = self.entry(of) {
                        entry.returned = Some(text);
                    } else {
                        tracing::error!(of, "a returned message has no publish");
                    }
                    carriers.push((number, acked));
                }
                Completion {
                    number,
                    acked,
                    returned: None,
                } => quiet.push((number, acked)),
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
        self.entries.front().map(|entry| entry.deadline)
    }

    /// Empties the window, for a channel that is gone; yields whoever still waits.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = R> {
        let next = self.next();
        let entries = std::mem::take(&mut self.entries);
        (self.first, self.outstanding) = (next, 0);
        self.doubtful.clear();
        // Nobody waits for these.
        self.stragglers.clear();
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
        let Some(entry) = self.entry(number) else {
            return;
        };
        entry.done = true;
        if let Some(reply) = entry.reply.take() {
            tell(reply, outcome);
        }
        self.stragglers.remove(&number);
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry<R>> {
        match number.checked_sub(self.first) {
            Some(at) => self.entries.get_mut(usize::try_from(at).ok()?),
            None => self.stragglers.get_mut(&number),
        }
    }

    /// Lets go of the entries before the first one that somebody waits for. One without a confirmation does not keep those behind it.
    fn compact(&mut self) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.reply.is_none())
            && let Some(entry) = self.entries.pop_front()
        {
            if !entry.done {
                self.stragglers.insert(self.first, entry);
            }
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests;
