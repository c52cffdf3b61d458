//! The second pass: the few events that prove each finding.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use crate::history::{History, HistoryError, Op, Seen};

use super::{Class, Evidence, Finding, messages::Id, pass::Pass, transactions::End};

/// What was found in the first pass.
#[derive(Debug)]
pub(super) struct Suspects {
    keep: usize,
    tallies: BTreeMap<Class, (u64, usize)>,
    kept: Vec<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    class: Class,
    what: String,
    wants: Vec<Want>,
}

/// An event that belongs to the evidence. One that is not there is left out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Want {
    /// The event of this number.
    Event(u64),
    First(Pattern),
    LastBefore(Pattern, u64),
    /// The first one, where nothing else is found.
    Otherwise(Pattern),
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pattern {
    /// A message, in a group or in all.
    Message(Op, Id, Option<u32>),
    /// What lies at an offset of a partition.
    Record(u32, u64),
    /// What a group was given at an offset of a partition.
    Given(u32, u32, u64),
    /// The end of a transaction.
    End(u32),
}

impl Suspects {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            keep,
            tallies: BTreeMap::new(),
            kept: Vec::new(),
        }
    }

    /// Counts one; true if it is worth to be kept.
    pub(super) fn count(&mut self, class: Class, wanted: bool) -> bool {
        let (count, kept) = self.tallies.entry(class).or_default();
        *count += 1;
        let keep = wanted && *kept < self.keep;
        *kept += usize::from(keep);
        keep
    }

    pub(super) fn keep(&mut self, class: Class, what: String, wants: Vec<Want>) {
        self.kept.push(Suspect { class, what, wants });
    }

    /// How many of a class there were.
    pub(super) fn of(&self, class: Class) -> u64 {
        self.tallies.get(&class).map_or(0, |(count, _)| *count)
    }
}

impl Pattern {
    pub(super) fn message(op: Op, id: Id, group: Option<u32>) -> Self {
        Self::Message(op, id, group)
    }
}

/// Reads the history once more, if anything is wanted of it.
pub(super) fn collect(folder: &Path, pass: &Pass<'_>) -> Result<Vec<Finding>, HistoryError> {
    let suspects = &pass.suspects.kept;
    let mut by_number: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut by_pattern: HashMap<Pattern, Vec<(usize, usize)>> = HashMap::new();
    for (index, suspect) in suspects.iter().enumerate() {
        for (slot, want) in suspect.wants.iter().enumerate() {
            match want {
                Want::Event(number) => by_number.entry(*number).or_default().push(index),
                Want::First(pattern) | Want::LastBefore(pattern, _) | Want::Otherwise(pattern) => {
                    by_pattern.entry(*pattern).or_default().push((index, slot));
                }
            }
        }
    }
    // By suspect: the slot of the want (each event wanted by its number has its own) and the event.
    let mut found: Vec<BTreeMap<Slot, (u64, Evidence)>> = vec![BTreeMap::new(); suspects.len()];
    let mut history = if suspects.is_empty() {
        None
    } else {
        Some(History::open(folder)?)
    };
    while let Some(history) = history.as_mut()
        && let Some(seen) = history.next()?
    {
        let mut hits: Vec<(usize, Slot)> = Vec::new();
        for index in by_number.get(&seen.number).into_iter().flatten() {
            hits.push((*index, Slot::Number(seen.number)));
        }
        for pattern in patterns(&seen, pass) {
            for (index, slot) in by_pattern.get(&pattern).into_iter().flatten() {
                let slot = Slot::Want(*slot);
                let fits = match suspects[*index].wants[slot.index()] {
                    Want::LastBefore(_, end) => seen.number < end,
                    _ => !found[*index].contains_key(&slot),
                };
                if fits {
                    hits.push((*index, slot));
                }
            }
        }
        if hits.is_empty() {
            continue;
        }
        let (number, file) = (seen.number, seen.file);
        let (line, text) = (seen.line, seen.text.to_owned());
        let file = history.path(file).to_path_buf();
        let evidence = Evidence { file, line, text };
        for (index, slot) in hits {
            found[index].insert(slot, (number, evidence.clone()));
        }
    }
    let told = suspects.iter().zip(found).map(|(suspect, found)| {
        let spare = |slot: &Slot| match slot {
            Slot::Want(index) => matches!(suspect.wants[*index], Want::Otherwise(_)),
            Slot::Number(_) => false,
        };
        let (spare, better): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(slot, _)| spare(slot));
        let used = if better.is_empty() { spare } else { better };
        let events: BTreeMap<u64, Evidence> = used.into_iter().map(|(_, event)| event).collect();
        Finding {
            class: suspect.class,
            what: suspect.what.clone(),
            evidence: events.into_values().collect(),
        }
    });
    let mut findings: Vec<Finding> = told.collect();
    findings.sort_by_key(|finding| finding.class);
    Ok(findings)
}

/// Where an event belongs in the evidence of a suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Want(usize),
    Number(u64),
}

impl Slot {
    fn index(self) -> usize {
        match self {
            Self::Want(index) => index,
            Self::Number(_) => 0,
        }
    }
}

/// What an event is about, as far as anything may want it.
fn patterns(seen: &Seen<'_>, pass: &Pass<'_>) -> impl Iterator<Item = Pattern> {
    let event = &seen.event;
    let group = pass.names.groups.find(event.group());
    let ours = event.run().is_none();
    let id = event
        .message()
        .filter(|_| ours)
        .and_then(|(producer, seq)| {
            let producer = pass.messages.producers.find(producer)?;
            Some(Id { producer, seq })
        });
    let transaction = event
        .transaction()
        .and_then(|tx| pass.transactions.names.find(tx));
    let end = transaction.map(|transaction| pass.transactions.end_of(transaction));
    // What its transaction undid is no evidence of an effect.
    let undone = event.op == Op::Effect && end.is_some_and(|end| end != End::Committed);
    let place = event.place();
    let place =
        place.and_then(|(log, partition, offset)| Some((pass.names.find(log, partition)?, offset)));
    let message = id.filter(|_| !undone);
    let lies = matches!(event.op, Op::Ok | Op::Unknown | Op::Deliver) && id.is_some();
    let given = place.filter(|_| event.op == Op::Deliver).zip(group);
    let ends = matches!(event.op, Op::Committed | Op::Aborted);
    let op = event.op;
    [
        message.map(|id| Pattern::Message(op, id, None)),
        message
            .zip(group)
            .map(|(id, group)| Pattern::Message(op, id, Some(group))),
        place
            .filter(|_| lies)
            .map(|(partition, offset)| Pattern::Record(partition, offset)),
        given.map(|((partition, offset), group)| Pattern::Given(group, partition, offset)),
        transaction.filter(|_| ends).map(Pattern::End),
    ]
    .into_iter()
    .flatten()
}
