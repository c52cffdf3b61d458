//! Membership of a group under both protocols: static members, what is told of a consumer that stands
//! still or lost its place, and what the cluster says of a group. On a running Kafka, named by
//! `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::{BTreeSet, VecDeque},
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use krafka::{Record, producer::TransactionalProducer};
use mq_kafka::{
    GroupProtocol, Kafka, KafkaBuilder, KafkaConsumer, KafkaEvent, KafkaEvents,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Delivery, Destination, ErrorKind, Message,
        Publisher, RetryAdvice, Subscription,
    },
};
use mq_testkit::{
    Check, Failure, Suite, broker_address,
    proxy::{Direction, Fault, Proxy},
};
use support::{
    Bare, check, fill, open,
    release::{Release, kip_848_is_refused, under},
    same, take, text, unique, within,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let address = broker_address("MQ_KAFKA_SERVERS");
    let mut suite = Suite::new("kafka-members", "mq-kafka", address)
        .deadline(Duration::from_secs(180))
        .case(
            "the_protocol_is_classic_unless_set_and_is_named_or_refused",
            named,
        );
    for (protocol, cases) in [
        (GroupProtocol::Classic, CLASSIC),
        (GroupProtocol::Consumer, KIP_848),
    ] {
        suite = suite
            .case(cases[0], move |servers| under(protocol, servers, restart))
            .case(cases[1], move |servers| under(protocol, servers, duplicate))
            .case(cases[2], move |servers| under(protocol, servers, frozen))
            .case(cases[3], move |servers| under(protocol, servers, described))
            .case(cases[4], move |servers| under(protocol, servers, closes))
            .case(cases[5], move |servers| under(protocol, servers, grows))
            .case(cases[6], move |servers| {
                under(protocol, servers, added_unseen)
            });
    }
    suite
        .case("a_message_that_stands_still_is_told_once", stalled)
        .case("partitions_that_were_added_are_told", partitions_added)
        .case(
            "without_a_group_what_was_in_a_partition_before_it_was_heard_of_is_read",
            added_without_group,
        )
        .case("lag_and_age_are_told_of_each_partition", lag)
        .case(
            "a_message_that_is_not_settled_pauses_its_partition_and_no_other",
            paused,
        )
        .run()
}

const CLASSIC: [&str; 7] = [
    "a_classic_static_member_is_back_and_no_partition_moved",
    "a_second_classic_member_of_one_name_takes_over",
    "a_classic_member_that_was_away_goes_on_from_what_is_committed",
    "a_classic_group_is_listed_and_described",
    "a_classic_member_that_closes_while_another_joins_loses_no_verdict",
    "a_classic_group_that_grows_and_is_replaced_loses_no_partition",
    "a_classic_member_reads_what_was_in_a_partition_before_it_heard_of_it",
];
const KIP_848: [&str; 7] = [
    "a_kip_848_static_member_is_back_and_no_partition_moved",
    "a_second_kip_848_member_of_one_name_is_refused",
    "a_kip_848_member_that_was_away_goes_on_from_what_is_committed",
    "a_kip_848_group_is_listed_and_described",
    "a_kip_848_member_that_closes_while_another_joins_loses_no_verdict",
    "a_kip_848_group_that_grows_and_is_replaced_loses_no_partition",
    "a_kip_848_member_reads_what_was_in_a_partition_before_it_heard_of_it",
];

async fn named(servers: String) -> Check {
    let release = Release::of(&servers).await?;
    for protocol in [
        None,
        Some(GroupProtocol::Classic),
        Some(GroupProtocol::Consumer),
    ] {
        if protocol.is_some_and(|asked| !release.serves(asked)) {
            kip_848_is_refused(servers.clone()).await?;
            continue;
        }
        let builder = Kafka::builder(&servers);
        let kafka = match protocol {
            Some(protocol) => builder.group_protocol(protocol),
            None => builder,
        };
        let kafka = kafka.connect().await?;
        let expected = protocol.unwrap_or(GroupProtocol::Classic);
        same(kafka.group_protocol(), expected, "protocol")?;
        let name = match expected {
            GroupProtocol::Consumer => "group protocol consumer",
            _ => "group protocol classic",
        };
        check(kafka.product().contains(name), kafka.product())?;
    }
    Ok(())
}

