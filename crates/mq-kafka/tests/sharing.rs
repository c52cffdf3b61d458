//! Queues that are read through share groups (KIP-932).
//! On a running Kafka from 4.2 on, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::BTreeSet,
    future::IntoFuture,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use krafka::{
    admin::{ConfigOp, ConfigResource},
    share_consumer::AcknowledgementMode,
};
use mq_kafka::{
    At, GroupProtocol, Kafka, KafkaConsumer, KafkaEvent,
    core::{
        Broker, Capability, ConsumePlan, Consumer, Destination, ErrorKind, Message, Publisher,
        Received, Subscription, Worker, headers,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, Own, check, fill, heard, quiet, same, take, text, unique, within};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    Suite::new(
        "kafka-sharing",
        "mq-kafka",
        broker_address("MQ_KAFKA_SERVERS"),
    )
    .deadline(Duration::from_secs(180))
    .case("more_consumers_than_partitions_all_get_work", all_get_work)
    .case("a_slow_handler_holds_up_nobody", slow_handler)
    .case("a_requeued_record_comes_again_with_a_higher_count", requeue)
    .case(
        "a_record_that_is_always_requeued_is_never_archived",
        requeue_for_ever,
    )
    .case(
        "what_nobody_settled_is_dead_lettered_before_the_limit",
        dead_letter,
    )
    .case("what_a_killed_consumer_had_comes_again", killed)
    .case("a_long_handler_keeps_its_lock", long_handler)
    .case("a_lost_lock_is_told_and_its_settlement_is_stale", lost_lock)
    .case("a_closed_consumer_gives_back_at_once", closed)
    .case("a_dropped_consumer_gives_back_at_once", dropped)
    .case("a_close_costs_a_record_one_delivery", one_delivery)
    .case("what_no_handler_saw_is_not_taken_for_used_up", not_used_up)
    .case("acks_in_any_order_are_kept", any_order)
    .case(
        "a_queue_is_deleted_as_soon_as_all_is_settled_and_no_sooner",
        deleted,
    )
    .case("a_new_queue_has_one_partition_unless_told", one_partition)
    .case(
        "a_deleted_queue_ends_its_consumer",
        deleted_under_its_consumer,
    )
    .case("a_limit_that_is_too_low_now_ends_the_consumer", lowered)
    .case("a_consumer_that_is_given_nothing_tells_so", starved)
    .case("the_setting_is_reported", reported)
    .case("what_a_share_group_cannot_do_is_refused", refused)
    .run()
}

async fn connect(servers: &str) -> Check<Kafka> {
    let builder = Kafka::builder(servers).group_protocol(GroupProtocol::Share);
    Ok(builder.partitions(1).connect().await?)
}

async fn queue(servers: &str, what: &str) -> Check<(Kafka, Destination)> {
    let kafka = connect(servers).await?;
    let queue = Destination::queue(unique(what));
    kafka.declare(&queue).await?;
    Ok((kafka, queue))
}

async fn open(kafka: &Kafka, queue: &Destination, prefetch: u16) -> Check<KafkaConsumer> {
    let source = Subscription::queue(queue.name().clone());
    let plan = ConsumePlan::new().prefetch(prefetch);
    Ok(kafka.consumer(&source, plan).await?)
}

async fn set_group(bare: &Bare, group: &str, settings: &[(&str, &str)]) -> Check {
    let set = settings
        .iter()
        .map(|(name, value)| ConfigOp::set(*name, *value));
    let change = (ConfigResource::group(group), set.collect::<Vec<_>>());
    let admin = bare.admin();
    let set = admin.incremental_alter_configs([change], Default::default());
    for (_, result) in set.await? {
        result?;
    }
    heard(&admin, ConfigResource::group(group), settings).await
}

/// The shortest lock that a broker gives unless its own limits are changed.
async fn set_short_lock(bare: &Bare, group: &str) -> Check {
    set_group(bare, group, &[("share.record.lock.duration.ms", "15000")]).await
}

