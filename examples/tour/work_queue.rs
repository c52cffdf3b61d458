//! The main job: a work queue, from publishing to the last dead letter, with both ends compared.

use std::{
    collections::BTreeMap,
    io::Cursor,
    path::PathBuf,
    time::{Duration, Instant},
};

use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Failure, FailureClass, Json, Reason, Received,
    State, Subscription, dynamic::AnyBroker,
};
use mq_examples::{Background, Result};
use mq_patterns::{producer_consumer::Producer, work_queue::WorkQueue};
use mq_reliability::{
    dead_letter::DeadLetter,
    retry::{Policy, Retry},
};
use tokio::{sync::watch, time::timeout};

use crate::{
    check::{Attempted, Ledger, grouped},
    input::{Input, Record},
    sample::{SAMPLE, SAMPLE_KEY, Trouble},
    tour::{TOKEN, Tour},
};

/// What there is to do.
#[derive(Debug)]
pub(crate) struct Plan {
    input: Input,
    key: Option<String>,
    /// The records of the sample fail where they say so; nobody else's do.
    sample: bool,
}

impl Plan {
    /// Opens the input, or takes the built-in sample.
    pub(crate) fn new(input: Option<PathBuf>, key: Option<String>) -> Result<Self> {
        let sample = input.is_none();
        let key = key.or_else(|| sample.then(|| SAMPLE_KEY.to_owned()));
        Ok(Self {
            input: match input {
                Some(file) => Input::open(&file, key.as_deref())?,
                None => Input::read(Cursor::new(SAMPLE), key.as_deref())?,
            },
            key,
            sample,
        })
    }
}

/// Publishes, works off, reads the dead letters back, and checks.
pub(crate) async fn run(tour: &Tour, plan: Plan) -> Result<()> {
    let Plan { input, key, sample } = plan;
    let format = input.format();
    let (broker, queue) = (&tour.broker, tour.queue());

    println!("a work queue");
    let ledger = Ledger::new(tour.token());
    let jobs = WorkQueue::<Record, _>::new(broker, queue);
    jobs.declare().await?;
    println!("1. declared the queue {queue} and its dead-letter home {queue}.dead");

    let mut worker = work_off(&jobs, &ledger, key.is_some(), sample);
    let started = Instant::now();
    let sent = tokio::select! {
        sent = publish(broker, &jobs, &ledger, input) => sent?,
        end = worker.ended() => return Err(end),
    };
    println!(
        "2. published {} records ({format}{}), each confirmed, in {}",
        grouped(sent),
        key.map(|key| format!(", keyed by {key}"))
            .unwrap_or_default(),
        pace(sent, started.elapsed().as_secs_f64())
    );

    let mut progress = ledger.progress();
    tokio::select! {
        caught_up = wait_for(&mut progress, sent) => if let Err(error) = caught_up {
            println!("   {error:?}");
        },
        end = worker.ended() => return Err(end),
    }
    worker.stop().await?;
    let seconds = started.elapsed().as_secs_f64();
    let failures = ledger.failures();
    let verdict = ledger.verdict();
    println!(
        "3. handled them with {HANDLERS} handlers at a time in {}",
        pace(sent, verdict.seconds)
    );
    for Attempted {
        number,
        attempt,
        error,
        ..
    } in &failures
    {
        println!("   record {number}, attempt {attempt}: {error}");
    }

    let expected: BTreeMap<_, _> = failures
        .iter()
        .filter_map(|failed| Some((failed.number, (failed.last?, failed.attempt))))
        .collect();
    // One that is missing may have been rejected: its dead letter says why.
    let wanted = expected.len() + verdict.missing();
    let letters = read_dead_letters(tour, &jobs, wanted).await?;
    println!("4. read {} dead letters back", letters.len());
    for (number, letter) in &letters {
        println!(
            "   record {number}: {} at attempt {}: {}",
            letter.reason(),
            letter.attempts(),
            letter.error()
        );
    }

    println!("5. compared both ends\n{verdict}");
    let told =
        |(number, letter): (&u64, &DeadLetter)| (*number, (letter.reason(), letter.attempts()));
    if letters.iter().map(told).collect::<BTreeMap<_, _>>() != expected {
        return Err("the dead letters are not those of the records that were given up".into());
    }
    if !verdict.is_good() {
        return Err("what arrived is not what was sent".into());
    }
    println!(
        "every record arrived with the token {}: {} in {}",
        verdict.token(),
        grouped(sent),
        pace(sent, seconds)
    );
    Ok(())
}

