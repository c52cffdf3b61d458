//! What a broker's backend can do, as a value: it chooses tests and start-up checks.

use std::fmt;

/// One thing that some backends can do and others cannot.
///
/// What every backend must do (confirmed publishing, settlement, redelivery, resume) is no capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Capability {
    /// Topics with durable subscriptions.
    DurableSubscriptions,
    /// Subscriptions that live with their consumer.
    EphemeralSubscriptions,
    /// A topic publish that no subscription takes can be reported as unroutable.
    MandatoryTopics,
    /// `defer`: delivered again after a delay.
    Defer,
    /// A deferred message can hold the later ones of its key
    /// ([`Deferred::InPlace`](crate::Deferred::InPlace)).
    DeferInPlace,
    /// Messages with a higher priority are delivered sooner.
    Priority,
    /// The broker says whether a message was delivered before.
    RedeliveredFlag,
    /// A header name may stand more than once.
    RepeatedHeaders,
    /// Receipts and deliveries have a partition and offset.
    Positions,
    /// A key's messages go to one consumer at a time, across processes.
    Partitions,
    /// A message that waits for its settlement holds up no other message of its queue.
    SettleEach,
    /// One consumer at a time takes a queue's messages, others stand by.
    SingleActiveConsumer,
    /// What is given back without having been attempted, by [`release`](crate::Settlement::release), is
    /// not counted as an attempt.
    UncountedRelease,
    /// A message arrives as it was sent: with its id, time, headers and properties, and with nothing
    /// taken for something empty.
    ///
    /// Without it a message is a key and a payload. Whatever else was set is refused before it is sent,
    /// the id and the time are new at its receipt, and there are no dead letters, since they could not
    /// say what became of them.
    WholeMessages,
    /// Several consumers share the messages of a queue, and the broker knows of them. Without it there
    /// is one at a time, which its user sees to where different processes could open one each.
    SharedQueues,
    /// Every verdict outlasts its consumer, and so do the attempts of a message.
    ///
    /// Without it what is settled behind an unsettled message of its partition is delivered again when
    /// the consumer ends before that is settled too, and attempts are counted anew.
    KeptVerdicts,
    /// A consumer gets the messages of a key in the order in which they were published.
    KeyOrder,
    /// The attempts of a message are those that failed: what a consumer had and nobody attempted is
    /// not counted when that consumer goes.
    ExactAttempts,
    /// A consumer is handed more messages whenever fewer than its prefetch are unsettled.
    ///
    /// Without it a consumer may hold fewer, and wait for some of them to be settled before it gets
    /// more. Its prefetch is an upper bound all the same.
    FilledPrefetch,
}

impl Capability {
    /// All of them, in the order of the enum.
    pub const ALL: &'static [Self] = &[
        Self::DurableSubscriptions,
        Self::EphemeralSubscriptions,
        Self::MandatoryTopics,
        Self::Defer,
        Self::DeferInPlace,
        Self::Priority,
        Self::RedeliveredFlag,
        Self::RepeatedHeaders,
        Self::Positions,
        Self::Partitions,
        Self::SettleEach,
        Self::SingleActiveConsumer,
        Self::UncountedRelease,
        Self::WholeMessages,
        Self::SharedQueues,
        Self::KeptVerdicts,
        Self::KeyOrder,
        Self::ExactAttempts,
        Self::FilledPrefetch,
    ];
}

impl fmt::Display for Capability {
    /// The kebab-case name, as in test records.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DurableSubscriptions => "durable-subscriptions",
            Self::EphemeralSubscriptions => "ephemeral-subscriptions",
            Self::MandatoryTopics => "mandatory-topics",
            Self::Defer => "defer",
            Self::DeferInPlace => "defer-in-place",
            Self::Priority => "priority",
            Self::RedeliveredFlag => "redelivered-flag",
            Self::RepeatedHeaders => "repeated-headers",
            Self::Positions => "positions",
            Self::Partitions => "partitions",
            Self::SettleEach => "settle-each",
            Self::SingleActiveConsumer => "single-active-consumer",
            Self::UncountedRelease => "uncounted-release",
            Self::WholeMessages => "whole-messages",
            Self::SharedQueues => "shared-queues",
            Self::KeptVerdicts => "kept-verdicts",
            Self::KeyOrder => "key-order",
            Self::ExactAttempts => "exact-attempts",
            Self::FilledPrefetch => "filled-prefetch",
        })
    }
}

/// The set of capabilities of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u32);

impl Capabilities {
    /// None.
    pub const fn none() -> Self {
        Self(0)
    }

    /// These and one more.
    #[must_use]
    pub const fn and(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability as u32)
    }

    /// True if the backend can do it.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u32) != 0
    }

    /// All of them, in the order of the enum.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL
            .iter()
            .copied()
            .filter(move |c| self.has(*c))
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_is_listed_once_and_at_its_place() {
        // Here a new one has to be written down, and then above.
        let last = |capability| match capability {
            Capability::DurableSubscriptions
            | Capability::EphemeralSubscriptions
            | Capability::MandatoryTopics
            | Capability::Defer
            | Capability::DeferInPlace
            | Capability::Priority
            | Capability::RedeliveredFlag
            | Capability::RepeatedHeaders
            | Capability::Positions
            | Capability::Partitions
            | Capability::SettleEach
            | Capability::SingleActiveConsumer
            | Capability::UncountedRelease
            | Capability::WholeMessages
            | Capability::SharedQueues
            | Capability::KeptVerdicts
            | Capability::KeyOrder
            | Capability::ExactAttempts => false,
            Capability::FilledPrefetch => true,
        };
        for (index, capability) in Capability::ALL.iter().enumerate() {
            assert_eq!(*capability as usize, index, "{capability}");
            assert_eq!(last(*capability), index + 1 == Capability::ALL.len());
        }
    }
}
