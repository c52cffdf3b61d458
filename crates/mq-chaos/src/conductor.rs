//! The conductor: starts broker and processes, makes the faults of the schedule, drains, has the history checked, reports.

mod alarm;
mod drain;
mod faults;
mod lives;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mq_core::Broker;
use mq_testkit::{
    checker::Checker,
    history::{Event, Recorder},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};

pub(crate) use alarm::Alarm;
pub(crate) use faults::Done;

use crate::{
    Result,
    broker::{self, CONSUMERS, Kind, PRODUCERS, Protocol},
    crew::{Crew, Duty, Now},
    gaps::Effects,
    links::Links,
    observer::Observer,
    process::{Pace, Role},
    report::{Host, Load, Report},
    samples::Samples,
    schedule::{Length, Scenario, Schedule},
    site::{Ground, Site},
};

/// What a run is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) ground: Ground,
    pub(crate) scenario: Scenario,
    /// The load lasts until all that is set of these three is reached.
    pub(crate) minutes: Option<u64>,
    pub(crate) faults: Option<usize>,
    pub(crate) messages: Option<u64>,
    pub(crate) seed: u64,
    /// Messages a second, of all producers together.
    pub(crate) rate: u32,
    /// Of a Kafka group, if not the default.
    pub(crate) protocol: Option<Protocol>,
    /// Producers send again what is unknown.
    pub(crate) resend: bool,
    /// Where the folder of the run is made.
    pub(crate) into: PathBuf,
}

/// A run under way.
struct Run {
    plan: Plan,
    site: Site,
    observer: Observer,
    recorder: Recorder,
    /// The proxies, where there are faults of the network.
    links: Option<Links>,
    crew: Crew,
    /// What went wrong outside of the history.
    problems: Vec<String>,
}

/// Makes a run, and writes and prints its report. False if it shows something that must not be, or nothing at all.
pub(crate) async fn run(plan: Plan) -> Result<bool> {
    let schedule = Schedule::new(plan.ground.kind, plan.scenario, plan.length(), plan.seed);
    println!("{}\n\n{schedule}", plan.command());
    // Whatever ends this, dropping it takes the processes and the container down.
    let report = tokio::select! {
        report = conduct(plan, schedule) => report?,
        () = interrupted()? => return Err("interrupted: the processes and the container are taken down".into()),
    };
    println!("\n{}", report.markdown());
    report.write()
}

async fn conduct(plan: Plan, schedule: Schedule) -> Result<Report> {
    let started = SystemTime::now();
    let host = Host::look();
    let kind = plan.ground.kind;
    let name = format!(
        "{}{}-{}-{}-{}",
        kind.word(),
        if plan.ground.cluster { "-cluster" } else { "" },
        plan.scenario.word(),
        plan.seed,
        started.duration_since(UNIX_EPOCH)?.as_secs()
    );
    let folder = std::path::absolute(plan.into.join(&name))?;
    let history = folder.join("history");
    let recorder = Recorder::create(&history, &name, "conductor")?;
    std::fs::write(
        folder.join("schedule.txt"),
        format!("{}\n\n{schedule}", plan.command()),
    )?;
    println!("history and reports: {}", folder.display());

    println!("starting {kind}");
    let address = plan.ground.addresses();
    let site = Site::start(plan.ground.clone()).await?;
    declare(kind, &address, plan.protocol).await?;
    let product = site.version().await?;
    println!("{product} answers; starting {PRODUCERS} producers and {CONSUMERS} consumers");

    let links = match plan.scenario.needs_proxy() {
        true => Some(Links::start(kind, &plan.ground.hosts()[0]).await?),
        false => None,
    };
    let mut crew = Crew::new();
    let seats = (1..=PRODUCERS).map(|number| (Role::Producer, number));
    for (role, number) in seats.chain((1..=CONSUMERS).map(|number| (Role::Consumer, number))) {
        let duty = Duty {
            kind,
            address: links
                .as_ref()
                .map_or_else(|| address.clone(), |links| links.address(role)),
            folder: folder.clone(),
            run: name.clone(),
            seed: plan.seed.wrapping_add(1000 * number as u64),
            rate: plan.rate / PRODUCERS as u32,
            protocol: plan.protocol,
            resend: plan.resend,
            pace: plan.pace(),
        };
        crew.add(role, number, duty);
    }
    let watching = watching(&crew);
    let committing = committing(
        kind,
        &address,
        Recorder::create(&history, &name, "observer")?,
    );
    crew.ready(START).await?;
    site.whole().await?;

    let mut run = Run {
        observer: Observer::new(kind, &address),
        plan,
        site,
        recorder,
        links,
        crew,
        problems: Vec::new(),
    };
    let start = Instant::now();
    let faults = run.make_faults(&schedule, start).await?;
    let loaded = start.elapsed();
    println!("draining");
    let drained = run.drain().await?;
    let dead = run.observer.dead().await;
    committing.abort();
    let samples = watching.stop();
    let leaked = run.crew.running();
    if leaked > 0 {
        run.problems
            .push(format!("{leaked} processes are left over"));
    }
    let Run {
        plan,
        site,
        recorder,
        crew,
        mut problems,
        ..
    } = run;
    if !problems.is_empty() {
        std::fs::write(folder.join("logs/broker.log"), site.logs().await)?;
    }
    drop(site);
    drop(recorder);

    println!("checking");
    let checked = Checker::new(kind.claim()).check(&history)?;
    let effects = Effects::read(&history)?;
    if let Err(error) = &dead {
        problems.push(format!("the dead letters were not counted: {error}"));
    }
    Ok(Report::new(
        folder,
        product,
        plan,
        host,
        &schedule,
        Load {
            seconds: loaded.as_secs(),
            drained,
            dead_letters: dead.unwrap_or(0),
        },
        faults,
        crew.exits(),
        &checked,
        &effects,
        samples.longest(),
        problems,
    ))
}

