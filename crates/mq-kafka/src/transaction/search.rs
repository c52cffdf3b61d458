//! The search for a record whose outputs the broker refuses for good.

/// The searches in the logs of a worker, by their numbers.
#[derive(Debug)]
pub(super) struct Searches(Vec<Search>);

/// What a refused transaction had of one log.
#[derive(Debug)]
pub(super) struct Suspects {
    pub(super) log: usize,
    pub(super) records: usize,
    /// Where it would have put each partition: below lies the refused record, in one of them.
    pub(super) places: Vec<(i32, i64)>,
}

impl Searches {
    pub(super) fn new(logs: usize) -> Self {
        Self((0..logs).map(|_| Search::default()).collect())
    }

    /// While one is on, a transaction covers records of one log alone: those of others would be taken for its own, and the last two of
    /// two logs never be told apart.
    pub(super) fn is_on(&self) -> bool {
        self.0.iter().any(Search::is_on)
    }

    /// How many records a transaction may cover that has some of this log.
    pub(super) fn limit(&self, log: usize, usual: usize) -> usize {
        self.0[log].limit(usual)
    }

    /// A transaction with these was refused.
    pub(super) fn narrow(&mut self, refused: impl IntoIterator<Item = Suspects>) {
        for suspects in refused {
            self.0[suspects.log].narrow(suspects.records, suspects.places);
        }
    }

    /// Looks at what is left of each search: partitions of a log that are not committed up to a place. One that is not ours any more
    /// is searched by who has it now.
    pub(super) fn look(&mut self, is_before: impl Fn(usize, i32, i64) -> bool) {
        for (log, search) in self.0.iter_mut().enumerate() {
            let left = |(partition, next): &(i32, i64)| is_before(log, *partition, *next);
            search.places.retain(left);
        }
    }

    /// The refused record was alone in its transaction.
    pub(super) fn found(&mut self, log: usize) {
        self.0[log] = Search::default();
    }
}

/// Halves transactions until the refused record is alone in one.
///
/// What else is committed meanwhile says nothing: while other partitions have enough to fill the small transactions, the refused
/// record may be long in coming again.
#[derive(Debug, Default)]
struct Search {
    /// Up to where the refused record can be, in partitions that are not committed so far.
    places: Vec<(i32, i64)>,
    limit: usize,
}

impl Search {
    fn is_on(&self) -> bool {
        !self.places.is_empty()
    }

    /// How many records a transaction may cover.
    fn limit(&self, usual: usize) -> usize {
        match self.is_on() {
            false => usual,
            true => self.limit.min(usual),
        }
    }

    /// A transaction of so many records, up to these places, was refused.
    fn narrow(&mut self, records: usize, places: Vec<(i32, i64)>) {
        self.places = places;
        self.limit = (records / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One log, of whose partitions each has so many records, and how far each is committed.
    struct Log {
        searches: Searches,
        committed: Vec<usize>,
        records: usize,
        turn: usize,
    }

    impl Log {
        fn new(partitions: usize, records: usize) -> Self {
            Self {
                searches: Searches::new(1),
                committed: vec![0; partitions],
                records,
                turn: 0,
            }
        }

        /// Makes transactions, each partition in its turn, until this record is alone in one; returns how many.
        fn until_found(&mut self, partition: usize, record: usize) -> usize {
            for transactions in 1..1_000_000 {
                let committed = &self.committed;
                self.searches
                    .look(|_, at, next| (committed[at as usize] as i64) < next);
                let mut room = self.searches.limit(0, 10_000);
                let (mut places, mut records) = (Vec::new(), 0);
                for _ in 0..committed.len() {
                    let at = self.turn;
                    let taken = room.min(self.records - committed[at]);
                    if taken > 0 {
                        self.turn = (at + 1) % committed.len();
                        places.push((at as i32, (committed[at] + taken) as i64));
                        (room, records) = (room - taken, records + taken);
                    }
                }
                let has = |(at, next): &(i32, i64)| {
                    let range = committed[*at as usize]..*next as usize;
                    *at as usize == partition && range.contains(&record)
                };
                match (places.iter().any(has), records) {
                    (true, 1) => return transactions,
                    (true, _) => self.searches.narrow([Suspects {
                        log: 0,
                        records,
                        places,
                    }]),
                    (false, 0) => panic!("all is committed"),
                    (false, _) => {
                        for (at, next) in places {
                            self.committed[at as usize] = next as usize;
                        }
                    }
                }
            }
            panic!("not found")
        }
    }

    #[test]
    fn the_refused_one_is_found_among_ten_thousand_within_twice_as_many_halvings() {
        for refused in [0, 1, 4_999, 5_000, 9_999] {
            let transactions = Log::new(1, 10_000).until_found(0, refused);
            assert!(transactions <= 28, "{transactions} for {refused}");
        }
    }

    #[test]
    fn it_is_found_while_other_partitions_fill_most_transactions() {
        let transactions = Log::new(20, 1_000_000).until_found(19, 3);
        assert!(transactions <= 28 * 20, "{transactions}");
    }

    #[test]
    fn it_is_found_in_one_of_four_logs_while_the_others_have_as_much_as_fits() {
        let mut searches = Searches::new(4);
        let suspects = |log, records: usize| Suspects {
            log,
            records,
            places: vec![(0, records as i64)],
        };
        searches.narrow([(0, 5_000), (1, 2_500), (2, 20), (3, 2_480)].map(|(l, r)| suspects(l, r)));
        // It is in the third, behind seven others.
        let (mut committed, mut turn, mut transactions) = ([0; 4], 0, 0);
        loop {
            searches.look(|log, _, next| committed[log] < next);
            assert!(searches.is_on(), "given up");
            transactions += 1;
            assert!(transactions < 100, "not found");
            let limit = searches.limit(turn, 10_000);
            let next = committed[turn] + limit as i64;
            match turn == 2 && next > 7 {
                true if limit == 1 => break searches.found(turn),
                true => searches.narrow([Suspects {
                    log: turn,
                    records: limit,
                    places: vec![(0, next)],
                }]),
                false => committed[turn] = next,
            }
            turn = (turn + 1) % 4;
        }
        assert_eq!(searches.limit(2, 10_000), 10_000);
    }

    #[test]
    fn a_search_is_over_when_what_it_looks_at_is_committed_or_lost() {
        let mut searches = Searches::new(1);
        searches.narrow([Suspects {
            log: 0,
            records: 10,
            places: vec![(0, 5), (1, 5)],
        }]);
        searches.look(|_, partition, next| partition == 1 && next == 5);
        assert!(searches.is_on());
        assert_eq!(searches.limit(0, 10_000), 5);
        searches.look(|_, _, _| false);
        assert!(!searches.is_on());
        assert_eq!(searches.limit(0, 10_000), 10_000);
    }
}
