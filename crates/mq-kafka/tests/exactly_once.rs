//! Exactly once: outputs and offsets in one transaction, whatever fails. On a running Kafka, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

#[path = "exactly_once/crashes.rs"]
mod crashes;
#[path = "exactly_once/retries.rs"]
mod retries;
#[path = "exactly_once/scene.rs"]
mod scene;
mod support;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use mq_kafka::{
    ExactlyOnce, GroupProtocol, Kafka, TransactionLevel,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Deferred, Destination, ErrorKind,
        Failure as Failed, Filter, Guarantee, Message, Outcome, Publisher, Received, Subscription,
        Worker, headers,
    },
};
use mq_testkit::{
    Check, Suite, broker_address,
    proxy::{Direction, Fault, Proxy},
};
use scene::{Copier, Scene, copy};
use support::{
    Bare, check,
    release::{Release, under},
    same, unique, warnings, wire, within,
};
use tokio::sync::Notify;

fn main() -> ExitCode {
    // The processes that a case kills are this program.
    if let Some(ended) = crashes::child() {
        return ended;
    }
    warnings::listen();
    Suite::new(
        "kafka-exactly-once",
        "mq-kafka",
        broker_address("MQ_KAFKA_SERVERS"),
    )
    .deadline(Duration::from_secs(300))
    .case(
        "each_record_is_copied_once_in_order_for_readers_at_the_time_and_later",
        copied_once,
    )
    .case(
        "the_transaction_protocol_is_named_and_a_lesser_one_is_warned_of",
        level_is_told,
    )
    .case(
        "the_newest_transaction_protocol_is_had_where_asked_or_refused",
        newest_or_refused,
    )
    .case("aborted_transactions_come_again", aborts)
    .case(
        "outputs_wait_for_every_earlier_record_of_their_partition",
        barrier,
    )
    .case(
        "the_next_batch_is_handled_while_a_transaction_commits",
        handled_meanwhile,
    )
    .case(
        "a_handler_that_panics_ends_in_the_dead_letters_once",
        panicking,
    )
    .case(
        "an_output_whose_topic_is_gone_ends_in_the_dead_letters",
        output_topic_gone,
    )
    .case(
        "a_transaction_without_outputs_is_aborted_like_others",
        without_outputs,
    )
    .case(
        "what_the_broker_refuses_for_good_ends_in_the_dead_letters",
        refused_output,
    )
    .case(
        "ends_that_are_not_answered_are_asked_again_and_hit_nothing_else",
        unanswered_ends,
    )
    .case(
        "a_transaction_that_has_enough_bytes_does_not_wait_for_the_clock",
        enough_bytes,
    )
    .case("a_zombie_is_fenced", zombie)
    .case("one_whose_transaction_was_taken_from_it_is_fenced", taken)
    .case("partitions_move_between_copiers", |servers| {
        moved(servers, GroupProtocol::Classic)
    })
    .case("partitions_move_between_copiers_under_kip_848", |servers| {
        under(GroupProtocol::Consumer, servers, moved)
    })
    .case(
        "a_copier_killed_in_a_transaction_copies_each_record_once",
        crashes::killed,
    )
    .case(
        "a_deferred_record_comes_again_when_it_is_due_and_is_copied_once",
        retries::deferred,
    )
    .case(
        "an_aborted_retry_copy_is_there_for_nobody",
        retries::aborted,
    )
    .case(
        "a_retrier_killed_or_fenced_copies_each_record_once_with_its_attempts",
        retries::killed,
    )
    .case(
        "a_dead_letter_after_retries_is_in_the_transaction",
        retries::dead_letter,
    )
    .case(
        "what_the_broker_refuses_of_a_retry_costs_no_other_record",
        retries::refused_output,
    )
    .case(
        "a_record_due_later_than_the_longest_delay_goes_on_in_transactions",
        retries::beyond_the_longest,
    )
    .case("what_a_filter_leaves_out_is_committed", filtered)
    .case("what_cannot_be_had_is_refused", refused)
    .run()
}

