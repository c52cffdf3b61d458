//! What the pages of this crate promise, and what becomes of bad input, on each broker.

#![allow(clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "support/supervised.rs"]
mod supervised;

use std::{
    collections::BTreeMap,
    future::pending,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use mq_core::{
    Broker, Classify, ConsumePlan, Consumer, DeadLetters, Destination, Failure, Json, Message,
    Publisher, Reason, Received, Run, Subscription, Worker, dynamic::AnyBroker,
};
use mq_kafka::Kafka;
use mq_memory::Memory;
use mq_reliability::{
    dead_letter::DeadLetter,
    retry::{Policy, Retry},
    timeout::Timeout,
};
use mq_testkit::{Address, Check, Suite, broker_address};
use tokio::sync::{mpsc, oneshot};

fn main() -> ExitCode {
    mq_testkit::run([
        suite("mq-memory", Address::in_process()),
        suite("mq-amqp", broker_address("MQ_RABBITMQ_URL")),
        suite("mq-kafka", broker_address("MQ_KAFKA_SERVERS")),
    ])
}

fn suite(broker: &'static str, address: Address) -> Suite {
    let suite = Suite::new("reliability", broker, address)
        .deadline(Duration::from_secs(120))
        .case(
            "retry: a failing message is attempted up to the ceiling, then dead-lettered with its story",
            exhausted,
        )
        .case(
            "retry: a transient failure is attempted again and then done",
            transient,
        )
        .case(
            "retry: a permanent failure is dead-lettered at once",
            permanent,
        )
        .case(
            "dead-letter: what cannot be decoded is dead-lettered with its raw bytes, and the worker goes on",
            undecodable,
        )
        .case(
            "dead-letter: a handler that panics has failed, and the worker goes on",
            panics,
        )
        .case(
            "timeout: a handler that never ends is ended, and its message dead-lettered",
            never_ends,
        )
        .case(
            "timeout: without one, a handler that never ends holds up the shutdown until its deadline, and its message comes again",
            never_ends_without,
        )
        .case(
            "supervise: a handler that panics is a failed attempt, and its worker is not started again",
            supervised::panicking_handler,
        );
    // Kafka has no delays yet.
    let suite = match broker {
        "mq-kafka" => suite,
        _ => suite.case(
            "retry: a round begins after its delay, and the ceiling counts the attempts of all rounds",
            delayed,
        ),
    };
    // There is no connection to kill in process, and no consumer of Kafka is lost for good.
    let suite = match broker {
        "mq-memory" => return suite,
        _ => suite.case(
            "supervise: a worker whose connection is killed works again, at the pace of the backoff, and no message is lost",
            supervised::killed_connection,
        ),
    };
    match broker {
        "mq-amqp" => suite.case(
            "supervise: a worker whose queue is deleted is made anew once the queue is there again",
            supervised::lost_consumer,
        ),
        _ => suite,
    }
}

async fn connect(address: &str) -> mq_core::Result<AnyBroker> {
    Ok(match address {
        "" => AnyBroker::new(Memory::new()),
        url if url.starts_with("amqp") => {
            let broker = mq_amqp::Amqp::connect(url).await?;
            broker.delays().declare().await?;
            AnyBroker::new(broker)
        }
        servers => AnyBroker::new(Kafka::builder(servers).partitions(2).connect().await?),
    })
}

/// A connection that does not come back by itself, where there is a choice.
async fn connect_once(address: &str) -> mq_core::Result<AnyBroker> {
    if !address.starts_with("amqp") {
        return connect(address).await;
    }
    let builder = mq_amqp::Amqp::builder().url(address)?;
    let once = builder.recovery(mq_amqp::Recovery::within(Duration::ZERO));
    Ok(AnyBroker::new(once.connect().await?))
}

/// A queue of its own on the broker under test.
struct Stage {
    broker: AnyBroker,
    queue: Destination,
}

impl Stage {
    async fn new(address: String) -> Check<Self> {
        let broker = connect(&address).await?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let queue = Destination::queue(format!("promise-{}-{count}", now.as_nanos()));
        broker.declare(&queue).await?;
        Ok(Self { broker, queue })
    }

    async fn publish(&self, message: impl Into<Message> + Send) -> Check {
        self.broker
            .publisher()
            .publish(&self.queue, message)
            .await?;
        Ok(())
    }

    fn worker(&self) -> Worker<AnyBroker> {
        Worker::new(
            &self.broker,
            Subscription::queue(Arc::clone(self.queue.name())),
        )
    }

    /// The dead letters by payload: as many as are expected, and no more.
    async fn dead_letters(&self, expected: usize) -> Check<BTreeMap<Vec<u8>, DeadLetter>> {
        let home = self.queue.dead_letter_home().expect("a queue has a home");
        let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
        let home = Subscription::queue(Arc::clone(home.name()));
        let mut consumer = self.broker.consumer(&home, plan).await?;
        let mut letters = BTreeMap::new();
        loop {
            let wait = if letters.len() < expected {
                LONG
            } else {
                QUIET
            };
            let Ok(received) = tokio::time::timeout(wait, consumer.receive()).await else {
                break;
            };
            let delivery = received?.expect("the consumer is open");
            let letter = DeadLetter::of(delivery.received())?;
            let payload = delivery.payload().map(|p| p.to_vec()).unwrap_or_default();
            assert!(letters.insert(payload, letter).is_none(), "a letter twice");
            delivery.ack()?;
        }
        assert_eq!(letters.len(), expected, "dead letters: {letters:?}");
        consumer.close().await?;
        Ok(letters)
    }

    /// The messages that a consumer gets now, each acknowledged.
    async fn rest(&self, expected: usize) -> Check<Vec<Received>> {
        let from = Subscription::queue(Arc::clone(self.queue.name()));
        let mut consumer = self.broker.consumer(&from, ConsumePlan::new()).await?;
        let mut rest = Vec::new();
        loop {
            let wait = if rest.len() < expected { LONG } else { QUIET };
            let Ok(received) = tokio::time::timeout(wait, consumer.receive()).await else {
                break;
            };
            let (received, settlement) = received?.expect("the consumer is open").into_parts();
            settlement.ack()?;
            rest.push(received);
        }
        consumer.close().await?;
        Ok(rest)
    }
}

/// Runs a worker until something came through the channel so many times.
async fn until<T: Send + 'static>(
    run: Run,
    mut seen: mpsc::Receiver<T>,
    count: usize,
) -> Check<Vec<T>> {
    let (tx, mut rx) = mpsc::channel(1);
    let run = run.with_graceful_shutdown(async move {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(seen.recv().await);
        }
        let _ = tx.send(all).await;
    });
    tokio::time::timeout(LONG, run.into_future()).await??;
    Ok(rx.recv().await.expect("the signal came"))
}

