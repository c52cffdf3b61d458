//! One container of a compose project that somebody else started: killed, started again, paused.

use std::{
    process::{Command as Blocking, Stdio},
    time::{Duration, Instant},
};

use mq_testkit::{Check, Failure};
use tokio::process::Command;

/// A container of a compose project. Dropped, it runs again, so that no test leaves it dead.
pub struct Node {
    engine: &'static str,
    id: String,
    service: String,
    faulted: bool,
}

impl Node {
    /// The container of this service.
    pub async fn of(project: &str, service: &str) -> Check<Self> {
        let label = |name: &str, value: &str| format!("label=com.docker.compose.{name}={value}");
        let (project_label, service_label) = (label("project", project), label("service", service));
        for engine in ["docker", "podman"] {
            let list = ["ps", "--all", "--quiet", "--filter", &project_label];
            let list = list.into_iter().chain(["--filter", &service_label]);
            let ids = run(engine, list).await.unwrap_or_default();
            if let Some(id) = ids.lines().next() {
                return Ok(Self {
                    engine,
                    id: id.to_owned(),
                    service: service.to_owned(),
                    faulted: false,
                });
            }
        }
        let text = format!("no container of service {service} in the compose project {project}");
        Err(Failure::new(text))
    }

    /// `kill -9` of its first process, and with it of all. Returns when it is dead.
    pub async fn kill(&mut self) -> Check {
        self.faulted = true;
        self.engine(&["kill", "--signal", "KILL"]).await?;
        let begun = Instant::now();
        loop {
            let state = ["inspect", "--format", "{{.State.Running}}"];
            if self.engine(&state).await? == "false" {
                return Ok(());
            }
            if begun.elapsed() > LIMIT {
                return Err(Failure::new(format!("{} is killed and runs", self.service)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops it as an operator would. Returns when it is gone.
    pub async fn stop(&mut self) -> Check {
        self.faulted = true;
        self.engine(&["stop", "--time", "30"]).await.map(drop)
    }

    /// Starts it with the data that it has. It takes a while until the broker answers.
    pub async fn start(&mut self) -> Check {
        self.engine(&["start"]).await?;
        self.faulted = false;
        Ok(())
    }

    /// Freezes all its processes.
    pub async fn pause(&mut self) -> Check {
        self.faulted = true;
        self.engine(&["pause"]).await.map(drop)
    }

    /// Lets them go on.
    pub async fn unpause(&mut self) -> Check {
        self.engine(&["unpause"]).await?;
        self.faulted = false;
        Ok(())
    }

    /// Runs a program inside, and returns what it printed.
    pub async fn exec(&self, program: &[&str]) -> Check<String> {
        let command = ["exec", self.id.as_str()].into_iter();
        run(self.engine, command.chain(program.iter().copied())).await
    }

    async fn engine(&self, arguments: &[&str]) -> Check<String> {
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

async fn run(engine: &str, arguments: impl Iterator<Item = &str>) -> Check<String> {
    let mut command = Command::new(engine);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(LIMIT, command.output()).await {
        Ok(output) => output?,
        Err(_) => return Err(Failure::new(format!("{engine} did not answer"))),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(Failure::new(format!("{engine}: {}", text(&output.stderr)))),
    }
}

/// The most time for one command of the engine.
const LIMIT: Duration = Duration::from_secs(60);
