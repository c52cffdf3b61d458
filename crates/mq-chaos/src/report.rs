//! The report of a run: what was done, what came of it, and whether the run proves anything.

mod host;
mod limits;
mod markdown;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use mq_testkit::checker::{self, Class, Verdict};
use serde::Serialize;

use crate::{
    Result,
    broker::WINDOW,
    conductor::{Done, Plan},
    crew::Exit,
    gaps::{Effects, Spread},
    samples::Drift,
    schedule::{Fault, Schedule, Target},
};
pub(crate) use host::Host;
use limits::{Alarms, Drains};

/// What is known about a run when it is over.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(skip)]
    folder: PathBuf,
    run: String,
    /// The scenario, its length and its seed.
    case: String,
    command: String,
    broker: &'static str,
    /// Deliveries without a verdict at the broker, at most.
    open: usize,
    product: String,
    host: Host,
    load_at_end: String,
    passed: bool,
    /// Why it is no pass.
    reasons: Vec<String>,
    schedule: Schedule,
    load: Load,
    rate: u32,
    /// Whether the producers of this tool send again what is unknown.
    resend: bool,
    faults: BTreeMap<String, Faults>,
    counted_kills: usize,
    counts: checker::Counts,
    findings: Vec<(String, Count)>,
    evidence: String,
    /// Deliveries again that so many faults may cause at most.
    redelivery_bound: u64,
    /// What was sent once more, by the producers of this tool.
    sent_again: u64,
    lives: BTreeMap<String, Life>,
    drains: Option<Drains>,
    alarms: Option<Alarms>,
    /// Connections that were ended one after the other, where that is the fault.
    connections_ended: u64,
    duplicate_share: f64,
    between_effects: Spread,
    around_faults: Spread,
    ended_by_error: BTreeMap<String, u64>,
    drift: BTreeMap<String, Drift>,
}

/// The time of the load and what was left after it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) seconds: u64,
    pub(crate) drained: bool,
    pub(crate) dead_letters: u64,
}

/// The faults of one kind.
#[derive(Clone, Debug, Default, Serialize)]
struct Faults {
    made: usize,
    with_messages_in_flight: usize,
    /// The longest time without an effect that touches each of them.
    gap: Spread,
    /// From the fault to everyone being there again.
    recovery: Spread,
}

/// The processes that had one place, one after the other.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Life {
    lives: u64,
    ended_by_error: u64,
    /// Connections that the client told to be lost, as far as the process could say so.
    connections_lost: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Count {
    count: u64,
    allowed: bool,
}

impl Report {
    #[allow(
        clippy::too_many_arguments,
        reason = "it brings together all that a run leaves"
    )]
    pub(crate) fn new(
        folder: PathBuf,
        product: String,
        plan: Plan,
        host: Host,
        schedule: &Schedule,
        load: Load,
        faults: Vec<Done>,
        exits: Vec<Exit>,
        checked: &checker::Report,
        effects: &Effects,
        drift: BTreeMap<String, Drift>,
        problems: Vec<String>,
    ) -> Self {
        let claim = plan.ground.kind.claim();
        let findings = Class::ALL.map(|class| {
            let count = Count {
                count: checked.count(class),
                allowed: claim.allows(class),
            };
            (class.to_string(), count)
        });
        let counted_kills = faults.iter().filter(|done| done.counts()).count();
        let open = plan.ground.kind.open();
        // A fault catches a window of a producer, whose publishes may be sent again, and what the consumers have open.
        let redelivery_bound = (faults.len() * (WINDOW + open)) as u64;
        let (drains, alarms) = (Drains::of(&faults), Alarms::of(&faults, effects));
        let mut problems = problems;
        if let Some(drains) = &drains {
            let alone = faults.iter().all(|done| done.drain.is_some());
            let again = alone.then(|| checked.count(Class::DuplicateDelivery));
            problems.extend(drains.problems(again));
        }
        if let Some(alarms) = &alarms {
            problems.extend(alarms.problems());
        }
        if let Some(wanted) = plan.faults {
            let kills = faults.iter().filter(|done| done.step.fault == Fault::Kill);
            let made = faults.len() - (kills.count() - counted_kills);
            if made < wanted {
                problems.push(format!("{made} of {wanted} faults were made"));
            }
        }
        let reasons = reasons(checked, &faults, redelivery_bound, problems);
        let mut lives: BTreeMap<String, Life> = BTreeMap::new();
        for exit in &exits {
            let life = lives.entry(exit.name.clone()).or_default();
            life.lives += 1;
            life.ended_by_error += u64::from(exit.by_error);
            life.connections_lost += exit.last.connections_lost;
        }
        let mut ended_by_error: BTreeMap<String, u64> = BTreeMap::new();
        for exit in exits.iter().filter(|exit| exit.by_error) {
            let role = exit.name.split('-').next().unwrap_or_default();
            *ended_by_error
                .entry(format!("{role}: {}", exit.words))
                .or_default() += 1;
        }
        let run = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let deliveries = checked.counts().deliveries.max(1);
        Self {
            run,
            folder,
            case: plan.case(),
            command: plan.command(),
            broker: plan.ground.kind.of_crate(),
            open,
            product,
            host,
            load_at_end: host::load_average(),
            passed: reasons.is_empty(),
            reasons,
            schedule: schedule.clone(),
            load,
            rate: plan.rate,
            counted_kills,
            counts: *checked.counts(),
            findings: findings.into(),
            evidence: checked.to_string(),
            redelivery_bound,
            sent_again: effects.sends().saturating_sub(checked.counts().messages),
            resend: plan.resend,
            lives,
            drains,
            alarms,
            connections_ended: faults.iter().map(|done| done.ended).sum(),
            duplicate_share: checked.count(Class::DuplicateDelivery) as f64 / deliveries as f64,
            between_effects: effects.spread(),
            around_faults: Spread::of(gaps(&faults, effects)),
            faults: by_kind(&faults, effects),
            ended_by_error,
            drift,
        }
    }

    /// Writes it next to the history, as text and as JSON. True if the run is a pass.
    pub(crate) fn write(&self) -> Result<bool> {
        fs::write(self.folder.join("report.md"), self.markdown())?;
        fs::write(
            self.folder.join("report.json"),
            serde_json::to_vec_pretty(self)?,
        )?;
        if let Some(records) = std::env::var_os("MQ_TEST_RECORDS").filter(|path| !path.is_empty()) {
            self.record(Path::new(&records))?;
        }
        Ok(self.passed)
    }

    /// Appends a record as the test harnesses of `mq-testkit` do, so that the run is in the tables too.
    fn record(&self, folder: &Path) -> Result {
        let line = serde_json::json!({
            "suite": "chaos",
            "broker": self.broker,
            "version": self.product,
            "case": self.case,
            "capability": "",
            "result": if self.passed { "passed" } else { "failed" },
            "seconds": self.load.seconds,
            "detail": self.reasons.join("; "),
        });
        fs::create_dir_all(folder)?;
        let path = folder.join("chaos.jsonl");
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?;
        // One write: the runs of both brokers append to it.
        Ok(file.write_all(format!("{line}\n").as_bytes())?)
    }
}