async fn exhausted(address: String) -> Check {
    let stage = Stage::new(address).await?;
    stage.publish(Message::new("tea")).await?;
    let (tx, rx) = mpsc::channel(8);
    let ms = Duration::from_millis;
    let run = stage
        .worker()
        .layer(Retry::new(Policy::fast(3).backoff(ms(10), ms(50))))
        .run(move |received: Received| {
            let sent = tx.try_send(received.attempt());
            async move {
                sent.map_err(|_| "nobody counts any more")?;
                Err::<(), _>(format!("no answer to attempt {}", received.attempt()))
            }
        });
    assert_eq!(until(run, rx, 3).await?, [1, 2, 3]);
    let letters = stage.dead_letters(1).await?;
    let letter = &letters[&b"tea"[..]];
    assert_eq!((letter.reason(), letter.attempts()), (Reason::Exhausted, 3));
    assert_eq!(letter.error(), "no answer to attempt 3");
    assert_eq!(letter.origin(), &**stage.queue.name());
    assert!(letter.first_failure() <= letter.last_failure());
    assert!(stage.rest(0).await?.is_empty());
    Ok(())
}

async fn delayed(address: String) -> Check {
    let stage = Stage::new(address).await?;
    stage.publish(Message::new("tea")).await?;
    let (tx, rx) = mpsc::channel(8);
    let delays = [1, 2].map(Duration::from_secs);
    let run = stage
        .worker()
        .layer(Retry::new(Policy::fast(2).then_delayed(delays)))
        .run(move |received: Received| {
            let sent = tx.try_send((received.attempt(), Instant::now()));
            async move {
                sent.map_err(|_| "nobody counts any more")?;
                Err::<(), _>("no answer")
            }
        });
    let calls = until(run, rx, 6).await?;
    let attempts: Vec<u32> = calls.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6]);
    for (round, delay) in calls.chunks(2).collect::<Vec<_>>().windows(2).zip(delays) {
        let waited = round[1][0].1 - round[0][1].1;
        assert!(waited >= delay, "the next round began after {waited:?}");
    }
    let letter = &stage.dead_letters(1).await?[&b"tea"[..]];
    assert_eq!((letter.reason(), letter.attempts()), (Reason::Exhausted, 6));
    assert!(stage.rest(0).await?.is_empty());
    Ok(())
}

async fn transient(address: String) -> Check {
    let stage = Stage::new(address).await?;
    stage.publish(Message::new("tea")).await?;
    let (tx, rx) = mpsc::channel(8);
    let run = stage
        .worker()
        .layer(Retry::new(Policy::fast(3)))
        .run(move |received: Received| {
            let attempt = received.attempt();
            let sent = tx.try_send(attempt);
            async move {
                sent.transient()?;
                match attempt {
                    3 => Ok(()),
                    _ => Err("no answer").transient(),
                }
            }
        });
    assert_eq!(until(run, rx, 3).await?, [1, 2, 3]);
    stage.dead_letters(0).await?;
    assert!(stage.rest(0).await?.is_empty());
    Ok(())
}