async fn all_get_work(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "work").await?;
    let mut consumers = Vec::new();
    for _ in 0..3 {
        let own = connect(&servers).await?;
        consumers.push((open(&own, &queue, 2).await?, own));
    }
    fill(&kafka, &queue, 0..12).await?;
    // The topic has one partition, and each of the three holds what it got.
    let mut seen = BTreeSet::new();
    let mut held = Vec::new();
    for (consumer, _) in &mut consumers {
        for delivery in take(consumer, 2).await? {
            same(
                delivery.position().map(|p| p.partition),
                Some(0),
                "partition",
            )?;
            check(seen.insert(text(&delivery)), "one record at two consumers")?;
            held.push(delivery);
        }
    }
    for delivery in held {
        delivery.ack()?;
    }
    for (consumer, _) in consumers {
        within(30, consumer.close()).await??;
    }
    Ok(())
}

async fn slow_handler(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "slow").await?;
    fill(&kafka, &queue, 0..20).await?;
    let mut slow = open(&kafka, &queue, 1).await?;
    let at_work = take(&mut slow, 1).await?.remove(0);
    let mut fast = open(&kafka, &queue, 10).await?;
    let mut done = BTreeSet::new();
    while done.len() < 19 {
        let delivery = take(&mut fast, 1).await?.remove(0);
        done.insert(text(&delivery));
        delivery.ack()?;
    }
    check(!done.contains(&text(&at_work)), "the slow one's was taken")?;
    within(30, fast.settled()).await??;
    at_work.ack()?;
    within(30, slow.settled()).await??;
    quiet(&mut fast).await?;
    // One of two in the same consumer: its other members go on.
    fill(&kafka, &queue, 20..60).await?;
    within(30, slow.close()).await??;
    let at_work = take(&mut fast, 1).await?.remove(0);
    for _ in 0..39 {
        take(&mut fast, 1).await?.remove(0).ack()?;
    }
    at_work.ack()?;
    Ok(within(30, fast.close()).await??)
}

async fn requeue(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "requeue").await?;
    fill(&kafka, &queue, 0..1).await?;
    let mut first = open(&kafka, &queue, 1).await?;
    let delivery = take(&mut first, 1).await?.remove(0);
    same(delivery.attempt(), 1, "first attempt")?;
    let at = delivery.position();
    delivery.into_settlement().release()?;
    let delivery = take(&mut first, 1).await?.remove(0);
    same(delivery.attempt(), 1, "attempt after a release")?;
    delivery.into_settlement().requeue()?;
    within(30, first.close()).await??;
    // It is the broker that counted, so anybody knows.
    let mut second = open(&connect(&servers).await?, &queue, 1).await?;
    let delivery = take(&mut second, 1).await?.remove(0);
    // The one that closed may have been given it once more, which counts and which no handler sees.
    let attempt = delivery.attempt();
    check(
        (2..=3).contains(&attempt),
        format!("attempt {attempt} after a requeue"),
    )?;
    same(delivery.position(), at, "the same record")?;
    delivery.ack()?;
    within(30, second.settled()).await??;
    quiet(&mut second).await?;
    Ok(within(30, second.close()).await??)
}

async fn requeue_for_ever(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "poison").await?;
    fill(&kafka, &queue, 0..1).await?;
    let mut consumer = open(&kafka, &queue, 1).await?;
    for attempt in 1..=12 {
        let delivery = take(&mut consumer, 1).await?.remove(0);
        same(delivery.attempt(), attempt, "attempt")?;
        same(text(&delivery), "0".into(), "text")?;
        delivery.into_settlement().requeue()?;
    }
    take(&mut consumer, 1).await?.remove(0).ack()?;
    within(30, consumer.settled()).await??;
    quiet(&mut consumer).await?;
    Ok(within(30, consumer.close()).await??)
}

