//! Stress: the conformance suite several times at once against one broker.

use std::time::Duration;

use mq_core::{Destination, Result};

use crate::{Fixture, Hook, Link};

/// How many copies run at once, if `MQ_STRESS` asks for it.
pub(crate) fn copies(
    read: impl Fn(&str) -> Option<String>,
) -> std::result::Result<Option<usize>, String> {
    let Some(text) = read(VARIABLE).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(copies @ 1..=MOST) => Ok(Some(copies)),
        _ => Err(format!("{VARIABLE}={text} is no number from 1 to {MOST}")),
    }
}

/// A fixture whose broker is busy with other copies.
pub(crate) struct Patient<F> {
    pub(crate) fixture: F,
    /// How much longer everything may take.
    pub(crate) factor: u32,
}

impl<F: Fixture> Fixture for Patient<F> {
    type Broker = F::Broker;

    fn connect(&self) -> impl Future<Output = Result<F::Broker>> + Send {
        self.fixture.connect()
    }

    fn patience(&self) -> Duration {
        self.fixture.patience() * self.factor
    }

    fn quiet(&self) -> Duration {
        self.fixture.quiet()
    }

    fn single_active_queue(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<(F::Broker, Destination)>> + Send {
        self.fixture.single_active_queue(name)
    }

    fn hooks(&self) -> &'static [Hook] {
        self.fixture.hooks()
    }

    fn connect_by_link(&self) -> impl Future<Output = Result<(F::Broker, Box<dyn Link>)>> + Send {
        self.fixture.connect_by_link()
    }

    fn refusing_queue(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<(F::Broker, Destination)>> + Send {
        self.fixture.refusing_queue(name)
    }
}

/// The trials of all copies in one list, each copy beginning at another place: so that all kinds of
/// cases meet, not each only itself.
pub(crate) fn interleaved<T>(copies: Vec<Vec<T>>) -> Vec<T> {
    let count = copies.len().max(1);
    let mut queues: Vec<std::collections::VecDeque<T>> =
        copies.into_iter().map(Into::into).collect();
    for (number, queue) in queues.iter_mut().enumerate() {
        let begin = queue.len() * number / count;
        queue.rotate_left(begin);
    }
    let mut all = Vec::new();
    while queues.iter().any(|queue| !queue.is_empty()) {
        all.extend(queues.iter_mut().filter_map(|queue| queue.pop_front()));
    }
    all
}

/// How much longer a case may take while other copies run.
pub(crate) const SLOWER: u32 = 5;
const VARIABLE: &str = "MQ_STRESS";
const MOST: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_a_number_of_copies_or_an_error() {
        let with = |text: &'static str| copies(move |_| Some(text.to_owned()));
        assert_eq!(copies(|_| None), Ok(None));
        assert_eq!(with(""), Ok(None));
        assert_eq!(with("10"), Ok(Some(10)));
        for bad in ["0", "ten", "-1", "101"] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_copy_begins_at_another_place() {
        let all = interleaved(vec![vec!["a1", "b1"], vec!["a2", "b2"]]);
        assert_eq!(all, ["a1", "b2", "b1", "a2"]);
    }
}
