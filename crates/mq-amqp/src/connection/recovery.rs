//! How a lost connection comes back: how often, how soon, and for how long it is tried.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

use mq_core::{Error, ErrorKind, RetryAdvice};

/// What is done when a connection is lost. Default: [`endless`](Self::endless).
///
/// Each of the two connections comes back by itself, and with it the channels, what this client
/// [declared](mq_core::Broker::declare), its consumers with their prefetch, and the publishes that
/// had no answer. Meanwhile publishes wait in their window, up to their deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    first: Duration,
    longest: Duration,
    limit: Option<Duration>,
}

impl Recovery {
    /// Connects again until it succeeds.
    ///
    /// A refusal of user, password, virtual host or permission ends it all the same: after five in a
    /// row, which take about two seconds, since a broker that is starting or stands alone may refuse
    /// for a moment.
    pub fn endless() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(5),
            limit: None,
        }
    }

    /// Gives up when the connection has been away for this long. Zero: at once.
    ///
    /// What was waiting, and whatever comes later, then ends as
    /// [`Disconnected`](ErrorKind::Disconnected).
    pub fn within(limit: Duration) -> Self {
        Self {
            limit: Some(limit),
            ..Self::endless()
        }
    }

    /// The pause before the second attempt, which doubles with each further one up to `longest`.
    /// Default 100 ms and 5 s. Half of each pause is random, so that clients that lost their
    /// broker together do not come back together.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.first, self.longest) = (first, longest);
        self
    }

    /// True after so long without a connection.
    pub(crate) fn is_over(&self, away: Duration) -> bool {
        self.limit.is_some_and(|limit| away >= limit)
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let (first, longest) = (self.first, self.longest);
        match !first.is_zero() && first <= longest && longest <= Duration::from_secs(3600) {
            true => Ok(()),
            false => Err("above 0, the first at most the longest, that at most 1 h"),
        }
    }

    /// The pause before this attempt, from 1.
    pub(crate) fn pause(&self, attempt: u32) -> Duration {
        self.scaled(attempt, random())
    }

    /// The first attempt comes within half of the first pause, so that a broker that only dropped
    /// its connections is not left waiting.
    fn scaled(&self, attempt: u32, random: u64) -> Duration {
        let share = |pause: Duration| {
            let scaled = (u128::from(random) * pause.as_micros()) >> 64;
            Duration::from_micros(u64::try_from(scaled).unwrap_or(u64::MAX))
        };
        let Some(doublings) = attempt.checked_sub(2) else {
            return share(self.first / 2);
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let pause = self.first.saturating_mul(factor).min(self.longest);
        pause / 2 + share(pause / 2)
    }
}

impl Default for Recovery {
    fn default() -> Self {
        Self::endless()
    }
}

/// Counts refusals that no waiting would change.
#[derive(Debug, Default)]
pub(crate) struct Refusals(u32);

impl Refusals {
    /// True if an attempt that ended so was the last one.
    pub(crate) fn is_last(&mut self, error: &Error) -> bool {
        if !is_refusal(error) {
            self.0 = 0;
            return false;
        }
        self.0 += 1;
        self.0 >= REFUSALS
    }
}

/// True for an answer that stays the same until somebody changes something.
pub(crate) fn is_refusal(error: &Error) -> bool {
    use ErrorKind as Kind;
    match error.kind() {
        Kind::Auth
        | Kind::Permission
        | Kind::Config
        | Kind::Unsupported
        | Kind::InvalidName
        | Kind::Mismatch
        | Kind::NotFound => true,
        // Broken certificates, and a peer that is no AMQP broker.
        Kind::Connect => error.retry() == RetryAdvice::Never,
        _ => false,
    }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Refusals in a row that are believed.
const REFUSALS: u32 = 5;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let ms = Duration::from_millis;
        let recovery = Recovery::endless().backoff(ms(100), ms(1000));
        let least = [1, 2, 3, 4, 5, 6, u32::MAX].map(|attempt| recovery.scaled(attempt, 0));
        assert_eq!(least, [0, 50, 100, 200, 400, 500, 500].map(ms));
    }

    proptest! {
        #[test]
        fn half_of_a_pause_is_random(attempt in 2_u32.., random: u64) {
            let recovery = Recovery::endless();
            let (least, pause) = (recovery.scaled(attempt, 0), recovery.scaled(attempt, random));
            prop_assert!(least <= pause && pause <= least * 2);
            prop_assert!(pause <= Duration::from_secs(5));
        }
    }

    #[test]
    fn a_refusal_is_believed_when_it_comes_again_and_again() {
        let error = |kind| Error::new(kind, "connect", "no");
        let mut refusals = Refusals::default();
        let mut refuse = |kind| refusals.is_last(&error(kind));
        assert!((0..4).all(|_| !refuse(ErrorKind::Auth)));
        assert!(!refuse(ErrorKind::Connect));
        assert!((0..4).all(|_| !refuse(ErrorKind::Permission)));
        assert!(refuse(ErrorKind::NotFound));
    }
}