/// Three deliveries of which nobody tells what became: the fourth is not handed out.
async fn dead_letter(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "limit").await?;
    // Sets the group up.
    within(60, open(&kafka, &queue, 1).await?.close()).await??;
    fill(&kafka, &queue, 0..1).await?;
    let bare = krafka::Kafka::builder(&servers).connect().await?;
    let member = bare
        .share_consumer(&**queue.name())
        .acknowledgement_mode(AcknowledgementMode::Explicit)
        .build()
        .await?;
    member.subscribe([&**queue.name()]).await?;
    let mut counts = Vec::new();
    let taken = async {
        while counts.len() < 3 {
            for record in member.poll(Duration::from_millis(500)).await? {
                counts.push(record.delivery_count);
                member.release(&record)?;
            }
        }
        member.close().await
    };
    within(60, taken).await??;
    same(
        counts,
        vec![Some(1), Some(2), Some(3)],
        "the broker's counts",
    )?;

    let mut consumer = open(&kafka, &queue, 10).await?;
    let home = queue.dead_letter_home().expect("a queue has one");
    let mut dead = open(&kafka, &home, 10).await?;
    let letter = take(&mut dead, 1).await?.remove(0);
    same(text(&letter), "0".into(), "text")?;
    let header = |name| letter.headers().text(name).map(str::to_owned);
    same(
        header(headers::DEAD_REASON),
        Some("exhausted".into()),
        "reason",
    )?;
    same(header(headers::DEAD_ATTEMPTS), Some("3".into()), "attempts")?;
    letter.ack()?;
    quiet(&mut consumer).await?;
    within(30, dead.close()).await??;
    Ok(within(30, consumer.close()).await??)
}

async fn killed(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "killed").await?;
    let bare = Bare::connect(&servers).await?;
    set_short_lock(&bare, queue.name()).await?;
    fill(&kafka, &queue, 0..10).await?;
    let mut own = Own::new()?;
    let (address, from) = (servers.clone(), queue.clone());
    let had = own.spawn(async move {
        let kafka = connect(&address).await?;
        let mut consumer = open(&kafka, &from, 10).await?;
        let taken = take(&mut consumer, 10).await?;
        let had: BTreeSet<String> = taken.iter().map(text).collect();
        taken.into_iter().for_each(std::mem::forget);
        std::mem::forget((kafka, consumer));
        Ok::<_, mq_testkit::Failure>(had)
    });
    let had = within(60, had).await???;
    same(had.len(), 10, "what it had")?;
    // The whole runtime: nobody closes, releases or sends a heartbeat.
    own.end();
    let mut next = open(&kafka, &queue, 10).await?;
    let mut again = BTreeSet::new();
    let killed = Instant::now();
    while again.len() < 10 {
        let delivery = within(60, next.receive()).await??.expect("it goes on");
        same(delivery.attempt(), 2, "attempt")?;
        again.insert(text(&delivery));
        delivery.ack()?;
    }
    check(
        killed.elapsed() < Duration::from_secs(60),
        "it took too long",
    )?;
    same(again, had, "what comes again")?;
    Ok(within(30, next.close()).await??)
}

async fn long_handler(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "long").await?;
    let bare = Bare::connect(&servers).await?;
    set_short_lock(&bare, queue.name()).await?;
    fill(&kafka, &queue, 0..1).await?;
    let mut slow = open(&kafka, &queue, 1).await?;
    let at_work = take(&mut slow, 1).await?.remove(0);
    let mut other = open(&kafka, &queue, 1).await?;
    // Twice as long as a lock lasts.
    let taken = timeout(Duration::from_secs(32), other.receive()).await;
    check(
        taken.is_err(),
        format!("another consumer got it: {taken:?}"),
    )?;
    at_work.ack()?;
    within(30, slow.settled()).await??;
    quiet(&mut other).await?;
    within(30, slow.close()).await??;
    Ok(within(30, other.close()).await??)
}

async fn lost_lock(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "lost").await?;
    let bare = Bare::connect(&servers).await?;
    let settings = [
        ("share.record.lock.duration.ms", "15000"),
        ("share.renew.acknowledge.enable", "false"),
    ];
    set_group(&bare, queue.name(), &settings).await?;
    fill(&kafka, &queue, 0..1).await?;
    let mut events = kafka.events();
    let mut slow = open(&kafka, &queue, 1).await?;
    let at_work = take(&mut slow, 1).await?.remove(0);
    let told = async {
        loop {
            match events.next().await {
                Some(KafkaEvent::LockLost {
                    partition, offsets, ..
                }) => return (partition, offsets),
                Some(_) => {}
                None => panic!("the connection is open"),
            }
        }
    };
    same(within(40, told).await?, (0, vec![0]), "what was lost")?;
    let late = at_work.ack().expect_err("its lock is over");
    same(late.kind(), ErrorKind::Stale, "kind")?;
    let again = within(40, slow.receive()).await??.expect("it goes on");
    same(again.attempt(), 2, "attempt")?;
    again.ack()?;
    within(30, slow.settled()).await??;
    Ok(within(30, slow.close()).await??)
}

