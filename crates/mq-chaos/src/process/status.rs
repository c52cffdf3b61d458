//! What a process says about itself: a line of numbers on its standard output, whenever they change.

use std::{
    io::Write,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::task::JoinHandle;

/// How far a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// Its file of the history.
    pub(crate) file: PathBuf,
    /// Messages sent, and of them those whose outcome is known.
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Messages delivered, and of them those whose handler is done.
    pub(crate) delivered: u64,
    pub(crate) finished: u64,
    /// Since when the broker lets it not publish, in microseconds since 1970; 0: it lets it.
    pub(crate) blocked_at: u64,
    /// Connections that the client told to be lost.
    pub(crate) connections_lost: u64,
}

impl Status {
    /// Messages that a fault would catch.
    pub(crate) fn open(&self) -> u64 {
        (self.sent - self.answered.min(self.sent))
            + (self.delivered - self.finished.min(self.delivered))
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.splitn(7, ' ');
        let numbers: Vec<u64> = words
            .by_ref()
            .take(6)
            .filter_map(|word| word.parse().ok())
            .collect();
        match (<[u64; 6]>::try_from(numbers), words.next()) {
            (
                Ok(
                    [
                        sent,
                        answered,
                        delivered,
                        finished,
                        blocked_at,
                        connections_lost,
                    ],
                ),
                Some(file),
            ) => Ok(Self {
                file: file.into(),
                sent,
                answered,
                delivered,
                finished,
                blocked_at,
                connections_lost,
            }),
            _ => Err(format!("{line:?} is no status")),
        }
    }
}

/// Counts, and prints the status.
pub(super) struct Counters {
    file: PathBuf,
    pub(super) sent: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) blocked_at: AtomicU64,
    pub(super) connections_lost: AtomicU64,
    told: Mutex<String>,
}

impl Counters {
    pub(super) fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            blocked_at: AtomicU64::new(0),
            connections_lost: AtomicU64::new(0),
            told: Mutex::new(String::new()),
        }
    }

    /// Prints the status if it changed. Nobody to read it means that the conductor is gone, which the standard input tells.
    pub(super) fn tell(&self) {
        let numbers = [
            &self.sent,
            &self.answered,
            &self.delivered,
            &self.finished,
            &self.blocked_at,
            &self.connections_lost,
        ];
        let numbers = numbers.map(|count| count.load(Relaxed).to_string());
        let line = format!("{} {}\n", numbers.join(" "), self.file.display());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != line {
            let _ = std::io::stdout().write_all(line.as_bytes());
            *told = line;
        }
    }
}

impl super::Stage {
    /// Prints the status now, which says that the process is ready, and then as it changes.
    pub(super) fn print(self: &std::sync::Arc<Self>) -> JoinHandle<()> {
        let stage = std::sync::Arc::clone(self);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            loop {
                ticks.tick().await;
                stage.counters.tell();
            }
        })
    }
}

const EVERY: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_printed() {
        let status: Status = "7 5 3 1 99 2 /a folder/x.0.jsonl".parse().unwrap();
        assert_eq!(status.open(), 4);
        assert_eq!((status.blocked_at, status.connections_lost), (99, 2));
        assert_eq!(status.file, Path::new("/a folder/x.0.jsonl"));
        assert!("7 5 3 x 0 0 f".parse::<Status>().is_err());
        assert!("error: no".parse::<Status>().is_err());
    }
}
