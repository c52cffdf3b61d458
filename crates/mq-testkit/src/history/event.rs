//! One event of a history, as it is recorded and as it is read back.

use std::borrow::Cow;

use mq_core::{ErrorKind, Position, Receipt};
use serde::{Deserialize, Serialize};

use super::{Corrupt, Tag};

/// Something that happened, to be given to [`Recorder::record`](super::Recorder::record).
///
/// When to record which one stands in the table of the [module](super).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use = "an event is in the history only once it is recorded"]
pub struct Event<'a> {
    pub(crate) at: u64,
    pub(crate) op: Op,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    run: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    group: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    producer: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    log: Option<Text<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) partition: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    tx: Option<Text<'a>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Text<'a>>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Op {
    Send,
    Ok,
    Rejected,
    Unknown,
    Deliver,
    Corrupt,
    Effect,
    Ack,
    Commit,
    Assign,
    Revoke,
    Lost,
    Committed,
    Aborted,
    Fault,
    Healed,
    Drained,
}

/// Borrowed from the line where it holds no escape.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Event<'a> {
    /// The producer is about to publish this message. A message that is sent again has the same
    /// tag; from then on its place in the order of its key is not judged.
    pub fn send(tag: &'a Tag) -> Self {
        Self::new(Op::Send).of(tag).keyed(tag)
    }

    /// The broker confirmed it.
    pub fn ok(tag: &'a Tag) -> Self {
        Self::new(Op::Ok).of(tag)
    }

    /// It is not stored: the broker refused it, or it was never sent.
    pub fn rejected(tag: &'a Tag) -> Self {
        Self::new(Op::Rejected).of(tag)
    }

    /// It may be stored: the answer is missing.
    pub fn unknown(tag: &'a Tag) -> Self {
        Self::new(Op::Unknown).of(tag)
    }

    /// What a publish to `log` came to: confirmed, with its position where there is one; unknown;
    /// or, for every other error, rejected.
    pub fn outcome(tag: &'a Tag, log: &'a str, outcome: &mq_core::Result<Receipt>) -> Self {
        match outcome {
            Ok(receipt) => match receipt.position() {
                Some(position) => Self::ok(tag).at(log, position),
                None => Self::ok(tag),
            },
            Err(error) if error.kind() == ErrorKind::Unknown => Self::unknown(tag),
            Err(_) => Self::rejected(tag),
        }
    }

    /// The handler of this group got the message.
    pub fn deliver(group: &'a str, tag: &'a Tag) -> Self {
        Self::new(Op::Deliver).by(group).of(tag)
    }

    /// The handler of this group got bytes that are no tag, or not those that were sent.
    pub fn corrupt(group: &'a str, corrupt: &'a Corrupt) -> Self {
        let event = Self::new(Op::Corrupt).by(group);
        match corrupt.reads_as() {
            Some(tag) => event.of(tag),
            None => event,
        }
    }

    /// What handling the message does in the world is done.
    pub fn effect(group: &'a str, tag: &'a Tag) -> Self {
        Self::new(Op::Effect).by(group).of(tag).keyed(tag)
    }

    /// The message is settled, as far as the consumer knows.
    pub fn ack(group: &'a str, tag: &'a Tag) -> Self {
        Self::new(Op::Ack).by(group).of(tag)
    }

    /// The group's committed offset in a partition of `log`: the first one that is not done.
    pub fn commit(group: &'a str, log: &'a str, next: Position) -> Self {
        Self::new(Op::Commit).by(group).at(log, next)
    }

    /// This process was given a partition. Each later assignment of a partition, to whomever, has a
    /// higher epoch.
    pub fn assign(group: &'a str, log: &'a str, partition: u32, epoch: u64) -> Self {
        Self::owner(Op::Assign, group, log, partition, epoch)
    }

    /// This process is about to let go of a partition.
    pub fn revoke(group: &'a str, log: &'a str, partition: u32, epoch: u64) -> Self {
        Self::owner(Op::Revoke, group, log, partition, epoch)
    }

    /// This process learned that it had lost a partition.
    pub fn lost(group: &'a str, log: &'a str, partition: u32, epoch: u64) -> Self {
        Self::owner(Op::Lost, group, log, partition, epoch)
    }

    /// A transaction was committed.
    pub fn committed(tx: &'a str) -> Self {
        Self::new(Op::Committed).tx(tx)
    }

    /// A transaction was aborted.
    pub fn aborted(tx: &'a str) -> Self {
        Self::new(Op::Aborted).tx(tx)
    }

    /// A fault of this name begins.
    pub fn fault(name: &'a str) -> Self {
        Self::named(Op::Fault, name)
    }

    /// The fault of this name is over.
    pub fn healed(name: &'a str) -> Self {
        Self::named(Op::Healed, name)
    }

    /// The broker has nothing left to read for any group: what is missing now is lost.
    pub fn drained() -> Self {
        Self::new(Op::Drained)
    }

    /// Adds that this send, effect or commit counts only if its transaction commits.
    ///
    /// The name of a transaction is used once in a run.
    pub fn tx(mut self, tx: &'a str) -> Self {
        self.tx = text(tx);
        self
    }

    /// Adds where the message lies: in which log (topic, queue), and there at which position.
    pub fn at(mut self, log: &'a str, position: Position) -> Self {
        self.log = text(log);
        self.partition = Some(position.partition);
        self.offset = Some(position.offset);
        self
    }

    /// Adds the position if there is one, as [`Received::position`](mq_core::Received::position).
    pub fn maybe_at(self, log: &'a str, position: Option<Position>) -> Self {
        match position {
            Some(position) => self.at(log, position),
            None => self,
        }
    }

    /// Adds the epoch of the assignment that an effect or commit belongs to. Without it, it
    /// belongs to the process's latest one of that partition.
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = Some(epoch);
        self
    }

    pub(crate) fn run(&self) -> Option<&str> {
        self.run.as_ref().map(|text| &*text.0)
    }

    pub(crate) fn group(&self) -> &str {
        of(self.group.as_ref())
    }

    pub(crate) fn key(&self) -> &str {
        of(self.key.as_ref())
    }

    pub(crate) fn log(&self) -> &str {
        of(self.log.as_ref())
    }

    pub(crate) fn transaction(&self) -> Option<&str> {
        self.tx.as_ref().map(|text| &*text.0)
    }

    /// The message, if the event is about one that can be told.
    pub(crate) fn message(&self) -> Option<(&str, u64)> {
        self.producer.as_ref().map(|text| &*text.0).zip(self.seq)
    }

    /// The place, if the event has a whole one.
    pub(crate) fn place(&self) -> Option<(&str, u32, u64)> {
        match (&self.log, self.partition, self.offset) {
            (Some(log), Some(partition), Some(offset)) => Some((&log.0, partition, offset)),
            _ => None,
        }
    }

    /// Takes the run out if it is the file's own.
    pub(super) fn within(mut self, run: &str) -> Self {
        self.run = self.run.filter(|text| text.0 != run);
        self
    }

    /// What its op needs and it lacks.
    pub(super) fn lacks(&self) -> Option<&'static str> {
        let message = self.producer.is_some() && self.seq.is_some();
        let group = self.group.is_some();
        let partition = self.log.is_some() && self.partition.is_some();
        let any = self.log.is_some() || self.partition.is_some() || self.offset.is_some();
        let needs = |there: bool, what| (!there).then_some(what);
        match self.op {
            Op::Send | Op::Ok | Op::Rejected | Op::Unknown => needs(message, MESSAGE),
            Op::Deliver | Op::Effect | Op::Ack => needs(message && group, MESSAGE_AND_GROUP),
            Op::Corrupt => needs(group, "a group"),
            Op::Commit => needs(
                group && self.place().is_some(),
                "group, log, partition, offset",
            ),
            Op::Assign | Op::Revoke | Op::Lost => {
                let whole = group && partition && self.epoch.is_some();
                return needs(whole, "group, log, partition, epoch");
            }
            Op::Committed | Op::Aborted => needs(self.tx.is_some(), "tx"),
            Op::Fault | Op::Healed => needs(self.name.is_some(), "name"),
            Op::Drained => None,
        }
        .or(needs(!any || self.place().is_some(), PLACE))
    }

    fn new(op: Op) -> Self {
        Self {
            at: 0,
            op,
            run: None,
            group: None,
            producer: None,
            seq: None,
            key: None,
            log: None,
            partition: None,
            offset: None,
            epoch: None,
            tx: None,
            name: None,
        }
    }

    fn owner(op: Op, group: &'a str, log: &'a str, partition: u32, epoch: u64) -> Self {
        let mut event = Self::new(op).by(group).epoch(epoch);
        event.log = text(log);
        event.partition = Some(partition);
        event
    }

    fn named(op: Op, name: &'a str) -> Self {
        let mut event = Self::new(op);
        event.name = text(name);
        event
    }

    fn by(mut self, group: &'a str) -> Self {
        self.group = text(group);
        self
    }

    fn of(mut self, tag: &'a Tag) -> Self {
        self.run = text(tag.run());
        self.producer = text(tag.producer());
        self.seq = Some(tag.seq());
        self
    }

    fn keyed(mut self, tag: &'a Tag) -> Self {
        self.key = text(tag.key()).filter(|text| !text.0.is_empty());
        self
    }
}

fn text(text: &str) -> Option<Text<'_>> {
    Some(Text(Cow::Borrowed(text)))
}

fn of<'t>(text: Option<&'t Text<'_>>) -> &'t str {
    text.map_or("", |text| &text.0)
}

const MESSAGE: &str = "producer, seq";
const MESSAGE_AND_GROUP: &str = "group, producer, seq";
const PLACE: &str = "log, partition and offset together, or none of them";
