//! Medians, and intervals of medians by order statistics, which need no assumption about how figures are spread.

use serde::{Deserialize, Serialize};

/// A median with the interval that holds the true one with at least 95 % probability, as far as there are enough figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of figures in any order; `None` of none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Some(match rank(sorted.len()) {
            Some(rank) => Self {
                median,
                low: sorted[rank],
                high: sorted[sorted.len() - 1 - rank],
            },
            None => Self {
                median,
                low: first,
                high: last,
            },
        })
    }

    /// True if it cannot be told from equality.
    pub(crate) fn contains_one(&self) -> bool {
        self.low <= 1.0 && 1.0 <= self.high
    }

    pub(crate) fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

/// The index of the smallest figure of the interval: with 15 figures the fourth and the twelfth bound it.
fn rank(figures: usize) -> Option<usize> {
    // The probability that fewer than k of n figures lie below the median, for k = 1, 2, …
    let mut probability = 0.5_f64.powi(i32::try_from(figures).ok()?);
    let mut outside = probability;
    let mut rank = None;
    for k in 0..figures / 2 {
        if 2.0 * outside > 0.05 {
            break;
        }
        rank = Some(k);
        probability *= (figures - k) as f64 / (k + 1) as f64;
        outside += probability;
    }
    rank
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_order_statistics() {
        // 15 figures: the 4th to the 12th; 21: the 6th to the 16th; under 6 there is no such interval.
        assert_eq!(rank(15), Some(3));
        assert_eq!(rank(21), Some(5));
        assert_eq!(rank(6), Some(0));
        assert_eq!(rank(5), None);
        let spread = Spread::of((1..=15).map(f64::from)).unwrap();
        assert_eq!((spread.median, spread.low, spread.high), (8.0, 4.0, 12.0));
    }

    #[test]
    fn few_figures_have_the_widest_interval() {
        let spread = Spread::of([3.0, 1.0]).unwrap();
        assert_eq!((spread.median, spread.low, spread.high), (2.0, 1.0, 3.0));
        assert!(!spread.contains_one() || spread.low == 1.0);
        assert_eq!(Spread::of([]), None);
    }
}
