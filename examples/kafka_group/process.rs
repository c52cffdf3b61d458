//! The members as processes, and what is known of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    process::Stdio,
    time::Duration,
};

use mq_examples::Result;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
    time::timeout,
};

/// The members that run, by name.
pub(crate) struct Group {
    members: BTreeMap<&'static str, Member>,
    said: mpsc::Receiver<(&'static str, String)>,
    /// The jobs that came to anybody.
    taken: BTreeSet<String>,
}

struct Member {
    process: Child,
    commands: ChildStdin,
    partitions: Vec<u32>,
    /// How many jobs it took since that was printed last.
    took: usize,
    hangs: bool,
}

impl Group {
    pub(crate) fn start(names: &[&'static str], servers: &str, token: &str) -> Result<Self> {
        let (say, said) = mpsc::channel(100);
        let mut members = BTreeMap::new();
        for name in names.iter().copied() {
            let mut process = Command::new(env::current_exe()?)
                .args(["--broker", &format!("kafka://{servers}")])
                .args(["--token", token, "--member"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let commands = process.stdin.take().ok_or("no standard input")?;
            let output = process.stdout.take().ok_or("no standard output")?;
            let say = say.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(output).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if say.send((name, line)).await.is_err() {
                        return;
                    }
                }
            });
            let member = Member {
                process,
                commands,
                partitions: Vec::new(),
                took: 0,
                hangs: false,
            };
            members.insert(name, member);
        }
        Ok(Self {
            members,
            said,
            taken: BTreeSet::new(),
        })
    }

    /// Waits until each member has so many partitions, and none of them those of another one.
    pub(crate) async fn shared(&mut self, each: usize) -> Result<()> {
        let evenly = |group: &Self| {
            let all = || group.members.values().map(|member| &member.partitions);
            let different: BTreeSet<u32> = all().flatten().copied().collect();
            all().all(|has| has.len() == each) && different.len() == each * group.members.len()
        };
        self.until("even shares", evenly).await
    }

    /// Waits until so many jobs came in all; prints who took how many of those that are new.
    pub(crate) async fn print_taken(&mut self, in_all: usize) -> Result<()> {
        self.until("the jobs", |group| group.taken.len() >= in_all)
            .await?;
        for (name, member) in &mut self.members {
            println!("  {name} took {} jobs", std::mem::take(&mut member.took));
        }
        Ok(())
    }

    pub(crate) fn print_partitions(&self) {
        for (name, member) in &self.members {
            println!("  {name} has the partitions {:?}", member.partitions);
        }
    }

    /// Has a member close its consumer, and waits until it has ended.
    pub(crate) async fn close(&mut self, name: &str) -> Result<()> {
        let mut member = self.members.remove(name).ok_or("no such member")?;
        drop(member.commands);
        let ended = timeout(PATIENCE, member.process.wait()).await??;
        match ended.success() {
            true => Ok(()),
            false => Err(format!("{name} ended with {ended}").into()),
        }
    }

    /// Has a member settle nothing from now on, as if its handlers never ended.
    pub(crate) async fn hang(&mut self, name: &str) -> Result<()> {
        let member = self.members.get_mut(name).ok_or("no such member")?;
        member.commands.write_all(b"hang\n").await?;
        let hangs = |group: &Self| group.members.values().any(|member| member.hangs);
        self.until("a member that hangs", hangs).await
    }

    /// Ends a member's process at once: SIGKILL on Unix.
    pub(crate) async fn kill(&mut self, name: &str) -> Result<()> {
        let mut member = self.members.remove(name).ok_or("no such member")?;
        Ok(member.process.kill().await?)
    }

    /// The jobs that came.
    pub(crate) fn taken(&self) -> &BTreeSet<String> {
        &self.taken
    }

    /// The token, as it came back.
    pub(crate) fn token(&self) -> Option<&str> {
        self.taken.first()?.split(' ').next()
    }

    /// Listens to the members until something is so.
    async fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) -> Result<()> {
        let listening = async {
            while !so(self) {
                let (name, line) = self.said.recv().await.ok_or("all members ended")?;
                self.heard(name, &line)?;
            }
            Result::Ok(())
        };
        match timeout(PATIENCE, listening).await {
            Ok(result) => result,
            Err(_) => Err(format!("{what}: not within {} s", PATIENCE.as_secs()).into()),
        }
    }

    fn heard(&mut self, name: &'static str, line: &str) -> Result<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "took" {
            self.taken.insert(rest.to_owned());
        }
        // It may have ended meanwhile.
        let Some(member) = self.members.get_mut(name) else {
            return Ok(());
        };
        match word {
            "has" => {
                let numbers = rest.split_whitespace().map(str::parse);
                member.partitions = numbers.collect::<std::result::Result<_, _>>()?;
            }
            "took" => member.took += 1,
            "hangs" => member.hangs = true,
            _ => return Err(format!("{name} said {line:?}").into()),
        }
        Ok(())
    }
}

/// A broker with default settings waits 45 s for a member that was killed.
const PATIENCE: Duration = Duration::from_secs(75);
