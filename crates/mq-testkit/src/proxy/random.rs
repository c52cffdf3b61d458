//! Random numbers that are the same for a seed in every version of this crate: SplitMix64 (Steele,
//! Lea and Flood, 2014). A library of random numbers may change what a seed means.

use std::time::Duration;

#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One of many of the same seed, told apart by a number.
    pub(super) fn of(seed: u64, number: u64) -> Self {
        let mut random = Self(seed);
        let salt = random.next();
        Self(salt ^ Self(number).next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to and without `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        // The high half of the product: as even as the limit is small against 2^64.
        let product = u128::from(self.next()) * u128::from(limit);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// From `least` to `most`, in whole units of `unit`.
    pub(super) fn between(&mut self, least: Duration, most: Duration, unit: Duration) -> Duration {
        let units = most.saturating_sub(least).as_nanos() / unit.as_nanos().max(1);
        let drawn = self.below(
            u64::try_from(units)
                .unwrap_or(u64::MAX - 1)
                .saturating_add(1),
        );
        let nanos = u128::from(drawn) * unit.as_nanos();
        least + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut random = Random::new(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| random.next()).collect();
        // The published test vector.
        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn what_is_drawn_lies_between_its_limits() {
        let mut random = Random::of(1, 2);
        let (least, most) = (Duration::from_millis(100), Duration::from_millis(300));
        let all: Vec<_> = (0..1000)
            .map(|_| random.between(least, most, Duration::from_millis(1)))
            .collect();
        assert!(all.iter().all(|drawn| (least..=most).contains(drawn)));
        assert!(all.iter().any(|drawn| *drawn < Duration::from_millis(120)));
        assert!(all.iter().any(|drawn| *drawn > Duration::from_millis(280)));
        assert_eq!(random.between(most, least, least), most);
    }
}
