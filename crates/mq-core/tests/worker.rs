//! What a worker does with outcomes, failures, keys and its end.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Bench, run_until, soon};
use mq_core::{
    Attempt, BatchOutcome, BatchSize, Broker, Classify, DeadLetters, Destination, Error, ErrorKind,
    Failure, Json, Message, Outcome, Publish, Publisher, Reason, Received, Rejection, State,
    Subscription, Worker, headers,
};
use tokio::sync::{Notify, mpsc};

#[tokio::test]
async fn handles_each_message_and_acknowledges_it() {
    let bench = Bench::new().await;
    for n in 0..50_u32 {
        bench.publish(Message::json(&n).expect("JSON")).await;
    }
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .concurrency(4)
        .state(tx)
        .run(
            async |State(tx): State<mpsc::UnboundedSender<u32>>, Json(n): Json<u32>| {
                tx.send(n).transient()
            },
        );
    let mut seen = run_until(run, rx, 50).await;
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    assert!(bench.is_empty("orders").await);
}

#[tokio::test]
async fn attempts_a_failing_message_up_to_the_ceiling_then_rejects_it() {
    let bench = Bench::new().await;
    bench
        .publish(Message::new("x").header("trace", "abc"))
        .await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .max_attempts(3)
        .run(move |Attempt(n): Attempt| {
            let sent = tx.send(n);
            async move {
                sent.transient()?;
                Err::<(), _>(Failure::from("the card was declined"))
            }
        });
    assert_eq!(run_until(run, rx, 3).await, [1, 2, 3]);
    let dead = bench.take("orders.dead").await;
    let text = |name| dead.headers().text(name);
    assert_eq!(text(headers::DEAD_REASON), Some("exhausted"));
    assert_eq!(text(headers::DEAD_ATTEMPTS), Some("3"));
    assert_eq!(text(headers::DEAD_ERROR), Some("the card was declined"));
    assert_eq!(text("trace"), Some("abc"));
    assert!(bench.is_empty("orders").await);
}

#[tokio::test]
async fn rejects_a_permanent_failure_at_once() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source()).run(move || {
        let sent = tx.send(());
        async move {
            sent.transient()?;
            "no number".parse::<u32>().permanent()?;
            Ok::<_, Failure>(())
        }
    });
    run_until(run, rx, 1).await;
    let dead = bench.take("orders.dead").await;
    assert_eq!(dead.headers().text(headers::DEAD_REASON), Some("permanent"));
    assert_eq!(dead.headers().text(headers::DEAD_ATTEMPTS), Some("1"));
}

#[tokio::test]
async fn moves_an_undecodable_payload_byte_for_byte_and_goes_on() {
    let bench = Bench::new().await;
    bench.publish(Message::new(vec![0xff, 0x00, b'{'])).await;
    bench.publish(Message::json(&8).expect("JSON")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source()).run(move |Json(n): Json<u32>| {
        let sent = tx.send(n);
        async move { sent.transient() }
    });
    assert_eq!(run_until(run, rx, 1).await, [8]);
    let dead = bench.take("orders.dead").await;
    assert_eq!(
        dead.payload().map(|p| &p[..]),
        Some(&[0xff, 0x00, b'{'][..])
    );
    assert_eq!(
        dead.headers().text(headers::DEAD_REASON),
        Some("undecodable")
    );
}