async fn copied_once(servers: String) -> Check {
    let scene = Scene::new(&servers, "copy").await?;
    let guarantee = ExactlyOnce::new(unique("copier"));
    let tries = Arc::new(AtomicUsize::new(0));
    let target = scene.target.clone();
    // Each 97th call fails; in place, since a later record of its key must not overtake it.
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .ordered_by_key()
            .run(move |received: Received| {
                let (target, tried) = (target.clone(), tries.fetch_add(1, SeqCst));
                async move {
                    tokio::task::yield_now().await;
                    match tried % 97 {
                        96 => Outcome::retry(Failed::transient("now and then")),
                        _ => copy(&received, &target),
                    }
                }
            })
            .with_graceful_shutdown(stopped)
    });
    let filled = async {
        for start in (0..5000).step_by(500) {
            scene.fill(start..start + 500).await?;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        Ok(())
    };
    let (filled, read): (Check, Check) = tokio::join!(filled, scene.read("now", 5000));
    filled?;
    read?;
    copier.stop().await??;
    scene.read("late", 5000).await?;
    let transactions = guarantee.transactions();
    check(
        (2..2500).contains(&transactions.committed),
        format!("{transactions:?}"),
    )?;
    // The offsets are those of the whole source, and nothing of ours stands beside them.
    let bare = Bare::connect(&servers).await?;
    let source = scene.source.name();
    let places = bare.places(source, source).await?;
    let ends = bare.ends(source, 2).await?;
    for (partition, end) in ends.into_iter().enumerate() {
        let place = places.get(&i32::try_from(partition)?);
        same(place, Some(&(end, String::new())), "committed")?;
    }
    Ok(())
}

async fn level_is_told(servers: String) -> Check {
    let expected = Release::of(&servers).await?.transactions();
    let scene = Scene::new(&servers, "level").await?;
    scene.fill(0..100).await?;
    let id = unique("level");
    let guarantee = ExactlyOnce::new(id.as_str());
    let copier = scene.copy(&guarantee);
    scene.read("now", 100).await?;
    copier.stop().await??;
    same(guarantee.level(), Some(expected), "the protocol")?;
    let warned = match expected {
        TransactionLevel::V2 => vec![],
        _ => vec!["a late end of a transaction can hit the next one".to_owned()],
    };
    same(warnings::told("id", &id), warned, "what was warned of")
}

async fn newest_or_refused(servers: String) -> Check {
    let scene = Scene::new(&servers, "newest").await?;
    scene.fill(0..100).await?;
    let guarantee = ExactlyOnce::new(unique("newest")).require_tv2();
    let copier = scene.copy(&guarantee);
    if Release::of(&servers).await?.transactions() == TransactionLevel::V2 {
        scene.read("now", 100).await?;
        return copier.stop().await?.map_err(Into::into);
    }
    let error = copier.ended().await?.expect_err("an older cluster");
    same(error.kind(), ErrorKind::Unsupported, "kind")?;
    check(!error.is_retryable(), "it is so at every start")?;
    let level = Some("EOS v1, anomaly KAFKA-17754 possible");
    same(error.context("level"), level, "what it has")?;
    let help = "; brokers from 4.2 on, with transaction.version=2 finalized";
    check(error.to_string().ends_with(help), error.to_string())?;
    // Nothing was copied, and what was asked for is still there for one who asks for less.
    same(scene.written().await?, 0, "copies")?;
    let lesser = scene.copy(&ExactlyOnce::new(unique("lesser")));
    scene.read("now", 100).await?;
    lesser.stop().await?.map_err(Into::into)
}

