//! A conformance case, and the list of all.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::BoxFuture;
use mq_core::{Broker, Capabilities, Capability};
use tokio::time::timeout;

use super::{
    cancellation, competing, dead_letters, defer, ephemeral, failing, filters, headers, lifecycle,
    links, load, messages, ordering, outcomes, payloads, publishing, receiving, redelivery,
    settlement, subscriptions, topology,
};
use crate::{
    Check, Failure, Fixture, Hook,
    coverage::Coverage,
    scene::Scene,
    stress::Patient,
    trial::{Planned, Verdict, block_on},
};

/// One conformance case: a sentence that holds on every broker that declares what it needs.
pub struct Case<F: Fixture> {
    pub(super) name: &'static str,
    /// The module that it stands in.
    pub(super) module: &'static str,
    pub(super) needs: &'static [Capability],
    /// The case is about a broker that lacks it.
    pub(super) lacks: Option<Capability>,
    /// The case needs a fault that the fixture makes.
    pub(super) hook: Option<Hook>,
    pub(super) body: Body<F>,
}

pub(super) type Body<F> = for<'a> fn(&'a Scene<F>) -> BoxFuture<'a, Check>;

impl<F: Fixture> Case<F> {
    /// The sentence, in snake case.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What the case is about: the file that it stands in, such as `dead_letters`.
    pub fn group(&self) -> &'static str {
        self.module.rsplit("::").next().unwrap_or(self.module)
    }

    /// What the case needs, such as `defer`, `no repeated-headers` or the hook `link`; empty if it
    /// always runs.
    pub fn needs(&self) -> String {
        let needs = self.needs.iter().map(ToString::to_string);
        let lacks = self.lacks.iter().map(|lacks| format!("no {lacks}"));
        let hook = self.hook.iter().map(ToString::to_string);
        needs
            .chain(lacks)
            .chain(hook)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// True if a broker with these capabilities, and a fixture with these hooks, has to pass it.
    pub fn runs_with(&self, can: Capabilities, hooks: &[Hook]) -> bool {
        self.needs.iter().all(|need| can.has(*need))
            && !self.lacks.is_some_and(|c| can.has(c))
            && self.hook.is_none_or(|hook| hooks.contains(&hook))
    }

    /// Runs it with clients of its own, and closes the first of them.
    ///
    /// # Errors
    /// Why the broker does not pass.
    ///
    /// # Cancel safety
    /// Dropped, its queues and topics stay on the broker, as they do when it ends.
    pub async fn run(&self, fixture: Arc<F>) -> Check {
        let scene = Scene::new(fixture, self.name).await?;
        (self.body)(&scene).await?;
        close(&scene.broker).await
    }
}

impl<F: Fixture> std::fmt::Debug for Case<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .field("needs", &self.needs())
            .finish()
    }
}

/// Lists the functions of a file as cases, each with what it `needs` or `lacks`, and the hook that it
/// works `with`.
macro_rules! list {
    ($($name:ident $(needs $($need:ident)|+)? $(lacks $lack:ident)? $(with $hook:ident)?),+ $(,)?) => {
        pub(super) fn all<F: $crate::Fixture>() -> Vec<$crate::Case<F>> {
            vec![$($crate::cases::case::Case {
                name: stringify!($name),
                module: module_path!(),
                needs: &[$($(mq_core::Capability::$need),+)?],
                lacks: [$(mq_core::Capability::$lack)?].first().copied(),
                hook: [$($crate::Hook::$hook)?].first().copied(),
                body: |scene| Box::pin($name(scene)),
            }),+]
        }
    };
}

pub(super) use list;

/// All conformance cases, in the order of the suite.
pub fn cases<F: Fixture>() -> Vec<Case<F>> {
    let files = [
        messages::all(),
        payloads::all(),
        headers::all(),
        publishing::all(),
        outcomes::all(),
        settlement::all(),
        redelivery::all(),
        ordering::all(),
        receiving::all(),
        competing::all(),
        dead_letters::all(),
        defer::all(),
        subscriptions::all(),
        filters::all(),
        ephemeral::all(),
        topology::all(),
        lifecycle::all(),
        failing::all(),
        cancellation::all(),
        links::all(),
        load::all(),
    ];
    files.into_iter().flatten().collect()
}

