//! Settlement: what is handed out, what is done, and what the broker has of it.
//!
//! * [`ledger`] holds the deliveries of one consumer, and takes their verdicts without waiting;
//!   [`book`] is what it knows.
//! * [`tracker`] is the watermark of one partition: only what lies below the lowest record that is
//!   not done is committed.
//! * [`marks`] is what is committed beside the watermark.
//! * [`committer`] commits by count and time, [`copier`] makes the [`moves`] of rejected and deferred
//!   records. In a transaction neither has anything to do: verdicts wait in [`staging`] with what is
//!   published for them, which comes by [`announced`], and with their moves.
//! * [`locks`] is the same as the ledger for a member of a share group, which has no watermark: the
//!   broker hears of each verdict, and locks a record for as long as it is asked to.
//! * [`waiting`] holds what is not due yet, [`keys`] what waits behind an earlier one of its key.

mod announced;
mod book;
mod committer;
mod copier;
mod keys;
mod ledger;
mod locks;
mod marks;
mod moves;
mod staging;
mod tracker;
mod waiting;

pub(crate) use announced::Announced;
pub(crate) use committer::{Committer, Group};
pub(crate) use copier::{Homes, Origin, copy_moved};
pub(crate) use ledger::{Incoming, Ledger, Moved, Taken, Window};
pub(crate) use locks::{Limits, Locks};
pub(crate) use moves::Move;
pub(crate) use staging::{Condemned, Output, Room, Slice};
pub(crate) use waiting::Wait;
