//! The faults of a schedule, made one after the other, each healed before the next one.

use std::time::{Duration, Instant};

use mq_testkit::{
    history::Event,
    proxy::{self, Direction},
};
use rustix::process::Signal;
use tokio::time::sleep;

use super::Run;
use crate::{
    Result,
    container::now,
    crew::Member,
    in_flight,
    process::Role,
    schedule::{Fault, Schedule, Step, Target, Toxic},
};

/// A fault that was made.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) step: Step,
    /// Messages that were in flight when it struck.
    pub(crate) in_flight: usize,
    /// From when to when it was on, in microseconds since 1970.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Done {
    /// A kill counts only with messages in flight.
    pub(crate) fn counts(&self) -> bool {
        self.step.fault == Fault::Kill && self.in_flight > 0
    }
}

impl Run {
    /// Makes the faults until the time of the load is over.
    pub(super) async fn make_faults(
        &mut self,
        schedule: &Schedule,
        start: Instant,
    ) -> Result<Vec<Done>> {
        let end = Duration::from_secs(self.plan.minutes * 60);
        let mut made: Vec<Done> = Vec::new();
        let mut free_from = Duration::ZERO;
        for (number, step) in (1..).zip(&schedule.0) {
            let at = step.at.max(free_from);
            if at + step.lasts + RECOVERY > end {
                break;
            }
            sleep(at.saturating_sub(start.elapsed())).await;
            let done = self.make(number, *step).await?;
            let took = (done.to - done.from) as f64 / 1e6;
            println!(
                "{step}: {} in flight, over after {took:.1} s",
                done.in_flight
            );
            made.push(done);
            free_from = start.elapsed() + QUIET;
        }
        sleep(end.saturating_sub(start.elapsed())).await;
        Ok(made)
    }

    async fn make(&mut self, number: usize, step: Step) -> Result<Done> {
        let name = format!("{number} {} {}", step.fault, step.target);
        self.await_messages(step.target).await;
        self.record(Event::fault(&name))?;
        let from = now();
        let made = match step.target {
            Target::Broker => self.fault_broker(step).await,
            Target::Process(role, number) => {
                fault_process(self.crew.member(role, number)?, step).await
            }
            Target::Link(role) => self.fault_link(role, step).await,
        };
        let in_flight = made.unwrap_or_else(|error| {
            self.problems.push(format!("{name}: {error}"));
            0
        });
        self.record(Event::healed(&name))?;
        let to = now();
        Ok(Done {
            step,
            in_flight,
            from,
            to,
        })
    }

    /// Waits a while for messages in flight, by what the processes say.
    async fn await_messages(&self, target: Target) {
        let start = Instant::now();
        let open = || match target {
            Target::Broker => self.crew.open(None),
            Target::Process(role, number) => {
                let member = self.crew.member(role, number).ok();
                let status = member.and_then(|member| member.now().status);
                status.map_or(0, |status| status.open())
            }
            Target::Link(role) => self.crew.open(Some(role)),
        };
        while open() == 0 && start.elapsed() < FOR_MESSAGES {
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn fault_broker(&mut self, step: Step) -> Result<usize> {
        let files = self.crew.files(None);
        let asked = now();
        let mut struck = asked;
        match step.fault {
            Fault::Kill => {
                struck = self.container.kill().await?;
                sleep(step.lasts).await;
                self.container.start_again().await?;
            }
            Fault::Pause | Fault::Stall => {
                self.container.pause().await?;
                sleep(step.lasts).await;
                self.container.unpause().await?;
            }
            Fault::Restart => self.container.restart().await?,
            Fault::Network(_) => return Err("the broker is no link".into()),
        }
        let in_flight = in_flight::at(&files, asked, struck)?;
        self.broker_answers().await?;
        self.crew.ready(READY).await?;
        Ok(in_flight)
    }

    async fn fault_link(&mut self, role: Role, step: Step) -> Result<usize> {
        let Fault::Network(toxic) = step.fault else {
            return Err("only the network has links".into());
        };
        let (files, struck) = (self.crew.files(Some(role)), now());
        let link = self.links.as_ref().ok_or("there is no proxy")?.of(role);
        for (direction, fault) in faults_of(toxic) {
            link.set(direction, fault);
        }
        sleep(step.lasts).await;
        link.clear();
        let in_flight = in_flight::at(&files, struck, struck)?;
        self.crew.ready(READY).await?;
        Ok(in_flight)
    }

    /// Waits until the broker answers with all that the run needs.
    async fn broker_answers(&mut self) -> Result {
        let start = Instant::now();
        loop {
            match self.observer.left().await {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > BROKER => {
                    let seconds = BROKER.as_secs();
                    return Err(
                        format!("the broker did not answer within {seconds} s: {error}").into(),
                    );
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

async fn fault_process(member: &Member, step: Step) -> Result<usize> {
    let before = member.ready(READY).await?;
    let file = before.status.unwrap_or_default().file;
    let asked = now();
    let mut struck = asked;
    let next = |what| {
        member.until(what, READY, move |now| {
            now.life > before.life && now.status.is_some()
        })
    };
    match step.fault {
        Fault::Kill => {
            member.signal(Signal::KILL).await;
            next("started again").await?;
            // What is in its file by now was written before it died.
            struck = u64::MAX;
        }
        Fault::Pause | Fault::Stall => {
            member.signal(Signal::STOP).await;
            sleep(step.lasts).await;
            member.signal(Signal::CONT).await;
            member.ready(READY).await?;
        }
        Fault::Restart => {
            member.signal(Signal::TERM).await;
            next("ended and started again").await?;
        }
        Fault::Network(_) => return Err("a process is no link".into()),
    }
    Ok(in_flight::at(&[file], asked, struck)?)
}

/// What the proxy is to do.
fn faults_of(toxic: Toxic) -> Vec<(Direction, proxy::Fault)> {
    use Direction::{Both, ToClient};
    let millis = Duration::from_millis;
    match toxic {
        Toxic::Latency => vec![(
            Both,
            proxy::Fault::Latency {
                mean: millis(200),
                jitter: millis(100),
            },
        )],
        Toxic::Bandwidth => vec![(
            Both,
            proxy::Fault::Bandwidth {
                bytes_per_second: 64 * 1024,
            },
        )],
        Toxic::BlackHole => vec![(Both, proxy::Fault::BlackHole)],
        Toxic::HalfOpen => vec![(ToClient, proxy::Fault::BlackHole)],
        Toxic::Reset => vec![(Both, proxy::Fault::Reset)],
        // New ones first: else one could slip in between.
        Toxic::Refuse => vec![(Both, proxy::Fault::Refuse), (Both, proxy::Fault::Reset)],
        Toxic::Slices => vec![(Both, proxy::Fault::Slices { bytes: 1 })],
        Toxic::CutAfter => vec![(ToClient, proxy::Fault::CutAfter { bytes: 20_000 })],
    }
}

/// Between the end of a fault and the next one, also where recovery took longer than the schedule thought.
const QUIET: Duration = Duration::from_secs(2);
/// Left at the end for a recovery.
const RECOVERY: Duration = Duration::from_secs(6);
/// A broker on a busy machine.
const BROKER: Duration = Duration::from_secs(120);
/// A process that is started again, and one that finishes what it has.
const READY: Duration = Duration::from_secs(90);
const FOR_MESSAGES: Duration = Duration::from_secs(5);
