//! What three Kafka nodes promise, seen to hold while nodes are killed; below each promise its
//! weaker twin, which loses what it is said to lose.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Message, Publisher,
    Subscription,
};
use mq_kafka::{GroupProtocol, Kafka, TopicSettings, WeakTopics};
use mq_testkit::{
    Check, Failure, Suite, broker_address,
    checker::{Claim, Class, Report, Verdict},
};
use support::{
    cluster::Cluster,
    patiently,
    story::{Published, Story},
    unique,
};
use tokio::sync::oneshot;

fn main() -> ExitCode {
    Suite::new(
        "promises-of-brokers-cluster",
        "mq-kafka",
        broker_address("MQ_CLUSTER_KAFKA_SERVERS"),
    )
    .deadline(Duration::from_secs(400))
    .case(
        "confirmed_messages_survive_the_kill_of_the_leader_during_publishing",
        leader_killed,
    )
    .case(
        "messages_confirmed_by_the_leader_alone_are_lost_with_it",
        leader_only,
    )
    .case(
        "what_no_follower_has_is_unknown_and_never_confirmed",
        all_in_the_same_recipe,
    )
    .case(
        "nothing_is_confirmed_while_two_of_three_nodes_are_killed",
        two_killed,
    )
    .case("a_share_group_goes_on_under_another_leader", share_group)
    .case("too_few_replicas_in_sync_confirm_nothing", too_few_in_sync)
    .case(
        "with_one_replica_in_sync_a_confirmed_message_has_one_copy",
        one_in_sync,
    )
    .run()
}

/// With nothing set but the number of partitions: three replicas, two in sync.
async fn leader_killed(servers: String) -> Check {
    let mut cluster = Cluster::of(&servers).await?;
    let (kafka, to) = declared(&cluster, &servers, "leader", TopicSettings::new()).await?;
    let story = Story::begin("leader")?;
    let leader = leader(&cluster, &to).await?;
    let (many, enough) = oneshot::channel();
    let mut many = Some(many);
    let goal = AtomicU64::new(u64::MAX);
    let confirmed = AtomicU64::new(0);
    let publisher = kafka.publisher();
    let publishing = story.publish_until(&publisher, &to, |published| {
        confirmed.store(published.confirmed, Ordering::SeqCst);
        if published.confirmed >= MANY
            && let Some(many) = many.take()
        {
            let _ = many.send(());
        }
        published.confirmed >= goal.load(Ordering::SeqCst)
    });
    let killing = async {
        enough
            .await
            .map_err(|_| Failure::new("too few were confirmed"))?;
        story.fault("kill -9 of the leader")?;
        cluster.nodes[leader].kill().await?;
        // Publishing goes on, under another leader.
        let now = confirmed.load(Ordering::SeqCst);
        goal.store(now + MANY, Ordering::SeqCst);
        Check::Ok(())
    };
    let (published, killed) = tokio::join!(publishing, killing);
    killed?;
    let published = published?;
    assert!(published.confirmed >= 2 * MANY, "{published:?}");
    cluster.nodes[leader].start().await?;
    cluster.whole(to.name()).await?;
    story.healed("kill -9 of the leader")?;
    let report = read(story, &servers, &to).await?;
    holds(&report);
    assert_eq!(report.counts().confirmed, published.confirmed, "{report}");
    // The client resent what the killed leader had not answered, and the broker dropped what it had.
    assert_eq!(report.count(Class::DuplicateEffect), 0, "{report}");
    Ok(())
}