#[tokio::test]
async fn counts_a_panic_as_a_failed_attempt_and_goes_on() {
    let bench = Bench::new().await;
    bench.publish(Message::json(&0).expect("JSON")).await;
    bench.publish(Message::json(&1).expect("JSON")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .max_attempts(2)
        .run(move |Json(n): Json<u32>| {
            let sent = tx.send(n);
            async move {
                assert!(n != 0, "zero is not an order");
                sent.transient()
            }
        });
    let seen = run_until(run, rx, 3).await;
    assert_eq!(seen.iter().filter(|n| **n == 0).count(), 2);
    let dead = bench.take("orders.dead").await;
    let error = dead.headers().text(headers::DEAD_ERROR).expect("an error");
    assert!(error.contains("zero is not an order"), "{error}");
}

#[tokio::test]
async fn does_not_call_the_handler_for_a_message_that_was_attempted_too_often() {
    let bench = Bench::new().await;
    bench
        .publish(Message::new("poison").header(headers::ATTEMPT, "5"))
        .await;
    bench.publish(Message::new("good")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source()).run(move |received: Received| {
        let sent = tx.send(received.payload().cloned());
        async move { sent.transient() }
    });
    assert_eq!(run_until(run, rx, 1).await, [Some("good".into())]);
    let dead = bench.take("orders.dead").await;
    assert_eq!(dead.payload().map(|p| &p[..]), Some(&b"poison"[..]));
    assert_eq!(dead.headers().text(headers::DEAD_ATTEMPTS), Some("5"));
}

#[tokio::test]
async fn publishes_what_a_handler_returns() {
    let bench = Bench::new().await;
    let charged = Destination::queue("charged");
    bench.broker.declare(&charged).await.expect("declares");
    bench.publish(Message::json(&7).expect("JSON")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source()).run(move |Json(n): Json<u32>| {
        let sent = tx.send(());
        let output = Publish::new(&charged, n * 2).key("k");
        async move { sent.map(|()| output) }
    });
    run_until(run, rx, 1).await;
    let output = bench.take("charged").await;
    assert_eq!(output.payload().map(|p| &p[..]), Some(&b"14"[..]));
    assert_eq!(output.content_type(), Some("application/json"));
    assert!(bench.is_empty("orders").await);
}

#[tokio::test]
async fn an_output_that_can_never_be_published_rejects_the_message() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source()).run(move || {
        let sent = tx.send(());
        async move {
            sent.transient()?;
            let nowhere = Destination::queue("nowhere");
            Ok::<_, Failure>(Outcome::ack().publish(&nowhere, Message::new("y")))
        }
    });
    run_until(run, rx, 1).await;
    let dead = bench.take("orders.dead").await;
    let error = dead.headers().text(headers::DEAD_ERROR).expect("an error");
    assert!(error.contains("nowhere"), "{error}");
}

#[tokio::test]
async fn refuses_what_it_cannot_keep_before_it_opens_anything() {
    let bench = Bench::new().await;
    let run = async |worker: Worker<_>| soon(worker.run(async || {})).await.expect_err("refused");
    let new = |source| Worker::new(&bench.broker, source);
    let homeless = run(new(bench.source()).dead_letters(DeadLetters::None)).await;
    assert_eq!(homeless.kind(), ErrorKind::Config, "{homeless}");
    let ephemeral = run(new(Subscription::ephemeral("events"))).await;
    assert_eq!(ephemeral.kind(), ErrorKind::Config, "{ephemeral}");
    assert_eq!(
        run(new(bench.source()).concurrency(0)).await.kind(),
        ErrorKind::Config
    );
    assert_eq!(
        run(new(bench.source()).prefetch(0)).await.kind(),
        ErrorKind::Config
    );
    assert_eq!(
        run(new(bench.source()).max_attempts(0)).await.kind(),
        ErrorKind::Config
    );
    let missing = run(new(Subscription::queue("nowhere"))).await;
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    assert!(missing.to_string().contains("nowhere"), "{missing}");
}

#[tokio::test]
async fn keeps_the_order_of_each_key_while_some_attempts_fail() {
    let bench = Bench::new().await;
    for n in 0..200_u32 {
        let key = format!("k{}", n % 7);
        bench
            .publish(Message::json(&n).expect("JSON").key(key))
            .await;
    }
    let (tx, rx) = mpsc::unbounded_channel();
    let calls = Arc::new(AtomicU32::new(0));
    let run = Worker::new(&bench.broker, bench.source())
        .concurrency(8)
        .ordered_by_key()
        .run(move |Json(n): Json<u32>, received: Received| {
            let (tx, calls) = (tx.clone(), Arc::clone(&calls));
            async move {
                tokio::task::yield_now().await;
                if calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(5) {
                    return Err(Failure::from("every fifth call"));
                }
                tx.send((received.key().cloned().expect("a key"), n))
                    .transient()
            }
        });
    let mut last = HashMap::new();
    let seen = run_until(run, rx, 200).await;
    for (key, n) in seen {
        assert!(
            last.insert(key.clone(), n).is_none_or(|before| before < n),
            "{key:?} {n}"
        );
    }
    assert!(bench.is_empty("orders").await && bench.is_empty("orders.dead").await);
}

