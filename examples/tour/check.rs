//! The ledger: what was sent, what arrived, and whether the two agree.

use std::{
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use mq_core::{MessageId, Reason, Received};
use tokio::sync::watch;

use crate::{input::Record, tour::TOKEN};

/// Both ends write into it; the check compares them. A clone shares it.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    token: Arc<str>,
    state: Arc<Mutex<State>>,
    /// How many records have come to their end.
    finished: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// The checksum of each record sent; the first is record 1.
    sent: Vec<u64>,
    /// The checksum of each record that came to its end.
    arrived: Vec<Option<u64>>,
    last_of_key: HashMap<String, u64>,
    failures: Vec<Attempted>,
    counts: Counts,
}

/// A failed attempt of a record.
#[derive(Debug, Clone)]
pub(crate) struct Attempted {
    pub(crate) number: u64,
    pub(crate) attempt: u32,
    pub(crate) error: String,
    /// Why no further attempt is due, if none is.
    pub(crate) last: Option<Reason>,
}

#[derive(Debug, Default, Clone)]
struct Counts {
    duplicates: u64,
    overtaken: u64,
    foreign: u64,
    strange: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    token: Option<String>,
}

impl Ledger {
    /// An empty ledger for the records with this token.
    pub(crate) fn new(token: &str) -> Self {
        Self {
            token: token.into(),
            state: Arc::default(),
            finished: watch::Sender::new(0),
        }
    }

    /// The token of this run.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The message id of a record.
    pub(crate) fn id(&self, number: u64) -> mq_core::Result<MessageId> {
        MessageId::new(format!("{}-{number}", self.token))
    }

    /// Notes a record that is about to be sent. They come in the order of their numbers.
    pub(crate) fn sent(&self, record: &Record) {
        let mut state = self.lock();
        state.sent.push(checksum(record));
        state.arrived.push(None);
    }

    /// True for a message of this run; others are left over from an earlier one.
    pub(crate) fn ours(&self, received: &Received) -> bool {
        let token = received.headers().text(TOKEN);
        let ours = token == Some(&*self.token);
        let counts = &mut self.lock().counts;
        if !ours {
            counts.foreign += 1;
        } else if counts.token.is_none() {
            counts.token = token.map(str::to_owned);
        }
        ours
    }

    /// Notes a failed attempt.
    pub(crate) fn failed(&self, attempted: Attempted) {
        self.lock().failures.push(attempted);
    }

    /// Notes that a record has come to its end: it is done, or goes to the dead letters.
    pub(crate) fn finish(&self, record: &Record, received: &Received) {
        let genuine = self.id(record.number).is_ok_and(|id| id == *received.id());
        let mut state = self.lock();
        let State {
            arrived,
            last_of_key,
            counts,
            ..
        } = &mut *state;
        let place = record
            .number
            .checked_sub(1)
            .and_then(|n| usize::try_from(n).ok());
        let Some(entry) = place
            .and_then(|place| arrived.get_mut(place))
            .filter(|_| genuine)
        else {
            counts.strange += 1;
            return;
        };
        let now = Instant::now();
        counts.first.get_or_insert(now);
        if entry.replace(checksum(record)).is_some() {
            counts.duplicates += 1;
            return;
        }
        counts.last = Some(now);
        if let Some(key) = &record.key {
            match last_of_key.get_mut(key) {
                Some(last) if *last > record.number => counts.overtaken += 1,
                Some(last) => *last = record.number,
                None => drop(last_of_key.insert(key.clone(), record.number)),
            }
        }
        drop(state);
        self.finished.send_modify(|finished| *finished += 1);
    }

    /// Tells how many records have come to their end.
    pub(crate) fn progress(&self) -> watch::Receiver<u64> {
        self.finished.subscribe()
    }

    /// The failed attempts, by record.
    pub(crate) fn failures(&self) -> Vec<Attempted> {
        let mut failures = self.lock().failures.clone();
        failures.sort_by_key(|failed| (failed.number, failed.attempt));
        failures
    }

