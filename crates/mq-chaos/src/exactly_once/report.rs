//! What a run of the scenario showed.

use std::{fmt, path::PathBuf, sync::Arc};

use mq_testkit::checker::{Report as Checked, Verdict};

use super::{reading::Reader, run::Plan};

pub(super) struct Report {
    pub(super) folder: PathBuf,
    pub(super) product: String,
    pub(super) seconds: u64,
    pub(super) confirmed: usize,
    pub(super) readers: [Arc<Reader>; 2],
    /// Batches of aborted copies in the log, and how many copies are in them.
    pub(super) batches: usize,
    pub(super) copies: usize,
    pub(super) exits: Vec<String>,
    pub(super) checked: Checked,
    pub(super) problems: Vec<String>,
    pub(super) plan: Plan,
}

impl Report {
    /// Without so many aborted batches the run has shown nothing.
    fn is_void(&self) -> bool {
        self.batches < self.plan.aborts
    }

    pub(super) fn holds(&self) -> bool {
        let clean = |reader: &Arc<Reader>| {
            let seen = reader.seen();
            seen.places.len() == 2 * self.confirmed
                && (seen.torn(), seen.doubled()) == (0, 0)
                && (seen.reordered, seen.corrupt) == (0, 0)
        };
        !self.is_void()
            && self.problems.is_empty()
            && self.checked.verdict() == Verdict::Holds
            && self.readers.iter().all(clean)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.holds(), self.is_void()) {
            (true, _) => "holds",
            (false, true) => "void: too few transactions were aborted",
            (false, false) => "BROKEN",
        };
        let plan = &self.plan;
        writeln!(f, "# Exactly once: {verdict}\n\n`{}`\n", plan.command())?;
        writeln!(
            f,
            "{}, {} s: {} of {} originals confirmed; copiers killed {}, broker killed {}, zombies {}, aborts asked for {}. \
             The log holds {} batches of aborted copies, {} copies.\n",
            self.product,
            self.seconds,
            self.confirmed,
            plan.records,
            plan.copier_kills,
            plan.broker_kills,
            plan.zombies,
            plan.aborts,
            self.batches,
            self.copies
        )?;
        writeln!(
            f,
            "| reader | copies (two of each) | doubled | torn | out of order | unreadable |\n|---|---|---|---|---|---|"
        )?;
        for (name, reader) in ["at the time", "afterwards"].iter().zip(&self.readers) {
            let seen = reader.seen();
            writeln!(
                f,
                "| {name} | {} | {} | {} | {} | {} |",
                seen.places.len(),
                seen.doubled(),
                seen.torn(),
                seen.reordered,
                seen.corrupt
            )?;
        }
        writeln!(f, "\n{}", self.checked)?;
        for problem in &self.problems {
            writeln!(f, "* problem: {problem}")?;
        }
        for exit in &self.exits {
            writeln!(f, "* ended by itself: {exit}")?;
        }
        Ok(())
    }
}
