//! The copiers: started, signalled, started again when they end.

use std::{
    fs::File,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::Result;

/// The places of the copiers. Dropping it kills them.
pub(super) struct Seats {
    address: String,
    logs: PathBuf,
    seats: Vec<Seat>,
    lives: usize,
    /// What those said that ended without being killed.
    pub(super) exits: Vec<String>,
}

struct Seat {
    id: String,
    copier: Copier,
}

/// A copier's process.
pub(super) struct Copier {
    child: Child,
    log: PathBuf,
    said: Arc<Said>,
    killed: bool,
}

/// What it told last.
#[derive(Default)]
struct Said {
    committed: AtomicU64,
    aborted: AtomicU64,
}

impl Seats {
    pub(super) fn start(address: &str, logs: PathBuf, copiers: usize) -> Result<Self> {
        std::fs::create_dir_all(&logs)?;
        let mut seats = Self {
            address: address.to_owned(),
            logs,
            seats: Vec::new(),
            lives: 0,
            exits: Vec::new(),
        };
        for number in 1..=copiers {
            let id = format!("copier-{number}");
            let copier = seats.spawn(&id)?;
            seats.seats.push(Seat { id, copier });
        }
        Ok(seats)
    }

    fn spawn(&mut self, id: &str) -> Result<Copier> {
        self.lives += 1;
        let log = self.logs.join(format!("{id}.{}.log", self.lives));
        let mut child = Command::new(std::env::current_exe()?)
            .args(["copier", "--address", &self.address, "--id", id])
            // It ends when this end is closed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let said = Arc::<Said>::default();
        let told = Arc::clone(&said);
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut numbers = line.split(' ').filter_map(|number| number.parse().ok());
                if let (Some(committed), Some(aborted)) = (numbers.next(), numbers.next()) {
                    told.committed.store(committed, Relaxed);
                    told.aborted.store(aborted, Relaxed);
                }
            }
        });
        Ok(Copier {
            child,
            log,
            said,
            killed: false,
        })
    }

    /// Starts again who has ended.
    pub(super) fn tend(&mut self) -> Result {
        for seat in 0..self.seats.len() {
            let Some(status) = self.seats[seat].copier.child.try_wait()? else {
                continue;
            };
            if !self.seats[seat].copier.killed {
                let copier = &self.seats[seat].copier;
                self.exits.push(format!(
                    "{}: {}",
                    self.seats[seat].id,
                    copier.words(&status)
                ));
            }
            let id = self.seats[seat].id.clone();
            self.seats[seat].copier = self.spawn(&id)?;
        }
        Ok(())
    }

    /// Puts a second process with the same id into the seat, and returns the first.
    pub(super) fn twin(&mut self, seat: usize) -> Result<Copier> {
        let id = self.seats[seat].id.clone();
        let twin = self.spawn(&id)?;
        Ok(std::mem::replace(&mut self.seats[seat].copier, twin))
    }

    pub(super) fn copier(&mut self, seat: usize) -> &mut Copier {
        &mut self.seats[seat].copier
    }

    /// Ends all in order.
    pub(super) async fn stop(mut self) -> Result<Vec<String>> {
        for seat in &mut self.seats {
            seat.copier.signal(Signal::TERM);
        }
        for seat in &mut self.seats {
            let ended = seat.copier.child.wait();
            let status = tokio::time::timeout(super::TRANSACTION_TIMEOUT * 6, ended).await??;
            if !status.success() {
                let words = seat.copier.words(&status);
                self.exits.push(format!("{}, at its end: {words}", seat.id));
            }
        }
        Ok(self.exits)
    }
}

impl Copier {
    pub(super) fn committed(&self) -> u64 {
        self.said.committed.load(Relaxed)
    }

    pub(super) fn aborted(&self) -> u64 {
        self.said.aborted.load(Relaxed)
    }

    /// Sends a signal. There is an id as long as nobody has waited for it, so it is no stranger's.
    pub(super) fn signal(&mut self, signal: Signal) {
        self.killed |= signal == Signal::KILL;
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// What it said last, once it has ended by itself; `None` while it runs.
    pub(super) fn ended(&mut self) -> Result<Option<String>> {
        let status = self.child.try_wait()?;
        Ok(status.map(|status| self.words(&status)))
    }

    fn words(&self, status: &std::process::ExitStatus) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let words = log.lines().rev().find(|line| line.starts_with("error:"));
        words.map_or_else(|| status.to_string(), ToOwned::to_owned)
    }
}