async fn leader_only(servers: String) -> Check {
    let mut cluster = Cluster::of(&servers).await?;
    let (kafka, to) = declared(&cluster, &servers, "weaker", TopicSettings::new()).await?;
    let story = Story::begin("weaker")?;
    let before = story.publish(&kafka.publisher(), &to, MANY).await?;
    all_confirmed(before);
    let weaker = kafka.publisher().leader_only();
    let alone = async |story: &Story| {
        let published = story.publish(&weaker, &to, MANY).await?;
        all_confirmed(published);
        Check::Ok(published)
    };
    let published = without_followers(&mut cluster, &story, &to, alone).await?;
    let after = Kafka::connect(&servers).await?;
    all_confirmed(story.publish(&after.publisher(), &to, MANY).await?);
    let report = read(story, &servers, &to).await?;
    // Only what the leader alone confirmed is gone, and others have its offsets. A follower's fetch
    // that waited at the leader was answered with the first of them before the kill.
    let gone = report.count(Class::Lost) + report.count(Class::Skipped);
    assert!(gone > 0 && gone <= published.confirmed, "{report}");
    assert_eq!(report.verdict(), Verdict::Broken, "{report}");
    let known = [Class::Lost, Class::Skipped, Class::InconsistentOffset];
    assert!(
        report.broken().iter().all(|c| known.contains(c)),
        "{report}"
    );
    eprintln!(
        "{gone} of {} confirmed by the leader alone are gone",
        published.confirmed
    );
    Ok(())
}

async fn all_in_the_same_recipe(servers: String) -> Check {
    let mut cluster = Cluster::of(&servers).await?;
    let (kafka, to) = declared(&cluster, &servers, "unknown", TopicSettings::new()).await?;
    let story = Story::begin("unknown")?;
    let before = story.publish(&kafka.publisher(), &to, MANY).await?;
    all_confirmed(before);
    let impatient = Kafka::builder(&servers)
        .connect_timeout(Duration::from_secs(2))
        .publish_timeout(Duration::from_secs(3))
        .connect()
        .await?;
    let publisher = impatient.publisher();
    // It has looked the topic up then: a look at a paused node would be refused before anything is sent.
    all_confirmed(story.publish(&publisher, &to, 1).await?);
    let unanswered = async |story: &Story| story.publish(&publisher, &to, 40).await;
    let published = without_followers(&mut cluster, &story, &to, unanswered).await?;
    assert_eq!(published.confirmed, 0, "{published:?}");
    assert!(published.unknown > 0, "{published:?}");
    eprintln!("{published:?}");
    let after = Kafka::connect(&servers).await?;
    all_confirmed(story.publish(&after.publisher(), &to, MANY).await?);
    let report = read(story, &servers, &to).await?;
    holds(&report);
    assert_eq!(report.counts().unknown, published.unknown, "{report}");
    Ok(())
}

async fn two_killed(servers: String) -> Check {
    let mut cluster = Cluster::of(&servers).await?;
    let (_, to) = declared(&cluster, &servers, "two", TopicSettings::new()).await?;
    let kafka = Kafka::builder(&servers)
        .publish_timeout(Duration::from_secs(5))
        .connect()
        .await?;
    let story = Story::begin("two")?;
    all_confirmed(story.publish(&kafka.publisher(), &to, MANY).await?);
    let leader = leader(&cluster, &to).await?;
    story.fault("kill -9 of both followers")?;
    for follower in others(leader) {
        cluster.nodes[follower].kill().await?;
    }
    let alone = story.publish(&kafka.publisher(), &to, 40).await?;
    assert_eq!(alone.confirmed, 0, "{alone:?}");
    eprintln!("{alone:?}");
    for follower in others(leader) {
        cluster.nodes[follower].start().await?;
    }
    cluster.whole(to.name()).await?;
    story.healed("kill -9 of both followers")?;
    // The same publisher goes on.
    all_confirmed(story.publish(&kafka.publisher(), &to, MANY).await?);
    holds(&read(story, &servers, &to).await?);
    Ok(())
}