/// Why the run is no pass.
fn reasons(
    checked: &checker::Report,
    faults: &[Done],
    redelivery_bound: u64,
    problems: Vec<String>,
) -> Vec<String> {
    let mut reasons = problems;
    for class in checked.broken() {
        reasons.push(format!("{class}: {}", checked.count(class)));
    }
    let again = checked.count(Class::DuplicateDelivery);
    // The bound is one of crashes. While a network keeps a group from committing, what is handled may grow past it.
    let crashes = faults.iter().all(|done| done.step.fault == Fault::Kill);
    if crashes && again > redelivery_bound {
        reasons.push(format!(
            "{again} deliveries again, more than {redelivery_bound}"
        ));
    }
    let told = faults
        .iter()
        .all(|done| done.alarm.is_some() || done.drain.is_some() || done.ended > 0);
    if let Some(why) = void(
        checked.verdict(),
        faults.len(),
        again,
        checked.counts().unknown,
        told,
    ) {
        reasons.push(format!("VOID: {why}, so the run proves nothing"));
    }
    reasons
}

/// Why a run proves nothing.
fn void(
    verdict: Verdict,
    faults: usize,
    again: u64,
    unknown: u64,
    told: bool,
) -> Option<&'static str> {
    match (verdict, faults) {
        (Verdict::Void, _) => Some("nothing was confirmed"),
        (_, 0) => Some("no fault was made"),
        // An alarm and an orderly end break nothing off, and of a connection that ends the client may make up for everything:
        // what each of them did is in the report.
        _ if again == 0 && unknown == 0 && !told => {
            Some("no message was delivered again and no publish was unknown")
        }
        _ => None,
    }
}

fn by_kind(faults: &[Done], effects: &Effects) -> BTreeMap<String, Faults> {
    let mut kinds: BTreeMap<String, Vec<Done>> = BTreeMap::new();
    for done in faults {
        let whom = match done.step.target {
            Target::Broker => "broker",
            Target::Links => "all",
            Target::Process(role, _) | Target::Link(role) => role.word(),
        };
        kinds
            .entry(format!("{} {whom}", done.step.fault))
            .or_default()
            .push(done.clone());
    }
    let row = |(kind, faults): (String, Vec<Done>)| {
        let recovery = faults.iter().map(|done| done.to - done.from);
        let row = Faults {
            made: faults.len(),
            with_messages_in_flight: faults.iter().filter(|done| done.in_flight > 0).count(),
            recovery: Spread::of(recovery.collect()),
            gap: Spread::of(gaps(&faults, effects)),
        };
        (kind, row)
    };
    kinds.into_iter().map(row).collect()
}

fn gaps(faults: &[Done], effects: &Effects) -> Vec<u64> {
    let gap = |done: &Done| effects.longest(done.from, done.to);
    faults.iter().map(gap).collect()
}

#[cfg(test)]
mod tests;