#[tokio::test]
async fn a_slow_key_holds_up_only_itself() {
    let bench = Bench::new().await;
    for n in 0..20_u32 {
        let key = if n % 2 == 0 { "slow" } else { "fast" };
        bench
            .publish(Message::json(&n).expect("JSON").key(key))
            .await;
    }
    let (tx, rx) = mpsc::unbounded_channel();
    let gate = Arc::new(Notify::new());
    let run = Worker::new(&bench.broker, bench.source())
        .concurrency(2)
        .ordered_by_key()
        .run({
            let gate = Arc::clone(&gate);
            move |Json(n): Json<u32>| {
                let (tx, gate) = (tx.clone(), Arc::clone(&gate));
                async move {
                    if n == 0 {
                        gate.notified().await;
                    }
                    tx.send(n).transient()
                }
            }
        });
    let (fast_tx, fast_rx) = mpsc::unbounded_channel();
    let relay = tokio::spawn(async move {
        let mut rx = rx;
        for seen in 0.. {
            let Some(n) = rx.recv().await else { return };
            // All fast ones pass while the first slow one waits.
            assert_eq!(n % 2 == 1, seen < 10, "{n} came as number {seen}");
            if seen == 9 {
                gate.notify_one();
            }
            let _ = fast_tx.send(n);
        }
    });
    run_until(run, fast_rx, 20).await;
    soon(relay).await.expect("in this order");
}

#[tokio::test]
async fn two_runners_never_have_one_key_at_a_time() {
    let bench = Bench::new().await;
    for n in 0..100_u32 {
        bench
            .publish(Message::json(&n).expect("JSON").key(format!("{}", n % 3)))
            .await;
    }
    let (tx, rx) = mpsc::unbounded_channel();
    let active: Arc<Mutex<HashMap<_, usize>>> = Arc::default();
    let handler = move |batch: Vec<Received>| {
        let (tx, active) = (tx.clone(), Arc::clone(&active));
        async move {
            let mut keys: Vec<_> = batch.iter().filter_map(|m| m.key().cloned()).collect();
            keys.dedup();
            for key in &keys {
                let mut active = active.lock().expect("no panic");
                let count = active.entry(key.clone()).or_default();
                *count += 1;
                assert_eq!(*count, 1, "{key:?} is with two runners");
            }
            tokio::task::yield_now().await;
            for key in &keys {
                *active
                    .lock()
                    .expect("no panic")
                    .entry(key.clone())
                    .or_default() -= 1;
            }
            for message in &batch {
                tx.send((message.key().cloned(), message.payload().cloned()))
                    .transient()?;
            }
            Ok::<_, Failure>(())
        }
    };
    let size = BatchSize::new(5, Duration::from_millis(5));
    let worker = Worker::new(&bench.broker, bench.source())
        .concurrency(3)
        .ordered_by_key();
    let seen = run_until(worker.run_batch(size, handler), rx, 100).await;
    assert_eq!(seen.len(), 100);
    assert!(bench.is_empty("orders.dead").await);
}

#[tokio::test(start_paused = true)]
async fn a_batch_ends_by_size_or_by_time() {
    let bench = Bench::new().await;
    for n in 0..7_u32 {
        bench.publish(Message::json(&n).expect("JSON")).await;
    }
    let (tx, rx) = mpsc::unbounded_channel();
    let start = tokio::time::Instant::now();
    let handler = move |batch: Vec<Received>| {
        let sent = tx.send((batch.len(), start.elapsed()));
        async move { sent.transient() }
    };
    let size = BatchSize::new(5, Duration::from_secs(1));
    let run = Worker::new(&bench.broker, bench.source()).run_batch(size, handler);
    let seen = run_until(run, rx, 2).await;
    assert_eq!(seen[0].0, 5);
    assert!(seen[0].1 < Duration::from_secs(1), "{:?}", seen[0]);
    assert_eq!(seen[1].0, 2);
    assert!(seen[1].1 >= Duration::from_secs(1), "{:?}", seen[1]);
}

