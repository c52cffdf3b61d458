//! The first pass: takes the events one by one and notes what they contradict.

use std::{collections::HashMap, path::Path};

use crate::history::{Event, History, HistoryError, Op, Seen};

use super::{
    Claim, Class, Counts, Report,
    evidence::{self, Suspects, Want},
    messages::{Id, Messages},
    names::Names,
    offsets::Offsets,
    order::Order,
    owners::Owners,
    progress::Progress,
    transactions::{End, Transactions, Waiting},
};

/// Checks histories against a claim.
#[derive(Debug, Clone)]
#[must_use = "a checker does nothing until it is given a history"]
pub struct Checker {
    claim: Claim,
    keep: usize,
}

/// What is known so far.
#[derive(Debug)]
pub(super) struct Pass<'c> {
    pub(super) claim: &'c Claim,
    pub(super) names: Places,
    pub(super) messages: Messages,
    pub(super) transactions: Transactions,
    pub(super) offsets: Offsets,
    pub(super) suspects: Suspects,
    pub(super) counts: Counts,
    pub(super) order: Order,
    pub(super) owners: Owners,
    pub(super) progress: Progress,
    first: u64,
    /// Time and number of the event that was taken last.
    pub(super) last: (u64, u64),
}

/// The groups, and the partitions of all logs.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) groups: Names,
    logs: Names,
    partitions: HashMap<(u32, u32), u32>,
    of: Vec<(u32, u32)>,
}

impl Checker {
    /// A checker of this claim.
    pub fn new(claim: Claim) -> Self {
        Self { claim, keep: KEEP }
    }

    /// Sets how many findings of each class the report shows; all are counted. Default 10.
    pub fn keep(mut self, findings: usize) -> Self {
        self.keep = findings;
        self
    }

    /// Reads the history in a folder and reports. Call it when the run is over.
    ///
    /// # Errors
    /// [`HistoryError`] if the folder holds no whole history of one run.
    pub fn check(&self, folder: impl AsRef<Path>) -> Result<Report, HistoryError> {
        let folder = folder.as_ref();
        let mut history = History::open(folder)?;
        let mut pass = Pass::new(&self.claim, self.keep);
        while let Some(seen) = history.next()? {
            let (file, line) = (seen.file, seen.line);
            if let Err(why) = pass.take(&seen) {
                let file = history.path(file).to_path_buf();
                let why = why.to_owned();
                return Err(HistoryError::Malformed { file, line, why });
            }
        }
        pass.finish();
        pass.counts.files = history.files() as u64;
        pass.counts.torn_lines = history.torn() as u64;
        let findings = evidence::collect(folder, &pass)?;
        Ok(Report::new(history.run(), &self.claim, pass, findings))
    }
}

impl<'c> Pass<'c> {
    fn new(claim: &'c Claim, keep: usize) -> Self {
        let mut names = Places::default();
        for group in claim.groups() {
            names.groups.number(group);
        }
        let mut progress = Progress::new(claim.stuck_limit());
        progress.add_groups(names.groups.len());
        Self {
            claim,
            names,
            messages: Messages::default(),
            transactions: Transactions::default(),
            offsets: Offsets::default(),
            suspects: Suspects::new(keep),
            counts: Counts::default(),
            order: Order::default(),
            owners: Owners::default(),
            progress,
            first: 0,
            last: (0, 0),
        }
    }

    /// True if every confirmed message must have its effect in this group.
    pub(super) fn is_judged(&self, group: u32) -> bool {
        let claimed = self.claim.groups();
        // They were given the first numbers.
        claimed.is_empty() || (group as usize) < claimed.len()
    }