/// Publishes every record, pipelined and confirmed, and never far ahead of the worker.
async fn publish(
    broker: &AnyBroker,
    jobs: &WorkQueue<Record, AnyBroker>,
    ledger: &Ledger,
    mut input: Input,
) -> Result<usize> {
    let envelope = ledger.clone();
    let token = ledger.token().to_owned();
    let mut producer = Producer::new(broker, jobs.destination().clone()).envelope(
        move |record: &Record, mut message| {
            if let Ok(id) = envelope.id(record.number) {
                message = message.id(id);
            }
            if let Some(key) = &record.key {
                message = message.key(key);
            }
            message.header(TOKEN, token.clone())
        },
    );
    let mut progress = ledger.progress();
    let mut sent = 0;
    while let Some(record) = input.next().await? {
        // So that an input of any length fits into the memory of an in-process broker.
        wait_for(&mut progress, usize::saturating_sub(sent, AHEAD)).await?;
        ledger.sent(&record);
        producer.send(&record).await?;
        sent += 1;
    }
    match producer.finish().await.failed.into_iter().next() {
        Some(failed) => Err(failed.error.into()),
        None => Ok(sent),
    }
}

/// Waits until so many records have come to their end.
async fn wait_for(progress: &mut watch::Receiver<u64>, records: usize) -> Result<()> {
    loop {
        let finished = usize::try_from(*progress.borrow_and_update())?;
        if finished >= records {
            return Ok(());
        }
        timeout(STALLED, progress.changed()).await.map_err(|_| {
            let seconds = STALLED.as_secs();
            format!("{finished} of {records} records were handled, and none for {seconds} s")
        })??;
    }
}

/// The worker, in the background.
fn work_off(
    jobs: &WorkQueue<Record, AnyBroker>,
    ledger: &Ledger,
    ordered: bool,
    sample: bool,
) -> Background {
    let mut worker = jobs.worker(HANDLERS).prefetch(PREFETCH);
    if ordered {
        worker = worker.ordered_by_key();
    }
    let policy =
        Policy::fast(ATTEMPTS).backoff(Duration::from_millis(10), Duration::from_millis(100));
    let worker = worker
        .layer(Retry::new(policy))
        .state((ledger.clone(), sample));
    Background::start(worker.run(handle))
}

/// Handles one record: a real program would do its work here.
async fn handle(
    State((ledger, sample)): State<(Ledger, bool)>,
    Json(record): Json<Record>,
    received: Received,
) -> Result<(), Failure> {
    if !ledger.ours(&received) {
        return Ok(());
    }
    let attempt = received.attempt();
    let trouble = sample.then(|| Trouble::of(&record)).flatten();
    let Some(failure) = trouble.and_then(|trouble| trouble.failure(attempt)) else {
        ledger.finish(&record, &received);
        return Ok(());
    };
    let last = match failure.class() {
        FailureClass::Permanent => Some(Reason::Permanent),
        _ if attempt >= ATTEMPTS => Some(Reason::Exhausted),
        _ => None,
    };
    ledger.failed(Attempted {
        number: record.number,
        attempt,
        error: failure.error().to_string(),
        last,
    });
    if last.is_some() {
        ledger.finish(&record, &received);
    }
    Err(failure)
}

/// Reads the dead letters of this run, until there are so many or none comes any more.
async fn read_dead_letters(
    tour: &Tour,
    jobs: &WorkQueue<Record, AnyBroker>,
    wanted: usize,
) -> Result<BTreeMap<u64, DeadLetter>> {
    let mut letters = BTreeMap::new();
    let Some(home) = jobs.destination().dead_letter_home().filter(|_| wanted > 0) else {
        return Ok(letters);
    };
    let home = Subscription::queue(home.name().clone());
    // What is read here is only looked at: nothing is rejected.
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let mut consumer = tour.broker.consumer(&home, plan).await?;
    while letters.len() < wanted {
        let Ok(delivery) = timeout(QUIET, consumer.receive()).await else {
            break;
        };
        let Some(delivery) = delivery? else {
            break;
        };
        // Those of an earlier run on the same queue are only taken away.
        if tour.ours(delivery.received()) {
            let id = delivery.id().to_string();
            let number = id.rsplit('-').next().unwrap_or_default().parse()?;
            letters.insert(number, DeadLetter::of(delivery.received())?);
        }
        delivery.ack()?;
    }
    consumer.close().await?;
    Ok(letters)
}

/// A time, and how many records that makes in a second.
fn pace(records: usize, seconds: f64) -> String {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is only looked at"
    )]
    let rate = (records as f64 / seconds.max(0.001)) as usize;
    format!("{seconds:.2} s, {} a second", grouped(rate))
}

/// How often a record is attempted.
const ATTEMPTS: u32 = 3;
/// How many records are handled at a time.
const HANDLERS: usize = 4;
/// How many records the worker may have in hand: these jobs are short.
const PREFETCH: u16 = 1000;
/// How far publishing may be ahead of the worker.
const AHEAD: usize = 100_000;
/// A queue from which nothing comes for so long has stalled.
const STALLED: Duration = Duration::from_secs(30);
/// After so long without one, there are no more dead letters.
const QUIET: Duration = Duration::from_secs(15);
