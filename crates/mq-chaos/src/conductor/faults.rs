//! The faults of a schedule, made one after the other, each healed before the next one.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mq_chaos::containers::now;
use mq_testkit::{
    history::Event,
    proxy::{self, Direction},
};
use rustix::process::Signal;
use tokio::{io::AsyncReadExt, net::TcpStream, time::sleep};

use super::{Alarm, Run};
use crate::{
    Result,
    crew::{Member, Now},
    in_flight,
    process::{self, Role},
    schedule::{Fault, Schedule, Step, Target, Toxic},
};

/// A fault that was made.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) step: Step,
    /// The node that it was made to, where there are several.
    pub(crate) node: Option<String>,
    /// Messages that were in flight when it struck.
    pub(crate) in_flight: usize,
    /// From when to when it was on, in microseconds since 1970.
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) drain: Option<Drain>,
    pub(crate) alarm: Option<Alarm>,
    /// Connections that it ended, one after the other.
    pub(crate) ended: u64,
}

/// How a process ended that was told to by SIGTERM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// From the signal to its end.
    pub(crate) took: Duration,
    /// How long it may take.
    pub(crate) limit: Duration,
    /// Messages that were delivered to it and without effect when it ended. They come again.
    pub(crate) left: usize,
}

/// What came of a step, beside its times.
#[derive(Default)]
pub(super) struct Made {
    pub(super) node: Option<String>,
    pub(super) in_flight: usize,
    pub(super) drain: Option<Drain>,
    pub(super) alarm: Option<Alarm>,
    pub(super) ended: u64,
}

impl Done {
    /// A kill counts only with messages in flight.
    pub(crate) fn counts(&self) -> bool {
        self.step.fault == Fault::Kill && self.in_flight > 0
    }
}

impl Run {
    /// Makes the faults until all that was asked for is reached: the time, so many faults, so many messages.
    pub(super) async fn make_faults(
        &mut self,
        schedule: &Schedule,
        start: Instant,
    ) -> Result<Vec<Done>> {
        let end = self
            .plan
            .minutes
            .map(|minutes| Duration::from_secs(minutes * 60));
        // Those that have to be there: they are made again if they strike nothing.
        let wanted = self.plan.faults;
        let mut steps: VecDeque<Step> = schedule.0.iter().copied().collect();
        let mut made: Vec<Done> = Vec::new();
        let mut free_from = Duration::ZERO;
        while let Some(step) = steps.pop_front() {
            let at = step.at.max(free_from);
            if wanted.is_none() && end.is_some_and(|end| at + step.lasts + step.recovery() > end) {
                break;
            }
            sleep(at.saturating_sub(start.elapsed())).await;
            let done = self.make(made.len() + 1, step).await?;
            let took = (done.to - done.from) as f64 / 1e6;
            let node = done
                .node
                .as_deref()
                .map_or(String::new(), |node| format!(" ({node})"));
            println!(
                "{step}{node}: {} in flight, over after {took:.1} s",
                done.in_flight
            );
            let void = step.fault == Fault::Kill && !done.counts();
            if void && wanted.is_some_and(|wanted| made.len() < wanted * 3) {
                steps.push_front(step);
            }
            made.push(done);
            free_from = start.elapsed() + QUIET;
        }
        sleep(end.unwrap_or_default().saturating_sub(start.elapsed())).await;
        if let Some(messages) = self.plan.messages {
            self.sent(messages).await;
        }
        Ok(made)
    }

