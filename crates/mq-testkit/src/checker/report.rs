//! The report: what was counted, what was found, and whether the claim holds.

use std::fmt;

use serde::Serialize;

use super::{Claim, Class, Finding, pass::Pass};

/// What a history proves and disproves. Its `Display` is for people.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    run: String,
    claim: String,
    verdict: Verdict,
    counts: Counts,
    classes: Vec<Tally>,
    findings: Vec<Finding>,
}

/// Whether a claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing contradicts the claim.
    Holds,
    /// Something contradicts the claim.
    Broken,
    /// Nothing was confirmed, so nothing is proved.
    Void,
}

/// What was in a history.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Files: the lives of processes.
    pub files: u64,
    /// Files whose last line is torn.
    pub torn_lines: u64,
    /// Messages that were sent.
    pub messages: u64,
    /// Of them confirmed, those of committed transactions included.
    pub confirmed: u64,
    /// Of them rejected or aborted.
    pub rejected: u64,
    /// Of them unknown.
    pub unknown: u64,
    /// Of the unknown ones those that appeared.
    pub recovered: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Effects.
    pub effects: u64,
    /// Acknowledgements.
    pub acks: u64,
    /// Commits of offsets.
    pub commits: u64,
    /// Transactions.
    pub transactions: u64,
    /// Faults.
    pub faults: u64,
    /// From the first event to the last, in microseconds.
    pub span_micros: u64,
    /// The longest time in which messages waited and no group's first effect came, faults
    /// included, in microseconds.
    pub longest_gap_micros: u64,
    /// What the checker's tables took, in bytes.
    pub table_bytes: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Tally {
    class: Class,
    count: u64,
    allowed: bool,
}

impl Report {
    pub(super) fn new(run: &str, claim: &Claim, pass: Pass<'_>, findings: Vec<Finding>) -> Self {
        let tally = |class| Tally {
            class,
            count: pass.suspects.of(class),
            allowed: claim.allows(class),
        };
        let classes: Vec<Tally> = Class::ALL.into_iter().map(tally).collect();
        let broken = classes
            .iter()
            .any(|tally| tally.count > 0 && !tally.allowed);
        let verdict = match pass.counts.confirmed {
            _ if broken => Verdict::Broken,
            0 => Verdict::Void,
            _ => Verdict::Holds,
        };
        Self {
            run: run.to_owned(),
            claim: claim.words(),
            verdict,
            counts: pass.counts,
            classes,
            findings,
        }
    }

    /// Whether the claim holds.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How many there are of a class, allowed or not.
    pub fn count(&self, class: Class) -> u64 {
        let tally = self.classes.iter().find(|tally| tally.class == class);
        tally.map_or(0, |tally| tally.count)
    }

    /// The classes that contradict the claim.
    pub fn broken(&self) -> Vec<Class> {
        let broken = self
            .classes
            .iter()
            .filter(|tally| tally.count > 0 && !tally.allowed);
        broken.map(|tally| tally.class).collect()
    }

    /// The findings that contradict the claim, with their evidence; of each class at most as many
    /// as the checker [keeps](super::Checker::keep).
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What was in the history.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The report as JSON, in one line.
    pub fn to_json(&self) -> String {
        // Numbers and texts, with texts as the only keys: there is nothing that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts {
            events,
            files,
            torn_lines,
            messages,
            confirmed,
            rejected,
            unknown,
            recovered,
            deliveries,
            effects,
            faults,
            ..
        } = self.counts;
        let verdict = match self.verdict {
            Verdict::Holds => "holds",
            Verdict::Broken => "DOES NOT HOLD",
            Verdict::Void => "is not tested: nothing was confirmed",
        };
        writeln!(f, "run {}: {} {verdict}", self.run, self.claim)?;
        writeln!(
            f,
            "  {events} events in {files} files, {torn_lines} of them with a torn end; {faults} faults"
        )?;
        writeln!(
            f,
            "  {messages} messages: {confirmed} confirmed, {rejected} rejected, {unknown} unknown, \
             of which {recovered} appeared"
        )?;
        let gap = self.counts.longest_gap_micros as f64 / 1e6;
        write!(
            f,
            "  {deliveries} deliveries, {effects} effects, longest gap {gap:.3} s"
        )?;
        for tally in self.classes.iter().filter(|tally| tally.count > 0) {
            let Tally { class, count, .. } = tally;
            let allowed = if tally.allowed {
                "allowed"
            } else {
                "NOT ALLOWED"
            };
            write!(f, "\n  {class:20} {count:>9}  {allowed}")?;
        }
        for finding in &self.findings {
            write!(f, "\n{finding}")?;
        }
        for tally in self.classes.iter().filter(|tally| !tally.allowed) {
            let shown = self
                .findings
                .iter()
                .filter(|finding| finding.class == tally.class);
            let more = tally.count - shown.count() as u64;
            if more > 0 {
                write!(f, "\n{}: {more} more", tally.class)?;
            }
        }
        Ok(())
    }
}