async fn aborts(servers: String) -> Check {
    let scene = Scene::new(&servers, "aborts").await?;
    let guarantee = ExactlyOnce::new(unique("aborter"));
    let handled = Arc::new(AtomicUsize::new(0));
    let target = scene.target.clone();
    let counted = Arc::clone(&handled);
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .run(move |received: Received| {
                let target = target.clone();
                counted.fetch_add(1, SeqCst);
                async move {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    copy(&received, &target)
                }
            })
            .with_graceful_shutdown(stopped)
    });
    let driven = async {
        for n in 1..=6 {
            scene.fill((n - 1) * 500..n * 500).await?;
            guarantee.abort();
            let aborted = async {
                while guarantee.transactions().aborted < u64::from(n) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            within(60, aborted).await?;
        }
        Ok(())
    };
    let (driven, read): (Check, Check) = tokio::join!(driven, scene.read("now", 3000));
    driven?;
    read?;
    copier.stop().await??;
    scene.read("late", 3000).await?;
    let again = handled.load(SeqCst);
    check(again > 3000, format!("{again} calls: nothing came again"))?;
    let written = scene.written().await?;
    check(
        written > 3000,
        format!("{written} copies were written: no transaction with something in it was aborted"),
    )
}

async fn barrier(servers: String) -> Check {
    let scene = Scene::new(&servers, "barrier").await?;
    let messages = (0..50).map(|n| Message::new(n.to_string()).key("one").build());
    use mq_kafka::core::Publisher;
    let publisher = scene.kafka.publisher();
    publisher
        .publish_batch(&scene.source, messages.collect())
        .await
        .all_confirmed()?;
    let guarantee = ExactlyOnce::new(unique("barrier"));
    let (done, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (target, counted, opened) = (scene.target.clone(), done.clone(), gate.clone());
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .run(move |received: Received| {
                let (target, counted, gate) = (target.clone(), counted.clone(), opened.clone());
                async move {
                    // The sixth stays with its handler.
                    if received.payload().is_some_and(|p| **p == *b"5") {
                        gate.notified().await;
                    }
                    counted.fetch_add(1, SeqCst);
                    copy(&received, &target)
                }
            })
            .with_graceful_shutdown(stopped)
    });
    let all_but_one = async {
        while done.load(SeqCst) < 49 || guarantee.transactions().committed == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(60, all_but_one).await?;
    // Many times as long as a transaction takes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bare = Bare::connect(&servers).await?;
    let source = scene.source.name();
    let places = bare.places(source, source).await?;
    let committed: Vec<i64> = places.values().map(|(offset, _)| *offset).collect();
    let written = scene.written().await?;
    same(written, 5, "copies written while the sixth is open")?;
    check(committed.contains(&5), format!("committed {committed:?}"))?;
    gate.notify_one();
    scene.read("now", 50).await?;
    copier.stop().await?.map_err(Into::into)
}

/// A connection for the copier of a scene, by a proxy.
async fn proxied(scene: &Scene) -> Check<(Proxy, Kafka)> {
    let proxy = Proxy::start_kafka(&scene.servers).await?;
    let classic = GroupProtocol::Classic;
    let kafka = Scene::connect(&proxy.servers(), classic, &scene.source, &scene.target).await?;
    Ok((proxy, kafka))
}

async fn handled_meanwhile(servers: String) -> Check {
    let scene = Scene::new(&servers, "meanwhile").await?;
    scene.fill(0..2000).await?;
    // Each answer is late, so that a commit takes several times as long as the handlers of a batch.
    let (proxy, kafka) = proxied(&scene).await?;
    let late = Fault::Latency {
        mean: Duration::from_millis(100),
        jitter: Duration::ZERO,
    };
    let guarantee = ExactlyOnce::new(unique("meanwhile"));
    let target = scene.target.clone();
    let source = Subscription::queue(scene.source.name().clone());
    let worker = Worker::new(&kafka, source).guarantee(guarantee.clone());
    let copier = Copier::start(|stopped| {
        worker
            .prefetch(10)
            .run(move |received: Received| {
                let target = target.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    copy(&received, &target)
                }
            })
            .with_graceful_shutdown(stopped)
    });
    proxy.set(Direction::ToClient, late);
    scene.read("now", 2000).await?;
    proxy.clear();
    copier.stop().await??;
    let transactions = guarantee.transactions();
    check(
        transactions.handled_meanwhile > 500 && transactions.committed > 2,
        format!("{transactions:?}"),
    )
}

