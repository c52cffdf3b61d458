//! A suite: the cases that a test program runs against one broker.

use std::{
    env,
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
    coverage::Coverage,
    record::Record,
    stress::{self, SLOWER, interleaved},
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
    /// Makes the conformance cases, as many times as they are to run.
    conformance: Option<Conformance>,
    /// How many cases may run at a time.
    threads: usize,
}

/// Makes the conformance cases, which may take a factor longer, and what they will have shown.
type Conformance = Box<dyn Fn(u32, Arc<OnceLock<String>>) -> (Vec<Planned>, Arc<Coverage>) + Send>;

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
            conformance: None,
            threads: THREADS,
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
            name: name.into(),
            group: "",
            needs: String::new(),
            shows: None,
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
    ///
    /// When all cases have run and a declared capability is needed by none that passed, the program
    /// fails and names it.
    ///
    /// With `MQ_STRESS` set to a number, so many copies of these cases run at once against one
    /// broker, and may take longer. A case that fails tells the number of its copy.
    pub fn conformance<F: Fixture>(
        mut self,
        fixture: impl Fn(String) -> F + Send + Sync + 'static,
        expected: &'static str,
    ) -> Self {
        let fixture = Arc::new(fixture);
        self.conformance = Some(Box::new(move |factor, version| {
            let fixture = Arc::clone(&fixture);
            let fixture = move |address| fixture(address);
            cases::planned(fixture, expected, factor, version)
        }));
        self
    }

    /// Adds the cases of the [`network`](crate::network) matrix. Each makes a fixture of its own from
    /// the address. Needs feature `proxy`.
    #[cfg(feature = "proxy")]
    pub fn network<F: crate::network::Proxied>(
        mut self,
        fixture: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Self {
        self.planned.extend(crate::network::planned(fixture));
        // They wait for time-outs most of the time.
        self.threads = NETWORK_THREADS;
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
            .field("conformance", &self.conformance.is_some())
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
    let copies = match stress::copies(|name| env::var(name).ok()) {
        Ok(copies) => copies,
        Err(wrong) => {
            say(&format!("error: {wrong}\n"));
            return ExitCode::FAILURE;
        }
    };
    // Most cases wait for a broker most of the time. Of each copy fewer run at once, so that it is
    // the broker that is under stress and not the machine.
    let suites: Vec<Suite> = suites.into_iter().collect();
    let most = suites.iter().map(|suite| suite.threads).max();
    let most = most.unwrap_or(THREADS);
    let threads = copies.map_or(most, |copies| OF_A_COPY * copies);
    arguments.test_threads.get_or_insert(threads);
    let not_declared = Arc::new(AtomicUsize::new(0));
    let mut trials = Vec::new();
    let mut shown = Vec::new();
    for mut suite in suites {
        let conformance = suite.conformance.take();
        if let Some(conformance) = conformance {
            let copy = |number: usize| {
                let factor = if copies.is_some() { SLOWER } else { 1 };
                let (planned, coverage) = conformance(factor, Arc::clone(&suite.version));
                shown.push((suite.name, suite.broker, coverage));
                let copy = Suite {
                    name: if copies.is_some() { STRESS } else { suite.name },
                    broker: suite.broker,
                    address: suite.address.clone(),
                    deadline: suite.deadline,
                    version: Arc::clone(&suite.version),
                    planned,
                    conformance: None,
                    threads: suite.threads,
                };
                trial::trials(copy, copies.map(|_| number), &not_declared)
            };
            trials.extend(interleaved((1..=copies.unwrap_or(1)).map(copy).collect()));
        }
        trials.extend(trial::trials(suite, None, &not_declared));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let count = not_declared.load(Ordering::Relaxed);
    if count > 0 {
        say(&format!("{count} of the ignored cases are not declared\n"));
    }
    let mut complete = true;
    for (suite, broker, coverage) in &shown {
        for name in coverage.missing() {
            complete = false;
            unshown(suite, broker, name);
        }
    }
    match complete {
        true => conclusion.exit_code(),
        false => ExitCode::FAILURE,
    }
}

/// Says that a capability or hook is declared and no case has shown it, and writes the record.
fn unshown(suite: &str, broker: &str, name: &str) {
    let detail = format!("{broker} declares `{name}`, and no case that needs it has passed");
    say(&format!("FAILED: {detail}"));
    let run = env::var("MQ_TEST_RUN").unwrap_or_default();
    let record = Record {
        run: &run,
        suite,
        broker,
        version: "",
        group: "",
        case: "each_declared_capability_has_a_passed_case",
        capability: name,
        result: "failed",
        seconds: 0.0,
        detail: &detail,
    };
    if let Err(error) = record.write() {
        say(&format!("the record could not be written: {error}"));
    }
}

fn say(line: &str) {
    // Nothing can be done about a closed standard output here; the verdict is the exit code.
    let _ = writeln!(io::stdout(), "{line}");
}

const DEADLINE: Duration = Duration::from_secs(60);
const THREADS: usize = 6;
#[cfg(feature = "proxy")]
const NETWORK_THREADS: usize = 12;
const OF_A_COPY: usize = 2;
/// The suite's name in the records of copies.
const STRESS: &str = "stress";
