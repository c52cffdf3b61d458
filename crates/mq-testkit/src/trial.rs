//! One case as a trial of libtest-mimic: its runtime, deadline, verdict and record.

use std::{
    any::Any,
    borrow::Cow,
    env,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use libtest_mimic::{Completion, Failed, Trial};

use crate::{Address, Check, Suite, coverage::Coverage, record::Record};

/// A case that waits for its address.
pub(crate) struct Planned {
    pub(crate) name: Cow<'static, str>,
    /// What it is about; empty outside the conformance suite.
    pub(crate) group: &'static str,
    /// The capabilities it needs, as shown; empty for none.
    pub(crate) needs: String,
    /// The capabilities and hooks that its passing shows, and where that is written down.
    pub(crate) shows: Option<(Vec<String>, Arc<Coverage>)>,
    pub(crate) body: Box<dyn FnOnce(String, Duration) -> Verdict + Send>,
}

/// How a case ended.
#[derive(Debug)]
pub(crate) enum Verdict {
    Passed,
    /// The broker does not declare what the case needs.
    NotDeclared(String),
    Ignored(String),
    Failed(String),
}

/// The trials of a suite, one of several copies or the only one; each writes its record.
pub(crate) fn trials(
    suite: Suite,
    copy: Option<usize>,
    not_declared: &Arc<AtomicUsize>,
) -> Vec<Trial> {
    let Suite {
        name: suite,
        broker,
        address,
        deadline,
        version,
        planned,
        ..
    } = suite;
    let kind = match copy {
        Some(copy) => format!("{broker} #{copy}"),
        None => broker.to_owned(),
    };
    let trial = |case: Planned| {
        let (address, version) = (address.clone(), Arc::clone(&version));
        let not_declared = Arc::clone(not_declared);
        let (name, group) = (case.name.clone(), case.group);
        let told = name.clone();
        let body = move || {
            let _turn = turn(group, copy);
            let start = Instant::now();
            let (needs, shows) = (case.needs.clone(), case.shows.clone());
            let mut verdict = judge(case, address, deadline);
            if let Some((shown, coverage)) = shows {
                coverage.ended(&shown, matches!(verdict, Verdict::Passed));
            }
            if let (Some(copy), Verdict::Failed(why)) = (copy, &mut verdict) {
                *why = format!("copy {copy}: {why}");
            }
            if matches!(verdict, Verdict::NotDeclared(_)) {
                not_declared.fetch_add(1, Ordering::Relaxed);
            }
            let (result, detail) = verdict.parts();
            let run = env::var("MQ_TEST_RUN").unwrap_or_default();
            let record = Record {
                run: &run,
                suite,
                broker,
                version: version.get().map_or("", String::as_str),
                group,
                case: &told,
                capability: &needs,
                result,
                seconds: start.elapsed().as_secs_f64(),
                detail,
            };
            record
                .write()
                .map_err(|error| format!("the record could not be written: {error}"))?;
            verdict.into_completion()
        };
        Trial::ignorable_test(name, body).with_kind(&kind)
    };
    planned.into_iter().map(trial).collect()
}

/// Cases about load take turns, since each is to say what a broker does under its load alone: fifty members of a group beside twenty
/// queues and a hundred other connections, and a broker on two cores answers nobody in time. Copies are made to load it more.
fn turn(group: &str, copy: Option<usize>) -> Option<MutexGuard<'static, ()>> {
    let takes_turns = group == LOAD && copy.is_none();
    takes_turns.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

static TURN: Mutex<()> = Mutex::new(());
/// The file of the cases about load.
const LOAD: &str = "load";

fn judge(case: Planned, address: Address, deadline: Duration) -> Verdict {
    match address {
        Address::Here(address) => (case.body)(address, deadline),
        Address::Missing(reason) => Verdict::Ignored(reason),
        Address::Required(reason) => Verdict::Failed(reason),
    }
}

impl Verdict {
    pub(crate) fn of(result: Result<(), String>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(why) => Self::Failed(why),
        }
    }

    /// The word for the record, and the detail.
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Passed => ("passed", ""),
            Self::NotDeclared(what) => ("not-declared", what),
            Self::Ignored(why) => ("ignored", why),
            Self::Failed(why) => ("failed", why),
        }
    }

    fn into_completion(self) -> Result<Completion, Failed> {
        match self {
            Self::Passed => Ok(Completion::Completed),
            Self::NotDeclared(what) => {
                Ok(Completion::ignored_with(format!("not declared: {what}")))
            }
            Self::Ignored(why) => Ok(Completion::ignored_with(why)),
            Self::Failed(why) => Err(why.into()),
        }
    }
}