/// Takes ten of twenty, lets go of the consumer so, and counts how soon all twenty are there.
async fn given_back<T: Future<Output = Check>>(
    servers: &str,
    let_go: impl FnOnce(KafkaConsumer) -> T,
) -> Check {
    let (kafka, queue) = queue(servers, "back").await?;
    fill(&kafka, &queue, 0..20).await?;
    let mut consumer = open(&kafka, &queue, 20).await?;
    let held = take(&mut consumer, 10).await?;
    let_go(consumer).await?;
    let started = Instant::now();
    let mut next = open(&kafka, &queue, 20).await?;
    let all: BTreeSet<String> = take(&mut next, 20)
        .await?
        .into_iter()
        .map(|d| {
            let text = text(&d);
            d.ack().map(|()| text)
        })
        .collect::<Result<_, _>>()?;
    same(all.len(), 20, "records")?;
    // Locks last for 30 s.
    let time = started.elapsed();
    check(time < Duration::from_secs(15), format!("it took {time:?}"))?;
    for delivery in held {
        let late = delivery.ack().expect_err("it is another's now");
        same(late.kind(), ErrorKind::Stale, "kind")?;
    }
    Ok(within(30, next.close()).await??)
}

async fn closed(servers: String) -> Check {
    given_back(&servers, |consumer| async {
        Ok(within(30, consumer.close()).await??)
    })
    .await
}

async fn dropped(servers: String) -> Check {
    given_back(&servers, |consumer| async {
        drop(consumer);
        Ok(())
    })
    .await
}

/// Three of its four members are asking for records when it closes.
async fn one_delivery(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "close").await?;
    fill(&kafka, &queue, 0..1).await?;
    for attempt in 1..=3 {
        let mut consumer = open(&kafka, &queue, 10).await?;
        let delivery = take(&mut consumer, 1).await?.remove(0);
        same(delivery.attempt(), attempt, "attempt")?;
        within(30, consumer.close()).await??;
    }
    // The fourth would be the last but one, so it was copied to the end of the queue.
    let mut consumer = open(&kafka, &queue, 10).await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    same(delivery.attempt(), 4, "attempt of the copy")?;
    same(text(&delivery), "0".into(), "text")?;
    delivery.ack()?;
    within(30, consumer.settled()).await??;
    quiet(&mut consumer).await?;
    Ok(within(30, consumer.close()).await??)
}

/// The broker counts what was fetched, and most of it is given back unseen by each of these workers: three at most, since what
/// is fetched more often is on its last delivery.
async fn not_used_up(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "unseen").await?;
    fill(&kafka, &queue, 0..30).await?;
    let source = Subscription::queue(queue.name().clone());
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let mut workers = 0;
    while seen.lock().expect("no panic").len() < 30 {
        workers += 1;
        check(workers <= 3, "workers that did nothing")?;
        let stop = CancellationToken::new();
        let (seen, stopping) = (Arc::clone(&seen), stop.clone());
        let worker = Worker::new(&kafka, source.clone())
            .max_attempts(1)
            .concurrency(1)
            .prefetch(30)
            .run(move |received: Received| {
                let (seen, stopping) = (Arc::clone(&seen), stopping.clone());
                async move {
                    let text = received.payload().map(|p| p.to_vec());
                    // So long that most of what was fetched waits when it is told to stop.
                    sleep(Duration::from_millis(50)).await;
                    let mut seen = seen.lock().expect("no panic");
                    seen.insert(text);
                    if seen.len() % 10 == 0 {
                        stopping.cancel();
                    }
                }
            })
            .with_graceful_shutdown(stop.cancelled_owned());
        within(60, worker.into_future()).await??;
    }
    check(workers > 1, format!("{workers} workers had them all"))?;
    let home = queue.dead_letter_home().expect("it has a home");
    let dead = Bare::connect(&servers).await?.ends(home.name(), 1).await?;
    same(dead, vec![0], "the end of the dead letters")
}

