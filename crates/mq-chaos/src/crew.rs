//! The processes of a run: started, signalled, started again whenever they end, and none left over.

use std::{
    fs::OpenOptions,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    Result,
    broker::{Kind, Protocol},
    process::{Pace, Role, Status},
};

/// All processes of a run. Dropping it kills them.
pub(crate) struct Crew {
    members: Vec<Member>,
    exits: Arc<Mutex<Vec<Exit>>>,
}

/// A place in the crew; processes come and go.
pub(crate) struct Member {
    pub(crate) role: Role,
    pub(crate) name: String,
    duty: Duty,
    orders: Option<mpsc::Sender<Order>>,
    keeper: Option<JoinHandle<()>>,
    now: watch::Sender<Now>,
}

/// The process that has the place now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Now {
    /// How many were started; 0: none yet.
    pub(crate) life: u32,
    pub(crate) pid: Option<u32>,
    pub(crate) started: Option<Instant>,
    /// What it says; `None` before it is connected.
    pub(crate) status: Option<Status>,
}

/// A process that ended.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    pub(crate) name: String,
    /// Nobody asked it to.
    pub(crate) by_error: bool,
    /// Its last words and how it ended.
    pub(crate) words: String,
    /// What it said last.
    pub(crate) last: Status,
}

/// How a process is started.
#[derive(Clone)]
pub(crate) struct Duty {
    pub(crate) kind: Kind,
    pub(crate) address: String,
    pub(crate) folder: PathBuf,
    pub(crate) run: String,
    pub(crate) seed: u64,
    pub(crate) rate: u32,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) resend: bool,
    pub(crate) pace: Pace,
}

enum Order {
    Signal(Signal, oneshot::Sender<()>),
    /// It is not started again once it ends.
    Retire,
}

impl Crew {
    pub(crate) fn new() -> Self {
        Self {
            members: Vec::new(),
            exits: Arc::default(),
        }
    }

    /// Adds a place and starts its first process.
    pub(crate) fn add(&mut self, role: Role, number: usize, duty: Duty) {
        let mut member = Member {
            role,
            name: format!("{}-{number}", role.word()),
            duty,
            orders: None,
            keeper: None,
            now: watch::Sender::default(),
        };
        member.start(&self.exits);
        self.members.push(member);
    }

    /// Starts the retired ones of a role again.
    pub(crate) fn start(&mut self, role: Role) {
        for member in self.members.iter_mut().filter(|member| member.role == role) {
            member.start(&self.exits);
        }
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(crate) fn member(&self, role: Role, number: usize) -> Result<&Member> {
        let name = format!("{}-{number}", role.word());
        let member = self.members.iter().find(|member| member.name == name);
        member.ok_or_else(|| format!("there is no {name}").into())
    }

    /// Messages that are in flight in all processes, or in those of one role.
    pub(crate) fn open(&self, role: Option<Role>) -> u64 {
        self.said(role).map(|status| status.open()).sum()
    }

    /// The files that they write their history into.
    pub(crate) fn files(&self, role: Option<Role>) -> Vec<PathBuf> {
        self.said(role).map(|status| status.file).collect()
    }

    fn said(&self, role: Option<Role>) -> impl Iterator<Item = Status> {
        let members = self.members.iter();
        let asked = members.filter(move |member| role.is_none_or(|role| member.role == role));
        asked.filter_map(|member| member.now().status)
    }

    /// Waits until every process is connected.
    pub(crate) async fn ready(&self, patience: Duration) -> Result {
        let start = Instant::now();
        for member in &self.members {
            let left = patience.saturating_sub(start.elapsed());
            member.ready(left).await?;
        }
        Ok(())
    }

    /// Ends all processes of a role with SIGTERM, and waits; after that with SIGKILL.
    ///
    /// # Errors
    /// Names those that had to be killed.
    pub(crate) async fn retire(&mut self, role: Role, patience: Duration) -> Result {
        let mut stubborn = Vec::new();
        let mut keepers = Vec::new();
        for member in self.members.iter_mut().filter(|member| member.role == role) {
            if let (Some(orders), Some(keeper)) = (member.orders.take(), member.keeper.take()) {
                let _ = orders.send(Order::Retire).await;
                keepers.push((member.name.clone(), orders, keeper));
            }
        }
        let start = Instant::now();
        for (name, orders, mut keeper) in keepers {
            let left = patience.saturating_sub(start.elapsed());
            if tokio::time::timeout(left, &mut keeper).await.is_err() {
                stubborn.push(name);
                let (done, _) = oneshot::channel();
                let _ = orders.send(Order::Signal(Signal::KILL, done)).await;
                keeper.await?;
            }
        }
        if stubborn.is_empty() {
            return Ok(());
        }
        let seconds = patience.as_secs();
        Err(format!(
            "{} did not end within {seconds} s of SIGTERM",
            stubborn.join(", ")
        )
        .into())
    }

    /// Messages sent so far, at least: what a process sent just before it was killed it may not have said.
    pub(crate) fn sent(&self) -> u64 {
        let ended: u64 = lock(&self.exits).iter().map(|exit| exit.last.sent).sum();
        ended + self.said(None).map(|status| status.sent).sum::<u64>()
    }

    /// Every process that ended so far.
    pub(crate) fn exits(&self) -> Vec<Exit> {
        lock(&self.exits).clone()
    }

    /// Processes that still run. 0 after all were retired.
    pub(crate) fn running(&self) -> usize {
        let runs = |member: &&Member| member.now().pid.is_some();
        self.members.iter().filter(runs).count()
    }
}

impl Member {
    pub(crate) fn now(&self) -> Now {
        self.now.borrow().clone()
    }

