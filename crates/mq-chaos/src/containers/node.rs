//! One container of a compose project: killed, stopped, frozen, started again, asked.

use std::{
    io::{Error, Result},
    process::{Command as Blocking, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::engine::{self, run};

/// A container of a compose project. Dropped, it runs again, so that no test leaves it dead.
#[derive(Debug)]
pub struct Node {
    engine: &'static str,
    id: String,
    service: String,
    faulted: bool,
}

impl Node {
    pub(super) fn new(engine: &'static str, id: String, service: String) -> Self {
        Self {
            engine,
            id,
            service,
            faulted: false,
        }
    }

    /// The container of this service in a project that somebody else started.
    ///
    /// # Errors
    /// If no engine knows it.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn of(project: &str, service: &str) -> Result<Self> {
        let label = |name: &str, value: &str| format!("label=com.docker.compose.{name}={value}");
        let (project_label, service_label) = (label("project", project), label("service", service));
        for engine in engine::ALL {
            let list = ["ps", "--all", "--quiet", "--filter", &project_label];
            let list = list.into_iter().chain(["--filter", &service_label]);
            let ids = run(engine, list).await.unwrap_or_default();
            if let Some(id) = ids.lines().next() {
                return Ok(Self::new(engine, id.to_owned(), service.to_owned()));
            }
        }
        let text = format!("no container of service {service} in the compose project {project}");
        Err(Error::other(text))
    }

    /// Its service in the compose file, such as `rabbitmq-1`.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// `kill -9` of its first process, and with it of all. Returns when it is dead, with the time since 1970 in microseconds
    /// at which the engine saw it die.
    ///
    /// # Errors
    /// If the engine fails, or it still runs after a minute.
    ///
    /// # Cancel safety
    /// Dropped, it may be dead.
    pub async fn kill(&mut self) -> Result<u64> {
        self.faulted = true;
        self.engine(&["kill", "--signal", "KILL"]).await?;
        let begun = Instant::now();
        let state = "{{.State.Running}} {{.State.FinishedAt}}";
        loop {
            let state = self.engine(&["inspect", "--format", state]).await?;
            if let Some(time) = state.strip_prefix("false ") {
                return micros(time).ok_or_else(|| Error::other(format!("{time:?} is no time")));
            }
            if begun.elapsed() > LIMIT {
                let text = format!("{} is killed and runs", self.service);
                return Err(Error::other(text));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it as an operator would. Returns when it is gone.
    ///
    /// # Errors
    /// If the engine fails.
    ///
    /// # Cancel safety
    /// Dropped, it may stop all the same.
    pub async fn stop(&mut self) -> Result<()> {
        self.faulted = true;
        self.engine(&["stop", "--time", "30"]).await.map(drop)
    }

    /// Starts it with the data that it has. It takes a while until the broker answers.
    ///
    /// # Errors
    /// If the engine fails.
    ///
    /// # Cancel safety
    /// Dropped, it may start all the same.
    pub async fn start(&mut self) -> Result<()> {
        self.engine(&["start"]).await?;
        self.faulted = false;
        Ok(())
    }

    /// Freezes all its processes. A container that starts processes while it is frozen, as one with a health check does, can
    /// escape the engine ("unable to freeze"): it is tried again then.
    ///
    /// # Errors
    /// If the engine fails ten times in a row.
    ///
    /// # Cancel safety
    /// Dropped, it may be frozen all the same.
    pub async fn pause(&mut self) -> Result<()> {
        self.faulted = true;
        let mut tries = 1;
        loop {
            match self.engine(&["pause"]).await {
                Err(error) if tries < PAUSES && error.to_string().contains("unable to freeze") => {
                    tries += 1;
                    tokio::time::sleep(PAUSE_AGAIN).await;
                }
                answer => return answer.map(drop),
            }
        }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// If the engine fails.
    ///
    /// # Cancel safety
    /// Dropped, they may go on all the same.
    pub async fn unpause(&mut self) -> Result<()> {
        self.engine(&["unpause"]).await?;
        self.faulted = false;
        Ok(())
    }

    /// Runs a program inside, and returns what it printed.
    ///
    /// # Errors
    /// The program's last words, if it fails.
    ///
    /// # Cancel safety
    /// Dropped, it goes on.
    pub async fn exec(&self, program: &[&str]) -> Result<String> {
        let command = ["exec", self.id.as_str()].into_iter();
        run(self.engine, command.chain(program.iter().copied())).await
    }

    /// What it logged last.
    pub async fn logs(&self) -> String {
        let logs = self.engine(&["logs", "--tail", "200"]).await;
        logs.unwrap_or_else(|error| error.to_string())
    }

    async fn engine(&self, arguments: &[&str]) -> Result<String> {
        let arguments = arguments.iter().copied().chain([self.id.as_str()]);
        run(self.engine, arguments).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.faulted {
            return;
        }
        // One of the two is not needed, and fails.
        for verb in ["unpause", "start"] {
            let mut command = Blocking::new(self.engine);
            command.args([verb, &self.id]);
            let _ = command.stdin(Stdio::null()).output();
        }
    }
}

/// Microseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// The microseconds since 1970 of a time such as `2026-01-31T10:00:00.123456789Z`.
fn micros(time: &str) -> Option<u64> {
    let time = time.trim().strip_suffix('Z')?;
    let (date, clock) = time.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut clock = clock.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let fraction: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    // Days since 1970, with years that begin in March, so that a leap day is the last of its year.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    u64::try_from(seconds * 1_000_000 + fraction).ok()
}

/// How often a container is frozen that escapes it, and after how long again.
const PAUSES: u32 = 10;
const PAUSE_AGAIN: Duration = Duration::from_millis(200);

/// How long a killed container may take to be dead.
const LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_time_that_an_engine_prints() {
        assert_eq!(micros("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            micros("1970-03-01T00:00:01.5Z"),
            Some(59 * 86_400_000_000 + 1_500_000)
        );
        assert_eq!(
            micros("2024-02-29T23:59:59.123456789Z"),
            Some(1_709_251_199_123_456)
        );
        assert_eq!(
            micros("2026-11-23T21:34:38.000001Z"),
            Some(1_795_469_678_000_001)
        );
        assert_eq!(micros("0001-01-01"), None);
    }
}