    /// Compares both ends.
    pub(crate) fn verdict(&self) -> Verdict {
        let state = self.lock();
        let pairs = || state.sent.iter().zip(&state.arrived);
        Verdict {
            sent: state.sent.len(),
            missing: places(pairs(), |_, arrived| arrived.is_none()),
            changed: places(pairs(), |sent, arrived| arrived.is_some_and(|a| a != sent)),
            keys: state.last_of_key.len(),
            seconds: match (state.counts.first, state.counts.last) {
                (Some(first), Some(last)) => last.duration_since(first).as_secs_f64(),
                _ => 0.0,
            },
            counts: state.counts.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the comparison of both ends says.
#[derive(Debug)]
pub(crate) struct Verdict {
    sent: usize,
    /// The numbers of records that did not arrive.
    missing: Vec<usize>,
    /// The numbers of records that arrived with other bytes.
    changed: Vec<usize>,
    keys: usize,
    /// From the first record that was handled to the last.
    pub(crate) seconds: f64,
    counts: Counts,
}

impl Verdict {
    /// True if each record arrived, unchanged and in order. Duplicates are no fault: they are what
    /// *at least once* allows.
    pub(crate) fn is_good(&self) -> bool {
        self.missing.is_empty()
            && self.changed.is_empty()
            && self.counts.overtaken == 0
            && self.counts.strange == 0
    }

    /// How many records did not arrive.
    pub(crate) fn missing(&self) -> usize {
        self.missing.len()
    }

    /// The token as it came back from the broker.
    pub(crate) fn token(&self) -> &str {
        self.counts.token.as_deref().unwrap_or("none")
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            missing,
            changed,
            keys,
            counts,
            ..
        } = self;
        let arrived = sent - missing.len();
        writeln!(f, "   sent        {}", grouped(*sent))?;
        writeln!(f, "   arrived     {}", grouped(arrived))?;
        writeln!(f, "   missing     {}", numbers(missing))?;
        writeln!(f, "   changed     {}", numbers(changed))?;
        writeln!(f, "   duplicates  {}", counts.duplicates)?;
        match keys {
            0 => write!(f, "   order       not checked: no key was given")?,
            keys => write!(
                f,
                "   order       {} keys, {} records overtaken",
                grouped(*keys),
                counts.overtaken
            )?,
        }
        if counts.foreign > 0 {
            let foreign = counts.foreign;
            write!(
                f,
                "\n   foreign     {foreign} left over from an earlier run"
            )?;
        }
        if counts.strange > 0 {
            write!(
                f,
                "\n   strange     {} that were never sent",
                counts.strange
            )?;
        }
        Ok(())
    }
}

/// A number with a comma between its thousands.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn checksum(record: &Record) -> u64 {
    // The standard hasher with its fixed keys: the same in every process of this program.
    let mut hasher = DefaultHasher::new();
    hasher.write(record.body.get().as_bytes());
    if let Some(key) = &record.key {
        hasher.write_u8(0xff);
        hasher.write(key.as_bytes());
    }
    hasher.finish()
}

fn places<'a>(
    pairs: impl Iterator<Item = (&'a u64, &'a Option<u64>)>,
    wrong: impl Fn(u64, Option<u64>) -> bool,
) -> Vec<usize> {
    pairs
        .enumerate()
        .filter(|(_, (sent, arrived))| wrong(**sent, **arrived))
        .map(|(place, _)| place + 1)
        .collect()
}

/// How many, and which the first ones are.
fn numbers(places: &[usize]) -> String {
    match places {
        [] => "0".to_owned(),
        places => {
            let first: Vec<_> = places.iter().take(5).map(ToString::to_string).collect();
            format!("{}: record {} …", grouped(places.len()), first.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use mq_core::Message;
    use serde_json::value::to_raw_value;

    use super::*;

    fn record(number: u64, key: &str, body: &str) -> Record {
        Record {
            number,
            key: Some(key.to_owned()),
            body: to_raw_value(body).expect("JSON"),
        }
    }

    fn received(id: &str) -> Received {
        let id = MessageId::new(id).expect("an id");
        let message = Message::new("").id(id).header(TOKEN, "t").build();
        Received::new(message, "tour".into(), None)
    }

    fn ledger(records: u64) -> Ledger {
        let ledger = Ledger::new("t");
        for number in 1..=records {
            ledger.sent(&record(number, "k", "x"));
        }
        ledger
    }

    fn finish(ledger: &Ledger, number: u64, body: &str) {
        ledger.finish(
            &record(number, "k", body),
            &received(&format!("t-{number}")),
        );
    }

    #[test]
    fn is_good_when_everything_arrives_even_twice() {
        let ledger = ledger(2);
        for number in [1, 2, 1] {
            finish(&ledger, number, "x");
        }
        let verdict = ledger.verdict();
        assert!(verdict.is_good(), "{verdict}");
        assert_eq!(verdict.counts.duplicates, 1);
        assert_eq!(*ledger.progress().borrow(), 2);
    }

    #[test]
    fn sees_what_is_missing_changed_overtaken_or_strange() {
        let missing = ledger(2);
        finish(&missing, 1, "x");
        assert_eq!(missing.verdict().missing, [2]);

        let changed = ledger(1);
        finish(&changed, 1, "y");
        assert_eq!(changed.verdict().changed, [1]);

        let overtaken = ledger(2);
        finish(&overtaken, 2, "x");
        finish(&overtaken, 1, "x");
        assert_eq!(overtaken.verdict().counts.overtaken, 1);

        let strange = ledger(1);
        finish(&strange, 1, "x");
        finish(&strange, 7, "x");
        strange.finish(&record(1, "k", "x"), &received("t-2"));
        assert_eq!(strange.verdict().counts.strange, 2);

        for ledger in [missing, changed, overtaken, strange] {
            assert!(!ledger.verdict().is_good());
        }
    }

    #[test]
    fn knows_its_own_messages_by_their_token() {
        let ledger = ledger(1);
        assert!(ledger.ours(&received("t-1")));
        let foreign = Received::new(Message::new("").build(), "tour".into(), None);
        assert!(!ledger.ours(&foreign));
        assert_eq!(ledger.verdict().token(), "t");
    }

    #[test]
    fn thousands_stand_apart() {
        let texts = [0, 999, 1000, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
