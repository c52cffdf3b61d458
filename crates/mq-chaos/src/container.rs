//! The broker's container, through `compose/`: started fresh, killed, stopped and started again, and taken down at the end.

use std::{
    path::PathBuf,
    process::{Command as Blocking, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{io::AsyncReadExt, net::TcpStream, process::Command};

use crate::{Result, broker::Kind};

/// One container that runs a broker. Dropping it takes it down, with its data.
pub(crate) struct Container {
    engine: &'static str,
    kind: Kind,
    id: String,
}

impl Container {
    /// Starts a broker without data. What an earlier run left is taken down first.
    ///
    /// # Errors
    /// Says what each engine answered, where neither can run containers.
    pub(crate) async fn start(kind: Kind) -> Result<Self> {
        let engine = engine().await?;
        let mut container = Self {
            engine,
            kind,
            id: String::new(),
        };
        container.down();
        container.compose(&["up", "--detach", kind.word()]).await?;
        container.id = container.compose(&["ps", "--quiet", kind.word()]).await?;
        if container.id.is_empty() {
            return Err(format!("{engine} compose started {kind}, and it is not there").into());
        }
        Ok(container)
    }

    /// `kill -9`, and until it is dead. Returns when it died, in microseconds since 1970.
    pub(crate) async fn kill(&self) -> Result<u64> {
        // The engine says when it has noticed. On a busy machine that is late; a connection breaks at once.
        let mut connection = TcpStream::connect(self.kind.host()).await?;
        let broken = tokio::spawn(async move {
            while matches!(connection.read(&mut [0; 64]).await, Ok(1..)) {}
            now()
        });
        self.engine(&["kill", "--signal", "KILL", &self.id]).await?;
        let start = Instant::now();
        loop {
            let state = self
                .engine(&[
                    "inspect",
                    "--format",
                    "{{.State.Running}} {{.State.FinishedAt}}",
                    &self.id,
                ])
                .await?;
            if let Some(time) = state.strip_prefix("false ") {
                let noticed = micros(time).ok_or_else(|| format!("{time:?} is no time"))?;
                return Ok(broken.await?.min(noticed));
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("{} is killed and still runs", self.kind).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts it again, with the data that it has.
    pub(crate) async fn start_again(&self) -> Result {
        self.engine(&["start", &self.id]).await.map(drop)
    }

    /// Stops it as an operator would, and starts it again.
    pub(crate) async fn restart(&self) -> Result {
        self.engine(&["restart", "--time", "30", &self.id])
            .await
            .map(drop)
    }

    /// Freezes all its processes.
    pub(crate) async fn pause(&self) -> Result {
        self.engine(&["pause", &self.id]).await.map(drop)
    }

    /// Lets them go on.
    pub(crate) async fn unpause(&self) -> Result {
        self.engine(&["unpause", &self.id]).await.map(drop)
    }

    /// The version of the broker in it, by its own words.
    pub(crate) async fn version(&self) -> Result<String> {
        let ask: &[&str] = match self.kind {
            Kind::RabbitMq => &["rabbitmqctl", "version"],
            Kind::Kafka => &["/opt/kafka/bin/kafka-topics.sh", "--version"],
        };
        let said = self.engine(&[&["exec", &self.id], ask].concat()).await?;
        let version = said.split_whitespace().next().unwrap_or_default();
        Ok(format!("{} {version}", self.kind))
    }

    /// What it logged last.
    pub(crate) async fn logs(&self) -> String {
        let logs = self.engine(&["logs", "--tail", "200", &self.id]).await;
        logs.unwrap_or_else(|error| error.to_string())
    }

    async fn engine(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.engine);
        command.args(arguments);
        answer(command).await
    }

    async fn compose(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::from(self.blocking());
        command.args(arguments);
        answer(command).await
    }

    fn blocking(&self) -> Blocking {
        let mut command = Blocking::new(self.engine);
        command
            .args(["compose", "--project-name", &self.project(), "--file"])
            .arg(compose_file(self.kind));
        for (variable, port) in self.kind.ports() {
            command.env(variable, port.to_string());
        }
        command
    }

    /// One name for each broker, so that a run finds what the one before left.
    fn project(&self) -> String {
        format!("mq-chaos-{}", self.kind.word())
    }

    fn down(&self) {
        // A frozen container cannot be told to stop, so it is killed; volumes too: the next run starts from nothing.
        let mut command = self.blocking();
        command.args(["down", "--volumes", "--timeout", "0"]);
        let done = command.stdin(Stdio::null()).output();
        if !done.is_ok_and(|output| output.status.success()) {
            let (engine, project) = (self.engine, self.project());
            eprintln!("warning: not taken down; try: {engine} compose -p {project} down -v");
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.down();
    }
}

/// An engine that has Compose and whose daemon answers.
async fn engine() -> Result<&'static str> {
    let mut reasons = Vec::new();
    for engine in ["docker", "podman"] {
        let mut works = Ok(());
        for arguments in [&["compose", "version"][..], &["info"]] {
            let mut command = Command::new(engine);
            command.args(arguments);
            works = works.and(answer(command).await.map(drop));
        }
        match works {
            Ok(()) => return Ok(engine),
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(format!("containers can't run here: {}", reasons.join("; ")).into())
}

/// What the command printed; its last words as the error.
async fn answer(mut command: Command) -> Result<String> {
    let shown = {
        let command = command.as_std();
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        let program = command.get_program().to_string_lossy();
        format!("{program} {}", arguments.join(" "))
    };
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output())
        .await
        .map_err(|_| format!("{shown}: no answer within {} s", PATIENCE.as_secs()))?
        .map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    Err(format!("{shown}: {}", last.unwrap_or("failed").trim()).into())
}

fn compose_file(kind: Kind) -> PathBuf {
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    PathBuf::from(format!(
        "{workspace}/compose/{}/single/compose.yaml",
        kind.word()
    ))
}

/// Microseconds since 1970.
pub(crate) fn now() -> u64 {
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

/// An image may have to be fetched.
const PATIENCE: Duration = Duration::from_secs(300);

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