/// Either the coordinator never hears of an end, or its answer is lost: the copier cannot tell which, and must neither take back what
/// is committed nor let a late end hit the next transaction.
async fn unanswered_ends(servers: String) -> Check {
    const ROUNDS: u32 = 20;
    let before = warnings::tried_again("EndTxn");
    let scene = Scene::new(&servers, "unanswered").await?;
    let (proxy, kafka) = proxied(&scene).await?;
    let id = unique("unanswered");
    // One commit after the other, each of which takes a while: so a cut finds one under way.
    let guarantee = ExactlyOnce::new(id.as_str()).commit_every(Duration::from_millis(5));
    let late = Fault::Latency {
        mean: Duration::from_millis(20),
        jitter: Duration::from_millis(20),
    };
    proxy.set(Direction::ToClient, late);
    let target = scene.target.clone();
    let source = Subscription::queue(scene.source.name().clone());
    let worker = Worker::new(&kafka, source).guarantee(guarantee.clone());
    let copier = Copier::start(|stopped| {
        worker
            .prefetch(50)
            .run(move |received: Received| {
                let target = target.clone();
                async move { copy(&received, &target) }
            })
            .with_graceful_shutdown(stopped)
    });
    let again = || warnings::tried_again("EndTxn") - before;
    let mut rounds = 0;
    // Which step a cut hits is chance: some of so many are ends, or there are more.
    while rounds < ROUNDS || (again() == 0 && rounds < 5 * ROUNDS) {
        let before = guarantee.transactions().committed;
        scene.fill(rounds * 250..(rounds + 1) * 250).await?;
        let busy = async {
            while guarantee.transactions().committed == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        within(60, busy).await?;
        // Into a later step of the next transaction each time.
        tokio::time::sleep(Duration::from_millis(u64::from(rounds % ROUNDS) * 7)).await;
        let lost = match rounds % 2 {
            0 => Direction::ToClient,
            _ => Direction::ToBroker,
        };
        proxy.set(lost, Fault::BlackHole);
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.cut();
        proxy.clear();
        proxy.set(Direction::ToClient, late);
        rounds += 1;
    }
    let count = 250 * rounds as usize;
    scene.read("now", count).await?;
    copier.stop().await??;
    scene.read("late", count).await?;
    check(again() > 0, "no answer of an end was lost")
}

async fn panicking(servers: String) -> Check {
    let scene = Scene::new(&servers, "panic").await?;
    scene.fill(0..300).await?;
    let guarantee = ExactlyOnce::new(unique("panic"));
    let target = scene.target.clone();
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .max_attempts(3)
            .run(move |received: Received| {
                let target = target.clone();
                async move {
                    assert!(received.payload().is_none_or(|p| **p != *b"7"), "a seven");
                    copy(&received, &target)
                }
            })
            .with_graceful_shutdown(stopped)
    });
    scene.read("now", 299).await?;
    let dead = dead_letters(&scene, 1).await?;
    copier.stop().await??;
    let reason = dead[0].headers().text(headers::DEAD_ERROR);
    check(
        reason.is_some_and(|reason| reason.contains("a seven")),
        format!("{reason:?}"),
    )?;
    let attempts = dead[0].headers().text(headers::DEAD_ATTEMPTS);
    same(attempts, Some("3"), "attempts")
}

async fn refused_output(servers: String) -> Check {
    let scene = Scene::new(&servers, "refused").await?;
    let guarantee = ExactlyOnce::new(unique("refused"));
    let target = scene.target.clone();
    let big = scene.kafka.publisher();
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .run(move |received: Received| {
                let target = target.clone();
                async move { copy(&received, &target) }
            })
            .with_graceful_shutdown(stopped)
    });
    scene.fill(0..100).await?;
    // Now it knows the topic's limit, and does not hear that it is lowered.
    scene.read("now", 100).await?;
    let bare = Bare::connect(&servers).await?;
    bare.set(scene.target.name(), "max.message.bytes", "2000")
        .await?;
    use mq_kafka::core::Publisher;
    let large = Message::new(vec![b'x'; 4000]).key("k1");
    big.publish(&scene.source, large).await?;
    scene.fill(100..200).await?;
    let dead = dead_letters(&scene, 1).await?;
    same(
        dead[0].payload().map(|p| p.len()),
        Some(4000),
        "the dead one",
    )?;
    let copies = scene.copies("late", 200).await?;
    same(copies.values().map(Vec::len).sum(), 200, "copies")?;
    copier.stop().await??;
    check(guarantee.transactions().aborted > 0, "nothing was aborted")
}

