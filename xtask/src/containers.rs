//! Starts and stops the brokers of `compose/` with Docker or Podman.

use std::process::{Command, Stdio};

use crate::Result;
use crate::workspace::Workspace;

/// The containers of one run. Dropping this takes them down, unless they are to be kept.
pub(crate) struct Containers {
    engine: &'static str,
    project: &'static str,
    files: Vec<std::path::PathBuf>,
    variables: Vec<(&'static str, String)>,
    keep: bool,
    started: bool,
}

impl Containers {
    /// Finds an engine that has Compose and whose daemon answers, for these set-ups of `compose/`, such as
    /// `rabbitmq/single`.
    ///
    /// A run finds under its project what the run before it left.
    ///
    /// # Errors
    /// Says what each engine answered, where neither can run containers.
    pub(crate) fn new(
        workspace: &Workspace,
        project: &'static str,
        setups: &[String],
        variables: Vec<(&'static str, String)>,
        keep: bool,
    ) -> Result<Self> {
        let mut reasons = Vec::new();
        for engine in ["docker", "podman"] {
            match check(engine) {
                Ok(()) => {
                    let file = |setup: &String| {
                        let compose = workspace.root.join("compose");
                        compose.join(setup).join("compose.yaml")
                    };
                    return Ok(Self {
                        engine,
                        project,
                        files: setups.iter().map(file).collect(),
                        variables,
                        keep,
                        started: false,
                    });
                }
                Err(reason) => reasons.push(format!("{engine}: {reason}")),
            }
        }
        Err(format!("containers can't run here ({})", reasons.join("; ")).into())
    }

    /// Starts one service, without waiting until it is ready.
    pub(crate) fn start(&mut self, service: &str) -> Result {
        self.started = true;
        let output = self
            .compose()
            .args(["up", "--detach", service])
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let reason = text
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("no reason given");
        Err(format!(
            "{} compose could not start {service}: {}",
            self.engine,
            reason.trim()
        )
        .into())
    }

    /// The last lines that a service logged, for the person who has to find out why it does not answer.
    pub(crate) fn logs(&self, service: &str) -> String {
        match self
            .compose()
            .args(["logs", "--tail", "15", service])
            .output()
        {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => error.to_string(),
        }
    }

    /// How to run a program inside a service's container, as the beginning of a command line.
    pub(crate) fn inside(&self, service: &str) -> Option<String> {
        let output = self
            .compose()
            .args(["ps", "--quiet", service])
            .output()
            .ok()?;
        let id = String::from_utf8(output.stdout).ok()?;
        // UTF-8, since a Java program writes text as its environment says.
        (!id.trim().is_empty())
            .then(|| format!("{} exec -i -e LC_ALL=C.UTF-8 {}", self.engine, id.trim()))
    }

    /// Runs a program inside a service's container, and returns what it printed.
    pub(crate) fn run_inside(&self, service: &str, program: &[&str]) -> std::io::Result<String> {
        let output = self
            .compose()
            .args(["exec", "-T", service])
            .args(program)
            .stdin(Stdio::null())
            .output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(std::io::Error::other(text(&output.stderr))),
        }
    }

    fn compose(&self) -> Command {
        let mut command = Command::new(self.engine);
        command.args(["compose", "--project-name", self.project]);
        for file in &self.files {
            command.arg("--file").arg(file);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if !self.started {
            return;
        }
        if self.keep {
            eprintln!(
                "\nThe brokers are left running. To end them: {} compose -p {} down -v",
                self.engine, self.project
            );
            return;
        }
        eprintln!("    taking the containers down");
        // Volumes too: the next run starts from nothing.
        let down = self
            .compose()
            .args(["down", "--volumes", "--timeout", "5"])
            .stdin(Stdio::null())
            .output();
        if !down.is_ok_and(|output| output.status.success()) {
            eprintln!(
                "warning: could not take them down; try: {} compose -p {} down -v",
                self.engine, self.project
            );
        }
    }
}

fn check(engine: &str) -> std::result::Result<(), String> {
    for (arguments, lacking) in [
        (&["compose", "version"][..], "no Compose v2"),
        (&["info"][..], "the engine does not answer"),
    ] {
        match Command::new(engine)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
        {
            Err(_) => return Err("not installed".into()),
            Ok(output) if !output.status.success() => return Err(lacking.into()),
            Ok(_) => {}
        }
    }
    Ok(())
}
