//! What a run is said to hold.

use std::time::Duration;

use super::Class;

/// What a run is said to hold; the checker looks for what contradicts it.
#[derive(Debug, Clone)]
#[must_use = "a claim is for a Checker"]
pub struct Claim {
    name: Level,
    ordered: bool,
    rejected_may_appear: bool,
    stuck_after: Option<Duration>,
    handler_deadline: Duration,
    groups: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    clippy::enum_variant_names,
    reason = "these are the names of the guarantees"
)]
enum Level {
    AtMostOnce,
    AtLeastOnce,
    EffectivelyOnce,
    ExactlyOnce,
}

impl Claim {
    /// No message has its effect twice; some may have none.
    pub fn at_most_once() -> Self {
        Self::of(Level::AtMostOnce)
    }

    /// Every confirmed message has its effect; some may have it twice.
    pub fn at_least_once() -> Self {
        Self::of(Level::AtLeastOnce)
    }

    /// Every confirmed message is delivered at least once and has its effect once.
    pub fn effectively_once() -> Self {
        Self::of(Level::EffectivelyOnce)
    }

    /// Every confirmed message has its effect once, inside the broker's own transactions.
    pub fn exactly_once() -> Self {
        Self::of(Level::ExactlyOnce)
    }

    /// Adds that first effects of a key come in the order in which its producer made them.
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Adds that a rejected publish may have reached some of the subscriptions, as on a topic.
    pub fn rejected_may_appear(mut self) -> Self {
        self.rejected_may_appear = true;
        self
    }

    /// Adds that the consumers never stand still for longer than this, faults apart: at most this
    /// long after the last of them healed. Not judged unless given.
    pub fn stuck_after(mut self, limit: Duration) -> Self {
        self.stuck_after = Some(limit);
        self
    }

    /// Sets how long a handler may go on after its partition went to another process, and how late
    /// the record of a write may be. Default 30 s.
    ///
    /// A commit after a revocation of its own process is never in time; under *exactly once* an
    /// effect is not either.
    pub fn handler_deadline(mut self, deadline: Duration) -> Self {
        self.handler_deadline = deadline;
        self
    }

    /// Adds a group that every confirmed message must have its effect in. Default: each group that
    /// the history names.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        let group = group.into();
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
        self
    }

    /// True if findings of a class do not contradict the claim. They are counted all the same.
    pub fn allows(&self, class: Class) -> bool {
        match class {
            Class::Lost | Class::CommitAhead | Class::Skipped | Class::TornTransaction => {
                self.name == Level::AtMostOnce
            }
            Class::DuplicateDelivery => self.name != Level::AtMostOnce,
            Class::DuplicateEffect => self.name == Level::AtLeastOnce,
            Class::Reordered => !self.ordered,
            Class::Unexpected
            | Class::Corrupt
            | Class::AbortedRead
            | Class::CommitBack
            | Class::StaleWrite
            | Class::InconsistentOffset
            | Class::Stuck => false,
        }
    }

    /// The claim in words.
    pub(super) fn words(&self) -> String {
        let name = match self.name {
            Level::AtMostOnce => "at most once",
            Level::AtLeastOnce => "at least once",
            Level::EffectivelyOnce => "effectively once",
            Level::ExactlyOnce => "exactly once",
        };
        let order = if self.ordered { ", ordered by key" } else { "" };
        format!("{name}{order}")
    }

    pub(super) fn rejected_is_absent(&self) -> bool {
        !self.rejected_may_appear
    }

    pub(super) fn stuck_limit(&self) -> Option<u64> {
        self.stuck_after.map(micros)
    }

    /// How late an effect may be after a revocation of its own process.
    pub(super) fn effect_grace(&self) -> u64 {
        match self.name {
            Level::ExactlyOnce => 0,
            _ => micros(self.handler_deadline),
        }
    }

    /// How late a write may be recorded after another process took over.
    pub(super) fn fence_grace(&self) -> u64 {
        micros(self.handler_deadline)
    }

    pub(super) fn groups(&self) -> &[String] {
        &self.groups
    }

    fn of(name: Level) -> Self {
        Self {
            name,
            ordered: false,
            rejected_may_appear: false,
            stuck_after: None,
            handler_deadline: HANDLER_DEADLINE,
            groups: Vec::new(),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

const HANDLER_DEADLINE: Duration = Duration::from_secs(30);
