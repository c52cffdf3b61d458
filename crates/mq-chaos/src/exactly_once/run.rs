//! The conductor of the scenario.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mq_core::{Broker, Destination, Message, Publisher, Subscription};
use mq_kafka::Kafka;
use mq_testkit::{
    checker::{Checker, Claim},
    history::{Event, Recorder, Tags},
};
use rustix::process::Signal;

use super::{
    COPIERS, SOURCE, TARGET, TRANSACTION_TIMEOUT, connect, late,
    reading::{Reader, aborted},
    report::Report,
    seats::Seats,
    target,
};
use crate::{
    Result,
    broker::Kind,
    process::patiently,
    schedule::Dice,
    site::{Ground, Site},
};

/// What a run is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) records: usize,
    pub(crate) copier_kills: usize,
    pub(crate) broker_kills: usize,
    pub(crate) zombies: usize,
    pub(crate) aborts: usize,
    pub(crate) seed: u64,
    /// Where the folder of the run is made.
    pub(crate) into: PathBuf,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillCopier,
    KillBroker,
    Zombie,
    Abort,
}

struct Scene {
    site: Site,
    seats: Seats,
    faults: Recorder,
    dice: Dice,
    problems: Vec<String>,
}

/// Makes a run, writes and prints its report. False if it shows something that must not be, or nothing at all.
pub(crate) async fn run(plan: Plan) -> Result<bool> {
    let report = tokio::select! {
        report = conduct(plan) => report?,
        ended = tokio::signal::ctrl_c() => {
            ended?;
            return Err("interrupted: the processes and the container are taken down".into());
        }
    };
    println!("\n{report}");
    std::fs::write(report.folder.join("report.md"), report.to_string())?;
    Ok(report.holds())
}

async fn conduct(plan: Plan) -> Result<Report> {
    let start = Instant::now();
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let name = format!("kafka-exactly-once-{}-{}", plan.seed, since.as_secs());
    let folder = std::path::absolute(plan.into.join(&name))?;
    let history = folder.join("history");
    println!(
        "{}\nhistory and report: {}",
        plan.command(),
        folder.display()
    );
    let ground = Ground {
        kind: Kind::Kafka,
        cluster: false,
        version: None,
    };
    let address = ground.addresses();
    let site = Site::start(ground).await?;
    let kafka = patiently(|| connect(&address, "mq-chaos")).await?;
    patiently(|| declare(&kafka)).await?;
    let product = site.version().await?;

    // It is there before the first copy, and so sees all of them.
    let now = Reader::new("now", Recorder::create(&history, &name, "now")?);
    let reader = Arc::clone(&now);
    let mut consumer = Reader::open(&kafka, &Subscription::ephemeral(TARGET)).await?;
    let reading = tokio::spawn(async move { reader.read(&mut consumer, None).await });

    let mut scene = Scene {
        site,
        seats: Seats::start(&address, folder.join("logs"), COPIERS)?,
        faults: Recorder::create(&history, &name, "conductor")?,
        dice: Dice::new(plan.seed),
        problems: Vec::new(),
    };
    let producer = Arc::new(Recorder::create(&history, &name, "producer")?);
    let tags = Arc::new(producer.tags());
    let faults = plan.faults(&mut scene.dice);
    let steps = faults.len() + 1;
    let mut confirmed = 0;
    for step in 0..steps {
        let chunk = plan.records * (step + 1) / steps - plan.records * step / steps;
        let publishing = publish(&kafka, Arc::clone(&producer), Arc::clone(&tags), chunk);
        let publishing = tokio::spawn(publishing);
        if let Some(fault) = faults.get(step) {
            println!(
                "{:>4} s  {}/{steps} {fault:?}",
                start.elapsed().as_secs(),
                step + 1
            );
            scene.make(*fault, &address).await?;
        }
        while !publishing.is_finished() {
            scene.tend().await?;
        }
        confirmed += publishing.await??;
        if reading.is_finished() {
            return Err("the reader at the time ended".into());
        }
    }
    println!("{:>4} s  draining", start.elapsed().as_secs());
    let mut last = (0, Instant::now());
    while last.1.elapsed() < STANDSTILL {
        scene.tend().await?;
        let copies = now.seen().places.len();
        if copies >= 2 * confirmed {
            break;
        }
        if copies != last.0 {
            last = (copies, Instant::now());
        }
    }
    // A copy too many would come by now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let exits = scene.seats.stop().await?;
    reading.abort();
    let afterwards = Reader::new("late", Recorder::create(&history, &name, "late")?);
    let mut consumer = Reader::open(&kafka, &late()).await?;
    afterwards.read(&mut consumer, Some(2 * confirmed)).await?;
    let (batches, copies) = aborted(&address, &afterwards.seen().places).await?;
    scene.faults.record(Event::drained())?;
    drop((scene.faults, producer));

    println!("checking");
    let claim = Claim::exactly_once().ordered().group("now").group("late");
    let checked = Checker::new(claim).check(&history)?;
    let report = Report {
        folder,
        product,
        seconds: start.elapsed().as_secs(),
        confirmed,
        readers: [now, afterwards],
        batches,
        copies,
        exits,
        checked,
        problems: scene.problems,
        plan,
    };
    Ok(report)
}

