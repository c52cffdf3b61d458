//! Settlement: what is handed out, what is done, and what the broker has of it.
//!
//! * [`ledger`] holds the deliveries of one consumer, and takes their verdicts without waiting;
//!   [`book`] is what it knows.
//! * [`tracker`] is the watermark of one partition: only what lies below the lowest record that is
//!   not done is committed.
//! * [`marks`] is what is committed beside the watermark.
//! * [`committer`] commits by count and time, [`copier`] moves rejected records. In a transaction
//!   neither has anything to do: verdicts wait in [`staging`] with what is published for them.

mod book;
mod committer;
mod copier;
mod ledger;
mod marks;
mod staging;
mod tracker;

pub(crate) use committer::{Committer, Group};
pub(crate) use copier::copy_rejected;
pub(crate) use ledger::{Incoming, Ledger, Moved, Taken};
pub(crate) use staging::{Condemned, Output, Slice};
