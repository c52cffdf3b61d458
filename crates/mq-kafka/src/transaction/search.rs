//! The search for a record whose outputs the broker refuses for good.

/// The searches in the logs of a worker, by their numbers.
#[derive(Debug)]
pub(super) struct Searches(Vec<Search>);

impl Searches {
    pub(super) fn new(logs: usize) -> Self {
        Self((0..logs).map(|_| Search::default()).collect())
    }

    /// While one is on, a transaction covers records of one log alone: those of others would be taken for its own, and the last two of
    /// two logs never be told apart.
    pub(super) fn is_on(&self) -> bool {
        self.0.iter().any(|search| search.suspects > 0)
    }

    /// How many records a transaction may cover that has some of this log.
    pub(super) fn limit(&self, log: usize, usual: usize) -> usize {
        self.0[log].limit(usual)
    }

    /// A transaction of so many records of each log was refused.
    pub(super) fn narrow(&mut self, covered: impl IntoIterator<Item = (usize, usize)>) {
        for (log, records) in covered {
            self.0[log].narrow(records);
        }
    }

    /// A transaction of so many records of each log was committed.
    pub(super) fn committed(&mut self, covered: impl IntoIterator<Item = (usize, usize)>) {
        for (log, records) in covered {
            self.0[log].committed(records);
        }
    }

    /// The refused record was alone in its transaction.
    pub(super) fn found(&mut self, log: usize) {
        self.0[log] = Search::default();
    }
}

/// Halves transactions until the refused record is alone in one.
#[derive(Debug, Default)]
struct Search {
    /// Records among which the refused one is, that were not committed since.
    suspects: usize,
    limit: usize,
}

impl Search {
    /// How many records a transaction may cover.
    fn limit(&self, usual: usize) -> usize {
        match self.suspects {
            0 => usual,
            _ => self.limit.min(usual),
        }
    }

    /// A transaction of so many records was refused.
    fn narrow(&mut self, records: usize) {
        self.suspects = records;
        self.limit = (records / 2).max(1);
    }

    /// A transaction of so many records was committed: the refused one is not among them.
    fn committed(&mut self, records: usize) {
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

    #[test]
    fn it_is_found_in_one_of_four_logs_while_the_others_have_as_much_as_fits() {
        let mut searches = Searches::new(4);
        searches.narrow([(0, 5_000), (1, 2_500), (2, 20), (3, 2_480)]);
        // It is in the third, behind seven others.
        let (mut before, mut turn, mut transactions) = (7, 0, 0);
        loop {
            assert!(searches.is_on(), "given up");
            transactions += 1;
            assert!(transactions < 100, "not found");
            let limit = searches.limit(turn, 10_000);
            match turn == 2 && before < limit {
                true if limit == 1 => break searches.found(turn),
                true => searches.narrow([(turn, limit)]),
                false => {
                    searches.committed([(turn, limit)]);
                    before -= if turn == 2 { limit } else { 0 };
                }
            }
            turn = (turn + 1) % 4;
        }
    }
}
