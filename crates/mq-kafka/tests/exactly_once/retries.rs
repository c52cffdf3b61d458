//! Deferred records: the copy in the retry topic, and what becomes of it, each in the transaction of its original.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use krafka::consumer::IsolationLevel;
use mq_kafka::{
    ExactlyOnce,
    core::{
        Broker, ConsumePlan, Consumer, Destination, Failure as Failed, Message, Outcome, Publisher,
        Received, Subscription, headers,
    },
};
use mq_testkit::{Check, Failure};

use crate::{
    crashes::{self, RETRIER},
    dead_letters,
    scene::{Copier, Scene},
    support::{Bare, check, quiet, same, unique},
};

pub(crate) async fn deferred(servers: String) -> Check {
    let scene = Scene::retrying(&servers, "deferred", &[1, 2]).await?;
    let guarantee = ExactlyOnce::new(unique("deferrer"));
    let due: Arc<Mutex<HashMap<u32, Instant>>> = Arc::default();
    let early = Arc::new(AtomicUsize::new(0));
    let (target, told) = (scene.target.clone(), Arc::clone(&early));
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .run(move |received: Received| {
                let (n, attempt) = (number(&received), received.attempt());
                let mut due = due.lock().expect("not poisoned");
                if due.remove(&n).is_some_and(|due| Instant::now() < due) {
                    told.fetch_add(1, SeqCst);
                }
                // By turns, so that the second time goes to the other retry topic.
                let delay = Duration::from_secs(attempt.into());
                let outcome = match attempt < attempts(n) {
                    true => Outcome::defer(delay),
                    false => output(&received, &target),
                };
                due.insert(n, Instant::now() + delay);
                async move { outcome }
            })
            .with_graceful_shutdown(stopped)
    });
    scene.fill(0..200).await?;
    each_once(&scene.outputs("now", 200).await?, 200)?;
    same(early.load(SeqCst), 0, "came early")?;
    copier.stop().await??;
    each_once(&scene.outputs("late", 200).await?, 200)?;
    // The place of each group is behind its last record; only the mark of a transaction may lie there.
    let bare = Bare::connect(&servers).await?;
    let source = scene.source.name().to_string();
    let tiers = [1, 2].map(|seconds| (format!("{source}.retry.{seconds}"), 1));
    for (topic, marks) in [(source, 0)].into_iter().chain(tiers) {
        let places = bare.places(&topic, &topic).await?;
        for (partition, end) in bare.ends(&topic, 2).await?.into_iter().enumerate() {
            let place = places.get(&i32::try_from(partition)?);
            let expected = (end > 0).then(|| (end - marks, String::new()));
            same(place, expected.as_ref(), &format!("committed in {topic}"))?;
        }
    }
    // One that knows of no transaction finds nothing to do.
    let from = Subscription::queue(scene.source.name().clone());
    let mut after = scene.kafka.consumer(&from, ConsumePlan::new()).await?;
    quiet(&mut after).await?;
    Ok(after.close().await?)
}

pub(crate) async fn aborted(servers: String) -> Check {
    let scene = Scene::retrying(&servers, "unmade", &[1]).await?;
    // Long ones, so that each holds all that is handled at a time.
    let guarantee = ExactlyOnce::new(unique("unmaker")).commit_every(Duration::from_secs(1));
    let calls = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let (target, counted) = (scene.target.clone(), Arc::clone(&calls));
    let aborting = guarantee.clone();
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .run(move |received: Received| {
                let attempt = received.attempt();
                let before = counted[attempt as usize - 1].fetch_add(1, SeqCst);
                // The first transaction of each attempt comes to nothing.
                if before == 0 {
                    aborting.abort();
                }
                let outcome = match attempt {
                    1 => Outcome::defer(Duration::from_secs(1)),
                    _ => output(&received, &target),
                };
                async move { outcome }
            })
            .with_graceful_shutdown(stopped)
    });
    scene.fill(0..20).await?;
    let outputs = scene.outputs("now", 20).await?;
    let numbers = outputs.iter().map(|output| (number(output), tries(output)));
    let mut numbers: Vec<_> = numbers.collect();
    numbers.sort_unstable();
    let expected: Vec<_> = (0..20).map(|n| (n, "2".to_owned())).collect();
    same(
        numbers,
        expected,
        "what is published, after how many attempts",
    )?;
    copier.stop().await??;
    same(guarantee.transactions().aborted, 2, "aborted")?;
    for (attempt, calls) in calls.iter().enumerate() {
        let calls = calls.load(SeqCst);
        let attempt = attempt + 1;
        check(
            (21..=40).contains(&calls),
            format!("{calls} calls of attempt {attempt}: that nothing came again, or some twice"),
        )?;
    }
    let tier = format!("{}.retry.1", scene.source.name());
    let committed = scene.records(&tier, IsolationLevel::ReadCommitted).await?;
    same(committed, 20, "copies for readers")?;
    let written = scene
        .records(&tier, IsolationLevel::ReadUncommitted)
        .await?;
    check(
        written > 20,
        format!("{written} copies were written: no transaction with a copy in it was aborted"),
    )
}

