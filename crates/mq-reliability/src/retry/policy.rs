//! How often and how soon a failed message is attempted again.

use std::time::Duration;

/// How often a failed message is attempted, and how long to wait in between.
///
/// It counts attempts, not retries: the first call of the handler is attempt 1. Attempts come in
/// rounds: the [`fast`](Self::fast) ones in place, then, after each delay of
/// [`then_delayed`](Self::then_delayed), as many again. So a message is attempted at most
///
/// > fast × (delays + 1)
///
/// times, as with NServiceBus, whose immediate and delayed retries multiply in the same way:
/// `fast(3)` with two delays makes 9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    fast: u32,
    backoff: Option<Backoff>,
    delays: Vec<Duration>,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another attempt in place, after a wait.
    Again(Duration),
    /// The first attempt of the next round, after this delay.
    Later(Duration),
    /// None: the attempts are used up.
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Backoff {
    initial: Duration,
    max: Duration,
}

impl Policy {
    /// At most this many attempts in place, one right after the other; at least 1.
    ///
    /// Attempts that the message already has behind it count: with `fast(3)`, a message whose
    /// first attempt died with its process is attempted twice more. One with all of them behind it
    /// is rejected by the worker without another call; the layer alone, outside a worker, calls
    /// once.
    pub fn fast(attempts: u32) -> Self {
        Self {
            fast: attempts.max(1),
            backoff: None,
            delays: Vec::new(),
        }
    }

    /// Waits between the attempts: a random time up to a limit that starts at `initial` and
    /// doubles with each failure up to `max`, in whole milliseconds.
    ///
    /// The randomness over the whole range (*full jitter*) keeps workers that failed together
    /// from coming back together. The message stays unsettled meanwhile and holds one slot of its
    /// worker's concurrency, so keep `max` in seconds.
    #[must_use]
    pub fn backoff(mut self, initial: Duration, max: Duration) -> Self {
        self.backoff = Some(Backoff { initial, max });
        self
    }

    /// After the attempts in place the message is deferred: it comes to its subscription again after
    /// the first delay, then after the second and so on, each time for another round of attempts.
    ///
    /// The attempts that a message has behind it travel with its copy, so a restart goes on where
    /// they are. While it waits it holds no slot of the worker and no place of its prefetch. The
    /// broker rounds a delay up to its own steps (RabbitMQ: whole seconds), never down.
    ///
    /// ```
    /// use std::time::Duration;
    /// use mq_reliability::retry::Policy;
    ///
    /// let policy = Policy::fast(3).then_delayed([Duration::from_secs(10), Duration::from_mins(10)]);
    /// assert_eq!(policy.attempts(), 9);
    /// ```
    #[must_use]
    pub fn then_delayed(mut self, delays: impl IntoIterator<Item = Duration>) -> Self {
        self.delays = delays.into_iter().collect();
        self
    }

    /// The ceiling: after this many attempts a failed message is rejected.
    pub fn attempts(&self) -> u32 {
        let rounds = u32::try_from(self.delays.len()).unwrap_or(u32::MAX);
        self.fast.saturating_mul(rounds.saturating_add(1))
    }

    /// The delays between the rounds.
    pub(super) fn delays(&self) -> &[Duration] {
        &self.delays
    }

    /// What follows the failure of this attempt, from 1; `random` is spread over the whole range of
    /// `u64`.
    pub(super) fn next(&self, attempt: u32, random: u64) -> Next {
        if attempt >= self.attempts() {
            return Next::Never;
        }
        let (rounds, failures) = (attempt / self.fast, attempt % self.fast);
        if failures > 0 {
            return Next::Again(self.wait(failures, random));
        }
        // Below the ceiling there is a delay for every round that is over.
        let delay = usize::try_from(rounds - 1)
            .ok()
            .and_then(|at| self.delays.get(at));
        delay.copied().map_or(Next::Never, Next::Later)
    }

    /// The longest wait after this many failures of a round, from 1.
    fn longest_wait(&self, failures: u32) -> Duration {
        let Some(Backoff { initial, max }) = &self.backoff else {
            return Duration::ZERO;
        };
        let factor = 1_u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        initial.saturating_mul(factor).min(*max)
    }

    /// The wait after this many failures of a round; `random` is spread over the whole range of `u64`.
    fn wait(&self, failures: u32, random: u64) -> Duration {
        let longest = u64::try_from(self.longest_wait(failures).as_millis()).unwrap_or(u64::MAX);
        // The high half of the product is `random` scaled to 0..=longest, without a bias that counts.
        let scaled = (u128::from(random) * (u128::from(longest) + 1)) >> 64;
        Duration::from_millis(u64::try_from(scaled).unwrap_or(longest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_limit_doubles_up_to_the_maximum() {
        let policy = Policy::fast(9).backoff(100 * MS, 500 * MS);
        let limits = [1, 2, 3, 4, u32::MAX].map(|failures| policy.wait(failures, u64::MAX));
        assert_eq!(limits, [100, 200, 400, 500, 500].map(|n| n * MS));
    }

    #[test]
    fn waits_nowhere_without_a_backoff() {
        assert_eq!(Policy::fast(3).wait(2, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn each_round_ends_with_its_delay_and_the_last_one_with_the_ceiling() {
        let delays = [10, 600].map(Duration::from_secs);
        let policy = Policy::fast(3).then_delayed(delays);
        let next: Vec<Next> = (1..=10).map(|attempt| policy.next(attempt, 0)).collect();
        let (again, [first, second]) = (Next::Again(Duration::ZERO), delays.map(Next::Later));
        let rounds = [
            again,
            again,
            first,
            again,
            again,
            second,
            again,
            again,
            Next::Never,
            Next::Never,
        ];
        assert_eq!(next, rounds);
    }

    #[test]
    fn the_backoff_of_each_round_begins_anew() {
        let policy = Policy::fast(3)
            .backoff(100 * MS, 1000 * MS)
            .then_delayed([Duration::from_secs(1)]);
        let longest = [1, 2, 4, 5].map(|attempt| policy.next(attempt, u64::MAX));
        assert_eq!(longest, [100, 200, 100, 200].map(|n| Next::Again(n * MS)));
    }

    #[test]
    fn one_attempt_a_round_is_deferred_each_time() {
        let policy = Policy::fast(1).then_delayed([MS, 2 * MS]);
        let next = [1, 2, 3].map(|attempt| policy.next(attempt, 0));
        assert_eq!(next, [Next::Later(MS), Next::Later(2 * MS), Next::Never]);
    }

    #[test]
    fn the_first_call_is_an_attempt_that_cannot_be_taken_away() {
        assert_eq!(Policy::fast(0).attempts(), 1);
    }

    proptest! {
        #[test]
        fn a_wait_lies_between_zero_and_its_limit(
            initial in 0_u64..100_000, max in 0_u64..1_000_000, failures in 1_u32.., random: u64,
        ) {
            let ms = Duration::from_millis;
            let policy = Policy::fast(9).backoff(ms(initial), ms(max));
            let doubled = u128::from(initial) << (failures - 1).min(60);
            let limit = ms(u64::try_from(doubled.min(u128::from(max))).unwrap());
            prop_assert_eq!(policy.wait(failures, 0), Duration::ZERO);
            prop_assert_eq!(policy.wait(failures, u64::MAX), limit);
            prop_assert!(policy.wait(failures, random) <= limit);
        }
    }
}
