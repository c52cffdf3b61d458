//! How often and how soon something that failed is started again.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

/// At most so many restarts within a period.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intensity {
    restarts: usize,
    period: Duration,
}

impl Intensity {
    pub(super) fn new(restarts: usize, period: Duration) -> Self {
        Self {
            restarts,
            period: period.max(Duration::from_secs(1)),
        }
    }
}

/// Waits that double, with jitter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    initial: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(initial: Duration, max: Duration) -> Self {
        let initial = initial.max(Duration::from_millis(1));
        Self {
            initial,
            max: max.max(initial),
        }
    }

    /// The wait after so many failures in a row, from 1: between half of the limit and all of it,
    /// so that it is random, and never nothing.
    fn wait(&self, failures: u32, random: u64) -> Duration {
        let factor = 1_u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let limit = self.initial.saturating_mul(factor).min(self.max);
        let half = limit / 2;
        // The high bits as a fraction of 2^32; a bias of less than that does not count.
        let fraction = u32::try_from(random >> 32).unwrap_or(u32::MAX);
        half + (limit - half).mul_f64(f64::from(fraction) / f64::from(u32::MAX))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

/// The restarts within the period.
#[derive(Debug)]
pub(super) struct Window {
    intensity: Intensity,
    restarts: VecDeque<Instant>,
}

impl Window {
    pub(super) fn new(intensity: Intensity) -> Self {
        Self {
            intensity,
            restarts: VecDeque::new(),
        }
    }

    /// Counts one more restart. False if it is one too many.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let period = self.intensity.period;
        while self
            .restarts
            .front()
            .is_some_and(|at| now.duration_since(*at) > period)
        {
            self.restarts.pop_front();
        }
        self.restarts.push_back(now);
        self.restarts.len() <= self.intensity.restarts
    }
}

/// The failures in a row of one child or actor.
#[derive(Debug, Default)]
pub(super) struct Streak(u32);

impl Streak {
    /// Counts a failure after a run of this length, and says how long to wait. Who ran for a whole
    /// period was healthy, and begins anew.
    pub(super) fn failed(
        &mut self,
        ran: Duration,
        intensity: Intensity,
        backoff: Backoff,
    ) -> Duration {
        self.0 = match ran >= intensity.period {
            true => 1,
            false => self.0.saturating_add(1),
        };
        backoff.wait(self.0, RandomState::new().hash_one(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_maximum() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
        let most = [1, 2, 3, 4, u32::MAX].map(|n| backoff.wait(n, u64::MAX).as_millis());
        assert_eq!(most, [100, 200, 400, 500, 500]);
        let least = [1, 2, 3, 4, u32::MAX].map(|n| backoff.wait(n, 0).as_millis());
        assert_eq!(least, [50, 100, 200, 250, 250]);
    }

    #[test]
    fn no_setting_makes_a_hot_loop() {
        let backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert!(backoff.wait(1, 0) >= Duration::from_micros(500));
        let mut streak = Streak::default();
        let wait = streak.failed(SECOND, Intensity::new(9, Duration::ZERO), backoff);
        assert!(wait >= Duration::from_micros(500));
    }

    #[test]
    fn a_run_of_a_whole_period_begins_the_waits_anew() {
        let (intensity, backoff) = (Intensity::new(9, 60 * SECOND), Backoff::default());
        let mut streak = Streak::default();
        for _ in 0..5 {
            streak.failed(SECOND, intensity, backoff);
        }
        assert!(streak.failed(59 * SECOND, intensity, backoff) > SECOND);
        assert!(streak.failed(60 * SECOND, intensity, backoff) <= Duration::from_millis(100));
    }

    #[test]
    fn a_restart_counts_until_its_period_is_over() {
        let start = Instant::now();
        let mut window = Window::new(Intensity::new(2, 10 * SECOND));
        assert!(window.admits(start));
        assert!(window.admits(start + SECOND));
        assert!(!window.admits(start + 10 * SECOND)); // the first one counts still
        assert!(!window.admits(start + 10 * SECOND));
        assert!(window.admits(start + 21 * SECOND));
    }

    #[test]
    fn an_intensity_of_nothing_admits_no_restart() {
        let mut window = Window::new(Intensity::new(0, SECOND));
        assert!(!window.admits(Instant::now()));
    }

    proptest! {
        #[test]
        fn a_wait_lies_between_half_its_limit_and_its_limit(
            initial in 1_u64..100_000, max in 1_u64..1_000_000, failures in 1_u32.., random: u64,
        ) {
            let ms = Duration::from_millis;
            let doubled = u128::from(initial) << (failures - 1).min(60);
            let limit = u64::try_from(doubled.min(u128::from(max.max(initial)))).unwrap();
            let wait = Backoff::new(ms(initial), ms(max)).wait(failures, random);
            prop_assert!(wait >= ms(limit) / 2 && wait <= ms(limit), "{wait:?} of {limit} ms");
        }
    }
}
