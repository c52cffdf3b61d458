//! A checker: reads the history of a run and says what it proves, and what it disproves.
//!
//! ```no_run
//! use mq_testkit::checker::{Checker, Claim, Verdict};
//!
//! # fn main() -> Result<(), mq_testkit::history::HistoryError> {
//! let report = Checker::new(Claim::at_least_once().ordered()).check("history")?;
//! assert_eq!(report.verdict(), Verdict::Holds, "{report}");
//! # Ok(())
//! # }
//! ```
//!
//! # What it finds
//!
//! | [`Class`] | definition | allowed for |
//! |---|---|---|
//! | lost | a confirmed message without an effect in a group, that is in no class of its own below | at most once |
//! | unexpected | an effect of a message that nobody sent, or of another run | – |
//! | corrupt | a delivery of bytes that nobody sent | – |
//! | aborted read | an effect of a message that was rejected, or whose transaction was aborted | rejected ones: [`Claim::rejected_may_appear`] |
//! | duplicate delivery | a delivery of a message that its group was given before | all but at most once |
//! | duplicate effect | an effect of a message that had one in its group | at least once |
//! | reordered | a first effect whose `seq` is below that of an earlier first effect of its producer and key | where [`Claim::ordered`] is not asked for |
//! | commit ahead | a committed offset above one that was delivered and has neither effect nor acknowledgement | at most once |
//! | commit back | a committed offset below an earlier one of the same epoch (without epochs: of the same process) | – |
//! | stale write | an effect or commit in an epoch that the process had let go, or that another process had taken over; see [`Claim::handler_deadline`] | – |
//! | inconsistent offset | one offset of a partition with two messages | – |
//! | skipped | a confirmed message whose group was given a higher offset of the partition, and never this one, nor has its effect | at most once |
//! | torn transaction | a transaction of which a group has a part: some effects and not the others | at most once |
//! | stuck | no first effect for longer than [`Claim::stuck_after`] while confirmed messages wait and no fault is on | – |
//!
//! A message that is missing is in one class: torn, else skipped, else stuck (where its group was
//! when the history ended), else lost. *Recovered* (an unknown send that appeared) is no finding and
//! is counted. Lost and stuck are told apart by [`Event::drained`](crate::history::Event::drained):
//! without it, and where [`Claim::stuck_after`] was not given, the checker trusts that you waited
//! until nothing came any more.
//!
//! # What it costs
//!
//! Two passes over the files; the second one looks for the evidence and is left out where nothing
//! was found. Time is linear in the events. Memory does not grow with the events but with the
//! messages: 1 byte for each message and 1 for each of its groups, 8 where positions are recorded,
//! 4 where transactions are; and about 40 for each pair of producer and key, and what is in flight.
//! [`Counts::table_bytes`] says what it was.

mod claim;
mod events;
mod evidence;
mod finding;
mod messages;
mod names;
mod offsets;
mod order;
mod owners;
mod pages;
mod pass;
mod presence;
mod progress;
mod report;
mod transactions;

pub use claim::Claim;
pub use finding::{Class, Evidence, Finding};
pub use pass::Checker;
pub use report::{Counts, Report, Verdict};