/// Killed while a transaction with retry copies is open, three times; then another one takes the id over from one that runs.
pub(crate) async fn killed(servers: String) -> Check {
    let scene = Scene::retrying(&servers, "bereft", &[1]).await?;
    let mut count = 8000;
    scene.fill(0..count).await?;
    let id = unique("bereft");
    for _ in 0..3 {
        let (mut child, mut lines) = crashes::start(&scene, RETRIER, &id)?;
        crashes::committed(&mut lines, 5).await?;
        child.kill().await?;
    }
    let (mut fenced, mut lines) = crashes::start(&scene, RETRIER, &id)?;
    crashes::committed(&mut lines, 1).await?;
    let (mut last, _lines) = crashes::start(&scene, RETRIER, &id)?;
    // It is noticed at the next transaction, and not every member has a partition at every moment.
    let ended = loop {
        if let Some(ended) = fenced.try_wait()? {
            break ended;
        }
        scene.fill(count..count + 40).await?;
        count += 40;
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    same(ended.code(), Some(1), "the end of one whose id was taken")?;
    each_once(&scene.outputs("now", count as usize).await?, count)?;
    last.kill().await?;
    each_once(&scene.outputs("late", count as usize).await?, count)?;
    let tier = format!("{}.retry.1", scene.source.name());
    let committed = scene.records(&tier, IsolationLevel::ReadCommitted).await?;
    let retries = count as usize / 4 * 2;
    same(committed, retries, "retries, two of each fourth record")?;
    let written = scene
        .records(&tier, IsolationLevel::ReadUncommitted)
        .await?;
    check(
        written > retries,
        format!("{written} retry copies were written: no kill met one in an open transaction"),
    )
}

pub(crate) async fn dead_letter(servers: String) -> Check {
    let scene = Scene::retrying(&servers, "given-up", &[1]).await?;
    let guarantee = ExactlyOnce::new(unique("given-up"));
    let aborting = guarantee.clone();
    let aborted = Arc::new(AtomicUsize::new(0));
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .max_attempts(3)
            .run(move |received: Received| {
                let outcome = match received.attempt() {
                    3 => {
                        // Once: the dead letter has to be made again.
                        if aborted.fetch_add(1, SeqCst) == 0 {
                            aborting.abort();
                        }
                        Outcome::retry(Failed::transient("never to be had"))
                    }
                    _ => Outcome::defer(Duration::from_secs(1)),
                };
                async move { outcome }
            })
            .with_graceful_shutdown(stopped)
    });
    let message = Message::new("0").key("k");
    let receipt = scene
        .kafka
        .publisher()
        .publish(&scene.source, message)
        .await?;
    let dead = dead_letters(&scene, 1).await?.remove(0);
    copier.stop().await??;
    same(guarantee.transactions().aborted, 1, "aborted")?;
    let text = |name| dead.headers().text(name).map(str::to_owned);
    let position = receipt.position().map(|at| at.to_string());
    let expected = [
        (headers::DEAD_REASON, Some("exhausted".to_owned())),
        (headers::DEAD_ATTEMPTS, Some("3".to_owned())),
        (headers::DEAD_ORIGIN, Some(scene.source.name().to_string())),
        (headers::DEAD_POSITION, position),
        (headers::ATTEMPT, None),
        (headers::DUE, None),
        (headers::RETRY_ORIGIN, None),
    ];
    for (name, expected) in expected {
        same(text(name), expected, name)?;
    }
    let home = scene.source.dead_letter_home().expect("a home");
    let written = scene
        .records(home.name(), IsolationLevel::ReadUncommitted)
        .await?;
    same(written, 2, "dead letters, an aborted one among them")
}

