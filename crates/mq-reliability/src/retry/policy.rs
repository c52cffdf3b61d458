//! How often and how soon a failed message is attempted again.

use std::time::Duration;

/// How often a failed message is attempted, and how long to wait in between.
///
/// It counts attempts, not retries: the first call of the handler is attempt 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    fast: u32,
    backoff: Option<Backoff>,
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

    /// The ceiling: after this many attempts a failed message is rejected.
    pub fn attempts(&self) -> u32 {
        self.fast
    }

    /// The longest wait after this many failures, from 1.
    fn longest_wait(&self, failures: u32) -> Duration {
        let Some(Backoff { initial, max }) = &self.backoff else {
            return Duration::ZERO;
        };
        let factor = 1_u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        initial.saturating_mul(factor).min(*max)
    }

    /// The wait after this many failures; `random` is spread over the whole range of `u64`.
    pub(super) fn wait(&self, failures: u32, random: u64) -> Duration {
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
