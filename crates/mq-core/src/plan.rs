//! The consume plan: what a consumer asks of its backend.

use std::time::Duration;

use crate::{Capabilities, Capability, Destination, Error, ErrorKind, Result, Subscription};

/// What a consumer asks of its backend.
///
/// A worker puts it together from its settings, layers and guarantee. Whoever consumes by hand
/// starts from [`ConsumePlan::new`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ConsumePlan {
    /// The most deliveries that are unsettled at a time; at least 1. Default 100.
    pub prefetch: u16,
    /// When deliveries are acknowledged. Default: after handling.
    pub acknowledge: Acknowledge,
    /// Where rejected messages go. Default: the subscription's own home.
    pub dead_letters: DeadLetters,
    /// The delays that the consumer may ask for, where a backend must prepare them. Default none.
    pub delays: Vec<Duration>,
    /// What a deferred message does to the later ones of its key. Default: nothing.
    pub deferred: Deferred,
    /// How many times a failed message is attempted before it is rejected; at least 1. Default 5.
    ///
    /// A backend refuses more than its broker's own delivery limit would let through.
    pub max_attempts: u32,
    /// Only messages of committed transactions are delivered. Default true; a broker without
    /// transactions has nothing else.
    pub read_committed: bool,
    /// One consumer at a time, others stand by. Default false.
    pub single_active_consumer: bool,
}

/// When a worker acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Acknowledge {
    /// After the handler: *at least once*.
    AfterHandling,
    /// Before the handler, with the broker's answer awaited: *at most once*.
    BeforeHandling,
}

/// Where a consumer's rejected messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadLetters {
    /// To the home that belongs to the subscription, if it has one.
    Default,
    /// To this destination.
    To(Destination),
    /// Nowhere: a `reject` is refused.
    None,
}

/// What a deferred message does to the later messages of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Deferred {
    /// Nothing: it waits aside, and they overtake it.
    Aside,
    /// They wait behind it, so that the order of the key is kept; messages of other keys, and those
    /// without a key, go on. The consumer then hands out one message of a key at a time, and one
    /// that is requeued holds its key too.
    ///
    /// What waits is held in this process within bounds, and in the broker beyond them, where a
    /// message that waits may then hold up other keys as well. Needs
    /// [`Capability::DeferInPlace`].
    InPlace,
}

impl ConsumePlan {
    /// The defaults named at each field.
    pub fn new() -> Self {
        Self {
            prefetch: 100,
            acknowledge: Acknowledge::AfterHandling,
            dead_letters: DeadLetters::Default,
            delays: Vec::new(),
            deferred: Deferred::Aside,
            max_attempts: 5,
            read_committed: true,
            single_active_consumer: false,
        }
    }

    /// Sets how many deliveries may be unsettled at a time.
    #[must_use]
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// Sets where rejected messages go.
    #[must_use]
    pub fn dead_letters(mut self, dead_letters: DeadLetters) -> Self {
        self.dead_letters = dead_letters;
        self
    }

    /// Where a message rejected by a consumer of this subscription goes; `None` if nowhere.
    pub fn dead_letter_home(&self, subscription: &Subscription) -> Option<Destination> {
        match &self.dead_letters {
            DeadLetters::Default => subscription.dead_letter_home(),
            DeadLetters::To(destination) => Some(destination.clone()),
            DeadLetters::None => None,
        }
    }

    /// Checks the plan against the subscription and what the backend can do.
    ///
    /// Every backend calls it before it opens a consumer.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) for a number out of range, a filter on a queue, or one that
    /// [`Filter::check`](crate::Filter::check) refuses;
    /// [`Unsupported`](ErrorKind::Unsupported) for what the backend cannot do.
    pub fn check(&self, subscription: &Subscription, can: Capabilities) -> Result<()> {
        use crate::{SubscriptionKind as Kind, filter::Filter};
        let config = |text| {
            Err(Error::new(ErrorKind::Config, "consume", text).with("subscription", subscription))
        };
        if self.prefetch == 0 {
            return config("prefetch is at least 1: unlimited is not offered");
        }
        if self.max_attempts == 0 {
            return config("max_attempts is at least 1");
        }
        let queue = matches!(subscription.kind(), Kind::Queue { .. });
        if queue && *subscription.filter_by() != Filter::All {
            return config("a queue has no filter; filter a subscription of a topic");
        }
        subscription.filter_by().check("consume")?;
        let needed = [
            (Capability::Defer, !self.delays.is_empty()),
            (Capability::DeferInPlace, self.deferred == Deferred::InPlace),
            (
                Capability::SingleActiveConsumer,
                self.single_active_consumer,
            ),
            (
                Capability::DurableSubscriptions,
                matches!(subscription.kind(), Kind::Durable { .. }),
            ),
            (
                Capability::EphemeralSubscriptions,
                matches!(subscription.kind(), Kind::Ephemeral { .. }),
            ),
        ];
        match needed
            .into_iter()
            .find(|(capability, asked)| *asked && !can.has(*capability))
        {
            Some((capability, _)) => Err(Error::new(
                ErrorKind::Unsupported,
                "consume",
                "this backend cannot do what the consumer asks for",
            )
            .with("capability", capability)
            .with("subscription", subscription)),
            None => Ok(()),
        }
    }
}

impl Default for ConsumePlan {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;

    #[test]
    fn refuses_what_the_backend_cannot_do_and_names_it() {
        let plan = ConsumePlan {
            delays: vec![Duration::from_secs(1)],
            ..ConsumePlan::new()
        };
        let queue = Subscription::queue("orders");
        let error = plan
            .check(&queue, Capabilities::none())
            .expect_err("no delays");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.context("capability"), Some("defer"));
        assert!(
            plan.check(&queue, Capabilities::none().and(Capability::Defer))
                .is_ok()
        );
    }

    #[test]
    fn refuses_to_hold_a_key_where_the_backend_cannot() {
        let plan = ConsumePlan {
            deferred: Deferred::InPlace,
            ..ConsumePlan::new()
        };
        let queue = Subscription::queue("orders");
        let can = Capabilities::none().and(Capability::Defer);
        let error = plan.check(&queue, can).expect_err("no order");
        assert_eq!(error.context("capability"), Some("defer-in-place"));
        assert!(
            plan.check(&queue, can.and(Capability::DeferInPlace))
                .is_ok()
        );
    }

    #[test]
    fn refuses_numbers_and_filters_that_make_no_sense() {
        let queue = Subscription::queue("orders");
        let none = ConsumePlan::new().prefetch(0);
        assert!(none.check(&queue, Capabilities::none()).is_err());
        let filtered = Subscription::queue("orders").filter(Filter::exact("eu"));
        let error = ConsumePlan::new()
            .check(&filtered, Capabilities::none())
            .expect_err("filter");
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