async fn permanent(address: String) -> Check {
    let stage = Stage::new(address).await?;
    stage.publish(Message::new("tea")).await?;
    let (tx, rx) = mpsc::channel(8);
    let run = stage
        .worker()
        .layer(Retry::new(Policy::fast(3)))
        .run(move |received: Received| {
            let sent = tx.try_send(received.attempt());
            async move {
                sent.transient()?;
                Err::<(), _>("there is no tea").permanent()
            }
        });
    assert_eq!(until(run, rx, 1).await?, [1]);
    let letter = &stage.dead_letters(1).await?[&b"tea"[..]];
    assert_eq!((letter.reason(), letter.attempts()), (Reason::Permanent, 1));
    assert_eq!(letter.error(), "there is no tea");
    Ok(())
}

async fn undecodable(address: String) -> Check {
    let stage = Stage::new(address).await?;
    let garbage = [&[0, 0xFF, 0xC0, b'{'][..], b"not JSON", b""];
    for payload in garbage {
        stage.publish(Message::new(payload.to_vec())).await?;
    }
    stage.publish(Message::json(&7_u32)?).await?;
    let (tx, mut rx) = mpsc::channel(8);
    let run = stage.worker().run(move |Json(number): Json<u32>| {
        let sent = tx.try_send(number);
        async move { sent.transient() }
    });
    // A broker with partitions may deliver the good one first, so the worker goes on until the
    // letters have come.
    let (stop, stopped) = oneshot::channel::<()>();
    let run = run.with_graceful_shutdown(async { drop(stopped.await) });
    let worker = tokio::spawn(run.into_future());
    let letters = stage.dead_letters(garbage.len()).await?;
    assert_eq!(tokio::time::timeout(LONG, rx.recv()).await?, Some(7));
    drop(stop);
    worker.await??;
    for payload in garbage {
        let letter = &letters[payload];
        assert_eq!(letter.reason(), Reason::Undecodable, "{payload:?}");
        assert!(!letter.error().is_empty());
    }
    assert!(stage.rest(0).await?.is_empty());
    Ok(())
}

async fn panics(address: String) -> Check {
    let stage = Stage::new(address).await?;
    stage.publish(Message::new("bad")).await?;
    stage.publish(Message::new("good")).await?;
    let (tx, rx) = mpsc::channel(8);
    let run = stage
        .worker()
        .max_attempts(2)
        .run(move |received: Received| {
            let tx = tx.clone();
            async move {
                let bad = received.payload().is_some_and(|payload| payload == "bad");
                tx.try_send(bad).map_err(|error| error.to_string())?;
                assert!(!bad, "the shelf fell down");
                Ok::<_, String>(())
            }
        });
    let mut seen = until(run, rx, 3).await?;
    seen.sort_unstable();
    assert_eq!(seen, [false, true, true]);
    let letter = &stage.dead_letters(1).await?[&b"bad"[..]];
    assert_eq!((letter.reason(), letter.attempts()), (Reason::Exhausted, 2));
    assert!(
        letter.error().contains("the shelf fell down"),
        "{}",
        letter.error()
    );
    assert!(stage.rest(0).await?.is_empty());
    Ok(())
}

async fn never_ends(address: String) -> Check {
    let stage = Stage::new(address).await?;
    stage.publish(Message::new("stuck")).await?;
    stage.publish(Message::new("good")).await?;
    let (tx, rx) = mpsc::channel(8);
    let run = stage
        .worker()
        .max_attempts(2)
        .layer(Timeout::new(Duration::from_millis(200)))
        .run(move |received: Received| {
            let tx = tx.clone();
            async move {
                let stuck = received.payload().is_some_and(|payload| payload == "stuck");
                tx.try_send(stuck).transient()?;
                if stuck {
                    pending::<()>().await;
                }
                Ok::<_, Failure>(())
            }
        });
    let mut seen = until(run, rx, 3).await?;
    seen.sort_unstable();
    assert_eq!(seen, [false, true, true]);
    let letter = &stage.dead_letters(1).await?[&b"stuck"[..]];
    assert_eq!((letter.reason(), letter.attempts()), (Reason::Exhausted, 2));
    assert!(
        letter.error().contains("did not end in time"),
        "{}",
        letter.error()
    );
    assert!(stage.rest(0).await?.is_empty());
    Ok(())
}

async fn never_ends_without(address: String) -> Check {
    let stage = Stage::new(address).await?;
    stage.publish(Message::new("stuck")).await?;
    let (tx, rx) = mpsc::channel(8);
    let run = stage
        .worker()
        .shutdown_deadline(Duration::from_millis(300))
        .run(move |received: Received| {
            let sent = tx.try_send(received.attempt());
            async move {
                sent.transient()?;
                pending::<Result<(), Failure>>().await
            }
        });
    assert_eq!(until(run, rx, 1).await?, [1]);
    let rest = stage.rest(1).await?;
    assert_eq!(rest.len(), 1);
    assert_eq!(
        rest[0].payload().map(|payload| &payload[..]),
        Some(&b"stuck"[..])
    );
    stage.dead_letters(0).await?;
    Ok(())
}

/// Longer than a group needs to give what one consumer had to the next.
const LONG: Duration = Duration::from_secs(40);
/// After so long without a message there is none.
const QUIET: Duration = Duration::from_secs(1);