/// The cases as a suite runs them, and one that compares the list with what is expected. Everything
/// may take `factor` times as long.
pub(crate) fn planned<F: Fixture>(
    fixture: impl Fn(String) -> F + Send + Sync + 'static,
    expected: &'static str,
    factor: u32,
    version: Arc<OnceLock<String>>,
) -> (Vec<Planned>, Arc<Coverage>) {
    let cases = cases::<Patient<F>>();
    let coverage = Arc::new(Coverage::new(cases.len()));
    let fixture = move |address| Patient {
        fixture: fixture(address),
        factor,
    };
    let suite = Arc::new(Shared {
        fixture,
        can: OnceLock::new(),
        version,
        coverage: Arc::clone(&coverage),
    });
    let plan = |case: Case<Patient<F>>| {
        let suite = Arc::clone(&suite);
        let hook = case.hook.iter().map(ToString::to_string);
        let shows = case.needs.iter().map(ToString::to_string).chain(hook);
        Planned {
            name: case.name.into(),
            group: case.group(),
            needs: case.needs(),
            shows: Some((shows.collect(), Arc::clone(&coverage))),
            body: Box::new(move |address, deadline| suite.run(&case, address, deadline * factor)),
        }
    };
    let mut planned: Vec<Planned> = cases.into_iter().map(plan).collect();
    planned.push(Planned {
        name: "the_expected_cases_run".into(),
        group: "",
        needs: String::new(),
        shows: None,
        body: Box::new(move |address, deadline| {
            match suite.capabilities(&address, deadline * factor) {
                Ok((can, hooks)) => Verdict::of(compare(&listing::<F>(can, hooks), expected)),
                Err(why) => Verdict::Failed(why),
            }
        }),
    });
    (planned, coverage)
}

/// What the broker declares, and the hooks of its fixture.
type Abilities = (Capabilities, &'static [Hook]);

/// What the cases of one suite share.
struct Shared<M> {
    fixture: M,
    /// What the broker said when the first case asked it.
    can: OnceLock<Result<Abilities, String>>,
    version: Arc<OnceLock<String>>,
    coverage: Arc<Coverage>,
}

impl<F: Fixture, M: Fn(String) -> F> Shared<M> {
    fn run(&self, case: &Case<F>, address: String, deadline: Duration) -> Verdict {
        match self.capabilities(&address, deadline) {
            Err(why) => Verdict::Failed(why),
            Ok((can, hooks)) if !case.runs_with(can, hooks) => Verdict::NotDeclared(case.needs()),
            Ok(_) => Verdict::of(block_on(
                deadline,
                case.run(Arc::new((self.fixture)(address))),
            )),
        }
    }

    fn capabilities(&self, address: &str, deadline: Duration) -> Result<Abilities, String> {
        let ask = || {
            let fixture = (self.fixture)(address.to_owned());
            let mut can = Capabilities::none();
            block_on(deadline, async {
                let broker = fixture.connect().await?;
                can = broker.capabilities();
                // The first answer stays; all are the same.
                let _ = self.version.set(broker.product());
                close(&broker).await
            })?;
            let hooks = fixture.hooks();
            let capabilities = can.iter().map(|capability| capability.to_string());
            let declared = capabilities.chain(hooks.iter().map(ToString::to_string));
            let _ = self.coverage.declared.set(declared.collect());
            Ok((can, hooks))
        };
        self.can.get_or_init(ask).clone()
    }
}

async fn close<B: Broker>(broker: &B) -> Check {
    match timeout(CLOSE, broker.close()).await {
        Ok(closed) => closed.map_err(|error| Failure::from(error).while_doing("close the client")),
        Err(_) => Err(Failure::new(format!(
            "the client did not close within {CLOSE:?}"
        ))),
    }
}

/// One line per case: whether it runs on a broker with these capabilities and hooks.
fn listing<F: Fixture>(can: Capabilities, hooks: &[Hook]) -> String {
    let line = |case: &Case<F>| match case.runs_with(can, hooks) {
        true => format!("runs          {}\n", case.name),
        false => format!("not declared  {} ({})\n", case.name, case.needs()),
    };
    cases::<F>().iter().map(line).collect()
}

fn compare(found: &str, expected: &str) -> Result<(), String> {
    let lines = |text: &'static str, of: &str, other: &str| -> Vec<String> {
        let other: BTreeSet<&str> = other.lines().collect();
        of.lines()
            .filter(|l| !other.contains(l))
            .map(|l| format!("{text} {l}"))
            .collect()
    };
    let different = [lines("-", expected, found), lines("+", found, expected)].concat();
    if different.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the cases that this broker declares are not those in the expected file\n\
        (- only in the file, + only declared):\n{}\n\nThe file for what is declared now:\n{found}",
        different.join("\n")
    ))
}

const CLOSE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_that_is_no_longer_declared_is_a_difference() {
        let before = "runs          a\nruns          b\n";
        let after = "runs          a\nnot declared  b (defer)\n";
        assert_eq!(compare(before, before), Ok(()));
        let text = compare(after, before).expect_err("different");
        assert!(
            text.contains("- runs          b\n+ not declared  b (defer)\n"),
            "{text}"
        );
        assert!(!text.contains("- runs          a"), "{text}");
    }
}