    /// Follows who has the place.
    pub(crate) fn watch(&self) -> watch::Receiver<Now> {
        self.now.subscribe()
    }

    /// Waits until its process is connected.
    pub(crate) async fn ready(&self, patience: Duration) -> Result<Now> {
        self.until("connected", patience, |now| now.status.is_some())
            .await
    }

    /// Waits until its process, or a later one, is like this.
    pub(crate) async fn until(
        &self,
        what: &str,
        patience: Duration,
        is: impl Fn(&Now) -> bool,
    ) -> Result<Now> {
        let mut now = self.now.subscribe();
        let found = tokio::time::timeout(patience, now.wait_for(|now| is(now))).await;
        match found {
            Ok(Ok(now)) => Ok(now.clone()),
            _ => {
                let (name, seconds) = (&self.name, patience.as_secs());
                Err(format!("{name} was not {what} within {seconds} s").into())
            }
        }
    }

    /// Sends a signal to its process, if there is one.
    pub(crate) async fn signal(&self, signal: Signal) {
        let Some(orders) = &self.orders else { return };
        let (done, sent) = oneshot::channel();
        if orders.send(Order::Signal(signal, done)).await.is_ok() {
            let _ = sent.await;
        }
    }

    fn start(&mut self, exits: &Arc<Mutex<Vec<Exit>>>) {
        if self.keeper.is_some() {
            return;
        }
        let (orders, taken) = mpsc::channel(4);
        let keeper = Keeper {
            role: self.role,
            name: self.name.clone(),
            duty: self.duty.clone(),
            now: self.now.clone(),
            exits: Arc::clone(exits),
        };
        self.orders = Some(orders);
        self.keeper = Some(tokio::spawn(keeper.keep(taken)));
    }
}

/// Has the process in hand: it alone signals it and waits for it, so that no signal reaches a stranger.
struct Keeper {
    role: Role,
    name: String,
    duty: Duty,
    now: watch::Sender<Now>,
    exits: Arc<Mutex<Vec<Exit>>>,
}

impl Keeper {
    async fn keep(self, mut orders: mpsc::Receiver<Order>) {
        let mut retired = false;
        while !retired {
            let by_error = match self.live(&mut orders, &mut retired).await {
                Ok(by_error) => by_error,
                Err(error) => {
                    self.ended(true, &error.to_string(), Status::default());
                    true
                }
            };
            if by_error {
                // A process that cannot even start must not make a hot loop.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// One process from its start to its end. True if nobody asked for the end.
    async fn live(&self, orders: &mut mpsc::Receiver<Order>, retired: &mut bool) -> Result<bool> {
        let (mut child, log) = self.spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        // Waiting would close it, and a process ends with it.
        let _stdin = child.stdin.take();
        let mut lines = BufReader::new(stdout).lines();
        let mut telling = true;
        let mut asked = false;
        let status = loop {
            tokio::select! {
                line = lines.next_line(), if telling => match line {
                    Ok(Some(line)) => {
                        let status = line.parse().ok();
                        self.now.send_modify(|now| now.status = status.or(now.status.take()));
                    }
                    _ => telling = false,
                },
                order = orders.recv(), if !*retired || !orders.is_closed() => match order {
                    Some(Order::Signal(signal, done)) => {
                        asked |= matches!(signal, Signal::KILL | Signal::TERM);
                        send(&child, signal);
                        let _ = done.send(());
                    }
                    Some(Order::Retire) => {
                        (asked, *retired) = (true, true);
                        send(&child, Signal::TERM);
                    }
                    // The conductor is gone.
                    None => {
                        (asked, *retired) = (true, true);
                        send(&child, Signal::KILL);
                    }
                },
                status = child.wait() => break status?,
            }
        };
        let last = self.now.borrow().status.clone().unwrap_or_default();
        self.now
            .send_modify(|now| (now.pid, now.status) = (None, None));
        // A process that was told to end and then did so with an error has something to say.
        let by_error = !asked || status.code().is_some_and(|code| code != 0);
        let words = std::fs::read_to_string(&log).unwrap_or_default();
        let words = words.lines().rev().find(|line| line.starts_with("error:"));
        self.ended(by_error, words.unwrap_or(&status.to_string()), last);
        Ok(by_error)
    }

    fn spawn(&self) -> Result<(Child, PathBuf)> {
        let mut life = 0;
        self.now.send_modify(|now| {
            now.life += 1;
            life = now.life;
        });
        let duty = &self.duty;
        let logs = duty.folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        let log = logs.join(format!("{}.{}.log", self.name, life - 1));
        let stderr = OpenOptions::new().append(true).create(true).open(&log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(self.role.word())
            .args(["--broker", duty.kind.word()])
            .args(["--address", &duty.address])
            .arg("--history")
            .arg(duty.folder.join("history"))
            .args(["--run", &duty.run])
            .args(["--name", &self.name])
            // Each life has other messages.
            .args([
                "--seed",
                &(duty.seed.wrapping_add(u64::from(life))).to_string(),
            ])
            // The process ends when this end of the pipe is closed, so it lives as long as the child's value.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true);
        match (self.role, duty.pace) {
            (Role::Producer, _) => {
                command.args(["--rate", &duty.rate.to_string()]);
                if duty.resend {
                    command.arg("--resend");
                }
            }
            (Role::Consumer, Pace::Outlive) => {
                command.arg("--outlive");
            }
            (Role::Consumer, Pace::Slow) => {
                command.arg("--slow");
            }
            (Role::Consumer, Pace::Brisk) => {}
        }
        if let Some(protocol) = duty.protocol {
            command.args(["--protocol", protocol.word()]);
        }
        let child = command.spawn()?;
        self.now.send_modify(|now| {
            now.pid = child.id();
            now.started = Some(Instant::now());
            now.status = None;
        });
        Ok((child, log))
    }

    fn ended(&self, by_error: bool, words: &str, last: Status) {
        lock(&self.exits).push(Exit {
            name: self.name.clone(),
            by_error,
            words: words.to_owned(),
            last,
        });
    }
}

fn send(child: &Child, signal: Signal) {
    // There is an id as long as nobody has waited for it: so it is no stranger's.
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

fn lock(exits: &Mutex<Vec<Exit>>) -> MutexGuard<'_, Vec<Exit>> {
    exits.lock().unwrap_or_else(PoisonError::into_inner)
}