/// One retry's output is refused while much else is in its transactions, of the source too.
pub(crate) async fn refused_output(servers: String) -> Check {
    let scene = Scene::retrying(&servers, "refused-retry", &[1]).await?;
    let guarantee = ExactlyOnce::new(unique("refused-retry"));
    let target = scene.target.clone();
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .run(move |received: Received| {
                let outcome = match received.payload().is_some_and(|p| p.len() > 1000) {
                    true if received.attempt() == 1 => Outcome::defer(Duration::from_secs(1)),
                    true => output(&received, &target),
                    false => handle(&received, &target),
                };
                async move { outcome }
            })
            .with_graceful_shutdown(stopped)
    });
    scene.fill(0..100).await?;
    // Now it knows the target's limit, and does not hear that it is lowered.
    scene.outputs("now", 100).await?;
    let bare = Bare::connect(&servers).await?;
    bare.set(scene.target.name(), "max.message.bytes", "2000")
        .await?;
    let large = Message::new(vec![b'x'; 4000]).key("k1");
    scene
        .kafka
        .publisher()
        .publish(&scene.source, large)
        .await?;
    let mut count = 100;
    while guarantee.transactions().aborted < 3 {
        scene.fill(count..count + 40).await?;
        count += 40;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dead = dead_letters(&scene, 1).await?;
    let size = dead[0].payload().map(|payload| payload.len());
    same(size, Some(4000), "the dead one")?;
    each_once(&scene.outputs("late", count as usize).await?, count)?;
    Ok(copier.stop().await??)
}

pub(crate) async fn beyond_the_longest(servers: String) -> Check {
    let scene = Scene::retrying(&servers, "beyond", &[2]).await?;
    let guarantee = ExactlyOnce::new(unique("beyond"));
    let (target, delay) = (scene.target.clone(), Duration::from_secs(5));
    let waited: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let (first, told) = (Arc::new(Mutex::new(None)), Arc::clone(&waited));
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .run(move |received: Received| {
                let mut first = first.lock().expect("not poisoned");
                let outcome = match received.attempt() {
                    1 => {
                        *first = Some(Instant::now());
                        Outcome::defer(delay)
                    }
                    _ => {
                        let since = first.as_ref().map(Instant::elapsed);
                        told.lock().expect("not poisoned").extend(since);
                        output(&received, &target)
                    }
                };
                async move { outcome }
            })
            .with_graceful_shutdown(stopped)
    });
    scene.fill(0..1).await?;
    let outputs = scene.outputs("now", 1).await?;
    copier.stop().await??;
    same(outputs.len(), 1, "outputs")?;
    same(tries(&outputs[0]), "2".to_owned(), "attempts")?;
    let waited = waited.lock().expect("not poisoned").clone();
    check(
        waited.len() == 1 && waited[0] >= delay,
        format!("came after {waited:?}"),
    )?;
    let tier = format!("{}.retry.2", scene.source.name());
    let copies = scene.records(&tier, IsolationLevel::ReadCommitted).await?;
    check(
        copies >= 2,
        format!("{copies} copies for 5 s in steps of 2 s"),
    )
}

/// Every fourth number is deferred twice, for a second, and copied at its third attempt; the others are at once.
pub(crate) fn handle(received: &Received, target: &Destination) -> Outcome {
    match received.attempt() < attempts(number(received)) {
        true => Outcome::defer(Duration::from_secs(1)),
        false => output(received, target),
    }
}

/// How many attempts a number takes.
fn attempts(n: u32) -> u32 {
    match n.is_multiple_of(4) {
        true => 3,
        false => 1,
    }
}

/// What is published for a record says at which attempt.
fn output(received: &Received, target: &Destination) -> Outcome {
    let output = Message::new(received.payload().cloned().unwrap_or_default())
        .key(received.key().expect("a key").clone())
        .header(TRIES, received.attempt().to_string());
    Outcome::ack().publish(target, output)
}

fn number(received: &Received) -> u32 {
    let text = received.payload().and_then(|p| std::str::from_utf8(p).ok());
    let number = text.and_then(|text| text.parse().ok());
    number.expect("a number")
}

fn tries(output: &Received) -> String {
    output.headers().text(TRIES).unwrap_or_default().to_owned()
}

fn each_once(outputs: &[Received], count: u32) -> Check {
    let mut found = HashMap::new();
    for output in outputs {
        let n = number(output);
        if found.insert(n, tries(output)).is_some() {
            return Err(Failure::new(format!("the output of {n} is there twice")));
        }
    }
    for n in 0..count {
        let wanted = attempts(n).to_string();
        same(found.get(&n), Some(&wanted), &format!("attempts at {n}"))?;
    }
    same(found.len(), count as usize, "outputs")
}

/// The attempt that made an output.
const TRIES: &str = "tries";