/// The client alone would abort and try again for ever.
async fn output_topic_gone(servers: String) -> Check {
    let scene = Scene::new(&servers, "gone").await?;
    let guarantee = ExactlyOnce::new(unique("gone"));
    let copier = scene.copy(&guarantee);
    scene.fill(0..100).await?;
    scene.read("now", 100).await?;
    let bare = Bare::connect(&servers).await?;
    bare.delete(scene.target.name()).await?;
    // The broker hears of it later, and what it takes until then is stored, and gone with the topic.
    let gone = async {
        while scene.kafka.verify(&scene.target).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(30, gone).await?;
    scene.fill(100..101).await?;
    let copier = match Release::of(&servers).await?.transactions() {
        TransactionLevel::V2 => copier,
        // What the coordinator has nothing of cannot be aborted there.
        _ => {
            let ended = copier.ended().await?.expect_err("the topic is gone");
            same(ended.kind(), ErrorKind::Lost, "kind")?;
            scene.copy(&guarantee)
        }
    };
    let dead = within(90, dead_letters(&scene, 1)).await??;
    let text = dead[0].payload().map(|p| p.to_vec());
    same(text, Some(b"100".to_vec()), "the dead one")?;
    Ok(copier.stop().await??)
}

/// An aborted transaction without an output, of which the coordinator never heard.
async fn without_outputs(servers: String) -> Check {
    let scene = Scene::new(&servers, "none").await?;
    let guarantee = ExactlyOnce::new(unique("none"));
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .run(|_: Received| async { Outcome::ack() })
            .with_graceful_shutdown(stopped)
    });
    for round in 0..3 {
        guarantee.abort();
        scene.fill(round * 10..round * 10 + 10).await?;
        let aborted = async {
            while guarantee.transactions().aborted <= u64::from(round) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(60, aborted).await?;
    }
    // All of them come again, and nobody asks for an abort any more.
    let committed = async {
        let bare = Bare::connect(&servers).await?;
        loop {
            let places = bare
                .places(scene.source.name(), scene.source.name())
                .await?;
            let place: i64 = places.values().map(|(offset, _)| offset).sum();
            if place == 30 {
                return Ok::<_, mq_testkit::Failure>(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(60, committed).await??;
    Ok(copier.stop().await??)
}

/// Dead letters stay with their transaction until it is committed.
async fn enough_bytes(servers: String) -> Check {
    let scene = Scene::new(&servers, "bytes").await?;
    use mq_kafka::core::Publisher;
    let large = || Message::new(vec![b'x'; 900 * 1024]).build();
    let large = (0..40).map(|_| large()).collect();
    let publisher = scene.kafka.publisher();
    publisher
        .publish_batch(&scene.source, large)
        .await
        .all_confirmed()?;
    let clock = Duration::from_secs(20);
    let guarantee = ExactlyOnce::new(unique("bytes"))
        .transaction_timeout(3 * clock)
        .commit_every(clock);
    let begun = Arc::new(Notify::new());
    let handled = Arc::clone(&begun);
    let copier = Copier::start(|stopped| {
        scene
            .worker(&guarantee)
            .run(move |_: Received| {
                handled.notify_one();
                async { Outcome::reject("not for us") }
            })
            .with_graceful_shutdown(stopped)
    });
    within(60, begun.notified()).await?;
    let committed = async {
        while guarantee.transactions().committed == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within((clock / 2).as_secs(), committed).await?;
    copier.stop().await??;
    dead_letters(&scene, 40).await.map(drop)
}

async fn zombie(servers: String) -> Check {
    let scene = Scene::new(&servers, "zombie").await?;
    scene.fill(0..1000).await?;
    let id = unique("twin");
    let first = scene.copy(&ExactlyOnce::new(id.as_str()));
    let twin = ExactlyOnce::new(id.as_str());
    scene.copies("late", 1).await?;
    let second = scene.copy(&twin);
    // It is noticed at the next transaction, and not every member has a partition at every moment.
    let mut count = 1000;
    while !first.has_ended() {
        scene.fill(count..count + 50).await?;
        count += 50;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let error = first.ended().await?.expect_err("another one has its id");
    check(error.kind() == ErrorKind::Lost, format!("kind: {error:?}"))?;
    check(!error.is_retryable(), "a fenced one must not try again")?;
    same(
        error.context("transactional id"),
        Some(id.as_str()),
        "what it names",
    )?;
    scene.read("now", count as usize).await?;
    second.stop().await?.map_err(Into::into)
}

/// What a twin's start begins with, and the broker's time-out does: the open transaction is aborted
/// under the next epoch. Here nobody goes on from there, so that the commit finds it so.
async fn taken(servers: String) -> Check {
    let scene = Scene::new(&servers, "taken").await?;
    let id = unique("taken");
    let guarantee = ExactlyOnce::new(id.as_str()).commit_every(Duration::from_secs(9));
    let copier = scene.copy(&guarantee);
    let bare = Bare::connect(&servers).await?;
    let mut count = 0;
    // Between two transactions the id is just given; then it is tried again.
    loop {
        let before = bare.ends(scene.target.name(), 3).await?;
        scene.fill(count..count + 10).await?;
        count += 10;
        let written = async {
            while bare.ends(scene.target.name(), 3).await? == before {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Check::Ok(())
        };
        within(60, written).await??;
        if wire::ask_id(&servers, &id).await? == wire::CONCURRENT_TRANSACTIONS {
            break;
        }
        check(count < 100, "no transaction was open")?;
    }
    let error = copier.ended().await?.expect_err("its id was asked for");
    same(error.kind(), ErrorKind::Lost, &format!("kind of {error:?}"))?;
    check(!error.is_retryable(), "a fenced one must not try again")?;
    // One that starts again does the rest.
    let again = scene.copy(&ExactlyOnce::new(id));
    scene.read("now", count as usize).await?;
    again.stop().await?.map_err(Into::into)
}

async fn moved(servers: String, protocol: GroupProtocol) -> Check {
    let scene = Scene::under(protocol, &servers, "moved").await?;
    let one = ExactlyOnce::new(unique("one"));
    let two = ExactlyOnce::new(unique("two"));
    scene.fill(0..500).await?;
    let first = scene.copy(&one);
    let driven = async {
        let second = scene.copy(&two);
        let mut count = 500;
        // Until both are at it for a while.
        while two.transactions().committed < 5 {
            scene.fill(count..count + 50).await?;
            count += 50;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // It leaves in the middle of its work.
        scene.fill(count..count + 500).await?;
        second.stop().await??;
        scene.fill(count + 500..count + 1000).await?;
        Ok(count as usize + 1000)
    };
    let count = within(180, driven).await?;
    let count: usize = count.map_err(|error: mq_testkit::Failure| error)?;
    scene.read("now", count).await?;
    first.stop().await??;
    scene.read("late", count).await
}

async fn filtered(servers: String) -> Check {
    let kafka = Kafka::connect(&servers).await?;
    let topic = Destination::topic(unique("filtered"));
    kafka.declare(&topic).await?;
    let source = Subscription::durable(topic.name().clone(), "none").filter(Filter::exact("none"));
    kafka.declare(&source).await?;
    let messages = (0..100).map(|n| Message::new(n.to_string()).into());
    let publisher = kafka.publisher();
    let published = publisher.publish_batch(&topic, messages.collect()).await;
    published.all_confirmed()?;
    let guarantee = ExactlyOnce::new(unique("filtered"));
    let copier = Copier::start(|stopped| {
        Worker::new(&kafka, source.clone())
            .guarantee(guarantee)
            .run(|_: Received| async { Outcome::ack() })
            .with_graceful_shutdown(stopped)
    });
    let bare = Bare::connect(&servers).await?;
    let committed = async {
        loop {
            let places = bare.places(source.name(), topic.name()).await?;
            if places.values().map(|place| place.0).sum::<i64>() >= 100 {
                return Check::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(60, committed).await??;
    Ok(copier.stop().await??)
}

async fn refused(servers: String) -> Check {
    let scene = Scene::new(&servers, "no").await?;
    let guarantee = ExactlyOnce::new(unique("no"));
    let running = scene.copy(&guarantee);
    scene.fill(0..1).await?;
    scene.copies("now", 1).await?;
    let second = scene.copy(&guarantee).ended().await?;
    let error = second.expect_err("two workers with one id");
    same(error.kind(), ErrorKind::Config, "two workers")?;
    running.stop().await??;
    // Once it has stopped another one may.
    scene.copy(&guarantee).stop().await??;

    for bad in [
        ExactlyOnce::new(""),
        ExactlyOnce::new("x").transaction_timeout(Duration::from_secs(1)),
        ExactlyOnce::new("x").commit_every(Duration::from_secs(20)),
        ExactlyOnce::new("x").commit_after(0),
    ] {
        let error = scene.copy(&bad).ended().await?.expect_err("a bad setting");
        same(error.kind(), ErrorKind::Config, "a bad setting")?;
    }

    let topic = scene.target.name().clone();
    let worker = Worker::new(&scene.kafka, Subscription::ephemeral(topic))
        .guarantee(ExactlyOnce::new(unique("ephemeral")))
        .dead_letters(DeadLetters::To(scene.source.clone()));
    let run = worker.run(|_: Received| async {}).into_future();
    let error = within(60, run).await?.expect_err("there is no group");
    same(error.kind(), ErrorKind::Unsupported, "without a group")?;

    // Without a retry topic, as outside of transactions.
    let run = scene
        .worker(&ExactlyOnce::new(unique("defer")))
        .run(|_: Received| async { Outcome::defer(Duration::from_secs(1)) });
    let deferring = tokio::spawn(run.into_future());
    scene.fill(1..2).await?;
    let dead = dead_letters(&scene, 1).await?;
    let reason = dead[0].headers().text(headers::DEAD_ERROR);
    check(
        reason.is_some_and(|reason| reason.contains("5 attempts ended without an outcome")),
        format!("{reason:?}"),
    )?;
    deferring.abort();

    let mut plan = ConsumePlan::new();
    plan.deferred = Deferred::InPlace;
    let from = Subscription::queue(scene.source.name().clone());
    let mut consumer = scene.kafka.consumer(&from, plan).await?;
    let place = ExactlyOnce::new(unique("place"));
    let begun = place.start(&scene.kafka, &mut consumer).await;
    let error = begun.expect_err("it defers in place");
    same(error.kind(), ErrorKind::Unsupported, "in place")?;
    check(error.to_string().contains("in place"), error.to_string())
}

/// The dead letters of the source: so many, and no more.
pub(crate) async fn dead_letters(scene: &Scene, count: usize) -> Check<Vec<Received>> {
    let home = scene.source.dead_letter_home().expect("it has a home");
    let home = Destination::queue(home.name().clone());
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let from = Subscription::queue(home.name().clone());
    let mut consumer = scene.kafka.consumer(&from, plan).await?;
    let mut dead = Vec::new();
    while dead.len() < count {
        let delivery = within(60, consumer.receive())
            .await??
            .expect("a dead letter");
        dead.push(delivery.received().clone());
        delivery.ack()?;
    }
    support::quiet(&mut consumer).await?;
    consumer.close().await?;
    Ok(dead)
}