/// Ten times one member closes while another one joins, at moments spread over the heartbeat by which the third one hears of it:
/// until then all wait for that, and the group takes no commit of whoever has not joined again.
async fn closes(servers: String, protocol: GroupProtocol) -> Check {
    let connect = || {
        let builder = Kafka::builder(&servers).group_protocol(protocol);
        builder.partitions(6).connect()
    };
    let queue = Destination::queue(unique("closes"));
    let kafka = connect().await?;
    kafka.declare(&queue).await?;
    let mut member = opened(&kafka, &queue).await?;
    let mut stays = opened(&connect().await?, &queue).await?;
    let done = Arc::new(Done::default());
    let staying = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            while let Some(delivery) = stays.receive().await? {
                done.settle(delivery)?;
            }
            Ok::<_, Failure>(())
        }
    });
    let publisher = kafka.publisher();
    for round in 0..ROUNDS {
        let (next, to) = (connect().await?, queue.clone());
        let joining = tokio::spawn(async move { opened(&next, &to).await });
        let texts = (0..PER_ROUND).map(|n| (round * PER_ROUND + n).to_string());
        let messages = texts.map(|text| Message::new(text.clone()).key(text).build());
        let batch = publisher.publish_batch(&queue, messages.collect());
        batch.await.all_confirmed()?;
        let until = Instant::now() + Duration::from_millis(330) * round;
        let mut held = Vec::new();
        while let Ok(received) = timeout_at(until, member.receive()).await {
            held.extend(received?);
        }
        // So that there is something to commit at the close.
        for delivery in held {
            done.settle(delivery)?;
        }
        within(30, member.close()).await??;
        member = joining.await??;
    }
    let rest = async {
        while done.count() < ROUNDS * PER_ROUND {
            if let Ok(received) = timeout(Duration::from_millis(100), member.receive()).await {
                received?
                    .map(|delivery| done.settle(delivery))
                    .transpose()?;
            }
        }
        Ok::<_, Failure>(())
    };
    within(60, rest).await??;
    check(!staying.is_finished(), "the third one goes on")?;
    staying.abort();
    let again = std::mem::take(&mut *done.again.lock().expect("no panic"));
    same(again, vec![], "what was settled and came again")
}

/// A deployment: members join one after the other, then each is replaced. No partition is lost on the way, nothing that was settled
/// comes again, and no join waits for a heartbeat, which with this session comes every 10 s.
async fn grows(servers: String, protocol: GroupProtocol) -> Check {
    let connect = || {
        let builder = Kafka::builder(&servers).group_protocol(protocol);
        let builder = builder.session_timeout(Duration::from_secs(30));
        builder.partitions(12).connect()
    };
    let kafka = connect().await?;
    let queue = Destination::queue(unique("grows"));
    kafka.declare(&queue).await?;
    let (done, stop) = (Arc::new(Done::default()), CancellationToken::new());
    let publishing = tokio::spawn(publish_all(kafka, queue.clone(), stop.clone()));
    let lost = Arc::new(Mutex::new(Vec::new()));
    let mut members = VecDeque::new();
    for member in 0..MEMBERS * 2 {
        if member >= MEMBERS
            && let Some((leaves, task)) = members.pop_front()
        {
            CancellationToken::cancel(&leaves);
            within(30, task).await???;
        }
        let begun = Instant::now();
        let kafka = connect().await?;
        tokio::spawn(note_lost(kafka.events(), Arc::clone(&lost)));
        let consumer = opened(&kafka, &queue).await?;
        let took = begun.elapsed();
        check(
            took < JOIN,
            format!("member {member} joined after {took:?}"),
        )?;
        let leaves = CancellationToken::new();
        let task = settle_all(kafka, consumer, Arc::clone(&done), leaves.clone());
        members.push_back((leaves, tokio::spawn(task)));
    }
    stop.cancel();
    let published = within(30, publishing).await???;
    let rest = async {
        while done.count() < published {
            sleep(Duration::from_millis(50)).await;
        }
    };
    within(30, rest).await?;
    for (leaves, task) in members {
        leaves.cancel();
        within(30, task).await???;
    }
    let lost = std::mem::take(&mut *lost.lock().expect("no panic"));
    same(lost, vec![], "lost partitions")?;
    let again = std::mem::take(&mut *done.again.lock().expect("no panic"));
    same(again, vec![], "what was settled and came again")
}