#[tokio::test]
async fn failures_of_a_batch_are_named_one_by_one() {
    let bench = Bench::new().await;
    for n in 0..4_u32 {
        bench.publish(Message::json(&n).expect("JSON")).await;
    }
    let (tx, rx) = mpsc::unbounded_channel();
    let handler = move |State(limit): State<u32>, batch: Vec<Received>| {
        let tx = tx.clone();
        async move {
            let mut outcome = BatchOutcome::acked(batch.len());
            for (i, message) in batch.iter().enumerate() {
                let n: u32 = message.decode::<mq_core::codec::JsonCodec, _>()?;
                tx.send((n, message.attempt())).transient()?;
                outcome = match n {
                    1 if message.attempt() < limit => outcome.failed(i, "again"),
                    2 => outcome.rejected(i, "never"),
                    _ => outcome,
                };
            }
            Ok::<_, Failure>(outcome)
        }
    };
    let size = BatchSize::new(4, Duration::from_millis(50));
    let run = Worker::new(&bench.broker, bench.source())
        .state(3)
        .run_batch(size, handler);
    let seen = run_until(run, rx, 6).await;
    assert_eq!(seen[4..], [(1, 2), (1, 3)]);
    assert_eq!(bench.rest("orders.dead").await.len(), 1);
    assert!(bench.is_empty("orders").await);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_meets_an_outage_goes_back_together_and_uncounted() {
    let bench = Bench::new().await;
    for n in 0..5_u32 {
        bench.publish(Message::json(&n).expect("JSON")).await;
    }
    let (tx, rx) = mpsc::unbounded_channel();
    let handler = move |batch: Vec<Received>| {
        let tx = tx.clone();
        async move {
            let start = tokio::time::Instant::now();
            let attempts: Vec<u32> = batch.iter().map(|message| message.attempt()).collect();
            if tx.send((start, attempts)).is_ok() && !tx.is_closed() {
                let error = Error::new(ErrorKind::Timeout, "insert", "no answer");
                return Err(Failure::infrastructure(error));
            }
            Ok(())
        }
    };
    let size = BatchSize::new(5, Duration::from_millis(1));
    let run = Worker::new(&bench.broker, bench.source()).run_batch(size, handler);
    let seen = run_until(run, rx, 3).await;
    for pair in seen.windows(2) {
        let pause = pair[1].0 - pair[0].0;
        assert!(pause < Duration::from_secs(2), "{pause:?} for five of them");
    }
    assert!(
        seen.iter().all(|(_, attempts)| *attempts == [1; 5]),
        "{seen:?}"
    );
}

#[tokio::test]
async fn what_ends_a_worker_lets_no_later_message_of_the_key_pass() {
    let bench = Bench::new().await;
    for n in 0..3_u32 {
        bench
            .publish(Message::json(&n).expect("JSON").key("k"))
            .await;
    }
    bench.broker.publisher().close().await.expect("closes");
    let out = Destination::queue("out");
    let handler = move |Json(n): Json<u32>| {
        let out = out.clone();
        async move {
            match n {
                0 => Outcome::ack().publish(&out, Message::new("out")),
                _ => Outcome::ack(),
            }
        }
    };
    let worker = Worker::new(&bench.broker, bench.source()).ordered_by_key();
    let ended = soon(worker.run(handler)).await;
    let error = ended.expect_err("there is no publisher");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    let rest = bench.rest("orders").await;
    let rest: Vec<&[u8]> = rest.iter().map(|r| &**r.payload().expect("one")).collect();
    assert_eq!(rest, [b"0", b"1", b"2"]);
}

#[tokio::test]
async fn attempts_that_were_made_in_place_are_told() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x").key("k")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let handler = move |Attempt(attempt): Attempt| {
        let tx = tx.clone();
        async move {
            tx.send(attempt).transient()?;
            match attempt {
                3 => Ok(Outcome::reject(Rejection::new(Reason::Rejected, "no"))),
                _ => Err(Failure::from("again")),
            }
        }
    };
    let worker = Worker::new(&bench.broker, bench.source()).ordered_by_key();
    assert_eq!(run_until(worker.run(handler), rx, 3).await, [1, 2, 3]);
    let dead = bench.take("orders.dead").await;
    assert_eq!(dead.headers().text(headers::DEAD_ATTEMPTS), Some("3"));
}

#[tokio::test]
async fn a_batch_answer_of_the_wrong_length_fails_every_message() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let handler = move |batch: Vec<Received>| {
        let sent = tx.send(batch[0].attempt());
        async move {
            sent.transient()
                .map(|()| BatchOutcome::acked(batch.len()).failed(3, "?"))
        }
    };
    let size = BatchSize::new(4, Duration::from_millis(1));
    let worker = Worker::new(&bench.broker, bench.source()).max_attempts(2);
    assert_eq!(
        run_until(worker.run_batch(size, handler), rx, 2).await,
        [1, 2]
    );
    let dead = bench.take("orders.dead").await;
    let error = dead.headers().text(headers::DEAD_ERROR).expect("an error");
    assert!(error.contains("answered for 2 of 1"), "{error}");
}