/// There are 25 at most with each of its four members.
async fn any_order(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "order").await?;
    fill(&kafka, &queue, 0..40).await?;
    let mut consumer = open(&kafka, &queue, 100).await?;
    let mut held = take(&mut consumer, 40).await?;
    // Every second one from the end, then the others from the front.
    let late: Vec<_> = (0..20).map(|n| held.remove(n)).collect();
    for delivery in held.into_iter().rev().chain(late) {
        delivery.ack()?;
    }
    within(30, consumer.settled()).await??;
    drop(consumer);
    let mut next = open(&connect(&servers).await?, &queue, 100).await?;
    quiet(&mut next).await?;
    Ok(within(30, next.close()).await??)
}

async fn deleted(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "deleted").await?;
    let kept = async || match kafka.delete(&queue).await {
        Err(error) if error.kind() == ErrorKind::InUse => Ok(()),
        other => Err(mq_testkit::Failure::new(format!("deleting it: {other:?}"))),
    };
    fill(&kafka, &queue, 0..10).await?;
    // Nobody has read it.
    kept().await?;
    let mut consumer = open(&kafka, &queue, 10).await?;
    let mut held = take(&mut consumer, 10).await?;
    let first = held.remove(0);
    for delivery in held.into_iter().rev() {
        delivery.ack()?;
    }
    within(30, consumer.settled()).await??;
    within(30, consumer.close()).await??;
    drop(first);
    // The first one of ten is left.
    kept().await?;
    let mut consumer = open(&kafka, &queue, 10).await?;
    let left = take(&mut consumer, 1).await?.remove(0);
    same(left.attempt(), 2, "attempt")?;
    left.ack()?;
    within(30, consumer.close()).await??;
    Ok(kafka.delete(&queue).await?)
}

async fn one_partition(servers: String) -> Check {
    let bare = Bare::connect(&servers).await?;
    let builder = || Kafka::builder(&servers).group_protocol(GroupProtocol::Share);
    for (builder, queues, topics) in [(builder(), 1, 8), (builder().partitions(3), 3, 3)] {
        let kafka = builder.connect().await?;
        let (queue, topic) = (unique("queue"), unique("topic"));
        kafka.declare(&Destination::queue(&*queue)).await?;
        kafka.declare(&Destination::topic(&*topic)).await?;
        same(bare.partitions(&queue).await?, queues, "of a queue")?;
        let home = format!("{queue}.dead");
        same(bare.partitions(&home).await?, queues, "of its home")?;
        same(bare.partitions(&topic).await?, topics, "of a topic")?;
        // What is there already is taken as it is.
        let found = Kafka::builder(&servers).group_protocol(GroupProtocol::Share);
        let found = found.connect().await?;
        found.verify(&Destination::queue(&*queue)).await?;
    }
    Ok(())
}

/// What ends a consumer that waits, within two of its looks around.
async fn end_of(consumer: &mut KafkaConsumer) -> Check<ErrorKind> {
    match within(20, consumer.receive()).await? {
        Err(error) => Ok(error.kind()),
        Ok(delivery) => Err(mq_testkit::Failure::new(format!("no end: {delivery:?}"))),
    }
}

async fn deleted_under_its_consumer(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "gone").await?;
    let mut consumer = open(&kafka, &queue, 10).await?;
    let bare = Bare::connect(&servers).await?;
    let deleted = bare.admin();
    let deleted = deleted.delete_topics([&**queue.name()], Default::default());
    for (_, result) in deleted.await? {
        result?;
    }
    same(end_of(&mut consumer).await?, ErrorKind::Lost, "kind")
}

async fn lowered(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "lowered").await?;
    let mut consumer = open(&kafka, &queue, 10).await?;
    let bare = Bare::connect(&servers).await?;
    let lower = [("share.delivery.count.limit", "3")];
    set_group(&bare, queue.name(), &lower).await?;
    same(end_of(&mut consumer).await?, ErrorKind::Config, "kind")
}

