//! Settlement: what is handed out, what is done, and what the broker has of it.
//!
//! * [`ledger`] holds the deliveries of one consumer, and takes their verdicts without waiting;
//!   [`book`] is what it knows.
//! * [`tracker`] is the watermark of one partition: only what lies below the lowest record that is
//!   not done is committed.
//! * [`marks`] is what is committed beside the watermark.
//! * [`committer`] commits by count and time, [`copier`] moves rejected records.

mod book;
mod committer;
mod copier;
mod ledger;
mod marks;
mod tracker;

pub(crate) use committer::{Committer, Group};
pub(crate) use copier::copy_rejected;
pub(crate) use ledger::{Incoming, Ledger, Taken};