#[tokio::test]
async fn at_shutdown_running_handlers_finish_and_the_rest_goes_back_uncounted() {
    let bench = Bench::new().await;
    for n in 0..10_u32 {
        bench.publish(Message::json(&n).expect("JSON")).await;
    }
    let (started, mut running) = mpsc::unbounded_channel();
    let gate = Arc::new(Notify::new());
    let run = Worker::new(&bench.broker, bench.source())
        .concurrency(2)
        .run({
            let gate = Arc::clone(&gate);
            move || {
                let (started, gate) = (started.clone(), Arc::clone(&gate));
                async move {
                    let _ = started.send(());
                    gate.notified().await;
                }
            }
        });
    let signal = async move {
        for _ in 0..2 {
            running.recv().await;
        }
        gate.notify_waiters();
    };
    soon(run.with_graceful_shutdown(signal))
        .await
        .expect("ends well");
    let rest = bench.rest("orders").await;
    assert_eq!(rest.len(), 8);
    assert!(
        rest.iter().all(|message| message.attempt() == 1),
        "{rest:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn drops_handlers_at_the_shutdown_deadline_and_gives_their_messages_back() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (started, mut running) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .shutdown_deadline(Duration::from_secs(5))
        .run(move || {
            let _ = started.send(());
            std::future::pending::<()>()
        });
    let start = tokio::time::Instant::now();
    let signal = async move {
        running.recv().await;
    };
    run.with_graceful_shutdown(signal).await.expect("ends well");
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(bench.take("orders").await.attempt(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_blocks_its_thread_does_not_hold_up_the_end() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (started, mut running) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .shutdown_deadline(Duration::from_millis(100))
        .run(move || {
            let _ = started.send(());
            std::thread::sleep(Duration::from_secs(4));
            std::future::ready(())
        });
    let start = tokio::time::Instant::now();
    let signal = async move {
        running.recv().await;
    };
    run.with_graceful_shutdown(signal).await.expect("ends well");
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        bench.take("orders").await.payload().map(|p| &**p),
        Some(&b"x"[..])
    );
}

#[tokio::test]
async fn dropping_a_running_worker_gives_its_messages_back() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (started, mut running) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source()).run(move || {
        let _ = started.send(());
        std::future::pending::<()>()
    });
    tokio::select! {
        ended = run.into_future() => panic!("ended: {ended:?}"),
        started = soon(running.recv()) => assert!(started.is_some()),
    }
    assert_eq!(soon(bench.take("orders")).await.attempt(), 2);
}

#[tokio::test]
async fn a_closed_broker_ends_the_worker_with_an_error() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (tx, mut rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source()).run(move || {
        let sent = tx.send(());
        async move { sent.transient() }
    });
    let close = async {
        rx.recv().await;
        bench.broker.close().await.expect("closes");
    };
    let (ended, ()) = tokio::join!(soon(run), close);
    let error = ended.expect_err("the consumer is gone");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
}

#[tokio::test]
async fn a_slow_worker_holds_up_at_most_its_prefetch() {
    let bench = Bench::new().await;
    for _ in 0..20 {
        bench.publish(Message::new("x")).await;
    }
    let handled = Arc::new(AtomicUsize::new(0));
    let (started, mut running) = mpsc::unbounded_channel();
    let slow = Worker::new(&bench.broker, bench.source())
        .prefetch(3)
        .run(move || {
            let _ = started.send(());
            std::future::pending::<()>()
        });
    let slow = tokio::spawn(slow.into_future());
    soon(running.recv()).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let fast = Worker::new(&bench.broker, bench.source()).run({
        let handled = Arc::clone(&handled);
        move || {
            handled.fetch_add(1, Ordering::Relaxed);
            let sent = tx.send(());
            async move { sent.transient() }
        }
    });
    run_until(fast, rx, 17).await;
    assert_eq!(handled.load(Ordering::Relaxed), 17);
    slow.abort();
}

#[tokio::test]
async fn handles_as_many_messages_at_a_time_as_asked_for() {
    let bench = Bench::new().await;
    let (tx, mut rx) = mpsc::unbounded_channel();
    // Each waits for the three others.
    let meet = Arc::new(tokio::sync::Barrier::new(4));
    let run = Worker::new(&bench.broker, bench.source())
        .concurrency(4)
        .run(move |Json(alone): Json<bool>| {
            let (tx, meet) = (tx.clone(), Arc::clone(&meet));
            async move {
                if !alone {
                    meet.wait().await;
                }
                tx.send(()).transient()
            }
        });
    let message = |alone: bool| Message::json(&alone).expect("JSON");
    let signal = {
        bench.publish(message(true)).await;
        let (publisher, orders) = (bench.broker.publisher(), bench.orders.clone());
        async move {
            rx.recv().await;
            // All runners wait by now, and the four come as one batch.
            tokio::task::yield_now().await;
            let four = (0..4).map(|_| message(false).build()).collect();
            for outcome in publisher.publish_batch(&orders, four).await {
                outcome.expect("confirmed");
            }
            for _ in 0..4 {
                rx.recv().await;
            }
        }
    };
    soon(run.with_graceful_shutdown(signal))
        .await
        .expect("ends well");
}