impl Plan {
    /// How to make the same run again.
    pub(crate) fn command(&self) -> String {
        let Self {
            ground,
            scenario,
            seed,
            rate,
            ..
        } = self;
        let word = ground.kind.word();
        let mut command = format!(
            "cargo xtask chaos --broker {word} --scenario {}",
            scenario.word()
        );
        let mut add = |flag: &str, value: Option<String>| {
            if let Some(value) = value {
                command.push_str(&format!(" --{flag}{value}"));
            }
        };
        let number = |number: Option<u64>| number.map(|number| format!(" {number}"));
        add("cluster", ground.cluster.then(String::new));
        let version = ground.version.as_ref();
        add(
            &format!("{word}-version"),
            version.map(|version| format!(" {version}")),
        );
        add(
            "protocol",
            self.protocol
                .map(|protocol| format!(" {}", protocol.word())),
        );
        add("minutes", number(self.minutes));
        add("messages", number(self.messages));
        add("faults", number(self.faults.map(|faults| faults as u64)));
        add("resend", self.resend.then(String::new));
        format!("{command} --seed {seed} --rate {rate}")
    }

    /// The scenario, how much of it, and the seed.
    pub(crate) fn case(&self) -> String {
        let mut case = self.scenario.word().to_owned();
        let mut add = |part: Option<String>| {
            if let Some(part) = part {
                case.push_str(&format!(", {part}"));
            }
        };
        add(self.ground.cluster.then(|| "three nodes".to_owned()));
        add(self.protocol.map(|protocol| protocol.word().to_owned()));
        add(self.minutes.map(|minutes| format!("{minutes} minutes")));
        add(self.messages.map(|messages| format!("{messages} messages")));
        add(self.faults.map(|faults| format!("{faults} faults")));
        add(Some(format!("seed {}", self.seed)));
        case
    }

    fn length(&self) -> Length {
        match (self.faults, self.minutes) {
            (Some(faults), _) => Length::Faults(faults),
            (None, Some(minutes)) => Length::Minutes(minutes),
            // As long as the messages take.
            (None, None) => {
                let seconds = self.messages.unwrap_or(0) / u64::from(self.rate);
                Length::Minutes(seconds.div_ceil(60).max(1))
            }
        }
    }

    fn pace(&self) -> Pace {
        match self.scenario {
            Scenario::Alarms => Pace::Slow,
            Scenario::Drains => Pace::Outlive,
            _ => Pace::Brisk,
        }
    }
}

/// Declares what the run needs, as soon as the broker answers.
async fn declare(kind: Kind, address: &str, protocol: Option<Protocol>) -> Result {
    async fn on<B: Broker>(broker: B, kind: Kind) -> mq_core::Result<()> {
        broker.declare(kind.destination()).await?;
        broker.declare(kind.subscription()).await?;
        broker.close().await
    }
    let start = Instant::now();
    loop {
        let declared = match kind {
            Kind::RabbitMq => match broker::amqp(address, "mq-chaos").await {
                Ok(broker) => on(broker, kind).await,
                Err(error) => Err(error),
            },
            Kind::Kafka => match broker::kafka(address, protocol).await {
                Ok(broker) => on(broker, kind).await,
                Err(error) => Err(error),
            },
        };
        match declared {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > START => {
                return Err(format!(
                    "{kind} did not answer within {} s: {error}",
                    START.as_secs()
                )
                .into());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}

/// Looks at the processes and at itself once a second.
struct Watching {
    task: JoinHandle<()>,
    samples: Arc<Mutex<Samples>>,
}

fn watching(crew: &Crew) -> Watching {
    let seats: Vec<(String, watch::Receiver<Now>)> = crew
        .members()
        .iter()
        .map(|member| (member.name.clone(), member.watch()))
        .collect();
    let samples = Arc::<Mutex<Samples>>::default();
    let kept = Arc::clone(&samples);
    let start = Instant::now();
    let task = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            let mut samples = kept.lock().unwrap_or_else(PoisonError::into_inner);
            samples.look("conductor", std::process::id(), start.elapsed());
            for (name, seat) in &seats {
                let now = seat.borrow();
                if let (Some(pid), Some(started), Some(_)) = (now.pid, now.started, &now.status) {
                    samples.look(name, pid, started.elapsed());
                }
            }
        }
    });
    Watching { task, samples }
}

impl Watching {
    fn stop(self) -> Samples {
        self.task.abort();
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Records what the group commits, as the broker tells it. A broker that does not answer is asked again.
fn committing(kind: Kind, address: &str, recorder: Recorder) -> JoinHandle<()> {
    let mut observer = Observer::new(kind, address);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        loop {
            ticks.tick().await;
            let _ = observer.record_commits(&recorder).await;
        }
    })
}

/// Ctrl-C, SIGTERM and the end of the terminal.
fn interrupted() -> Result<impl Future<Output = ()>> {
    let mut signals = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ];
    Ok(async move {
        let [interrupt, terminate, hangup] = &mut signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}

impl Run {
    /// Records an event of the run.
    fn record(&self, event: Event<'_>) -> Result {
        Ok(self.recorder.record(event)?)
    }
}

/// An image may have to be fetched, and a busy machine starts a broker slowly, three nodes above all.
const START: Duration = Duration::from_secs(300);