async fn declare(kafka: &Kafka) -> mq_core::Result<()> {
    kafka.declare(&Destination::queue(SOURCE)).await?;
    kafka.declare(&target()).await?;
    kafka.declare(&late()).await
}

/// Publishes originals; how many were confirmed. The client sends again by itself, and the broker knows what comes twice.
fn publish(
    kafka: &Kafka,
    recorder: Arc<Recorder>,
    tags: Arc<Tags>,
    count: usize,
) -> impl Future<Output = Result<usize>> + Send + 'static + use<> {
    let publisher = kafka.publisher();
    async move {
        let to = Destination::queue(SOURCE);
        let mut pending = Vec::with_capacity(count);
        for _ in 0..count {
            let tag = tags.next(&format!("key-{}", pending.len() % KEYS));
            recorder.record(Event::send(&tag))?;
            let message = Message::new(tag.to_payload(100)).key(tag.key());
            pending.push((publisher.enqueue(&to, message).await, tag));
        }
        let mut confirmed = 0;
        for (enqueued, tag) in pending {
            let outcome = match enqueued {
                Ok(outcome) => outcome.await,
                Err(error) => Err(error),
            };
            confirmed += usize::from(outcome.is_ok());
            recorder.record(Event::outcome(&tag, SOURCE, &outcome))?;
        }
        Ok(confirmed)
    }
}

impl Plan {
    /// How to make the same run again.
    pub(super) fn command(&self) -> String {
        let Self {
            records,
            copier_kills,
            broker_kills,
            zombies,
            aborts,
            seed,
            ..
        } = self;
        format!(
            "cargo xtask exactly-once --records {records} --copier-kills {copier_kills} --broker-kills {broker_kills} \
             --zombies {zombies} --aborts {aborts} --seed {seed}"
        )
    }

    /// All faults, in an order that the seed decides.
    fn faults(&self, dice: &mut Dice) -> Vec<Fault> {
        let kinds = [
            (Fault::KillCopier, self.copier_kills),
            (Fault::KillBroker, self.broker_kills),
            (Fault::Zombie, self.zombies),
            (Fault::Abort, self.aborts),
        ];
        let mut faults: Vec<Fault> = kinds
            .into_iter()
            .flat_map(|(fault, count)| std::iter::repeat_n(fault, count))
            .collect();
        dice.shuffle(&mut faults);
        faults
    }
}

impl Scene {
    /// A moment, in which copiers that ended are started again.
    async fn tend(&mut self) -> Result {
        self.seats.tend()?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(())
    }

    /// Makes a fault while a copier is at work, and waits for what it leads to.
    async fn make(&mut self, fault: Fault, address: &str) -> Result {
        let seat = self.at_work().await?;
        // Anywhere in a transaction, its commit included.
        let moment = self.dice.below(150);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        let name = format!("{fault:?}");
        self.faults.record(Event::fault(&name))?;
        match fault {
            Fault::KillCopier => self.seats.copier(seat).signal(Signal::KILL),
            Fault::KillBroker => {
                self.site.nodes[0].kill().await?;
                tokio::time::sleep(Duration::from_millis(moment * 10)).await;
                self.site.nodes[0].start().await?;
                patiently(|| connect(address, "mq-chaos")).await?;
            }
            Fault::Zombie => self.zombie(seat).await?,
            Fault::Abort => {
                let before = self.seats.copier(seat).aborted();
                self.seats.copier(seat).signal(Signal::USR1);
                let start = Instant::now();
                while self.seats.copier(seat).aborted() == before && start.elapsed() < PATIENCE {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        self.faults.record(Event::healed(&name))?;
        Ok(())
    }

    /// The seat of a copier that has just committed; by turns, as far as both do.
    async fn at_work(&mut self) -> Result<usize> {
        let first = self.dice.below(COPIERS as u64) as usize;
        let before: Vec<u64> = (0..COPIERS)
            .map(|seat| self.seats.copier(seat).committed())
            .collect();
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for seat in (0..COPIERS).map(|n| (first + n) % COPIERS) {
                if self.seats.copier(seat).committed() > before[seat] {
                    return Ok(seat);
                }
            }
            self.tend().await?;
        }
        self.problems
            .push("no copier was at work before a fault".into());
        Ok(first)
    }

    /// A copier stands still for longer than its transaction may take, another one takes its id over, and then it goes on.
    async fn zombie(&mut self, seat: usize) -> Result {
        self.seats.copier(seat).signal(Signal::STOP);
        let stopped = Instant::now();
        let mut zombie = self.seats.twin(seat)?;
        while stopped.elapsed() < TRANSACTION_TIMEOUT * 3 / 2
            || (self.seats.copier(seat).committed() == 0 && stopped.elapsed() < PATIENCE)
        {
            self.tend().await?;
        }
        zombie.signal(Signal::CONT);
        let awake = Instant::now();
        while awake.elapsed() < PATIENCE {
            if let Some(words) = zombie.ended()? {
                println!("        the zombie ended: {words}");
                return Ok(());
            }
            self.tend().await?;
        }
        self.problems.push("a zombie went on".into());
        zombie.signal(Signal::KILL);
        Ok(())
    }
}

const KEYS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long no copy may come before the rest is taken for lost.
const STANDSTILL: Duration = Duration::from_secs(120);
