//! Whether each capability that a broker declares was shown by a case that passed.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What the conformance cases of one suite have shown so far.
#[derive(Debug)]
pub(crate) struct Coverage {
    cases: usize,
    ended: AtomicUsize,
    /// Capabilities and hooks, once the broker was asked.
    pub(crate) declared: OnceLock<Vec<String>>,
    passed: Mutex<BTreeSet<String>>,
}

impl Coverage {
    /// For a suite of so many cases.
    pub(crate) fn new(cases: usize) -> Self {
        Self {
            cases,
            ended: AtomicUsize::new(0),
            declared: OnceLock::new(),
            passed: Mutex::default(),
        }
    }

    /// A case that shows these has ended.
    pub(crate) fn ended(&self, shows: &[String], passed: bool) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if passed {
            self.lock().extend(shows.iter().cloned());
        }
    }

    /// What is declared and no case has shown.
    ///
    /// A run that leaves cases out shows only a part, so nothing is missing in it.
    pub(crate) fn missing(&self) -> Vec<&str> {
        if self.ended.load(Ordering::Relaxed) < self.cases {
            return Vec::new();
        }
        let passed = self.lock();
        let declared = self.declared.get().into_iter().flatten();
        declared
            .filter(|name| !passed.contains(*name))
            .map(String::as_str)
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_case_has_shown_is_missing_once_all_have_ended() {
        let (defer, priority) = (["defer".to_owned()], ["priority".to_owned()]);
        let coverage = Coverage::new(3);
        let declared = [&defer[..], &priority].concat();
        coverage.declared.set(declared).expect("once");
        coverage.ended(&defer, true);
        coverage.ended(&priority, false);
        assert!(coverage.missing().is_empty(), "one case was left out");
        coverage.ended(&[], true);
        assert_eq!(coverage.missing(), ["priority"]);
    }
}
