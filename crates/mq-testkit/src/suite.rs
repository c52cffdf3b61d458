//! A suite: the cases that a test program runs against one broker.

use std::{
    future::Future,
    io::{self, Write},
    process::ExitCode,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use libtest_mimic::Arguments;

use crate::{
    Address, Check, Fixture, cases,
    trial::{self, Planned},
};

/// The cases that a test program (`harness = false`) runs against one broker.
///
/// Each case has its own Tokio runtime and a deadline. A panic in it is a failure. With
/// `MQ_TEST_RECORDS` set to a folder, each case appends a JSON line to `<folder>/<suite>.jsonl`.
#[must_use = "a suite does nothing until it is run"]
pub struct Suite {
    pub(crate) name: &'static str,
    pub(crate) broker: &'static str,
    pub(crate) address: Address,
    pub(crate) deadline: Duration,
    /// Known once a case has asked the broker.
    pub(crate) version: Arc<OnceLock<String>>,
    pub(crate) planned: Vec<Planned>,
}

impl Suite {
    /// A suite without cases.
    ///
    /// `name` is the suite's in records; `broker` the crate under test, and the shape of its broker
    /// if it has several.
    pub fn new(name: &'static str, broker: &'static str, address: Address) -> Self {
        let (version, planned) = (Arc::default(), Vec::new());
        Self {
            name,
            broker,
            address,
            deadline: DEADLINE,
            version,
            planned,
        }
    }

    /// Sets how long each case may take; default 60 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Adds a case of the crate's own: an async function of the broker's address.
    pub fn case<B, T>(mut self, name: &'static str, body: B) -> Self
    where
        B: FnOnce(String) -> T + Send + 'static,
        T: Future<Output = Check>,
    {
        let body = move |address, deadline| trial::end_of(deadline, body(address));
        self.planned.push(Planned {
            name,
            needs: String::new(),
            body: Box::new(body),
        });
        self
    }

    /// Adds the conformance cases.
    ///
    /// A case whose capability the broker does not declare is ignored and counted as *not
    /// declared*. `expected` is the text of a file in which each line says whether a case runs; one
    /// more case compares it with what the broker declares, so that a capability that is no longer
    /// declared shows as a failure. Each case makes a fixture of its own from the address.
    pub fn conformance<F: Fixture>(
        mut self,
        fixture: impl Fn(String) -> F + Send + Sync + 'static,
        expected: &'static str,
    ) -> Self {
        let version = Arc::clone(&self.version);
        self.planned
            .extend(cases::planned(fixture, expected, version));
        self
    }

    /// Runs the cases as the program's command line says; see [`run()`].
    #[must_use]
    pub fn run(self) -> ExitCode {
        run([self])
    }
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the address: it may hold a password.
        f.debug_struct("Suite")
            .field("name", &self.name)
            .field("broker", &self.broker)
            .field("cases", &self.planned.len())
            .finish_non_exhaustive()
    }
}

/// Runs suites as one test program, with the arguments that `cargo test` passes on.
///
/// Cases of a missing broker are ignored, or fail where it is required: see
/// [`broker_address`](crate::broker_address). Ends with how many cases were not declared.
#[must_use]
pub fn run(suites: impl IntoIterator<Item = Suite>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most cases wait for a broker most of the time.
    arguments.test_threads.get_or_insert(THREADS);
    let not_declared = Arc::new(AtomicUsize::new(0));
    let trials = suites
        .into_iter()
        .flat_map(|suite| trial::trials(suite, &not_declared))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let count = not_declared.load(Ordering::Relaxed);
    if count > 0 {
        // Nothing can be done about a closed standard output here; the verdict is the exit code.
        let _ = writeln!(
            io::stdout(),
            "{count} of the ignored cases are not declared\n"
        );
    }
    conclusion.exit_code()
}

const DEADLINE: Duration = Duration::from_secs(60);
const THREADS: usize = 6;
