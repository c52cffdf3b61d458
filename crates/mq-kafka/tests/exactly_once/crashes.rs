//! Copiers in processes of their own, which are killed.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "so a child speaks to its parent"
)]

use std::{
    process::{ExitCode, Stdio},
    time::Duration,
};

use mq_kafka::{
    ExactlyOnce, GroupProtocol,
    core::{Destination, Received, Subscription, Worker},
};
use mq_testkit::{Check, Failure};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    retries,
    scene::{Scene, copy},
    support::{check, unique, within},
};

/// The copier is killed while a transaction is open, three times; the last one ends the work.
pub(crate) async fn killed(servers: String) -> Check {
    let scene = Scene::new(&servers, "killed").await?;
    scene.fill(0..8000).await?;
    let id = unique("killed");
    let driven = async {
        for _ in 0..3 {
            let (mut child, mut lines) = start(&scene, COPIER, &id)?;
            committed(&mut lines, 2).await?;
            child.kill().await?;
        }
        start(&scene, COPIER, &id)
    };
    let (driven, read): (Check<_>, Check) = tokio::join!(driven, scene.read("now", 8000));
    let (mut last, _lines) = driven?;
    read?;
    last.kill().await?;
    scene.read("late", 8000).await?;
    let written = scene.written().await?;
    check(
        written > 8000,
        format!("{written} copies were written: no kill met an open transaction"),
    )
}

/// Starts a process that does as its name says.
pub(crate) fn start(scene: &Scene, name: &str, id: &str) -> Check<(Child, Spoken)> {
    let mut child = Command::new(std::env::current_exe()?)
        .env(CHILD, name)
        .args([
            &*scene.servers,
            scene.source.name(),
            scene.target.name(),
            id,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let out = child.stdout.take();
    let out = out.ok_or_else(|| Failure::new("no stdout"))?;
    Ok((child, BufReader::new(out).lines()))
}

/// Waits until so many transactions of this life are committed; another one is open, whose outputs are under way.
pub(crate) async fn committed(lines: &mut Spoken, transactions: u64) -> Check {
    loop {
        let line = within(90, lines.next_line()).await??;
        let line = line.ok_or_else(|| Failure::new("the copier ended by itself"))?;
        if line.parse::<u64>()? >= transactions {
            return Ok(());
        }
    }
}

/// What a child says: how many transactions it has committed.
type Spoken = Lines<BufReader<ChildStdout>>;

/// The program of a child; `None` if this process is the test itself.
pub(crate) fn child() -> Option<ExitCode> {
    let handle = match &*std::env::var(CHILD).ok()? {
        COPIER => copy,
        RETRIER => retries::handle,
        _ => return Some(ExitCode::FAILURE),
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [servers, source, target, id] = arguments.as_slice() else {
        return Some(ExitCode::FAILURE);
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let copied: Check = runtime.block_on(async {
        let (source, target) = (
            Destination::queue(source.as_str()),
            Destination::topic(target.as_str()),
        );
        let kafka = Scene::connect(servers, GroupProtocol::Classic, &source, &target).await?;
        let handled = std::sync::atomic::AtomicUsize::new(0);
        let handled = std::sync::Arc::new(handled);
        // Long transactions, so that a kill meets one.
        let guarantee = ExactlyOnce::new(id.as_str()).commit_every(Duration::from_millis(500));
        Worker::new(&kafka, Subscription::queue(source.name().clone()))
            .guarantee(guarantee.clone())
            .concurrency(4)
            .run(move |received: Received| {
                let (target, handled) = (target.clone(), handled.clone());
                let guarantee = guarantee.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(4)).await;
                    let n = handled.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if n % 100 == 99 {
                        println!("{}", guarantee.transactions().committed);
                    }
                    handle(&received, &target)
                }
            })
            .await?;
        Ok(())
    });
    Some(match copied {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    })
}

/// Copies.
const COPIER: &str = "copier";
/// Defers and copies.
pub(crate) const RETRIER: &str = "retrier";
const CHILD: &str = "MQ_EXACTLY_ONCE_CHILD";
