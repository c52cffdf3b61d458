//! A compose project that is started, and taken down at the end.

use std::{
    fs::{File, TryLockError},
    io::{Error, Result},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command as Blocking, Stdio},
};

use super::{Node, engine};

/// What is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The compose project. A run finds under its name what the run before it left.
    pub project: String,
    /// The folder below `compose/`, such as `rabbitmq/single`.
    pub folder: String,
    /// The services, in the order in which they are started.
    pub services: Vec<String>,
    /// What its file asks for: ports, versions.
    pub variables: Vec<(String, String)>,
}

/// The containers of a compose project. Dropping it takes them down, with their data.
#[derive(Debug)]
pub struct Project {
    engine: &'static str,
    setup: Setup,
    /// Locked for as long as the project is this run's. The system unlocks it however the run ends.
    _turn: File,
}

impl Project {
    /// Starts containers without data. What an earlier run left is taken down first.
    ///
    /// # Errors
    /// Says what each engine answered, where none can run containers; names the project where another run has it now, whose brokers
    /// this one would take away.
    ///
    /// # Cancel safety
    /// Dropped, it takes down what was started.
    pub async fn start(setup: Setup) -> Result<(Self, Vec<Node>)> {
        let engine = engine::find().await?;
        let _turn = turn(&setup.project)?;
        let project = Self {
            engine,
            setup,
            _turn,
        };
        project.down();
        let mut nodes = Vec::new();
        for service in &project.setup.services {
            let up = ["up", "--detach", service.as_str()];
            project.compose(&up).await?;
            let id = project.compose(&["ps", "--quiet", service]).await?;
            if id.is_empty() {
                let text = format!("{engine} compose started {service}, and it is not there");
                return Err(Error::other(text));
            }
            nodes.push(Node::new(engine, id, service.clone()));
        }
        Ok((project, nodes))
    }

    async fn compose(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command();
        command.args(arguments);
        engine::answer(command).await
    }

    fn command(&self) -> Blocking {
        let mut command = Blocking::new(self.engine);
        command
            .args(["compose", "--project-name", &self.setup.project, "--file"])
            .arg(compose_file(&self.setup.folder));
        for (variable, value) in &self.setup.variables {
            command.env(variable, value);
        }
        command
    }

    fn down(&self) {
        // A frozen container cannot be told to stop, so it is killed; volumes too: the next run starts from nothing.
        let mut command = self.command();
        command.args(["down", "--volumes", "--timeout", "0"]);
        // A second Ctrl-C must not end it.
        command.stdin(Stdio::null()).process_group(0);
        if !command.output().is_ok_and(|output| output.status.success()) {
            let (engine, project) = (self.engine, &self.setup.project);
            eprintln!("warning: not taken down; try: {engine} compose -p {project} down -v");
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        self.down();
    }
}

fn turn(project: &str) -> Result<File> {
    let path = std::env::temp_dir().join(format!("{project}.lock"));
    let file = File::create(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::other(format!(
            "another run uses the containers of {project} now; wait for its end"
        ))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn compose_file(folder: &str) -> PathBuf {
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    PathBuf::from(format!("{workspace}/compose/{folder}/compose.yaml"))
}

#[cfg(test)]
mod tests {
    use super::turn;

    #[test]
    fn a_project_is_one_runs_at_a_time() {
        let project = format!("mq-chaos-turn-{}", std::process::id());
        let first = turn(&project).expect("nobody has it");
        let second = turn(&project).expect_err("the first one has it");
        assert!(second.to_string().contains(&project), "{second}");
        drop(first);
        drop(turn(&project).expect("it is free again"));
        std::fs::remove_file(std::env::temp_dir().join(format!("{project}.lock")))
            .expect("it is there");
    }
}
