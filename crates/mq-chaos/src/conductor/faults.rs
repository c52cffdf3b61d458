//! The faults of a schedule, made one after the other, each healed before the next one.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mq_testkit::history::Event;
use rustix::process::Signal;
use tokio::time::sleep;

use super::Run;
use crate::{
    Result,
    crew::Member,
    in_flight,
    schedule::{Fault, Schedule, Step, Target},
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
            Target::Broker => self.crew.open(),
            Target::Process(role, number) => {
                let member = self.crew.member(role, number).ok();
                let status = member.and_then(|member| member.now().status);
                status.map_or(0, |status| status.open())
            }
        };
        while open() == 0 && start.elapsed() < FOR_MESSAGES {
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn fault_broker(&mut self, step: Step) -> Result<usize> {
        let members = self.crew.members().iter();
        let files: Vec<_> = members
            .filter_map(|member| Some(member.now().status?.file))
            .collect();
        let mut struck = now();
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
        }
        let mut in_flight = 0;
        for file in files {
            in_flight += in_flight::at(&file, struck)?;
        }
        self.broker_answers().await?;
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
    let next = |what| {
        member.until(what, READY, move |now| {
            now.life > before.life && now.status.is_some()
        })
    };
    let struck = match step.fault {
        Fault::Kill => {
            member.signal(Signal::KILL).await;
            next("started again").await?;
            // What is in its file by now was written before it died.
            u64::MAX
        }
        Fault::Pause | Fault::Stall => {
            member.signal(Signal::STOP).await;
            sleep(step.lasts).await;
            member.signal(Signal::CONT).await;
            member.ready(READY).await?;
            return Ok(0);
        }
        Fault::Restart => {
            let struck = now();
            member.signal(Signal::TERM).await;
            next("ended and started again").await?;
            struck
        }
    };
    Ok(in_flight::at(&file, struck)?)
}

/// Microseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
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
