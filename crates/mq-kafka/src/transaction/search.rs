//! The search for a record whose outputs the broker refuses for good.

/// Halves transactions until the refused record is alone in one.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Records among which the refused one is, that were not committed since.
    suspects: usize,
    limit: usize,
}

impl Search {
    /// How many records a transaction may cover.
    pub(super) fn limit(&self, usual: usize) -> usize {
        match self.suspects {
            0 => usual,
            _ => self.limit.min(usual),
        }
    }

    /// A transaction of so many records was refused.
    pub(super) fn narrow(&mut self, records: usize) {
        self.suspects = records;
        self.limit = (records / 2).max(1);
    }

    /// A transaction of so many records was committed: the refused one is not among them.
    pub(super) fn committed(&mut self, records: usize) {
        self.suspects = self.suspects.saturating_sub(records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_one_is_found_among_ten_thousand_within_twice_as_many_halvings() {
        for refused in [0, 1, 4_999, 5_000, 9_999] {
            let (mut search, mut first, mut transactions) = (Search::default(), 0, 0);
            loop {
                let covered = first..(first + search.limit(10_000)).min(10_000);
                transactions += 1;
                match (covered.contains(&refused), covered.len()) {
                    (true, 1) => break,
                    (true, records) => search.narrow(records),
                    (false, records) => {
                        search.committed(records);
                        first += records;
                    }
                }
            }
            assert!(transactions <= 28, "{transactions} for {refused}");
        }
    }
}
