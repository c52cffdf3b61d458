//! What is committed beside an offset, as text: which records above it are done, which failed.
//!
//! The text is `mq1` and then, for each run of records of one kind, `;<from>-<to>` as distances
//! from the committed offset, and `d` (done), `x<n>` (n failed deliveries) or `x<n>@<time>` (the same,
//! not to be delivered before that time, in milliseconds since 1970): `mq1;0-0x2;3-9d`. A consumer
//! that does not know it reads the records again, which at least once allows.

use std::fmt::Write;

/// What is known about one record above the committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Settled: not to be delivered again.
    Done,
    /// Not settled; this many deliveries have failed.
    Failed(u32),
    /// The same, and it is due then, in milliseconds since 1970.
    Deferred(u32, u64),
}

/// Marks of the records of one partition, as runs in the order of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks(Vec<Run>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    from: i64,
    to: i64,
    mark: Mark,
}

impl Marks {
    /// The mark of a record.
    pub(crate) fn get(&self, offset: i64) -> Option<Mark> {
        let after = self.0.partition_point(|run| run.from <= offset);
        let run = self.0.get(after.checked_sub(1)?)?;
        (offset <= run.to).then_some(run.mark)
    }

    /// True if a record above the committed offset is settled.
    #[cfg(feature = "legacy")]
    pub(crate) fn has_done(&self) -> bool {
        self.0.iter().any(|run| run.mark == Mark::Done)
    }

    /// Adds the marks of others that lie at and above an offset, all of them above the own ones.
    pub(crate) fn extend_from(&mut self, others: &Self, offset: i64) {
        let first = others.0.partition_point(|run| run.to < offset);
        self.0.extend(others.0[first..].iter().map(|run| Run {
            from: run.from.max(offset),
            ..*run
        }));
    }

    /// The text to commit with this offset, and whether it holds all marks: a broker takes at most
    /// 4096 bytes. What does not fit is delivered again after a crash.
    pub(crate) fn encode(&self, committed: i64) -> (String, bool) {
        let mut text = String::from(VERSION);
        for run in &self.0 {
            let before = text.len();
            let (from, to) = (run.from - committed, run.to - committed);
            // Writing to a String cannot fail.
            let _ = match run.mark {
                Mark::Done => write!(text, ";{from}-{to}d"),
                Mark::Failed(failures) => write!(text, ";{from}-{to}x{failures}"),
                Mark::Deferred(failures, due) => write!(text, ";{from}-{to}x{failures}@{due}"),
            };
            if text.len() > LIMIT {
                text.truncate(before);
                return (text, false);
            }
        }
        if self.0.is_empty() {
            text.clear();
        }
        (text, true)
    }

    /// Reads the text that was committed with this offset. Anything else than a well-formed text
    /// of ours means no marks.
    pub(crate) fn parse(text: &str, committed: i64) -> Self {
        Self::try_parse(text, committed).unwrap_or_default()
    }

    fn try_parse(text: &str, committed: i64) -> Option<Self> {
        let runs = text.strip_prefix(VERSION)?.strip_prefix(';')?;
        let mut parsed: Vec<Run> = Vec::new();
        for run in runs.split(';') {
            let (from, rest) = run.split_once('-')?;
            let (to, mark) = match rest.strip_suffix('d') {
                Some(to) => (to, Mark::Done),
                None => {
                    let (to, failures) = rest.split_once('x')?;
                    let mark = match failures.split_once('@') {
                        None => Mark::Failed(failures.parse().ok()?),
                        Some((failures, due)) => {
                            Mark::Deferred(failures.parse().ok()?, due.parse().ok()?)
                        }
                    };
                    (to, mark)
                }
            };
            let absolute = |text: &str| committed.checked_add(text.parse::<u32>().ok()?.into());
            let (from, to) = (absolute(from)?, absolute(to)?);
            if from > to || parsed.last().is_some_and(|last| last.to >= from) {
                return None;
            }
            parsed.push(Run { from, to, mark });
        }
        Some(Self(parsed))
    }
}

/// From marks in the order of the log. Neighbours of one kind become one run.
impl FromIterator<(i64, Mark)> for Marks {
    fn from_iter<I: IntoIterator<Item = (i64, Mark)>>(marks: I) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for (offset, mark) in marks {
            match runs.last_mut() {
                Some(run) if run.mark == mark && run.to + 1 == offset => run.to = offset,
                _ => runs.push(Run {
                    from: offset,
                    to: offset,
                    mark,
                }),
            }
        }
        Self(runs)
    }
}

const VERSION: &str = "mq1";
const LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marks() -> impl Strategy<Value = Marks> {
        let mark = prop_oneof![
            Just(Mark::Done),
            (1..u32::MAX).prop_map(Mark::Failed),
            (1..u32::MAX, 1..u64::MAX).prop_map(|(failures, due)| Mark::Deferred(failures, due)),
        ];
        prop::collection::btree_map(0..10_000_i64, mark, 0..80)
            .prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn text_reads_back(marks in marks(), base in 0..i64::MAX / 2) {
            let shifted: Marks = marks.0.iter().map(|r| (r.from, r.to, r.mark))
                .flat_map(|(f, t, m)| (f..=t).map(move |o| (base + o, m))).collect();
            let (text, complete) = shifted.encode(base);
            prop_assert!(complete);
            prop_assert_eq!(Marks::parse(&text, base), shifted);
        }

        #[test]
        fn foreign_text_is_no_marks_and_no_panic(text in "(mq1)?[;x@\\-d0-9 ]{0,40}|.*", base in any::<i64>()) {
            let _ = Marks::parse(&text, base);
        }

        #[test]
        fn a_text_too_long_keeps_whole_runs(step in 2..4_i64) {
            let many: Marks = (0..5000).map(|i| (i * step, Mark::Done)).collect();
            let (text, complete) = many.encode(0);
            prop_assert!(!complete && text.len() <= 4096);
            let read = Marks::parse(&text, 0);
            prop_assert_eq!(read.get(0), Some(Mark::Done));
            prop_assert_eq!(read.get(1), None);
        }
    }

    #[test]
    fn the_text_is_the_documented_one() {
        let marks: Marks = [(10, Mark::Failed(2)), (13, Mark::Done), (14, Mark::Done)]
            .into_iter()
            .collect();
        assert_eq!(marks.encode(10), ("mq1;0-0x2;3-4d".to_owned(), true));
        let deferred: Marks = [(10, Mark::Deferred(1, 77))].into_iter().collect();
        assert_eq!(deferred.encode(10), ("mq1;0-0x1@77".to_owned(), true));
        assert_eq!(Marks::default().encode(10), (String::new(), true));
        assert_eq!(Marks::parse("other's text", 3), Marks::default());
    }
}