    fn take(&mut self, seen: &Seen<'_>) -> Result<(), &'static str> {
        let (event, at, number) = (&seen.event, seen.event.at, seen.number);
        if number == 0 {
            self.first = at;
        }
        self.last = (at, number);
        self.counts.events += 1;
        if number % CHECK_EVERY == 0 {
            let pages = (self.messages.pages() + self.offsets.pages()) as u64;
            if pages > PAGES + number / 64 {
                return Err(SPARSE);
            }
        }
        match event.op {
            Op::Send => self.send(event)?,
            Op::Ok | Op::Rejected | Op::Unknown => self.outcome(event, seen)?,
            Op::Deliver => self.deliver(event, seen)?,
            Op::Corrupt => self.corrupt(event, number)?,
            Op::Effect => self.effect(event, seen)?,
            Op::Ack => self.ack(event)?,
            Op::Commit => self.commit(event, seen),
            Op::Assign | Op::Revoke | Op::Lost => self.ownership(event, seen),
            Op::Committed => self.end(event, End::Committed, number),
            Op::Aborted => self.end(event, End::Aborted, number),
            Op::Fault => {
                self.counts.faults += 1;
                let gaps = self.progress.fault(at, number);
                self.stuck(&gaps);
            }
            Op::Healed => self.progress.healed(at, number),
            Op::Drained => self.progress.drained(),
        }
        Ok(())
    }

    /// The end of the history: what is still open is decided, and what is missing is found.
    fn finish(&mut self) {
        for waiting in self.transactions.unresolved() {
            match waiting {
                Waiting::Send(id) => {
                    let transaction = self.messages.transaction(id);
                    if transaction.is_some_and(|t| self.transactions.end_of(t) == End::Open) {
                        self.messages.sent_mut(id).maybe();
                    }
                }
                Waiting::Effect(effect) => self.excuse(effect.group, effect.id),
                Waiting::Commit(_) => {}
            }
        }
        if self.names.groups.len() == 0 {
            // Nobody received anything: that is one group's worth of loss, not none.
            self.group("");
        }
        let gaps = self.progress.end(self.last.0, self.last.1);
        self.stuck(&gaps);
        let stuck: Vec<u32> = gaps.iter().map(|gap| gap.group).collect();
        self.presence(&stuck);
        self.counts.transactions = self.transactions.len() as u64;
        self.counts.longest_gap_micros = self.progress.longest();
        self.counts.span_micros = self.last.0.saturating_sub(self.first);
        let tables = self.messages.bytes() + self.offsets.bytes();
        let tables = tables + self.order.bytes() + self.transactions.bytes();
        self.counts.table_bytes = tables as u64;
    }

    /// Counts a finding; puts it into words if it contradicts the claim and there is room.
    pub(super) fn suspect(
        &mut self,
        class: Class,
        words: impl FnOnce(&Self) -> (String, Vec<Want>),
    ) {
        let wanted = !self.claim.allows(class);
        if self.suspects.count(class, wanted) {
            let (what, wants) = words(self);
            self.suspects.keep(class, what, wants);
        }
    }

    /// A message in words.
    pub(super) fn tell(&self, id: Id) -> String {
        format!("{}#{}", self.messages.producers.name(id.producer), id.seq)
    }

    /// A group in words.
    pub(super) fn tell_group(&self, group: u32) -> String {
        match self.names.groups.name(group) {
            "" => "no group at all".to_owned(),
            name => format!("group {name}"),
        }
    }

    pub(super) fn id(&mut self, event: &Event<'_>) -> Result<Id, &'static str> {
        let (producer, seq) = event.message().ok_or("it names no message")?;
        let producer = self.messages.producers.number(producer);
        let id = Id { producer, seq };
        id.packed().map(|_| id).ok_or(TOO_LARGE)
    }

    pub(super) fn group(&mut self, name: &str) -> u32 {
        let before = self.names.groups.len();
        let group = self.names.groups.number(name);
        if self.names.groups.len() > before {
            self.progress.add_groups(before + 1);
        }
        group
    }

    pub(super) fn place(&mut self, event: &Event<'_>) -> Option<(u32, u64)> {
        let (log, partition, offset) = event.place()?;
        Some((self.names.partition(log, partition), offset))
    }
}

impl Places {
    /// A partition in words.
    pub(super) fn tell(&self, partition: u32) -> String {
        let (log, number) = self.of[partition as usize];
        format!("{}/{number}", self.logs.name(log))
    }

    /// The number of a partition that may never have been seen.
    pub(super) fn find(&self, log: &str, partition: u32) -> Option<u32> {
        let log = self.logs.find(log)?;
        self.partitions.get(&(log, partition)).copied()
    }

    pub(super) fn partition(&mut self, log: &str, partition: u32) -> u32 {
        let log = self.logs.number(log);
        let of = &mut self.of;
        *self.partitions.entry((log, partition)).or_insert_with(|| {
            of.push((log, partition));
            (of.len() - 1) as u32
        })
    }
}

const KEEP: usize = 10;
const CHECK_EVERY: u64 = 4096;
/// So many pages (of 1 to 8 KiB) may be there for few events.
const PAGES: u64 = 16_384;
const SPARSE: &str = "up to here numbers or offsets are too far apart for a recorded history; \
                      let each producer count from 0 without gaps";
pub(super) const TOO_LARGE: &str =
    "seq or the number of producers is too large for a recorded history";