/// A message to each partition every 100 ms; tells how many.
async fn publish_all(kafka: Kafka, queue: Destination, stop: CancellationToken) -> Check<u32> {
    let (publisher, mut count) = (kafka.publisher(), 0);
    while !stop.is_cancelled() {
        for partition in 0..12 {
            let message = Message::new(count.to_string());
            let to = publisher.partition(partition);
            to.publish(&queue, message).await?;
            count += 1;
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(count)
}

async fn note_lost(mut events: KafkaEvents, lost: Arc<Mutex<Vec<u32>>>) {
    while let Some(event) = events.next().await {
        if let KafkaEvent::Lost { partitions, .. } = event {
            lost.lock().expect("no panic").extend(partitions);
        }
    }
}

async fn settle_all(
    kafka: Kafka,
    mut consumer: KafkaConsumer,
    done: Arc<Done>,
    leaves: CancellationToken,
) -> Check {
    while let Some(received) = leaves.run_until_cancelled(consumer.receive()).await {
        let delivery = received?.ok_or_else(|| Failure::new("the consumer is gone"))?;
        done.settle(delivery)?;
    }
    consumer.close().await?;
    Ok(kafka.close().await?)
}

const MEMBERS: usize = 5;
/// Two rounds of the group, and what a busy machine makes of them.
const JOIN: Duration = Duration::from_secs(9);
const ROUNDS: u32 = 10;
const PER_ROUND: u32 = 40;

/// What was settled by any member.
#[derive(Default)]
struct Done {
    once: Mutex<BTreeSet<String>>,
    again: Mutex<Vec<String>>,
}

impl Done {
    fn settle(&self, delivery: Delivery) -> Check {
        let text = text(&delivery);
        match delivery.ack() {
            // It comes to another one.
            Err(error) if error.kind() == ErrorKind::Stale => {}
            settled => {
                settled?;
                self.add(text);
            }
        }
        Ok(())
    }

    fn add(&self, text: String) {
        if !self.once.lock().expect("no panic").insert(text.clone()) {
            self.again.lock().expect("no panic").push(text);
        }
    }

    fn count(&self) -> u32 {
        self.once.lock().map_or(0, |once| once.len() as u32)
    }
}

/// A connection of a static member.
fn builder(servers: &str, protocol: GroupProtocol, name: &str) -> KafkaBuilder {
    Kafka::builder(servers)
        .group_protocol(protocol)
        .partitions(4)
        .session_timeout(Duration::from_secs(20))
        .instance_id(name)
}

async fn opened(kafka: &Kafka, queue: &Destination) -> Check<KafkaConsumer> {
    within(80, open(kafka, queue)).await?
}

/// Waits until the consumer has so many partitions.
async fn has(consumer: &KafkaConsumer, count: usize) -> Check<Vec<u32>> {
    let mut assignment = consumer.assignment();
    let found = async {
        let mut now = assignment.partitions();
        while now.len() != count {
            let changed = assignment.changed().await;
            now = changed.ok_or_else(|| Failure::new("the consumer is gone"))?;
        }
        Ok(now)
    };
    within(70, found).await?
}

/// The next event that is a change of partitions.
fn moves(event: &KafkaEvent) -> bool {
    matches!(
        event,
        KafkaEvent::Assigned { .. } | KafkaEvent::Revoked { .. } | KafkaEvent::Lost { .. }
    )
}

async fn restart(servers: String, protocol: GroupProtocol) -> Check {
    let queue = Destination::queue(unique("static"));
    let stays = builder(&servers, protocol, "stays").connect().await?;
    stays.declare(&queue).await?;
    let other = opened(&stays, &queue).await?;
    let goes = builder(&servers, protocol, "goes").connect().await?;
    let consumer = opened(&goes, &queue).await?;
    let (kept, had) = (has(&other, 2).await?, has(&consumer, 2).await?);
    let mut events = stays.events();
    let again = builder(&servers, protocol, "goes").connect().await?;
    consumer.close().await?;
    goes.close().await?;
    // Longer than a heartbeat, so that the other one would know by now; the broker's session is 10 s.
    sleep(Duration::from_secs(2)).await;
    let consumer = opened(&again, &queue).await?;
    same(
        has(&consumer, 2).await?,
        had,
        "partitions after the restart",
    )?;
    sleep(Duration::from_secs(3)).await;
    same(has(&other, 2).await?, kept, "partitions of the other one")?;
    drop((other, stays.close().await?));
    drop(stays);
    // What the other one was told: nothing but its own close.
    let mut told = Vec::new();
    while let Ok(Some(event)) = within(5, events.next()).await {
        told.push(event);
    }
    let moved: Vec<&KafkaEvent> = told.iter().filter(|event| moves(event)).collect();
    let close = matches!(moved[..], [] | [KafkaEvent::Revoked { .. }]);
    check(close, format!("the other one was told {moved:?}"))
}

async fn duplicate(servers: String, protocol: GroupProtocol) -> Check {
    let queue = Destination::queue(unique("twice"));
    let first = builder(&servers, protocol, "same").connect().await?;
    first.declare(&queue).await?;
    let mut older = opened(&first, &queue).await?;
    has(&older, 4).await?;
    let second = builder(&servers, protocol, "same").connect().await?;
    let (mut older_told, mut newer_told) = (first.events(), second.events());
    let source = Subscription::queue(queue.name().clone());
    let newer = within(90, second.consumer(&source, ConsumePlan::new())).await?;
    let (error, told) = match protocol {
        GroupProtocol::Consumer => {
            let error = newer.expect_err("refused");
            same(error.kind(), ErrorKind::InUse, "kind")?;
            has(&older, 4).await?;
            (error, &mut newer_told)
        }
        _ => {
            has(&newer?, 4).await?;
            let error = within(60, older.receive()).await?.expect_err("fenced");
            same(error.kind(), ErrorKind::Lost, "kind")?;
            (error, &mut older_told)
        }
    };
    same(error.retry(), RetryAdvice::Never, "advice")?;
    check(error.to_string().contains("instance id"), error.to_string())?;
    fenced(told).await
}

async fn fenced(events: &mut KafkaEvents) -> Check {
    let told = async {
        while let Some(event) = events.next().await {
            if matches!(event, KafkaEvent::Fenced { .. }) {
                return Ok(());
            }
        }
        Err(Failure::new("it was not told"))
    };
    within(20, told).await?
}

/// A member whose link is frozen for longer than its session: another one takes over, and the first
/// comes back, with a newer epoch, to what was committed meanwhile (K22).
async fn frozen(servers: String, protocol: GroupProtocol) -> Check {
    let queue = Destination::queue(unique("frozen"));
    let kafka = Kafka::builder(&servers)
        .group_protocol(protocol)
        .partitions(1)
        .connect()
        .await?;
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..20).await?;
    let proxy = Proxy::start_kafka(&servers).await?;
    let away = Kafka::builder(proxy.servers())
        .group_protocol(protocol)
        .session_timeout(Duration::from_secs(6))
        .connect()
        .await?;
    let mut first = opened(&away, &queue).await?;
    let mut events = away.events();
    let mut held = take(&mut first, 20).await?;
    for delivery in held.drain(..5) {
        delivery.ack()?;
    }
    first.settled().await?;
    proxy.set(Direction::Both, Fault::BlackHole);

    let mut second = within(90, open(&kafka, &queue)).await??;
    let taken = take(&mut second, 15).await?;
    same(
        text(&taken[0]),
        "5".to_owned(),
        "what comes first elsewhere",
    )?;
    let mut rest = Vec::new();
    for delivery in taken {
        match rest.len() {
            10.. => rest.push(Some(delivery)),
            _ => {
                delivery.ack()?;
                rest.push(None);
            }
        }
    }
    second.settled().await?;
    // Marked here, and never heard of by the broker.
    for delivery in held {
        let _ = delivery.ack();
    }
    proxy.clear();
    let lost = async {
        while let Some(event) = events.next().await {
            if matches!(event, KafkaEvent::Lost { .. }) {
                return Ok(());
            }
        }
        Err(Failure::new("it was not told that its partition is lost"))
    };
    within(60, lost).await??;
    drop(rest);
    second.close().await?;
    // 0 to 14 are done; 15 to 19 come again, and nothing else.
    let again = take(&mut first, 5).await?;
    let found: BTreeSet<String> = again.iter().map(text).collect();
    let expected = (15..20).map(|n| n.to_string()).collect();
    same(found, expected, "what comes when it is back")?;
    support::quiet(&mut first).await
}

async fn described(servers: String, protocol: GroupProtocol) -> Check {
    let queue = Destination::queue(unique("described"));
    let kafka = builder(&servers, protocol, "a-name").connect().await?;
    kafka.declare(&queue).await?;
    let groups = kafka.groups();
    let missing = groups.describe(queue.name()).await.expect_err("no group");
    same(missing.kind(), ErrorKind::NotFound, "kind")?;
    fill(&kafka, &queue, 0..10).await?;
    let mut consumer = opened(&kafka, &queue).await?;
    has(&consumer, 4).await?;
    let taken = take(&mut consumer, 10).await?;
    for delivery in taken.into_iter().take(4) {
        delivery.ack()?;
    }
    consumer.settled().await?;

    let listed = groups.list().await?;
    let ours = listed.iter().find(|group| group.name == **queue.name());
    let ours = ours.ok_or_else(|| Failure::new("the group is not listed"))?;
    same(ours.protocol, Some(protocol), "protocol in the list")?;
    let found = groups.describe(queue.name()).await?;
    same(found.protocol, Some(protocol), "protocol")?;
    same(found.state.as_str(), "Stable", "state")?;
    let assignor = match protocol {
        GroupProtocol::Consumer => "uniform",
        _ => "cooperative-sticky",
    };
    same(found.assignor.as_deref(), Some(assignor), "assignor")?;
    let [member] = &found.members[..] else {
        return Err(Failure::new(format!("members: {:?}", found.members)));
    };
    same(member.instance_id.as_deref(), Some("a-name"), "instance id")?;
    same(member.client.as_str(), "mq-kafka", "client")?;
    let assignment = member.assignment.get(&**queue.name()).cloned();
    same(assignment, Some(vec![0, 1, 2, 3]), "assignment")?;
    let filled = found.places.iter().find(|place| place.end == Some(10));
    let filled = filled.ok_or_else(|| Failure::new(format!("places: {:?}", found.places)))?;
    same(
        (filled.committed, filled.lag),
        (4, Some(6)),
        "committed and lag",
    )?;
    Ok(consumer.close().await?)
}

async fn stalled(servers: String) -> Check {
    let kafka = Kafka::builder(&servers)
        .stalled_after(Duration::from_secs(3))
        .partitions(1)
        .connect()
        .await?;
    let queue = Destination::queue(unique("stalled"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..2).await?;
    let mut events = kafka.events();
    let mut consumer = open(&kafka, &queue).await?;
    let mut held = take(&mut consumer, 2).await?;
    let mut next = async || loop {
        match events.next().await {
            Some(KafkaEvent::Stalled {
                partition, offset, ..
            }) => return Ok((partition, offset)),
            Some(_) => {}
            None => return Err(Failure::new("no more events")),
        }
    };
    same(
        within(30, next()).await??,
        (0, 0),
        "the first that stands still",
    )?;
    check(
        within(8, next()).await.is_err(),
        "what stands still is told once",
    )?;
    held.remove(0).ack()?;
    same(
        within(30, next()).await??,
        (0, 1),
        "the next that stands still",
    )
}

async fn partitions_added(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(2).connect().await?;
    let queue = Destination::queue(unique("added"));
    kafka.declare(&queue).await?;
    let _consumer = open(&kafka, &queue).await?;
    let mut events = kafka.events();
    let bare = Bare::connect(&servers).await?;
    bare.add_partitions(queue.name(), 3).await?;
    let told = async {
        while let Some(event) = events.next().await {
            if let KafkaEvent::PartitionsChanged { before, now, .. } = event {
                return Ok((before, now));
            }
        }
        Err(Failure::new("no more events"))
    };
    same(
        within(30, told).await??,
        (2, 3),
        "partitions before and now",
    )?;
    // Whoever set a number is told by `verify` that keys lie elsewhere now.
    let verified = kafka.verify(&queue).await.expect_err("one more");
    same(verified.kind(), ErrorKind::Mismatch, "kind")
}

/// Partitions that are added and written to while the only member cannot be reached, and while there is none: they are read from
/// their beginning, also by a subscription that began where its topic ended.
async fn added_unseen(servers: String, protocol: GroupProtocol) -> Check {
    let builder = Kafka::builder(&servers).group_protocol(protocol);
    let kafka = builder.partitions(1).connect().await?;
    let topic = Destination::topic(unique("unseen"));
    kafka.declare(&topic).await?;
    let earlier = kafka.publisher();
    earlier.publish(&topic, Message::new("earlier")).await?;
    let source = Subscription::durable(topic.name().clone(), "reader");
    kafka.declare(&source).await?;
    let proxy = Proxy::start_kafka(&servers).await?;
    let builder = Kafka::builder(proxy.servers()).group_protocol(protocol);
    let away = builder.connect().await?;
    let plan = || ConsumePlan::new().dead_letters(DeadLetters::None);
    let mut consumer = within(80, away.consumer(&source, plan())).await??;
    has(&consumer, 1).await?;

    proxy.set(Direction::Both, Fault::BlackHole);
    add_and_write(&servers, &topic, 1).await?;
    same(consumer.assignment().partitions(), vec![0], "not heard of")?;
    proxy.clear();
    read_all(&mut consumer, 1).await?;
    within(30, consumer.close()).await??;
    add_and_write(&servers, &topic, 2).await?;
    let mut consumer = within(80, kafka.consumer(&source, plan())).await??;
    read_all(&mut consumer, 2).await?;
    within(30, consumer.close()).await??;
    let mut next = within(80, kafka.consumer(&source, plan())).await??;
    support::quiet(&mut next).await
}

/// The same without a group, which begins at the end of what is there.
async fn added_without_group(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(1).connect().await?;
    let topic = Destination::topic(unique("unseen"));
    kafka.declare(&topic).await?;
    let earlier = kafka.publisher();
    earlier.publish(&topic, Message::new("earlier")).await?;
    let proxy = Proxy::start_kafka(&servers).await?;
    let away = Kafka::connect(proxy.servers()).await?;
    let source = Subscription::ephemeral(topic.name().clone());
    let mut consumer = away.consumer(&source, ConsumePlan::new()).await?;
    proxy.set(Direction::Both, Fault::BlackHole);
    add_and_write(&servers, &topic, 1).await?;
    proxy.clear();
    read_all(&mut consumer, 1).await
}

/// Reads all of what is in a partition that was added, and nothing else.
async fn read_all(consumer: &mut KafkaConsumer, partition: u32) -> Check {
    let mut found = Vec::new();
    for delivery in take(consumer, ADDED).await? {
        let at = delivery.position().expect("a position").partition;
        found.push((at, text(&delivery)));
        delivery.ack()?;
    }
    let expected = (0..ADDED).map(|n| (partition, n.to_string()));
    same(found, expected.collect(), "what is read of it")?;
    support::quiet(consumer).await
}

/// Adds a partition of this number, and writes to it as soon as it is there.
async fn add_and_write(servers: &str, topic: &Destination, partition: u32) -> Check {
    let bare = Bare::connect(servers).await?;
    let total = i32::try_from(partition)? + 1;
    bare.add_partitions(topic.name(), total).await?;
    let kafka = Kafka::connect(servers).await?;
    let to = kafka.publisher().partition(partition);
    let written = async {
        for n in 0..ADDED {
            // The brokers themselves hear of it a moment later.
            while let Err(error) = to.publish(topic, Message::new(n.to_string())).await {
                same(error.kind(), ErrorKind::Config, &error.to_string())?;
            }
        }
        Ok(())
    };
    within(20, written).await?
}

const ADDED: usize = 20;

async fn lag(servers: String) -> Check {
    const STALLED: Duration = Duration::from_secs(2);
    let builder = Kafka::builder(&servers).partitions(2);
    let kafka = builder.stalled_after(STALLED).connect().await?;
    let mut events = kafka.events();
    let queue = Destination::queue(unique("lag"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..30).await?;
    let source = Subscription::queue(queue.name().clone());
    let plan = ConsumePlan::new().prefetch(10);
    let mut consumer = kafka.consumer(&source, plan).await?;
    let taken = take(&mut consumer, 10).await?;
    for delivery in taken.into_iter().take(4) {
        delivery.ack()?;
    }
    consumer.settled().await?;
    let seen = async {
        loop {
            let now = consumer.progress();
            if now.partitions.iter().all(|p| p.end.is_some()) && now.partitions.len() == 2 {
                return now;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    let now = within(30, seen).await?;
    let lags: Vec<u64> = kafka.progress().iter().map(|p| p.lag()).collect();
    same(lags, vec![26], "what the connection says")?;
    same(&*now.subscription, &**queue.name(), "subscription")?;
    same(now.lag(), 26, "lag of all")?;
    let filled = now.partitions.iter().find(|p| p.lag != Some(0));
    let filled = filled.ok_or_else(|| Failure::new("no lag"))?;
    let found = (filled.committed, filled.done_below, filled.next, filled.end);
    same(found, (4, 4, 30, Some(30)), "committed, done, read, end")?;
    same(filled.open, 26, "open")?;
    let age = now.oldest().ok_or_else(|| Failure::new("no age"))?;
    check(age < Duration::from_secs(120), format!("an age of {age:?}"))?;
    // An open transaction's records are not to be read: the end is below them.
    let writer = bare_transaction(&servers, queue.name()).await?;
    let unstable = |of: &KafkaConsumer| -> u64 {
        let of = of.progress().partitions.into_iter();
        of.filter_map(|p| p.unstable).sum()
    };
    let told = async {
        loop {
            match events.next().await {
                Some(KafkaEvent::TransactionOpen { offset, time, .. }) => {
                    return (offset, time);
                }
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    };
    let (offset, time) = within(30, told).await?;
    same(offset, 30, "where the transaction began")?;
    check(time > STALLED, format!("told after {time:?}"))?;
    same(
        unstable(&consumer),
        1,
        "offsets behind the open transaction",
    )?;
    same(consumer.progress().lag(), 26, "lag with a transaction open")?;
    writer.commit().await?;
    kafka
        .publisher()
        .publish(&queue, Message::new("last").key("one"))
        .await?;
    sleep(Duration::from_secs(7)).await;
    // Two records, and the mark of the transaction's end.
    same(consumer.progress().lag(), 29, "lag behind the transaction")?;
    same(unstable(&consumer), 0, "offsets behind no transaction")?;
    drop(consumer);
    within(30, async {
        while !kafka.progress().is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
}

/// 20,000 messages of a partition are open at most; then it is not fetched, and the others are.
async fn paused(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(2).connect().await?;
    let queue = Destination::queue(unique("paused"));
    kafka.declare(&queue).await?;
    let publisher = kafka.publisher();
    publisher
        .partition(0)
        .publish(&queue, Message::new("held"))
        .await?;
    let many = || {
        (0..30_000_u32)
            .map(|n| Message::new(n.to_string()).build())
            .collect()
    };
    let full = publisher.partition(0).publish_batch(&queue, many()).await;
    full.all_confirmed()?;
    let mut consumer = open(&kafka, &queue).await?;
    let mut deliveries = Vec::new();
    let mut held = None;
    let mut seen = [0_usize; 2];
    let mut work = async |consumer: &mut KafkaConsumer, held: &mut Option<Delivery>| {
        loop {
            let taken = consumer.receive_many(&mut deliveries, 1000);
            match tokio::time::timeout(Duration::from_secs(5), taken).await {
                Err(_) => return Ok::<_, Failure>(seen),
                Ok(taken) => taken?,
            };
            for delivery in deliveries.drain(..) {
                let at = delivery.position().expect("a position").partition;
                seen[at as usize] += 1;
                match text(&delivery) == "held" {
                    true => *held = Some(delivery),
                    false => delivery.ack()?,
                }
            }
        }
    };
    let before = within(60, work(&mut consumer, &mut held)).await??;
    check(
        (20_000..27_000).contains(&before[0]),
        format!("{before:?} came while one was held"),
    )?;
    let other = publisher.partition(1).publish_batch(&queue, many()).await;
    other.all_confirmed()?;
    let other = within(60, work(&mut consumer, &mut held)).await??;
    same(other, [before[0], 30_000], "while one of the first is held")?;
    held.take().expect("it came").ack()?;
    let all = within(60, work(&mut consumer, &mut held)).await??;
    same(all, [30_001, 30_000], "when it is settled")
}

/// A transaction with one record, still open.
async fn bare_transaction(servers: &str, topic: &str) -> Check<TransactionalProducer> {
    let bare = krafka::Kafka::builder(servers).connect().await?;
    let writer = bare.producer().build_transactional(unique("lag")).await?;
    writer.begin()?;
    let record = Record::new(topic, "within").key("one");
    let _ = writer.send(record).await?;
    Ok(writer)
}