    /// Waits until so many messages were sent.
    async fn sent(&mut self, messages: u64) {
        let missing = messages.saturating_sub(self.crew.sent());
        // Three times as long as the rate says.
        let patience = Duration::from_secs(60 + 3 * missing / u64::from(self.plan.rate));
        let start = Instant::now();
        while self.crew.sent() < messages {
            if start.elapsed() > patience {
                let sent = self.crew.sent();
                self.problems.push(format!(
                    "only {sent} of {messages} messages were sent {} s after the last fault",
                    patience.as_secs()
                ));
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn make(&mut self, number: usize, step: Step) -> Result<Done> {
        let name = format!("{number} {} {}", step.fault, step.target);
        self.await_messages(step.target).await;
        self.record(Event::fault(&name))?;
        let from = now();
        let made = match step.target {
            Target::Broker => self.fault_broker(number, step).await,
            Target::Process(role, number) => {
                fault_process(self.crew.member(role, number)?, step).await
            }
            Target::Link(role) => self.fault_link(role, step).await,
            Target::Links => self.short_lives(step).await,
        };
        let made = made.unwrap_or_else(|error| {
            self.problems.push(format!("{name}: {error}"));
            Made::default()
        });
        self.record(Event::healed(&name))?;
        let to = now();
        Ok(Done {
            step,
            node: made.node,
            in_flight: made.in_flight,
            from,
            to,
            drain: made.drain,
            alarm: made.alarm,
            ended: made.ended,
        })
    }

    /// Waits a while for messages in flight, by what the processes say.
    async fn await_messages(&self, target: Target) {
        let start = Instant::now();
        let open = || match target {
            Target::Broker | Target::Links => self.crew.open(None),
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

    async fn fault_broker(&mut self, number: usize, step: Step) -> Result<Made> {
        if matches!(step.fault, Fault::MemoryAlarm | Fault::DiskAlarm) {
            return self.alarm(step).await;
        }
        let at = self.site.leader(number).await?;
        let files = self.crew.files(None);
        let asked = now();
        let mut struck = asked;
        match step.fault {
            Fault::Kill => {
                struck = self.kill(at).await?;
                sleep(step.lasts).await;
                self.site.nodes[at].start().await?;
            }
            Fault::Pause | Fault::Stall => {
                self.site.nodes[at].pause().await?;
                sleep(step.lasts).await;
                self.site.nodes[at].unpause().await?;
            }
            Fault::Restart => {
                self.site.nodes[at].stop().await?;
                self.site.nodes[at].start().await?;
            }
            _ => return Err("that is no fault of a broker".into()),
        }
        let in_flight = in_flight::at(&files, asked, struck)?;
        self.site.whole().await?;
        self.broker_answers().await?;
        self.crew.ready(READY).await?;
        let nodes = &self.site.nodes;
        Ok(Made {
            node: (nodes.len() > 1).then(|| nodes[at].service().to_owned()),
            in_flight,
            ..Made::default()
        })
    }

    /// `kill -9` of a node, and until it is dead. Returns when it died, in microseconds since 1970.
    async fn kill(&mut self, at: usize) -> Result<u64> {
        // The engine says when it has noticed. On a busy machine that is late; a connection breaks at once.
        let mut connection = TcpStream::connect(&self.plan.ground.hosts()[at]).await?;
        let broken = tokio::spawn(async move {
            while matches!(connection.read(&mut [0; 64]).await, Ok(1..)) {}
            now()
        });
        let noticed = self.site.nodes[at].kill().await?;
        Ok(broken.await?.min(noticed))
    }

    async fn fault_link(&mut self, role: Role, step: Step) -> Result<Made> {
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
        Ok(Made {
            in_flight,
            ..Made::default()
        })
    }

    /// Waits until the broker answers with all that the run needs.
    pub(super) async fn broker_answers(&mut self) -> Result {
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

async fn fault_process(member: &Member, step: Step) -> Result<Made> {
    let before = member.ready(READY).await?;
    let file = before.status.unwrap_or_default().file;
    let asked = now();
    let mut struck = asked;
    let mut drain = None;
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
            let told = Instant::now();
            member.signal(Signal::TERM).await;
            let ended = |now: &Now| now.life > before.life || now.pid.is_none();
            member.until("ended", READY, ended).await?;
            drain = Some(Drain {
                took: told.elapsed(),
                limit: match member.role {
                    Role::Consumer => process::DEADLINE + SLACK,
                    Role::Producer => OUTCOMES + SLACK,
                },
                left: in_flight::at(std::slice::from_ref(&file), u64::MAX, u64::MAX)?,
            });
            next("ended and started again").await?;
        }
        _ => return Err("that is no fault of a process".into()),
    }
    Ok(Made {
        in_flight: in_flight::at(&[file], asked, struck)?,
        drain,
        ..Made::default()
    })
}

impl Step {
    /// Time that is left after it.
    fn recovery(&self) -> Duration {
        match self.fault {
            // It is the load, and its schedule leaves a quiet phase.
            Fault::Lives => Duration::ZERO,
            _ => RECOVERY,
        }
    }
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
/// Beyond its deadline a process may take so long to end.
const SLACK: Duration = Duration::from_secs(1);
/// What a producer has on its way has its outcome in that time.
const OUTCOMES: Duration = Duration::from_secs(30);
/// A broker on a busy machine.
const BROKER: Duration = Duration::from_secs(120);
/// A process that is started again, and one that finishes what it has.
pub(super) const READY: Duration = Duration::from_secs(90);
const FOR_MESSAGES: Duration = Duration::from_secs(5);