/// The leader of a partition keeps the locks of its share group: with it, they are gone.
async fn share_group(servers: String) -> Check {
    let mut cluster = Cluster::of(&servers).await?;
    let (kafka, to) = declared(&cluster, &servers, "shared", TopicSettings::new()).await?;
    let story = Story::begin("shared")?;
    all_confirmed(story.publish(&kafka.publisher(), &to, MANY).await?);
    let builder = Kafka::builder(&servers).group_protocol(GroupProtocol::Share);
    let shared = builder.connect().await?;
    let plan = ConsumePlan::new()
        .prefetch(40)
        .dead_letters(DeadLetters::None);
    let source = Subscription::queue(to.name().clone());
    let mut consumer = shared.consumer(&source, plan).await?;
    let mut held = Vec::new();
    while held.len() < 20 {
        let next = tokio::time::timeout(Duration::from_secs(30), consumer.receive()).await??;
        held.push(next.ok_or_else(|| Failure::new("the consumer ended"))?);
    }
    let old = leader(&cluster, &to).await?;
    story.fault("kill -9 of the leader")?;
    cluster.nodes[old].kill().await?;
    another_leader(&cluster, &to, old).await?;
    all_confirmed(story.publish(&kafka.publisher(), &to, MANY).await?);
    // Handled once or again: whether a verdict arrives is not known, and what does not comes again.
    for delivery in held {
        story.handled(to.name(), delivery.received())?;
        if let Err(error) = delivery.ack() {
            assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
        }
    }
    // Who had the locks may not answer any more.
    if let Err(error) = consumer.close().await {
        let told = [ErrorKind::Stale, ErrorKind::Timeout].contains(&error.kind());
        assert!(told, "{error}");
    }
    let (came, again) = story.read(&shared, to.name()).await?;
    eprintln!("{came} came after the kill, {again} of them again");
    assert!(came >= 2 * MANY - 20, "{came}");
    cluster.nodes[old].start().await?;
    cluster.whole(to.name()).await?;
    story.healed("kill -9 of the leader")?;
    // A share group keeps no order.
    holds(&story.end(Claim::at_least_once(), &[to.name()])?);
    Ok(())
}

async fn too_few_in_sync(servers: String) -> Check {
    let mut cluster = Cluster::of(&servers).await?;
    let (_, to) = declared(&cluster, &servers, "too-few", TopicSettings::new()).await?;
    let kafka = Kafka::builder(&servers)
        .publish_timeout(Duration::from_secs(5))
        .connect()
        .await?;
    let story = Story::begin("too-few")?;
    all_confirmed(story.publish(&kafka.publisher(), &to, MANY).await?);
    let leader = alone(&mut cluster, &story, &to).await?;
    let refused = kafka.publisher().publish(&to, Message::new("no tag")).await;
    let error = refused.expect_err("one of two");
    eprintln!("{error}");
    // The client asks again until the deadline, and then cannot tell whether it was stored.
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    let published = story.publish(&kafka.publisher(), &to, 40).await?;
    assert_eq!(published.confirmed, 0, "{published:?}");
    back(&mut cluster, &story, &to, leader).await?;
    all_confirmed(story.publish(&kafka.publisher(), &to, MANY).await?);
    let report = read(story, &servers, &to).await?;
    holds(&report);
    Ok(())
}

async fn one_in_sync(servers: String) -> Check {
    let mut cluster = Cluster::of(&servers).await?;
    let weak = TopicSettings::new().min_in_sync_replicas(1);
    let (kafka, to) = declared(&cluster, &servers, "one", weak).await?;
    let strict = Kafka::builder(&servers).weak_topics(WeakTopics::Refuse);
    let refused = strict.connect().await?.verify(&to).await;
    let refused = refused.expect_err("one in sync");
    assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
    let story = Story::begin("one")?;
    all_confirmed(story.publish(&kafka.publisher(), &to, MANY).await?);
    let leader = alone(&mut cluster, &story, &to).await?;
    all_confirmed(story.publish(&kafka.publisher(), &to, MANY).await?);
    // One copy: it takes the only node that has them to read them.
    let alone = |p: &support::cluster::Partition| p.in_sync == 1;
    cluster
        .until("one in sync", to.name(), &[leader], alone)
        .await?;
    back(&mut cluster, &story, &to, leader).await?;
    let report = read(story, &servers, &to).await?;
    holds(&report);
    Ok(())
}