/// Runs a case in a runtime of its own until its deadline; a panic is a failure.
pub(crate) fn block_on(
    deadline: Duration,
    case: impl Future<Output = Check>,
) -> Result<(), String> {
    match end_of(deadline, case) {
        Verdict::Passed => Ok(()),
        other => Err(other.parts().1.to_owned()),
    }
}

/// How a case ends that runs in a runtime of its own until its deadline; a panic is a failure.
pub(crate) fn end_of(deadline: Duration, case: impl Future<Output = Check>) -> Verdict {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Verdict::Failed(format!("no runtime: {error}")),
    };
    let run = || runtime.block_on(async { tokio::time::timeout(deadline, case).await });
    let verdict = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(Ok(()))) => Verdict::Passed,
        Ok(Ok(Err(failure))) => match failure.lacking() {
            Some(capability) => Verdict::NotDeclared(capability.to_owned()),
            None => Verdict::Failed(failure.to_string()),
        },
        Ok(Err(_)) => Verdict::Failed(format!("not done within its deadline of {deadline:?}")),
        Err(panic) => Verdict::Failed(format!("panicked: {}", panic_text(&*panic))),
    };
    // A task that never ends must not keep the program from ending.
    runtime.shutdown_timeout(LEFTOVERS);
    verdict
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

const LEFTOVERS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_failure_a_panic_and_a_deadline_are_told() {
        assert_eq!(block_on(SOON, async { Ok(()) }), Ok(()));
        let failed = block_on(SOON, async { Err(Failure::new("wrong")) });
        assert!(failed.expect_err("failed").starts_with("wrong (at "));
        let panicked = block_on(SOON, async { panic!("odd {}", 1) });
        assert_eq!(panicked, Err("panicked: odd 1".to_owned()));
        let late = block_on(Duration::from_millis(1), std::future::pending());
        assert_eq!(late, Err("not done within its deadline of 1ms".to_owned()));
    }

    #[test]
    fn a_case_about_what_the_broker_does_not_declare_is_neither_passed_nor_failed() {
        let end = end_of(SOON, async {
            Err(Failure::not_declared(mq_core::Capability::Partitions))
        });
        assert!(matches!(end, Verdict::NotDeclared(what) if what == "partitions"));
    }

    #[test]
    fn one_case_about_load_runs_at_a_time_but_for_copies() {
        let mine = turn(LOAD, None);
        assert!(mine.is_some() && TURN.try_lock().is_err());
        assert!(turn("messages", None).is_none() && turn(LOAD, Some(2)).is_none());
        drop(mine);
        assert!(TURN.try_lock().is_ok());
    }

    #[test]
    fn a_missing_broker_is_ignored_and_a_required_one_fails() {
        let case = || Planned {
            name: "x".into(),
            group: "",
            needs: String::new(),
            shows: None,
            body: Box::new(|_, _| panic!("must not run")),
        };
        let missing = judge(case(), Address::Missing("none".to_owned()), SOON);
        assert!(matches!(missing, Verdict::Ignored(_)));
        let required = judge(case(), Address::Required("none".to_owned()), SOON);
        assert!(matches!(required, Verdict::Failed(_)));
    }
}