async fn starved(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "starved").await?;
    fill(&kafka, &queue, 0..1).await?;
    let mut holder = open(&kafka, &queue, 1).await?;
    let held = take(&mut holder, 1).await?.remove(0);
    // Its lock lasts, so that another consumer gets nothing although the queue has a message.
    let builder = Kafka::builder(&servers).group_protocol(GroupProtocol::Share);
    let patient = builder.stalled_after(Duration::from_secs(2)).connect();
    let patient = patient.await?;
    let mut events = patient.events();
    let mut waiting = open(&patient, &queue, 1).await?;
    let told = async {
        loop {
            match events.next().await {
                Some(KafkaEvent::Starved {
                    subscription, lag, ..
                }) => return (subscription, lag),
                Some(_) => {}
                None => panic!("the connection is open"),
            }
        }
    };
    let (subscription, lag) = within(20, told).await?;
    same(&*subscription, &**queue.name(), "of whom")?;
    same(lag, 1, "lag")?;
    held.ack()?;
    within(30, holder.settled()).await??;
    // It goes on.
    fill(&kafka, &queue, 1..2).await?;
    within(30, holder.close()).await??;
    take(&mut waiting, 1).await?.remove(0).ack()?;
    Ok(within(30, waiting.close()).await??)
}

async fn reported(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "reported").await?;
    same(kafka.group_protocol(), GroupProtocol::Share, "protocol")?;
    let product = kafka.product();
    check(product.contains("group protocol share"), product)?;
    check(
        kafka.capabilities().has(Capability::SettleEach),
        "settle-each",
    )?;
    let mut consumer = open(&kafka, &queue, 4).await?;
    fill(&kafka, &queue, 0..4).await?;
    for delivery in take(&mut consumer, 4).await? {
        delivery.ack()?;
    }
    within(30, consumer.settled()).await??;
    same(consumer.assignment().partitions(), vec![0], "assignment")?;
    let metrics = kafka.metrics();
    same(
        (metrics.delivered, metrics.acked),
        (4, 4),
        "delivered and acked",
    )?;
    same(
        (metrics.unsettled, metrics.partitions),
        (0, 1),
        "what is held",
    )?;
    let listed = kafka.groups().list().await?;
    let group = listed.iter().find(|group| *group.name == **queue.name());
    let protocol = group.expect("it is listed").protocol;
    same(protocol, Some(GroupProtocol::Share), "in the list")?;
    let described = kafka.groups().describe(queue.name()).await;
    let error = described.expect_err("its members are not to be had");
    same(error.kind(), ErrorKind::Unsupported, "kind")?;
    check(error.to_string().contains("share group"), error.to_string())?;
    let described = kafka.groups().describe(&unique("nobody")).await;
    let error = described.expect_err("there is none");
    same(error.kind(), ErrorKind::NotFound, "kind")?;
    Ok(within(30, consumer.close()).await??)
}

async fn refused(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "refused").await?;
    let source = Subscription::queue(queue.name().clone());
    let handler = |_: Received| async { Ok::<_, mq_kafka::core::BoxError>(()) };
    let worker = Worker::new(&kafka, source.clone()).ordered_by_key();
    let error = within(30, worker.run(handler).into_future())
        .await?
        .expect_err("no order");
    same(error.kind(), ErrorKind::Config, "kind")?;
    same(
        error.context("capability"),
        Some("key-order"),
        "what is missing",
    )?;
    let error = kafka.declare_from(&source, At::LiveTail).await;
    same(
        error.expect_err("no place").kind(),
        ErrorKind::Unsupported,
        "kind",
    )?;
    // The queue is read as a share group: a consumer group of the name is refused.
    let mut shared = open(&kafka, &queue, 1).await?;
    let grouped = Kafka::connect(&servers).await?;
    let opened = within(90, grouped.consumer(&source, ConsumePlan::new())).await?;
    let error = opened.map(drop).expect_err("two kinds of group");
    check(!error.to_string().is_empty(), "it says so")?;
    // And the share group goes on.
    kafka.publisher().publish(&queue, Message::new("x")).await?;
    take(&mut shared, 1).await?.remove(0).ack()?;
    Ok(within(30, shared.close()).await??)
}