/// A topic of one partition on three nodes, all in sync.
async fn declared(
    cluster: &Cluster,
    servers: &str,
    what: &str,
    settings: TopicSettings,
) -> Check<(Kafka, Destination)> {
    let queue = Destination::queue(unique(what));
    let builder = Kafka::builder(servers).topics(settings.partitions(1));
    let kafka = patiently("the cluster", || builder.clone().connect()).await?;
    patiently("declare", || kafka.declare(&queue)).await?;
    let partition = cluster.whole(queue.name()).await?;
    assert_eq!(partition.replicas, 3);
    Ok((kafka, queue))
}

async fn leader(cluster: &Cluster, to: &Destination) -> Check<usize> {
    let whole = cluster.whole(to.name()).await?;
    whole.leader.ok_or_else(|| Failure::new("no leader"))
}

/// Waits until one of the others leads.
async fn another_leader(cluster: &Cluster, to: &Destination, old: usize) -> Check {
    let from: Vec<usize> = others(old).collect();
    let new = |p: &support::cluster::Partition| p.leader.is_some_and(|leader| leader != old);
    cluster
        .until("another leader", to.name(), &from, new)
        .await?;
    Ok(())
}

fn others(leader: usize) -> impl Iterator<Item = usize> {
    (0..3).filter(move |node| *node != leader)
}

/// Pauses both followers, publishes, kills the leader, lets the followers go on with a leader from
/// among them, and brings the old one back.
async fn without_followers(
    cluster: &mut Cluster,
    story: &Story,
    to: &Destination,
    publish: impl AsyncFnOnce(&Story) -> Check<Published>,
) -> Check<Published> {
    let old = leader(cluster, to).await?;
    story.fault("followers paused, leader killed")?;
    for follower in others(old) {
        cluster.nodes[follower].pause().await?;
    }
    let published = publish(story).await?;
    cluster.nodes[old].kill().await?;
    for follower in others(old) {
        cluster.nodes[follower].unpause().await?;
    }
    another_leader(cluster, to, old).await?;
    cluster.nodes[old].start().await?;
    cluster.whole(to.name()).await?;
    story.healed("followers paused, leader killed")?;
    Ok(published)
}

/// Stops both followers one after the other, so that the leader is the only replica in sync.
async fn alone(cluster: &mut Cluster, story: &Story, to: &Destination) -> Check<usize> {
    let leader = leader(cluster, to).await?;
    story.fault("both followers stopped")?;
    for (left, follower) in others(leader).enumerate() {
        cluster.nodes[follower].stop().await?;
        let fewer = |p: &support::cluster::Partition| p.in_sync == 2 - left;
        cluster
            .until("out of sync", to.name(), &[leader], fewer)
            .await?;
    }
    Ok(leader)
}

async fn back(cluster: &mut Cluster, story: &Story, to: &Destination, leader: usize) -> Check {
    for follower in others(leader) {
        cluster.nodes[follower].start().await?;
    }
    cluster.whole(to.name()).await?;
    story.healed("both followers stopped")
}

/// Reads all there is, and has the history judged.
async fn read(story: Story, servers: &str, to: &Destination) -> Check<Report> {
    let kafka = patiently("the cluster", || Kafka::connect(servers)).await?;
    story.read(&kafka, to.name()).await?;
    story.end(Claim::at_least_once().ordered(), &[to.name()])
}

fn holds(report: &Report) {
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
}

fn all_confirmed(published: Published) {
    let Published {
        confirmed,
        refused,
        unknown,
    } = published;
    assert!(confirmed > 0 && refused + unknown == 0, "{published:?}");
}

/// Confirmed messages before, during or after a fault.
const MANY: u64 = 200;
