//! What a cluster of three RabbitMQ nodes promises, seen to hold while nodes are killed; below each promise its weaker twin.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use mq_amqp::{Amqp, QueueSettings};
use mq_chaos::{cluster::rabbitmq, containers::Node};
use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Message, Publisher,
    Subscription,
};
use mq_testkit::{
    Check, Failure, Suite, broker_address,
    checker::{Claim, Verdict},
};
use support::{
    patiently,
    story::{Published, Story},
    told, unique,
};
use tokio::sync::oneshot;

fn main() -> ExitCode {
    let urls = broker_address("MQ_CLUSTER_RABBITMQ_URLS");
    Suite::new("promises-of-brokers-cluster", "mq-amqp", urls)
        .deadline(Duration::from_secs(300))
        .case(
            "a_quorum_queue_survives_the_loss_of_its_leader_while_publishing",
            leader,
        )
        .case(
            "a_classic_queue_is_unavailable_while_its_node_is_down",
            classic,
        )
        .case(
            "without_a_majority_a_quorum_queue_confirms_nothing_and_loses_nothing",
            majority,
        )
        .run()
}

/// The nodes of the cluster, each with its address.
struct Cluster {
    urls: Vec<String>,
    nodes: Vec<Node>,
}

impl Cluster {
    async fn of(urls: &str) -> Check<Self> {
        let project = told("MQ_CLUSTER_PROJECT")?;
        let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
        let mut nodes = Vec::new();
        for number in 1..=urls.len() {
            nodes.push(Node::of(&project, &format!("rabbitmq-{number}")).await?);
        }
        let cluster = Self { urls, nodes };
        // What the case before did to a node may not be over.
        for at in 0..cluster.urls.len() {
            cluster.connect(at).await?;
        }
        Ok(cluster)
    }

    async fn connect(&self, at: usize) -> Check<Amqp> {
        patiently("a node", || Amqp::connect(&self.urls[at])).await
    }

    /// The place of the node that leads this queue, as the node at `asked` sees it.
    async fn leader(&self, asked: usize, queue: &str) -> Check<usize> {
        Ok(rabbitmq::leader(&self.nodes[asked], queue).await?)
    }
}

async fn leader(urls: String) -> Check {
    let mut cluster = Cluster::of(&urls).await?;
    let queue = unique("replicated");
    let to = Destination::queue(queue.as_str());
    cluster.connect(0).await?.declare(&to).await?;
    let lost = cluster.leader(0, &queue).await?;
    let story = Story::begin("leader")?;
    // The producer is connected to the very node that is lost.
    let broker = cluster.connect(lost).await?;
    let publisher = broker.publisher();
    let (many, enough) = oneshot::channel();
    let mut many = Some(many);
    let publishing = story.publish_until(&publisher, &to, |published| {
        if published.confirmed >= MANY
            && let Some(many) = many.take()
        {
            let _ = many.send(());
        }
        false
    });
    let node = &mut cluster.nodes[lost];
    let killing = async {
        enough
            .await
            .map_err(|_| Failure::new("too few were confirmed before the end"))?;
        story.fault("kill of the leader")?;
        Ok::<_, Failure>(node.kill().await?)
    };
    let (before, killed) = tokio::join!(publishing, killing);
    killed?;
    let before = before?;
    let killed = Instant::now();
    // Publishing goes on through another node.
    let other = (lost + 1) % 3;
    let broker = cluster.connect(other).await?;
    let after = patiently("a confirmed publish through another node", || async {
        let published = story.publish(&broker.publisher(), &to, 1).await;
        match published {
            Ok(published) if published.confirmed == 1 => Ok(published),
            other => Err(refused(format!("{other:?}"))),
        }
    })
    .await?;
    let gap = killed.elapsed();
    let rest = story.publish(&broker.publisher(), &to, MANY).await?;
    assert_eq!(
        rest,
        Published {
            confirmed: MANY,
            ..Published::default()
        }
    );
    assert_ne!(cluster.leader(other, &queue).await?, lost);
    cluster.nodes[lost].start().await?;
    story.healed("kill of the leader")?;
    // Read through the node that was lost.
    let broker = cluster.connect(lost).await?;
    patiently("the queue", || readable(&broker, &queue)).await?;
    story.read(&broker, &queue).await?;
    let report = story.end(Claim::at_least_once(), &[&queue])?;
    eprintln!("publishing went on {gap:?} after the leader was dead");
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    let confirmed = before.confirmed + after.confirmed + rest.confirmed;
    assert_eq!(report.counts().confirmed, confirmed, "{report}");
    Ok(())
}

async fn classic(urls: String) -> Check {
    let mut cluster = Cluster::of(&urls).await?;
    let queue = unique("on-one-node");
    let to = Destination::queue(queue.as_str());
    let declaring = Amqp::builder()
        .url(&cluster.urls[0])?
        .queue(queue.as_str(), QueueSettings::classic())
        .connect()
        .await?;
    declaring.declare(&to).await?;
    assert_eq!(
        cluster.leader(0, &queue).await?,
        0,
        "a classic queue is on the node that declared it"
    );
    let story = Story::begin("on-one-node")?;
    let broker = cluster.connect(1).await?;
    let before = story.publish(&broker.publisher(), &to, MANY).await?;
    assert_eq!(before.confirmed, MANY);
    story.fault("kill of its node")?;
    cluster.nodes[0].kill().await?;
    // The nodes that live know that the queue is on a dead one.
    let broker = cluster.connect(2).await?;
    let during = story.publish(&broker.publisher(), &to, 20).await?;
    assert_eq!(during.confirmed, 0, "{during:?}");
    let published = broker.publisher().publish(&to, Message::new("x")).await;
    let opened = readable(&broker, &queue).await;
    eprintln!("while its node is down: publish {published:?}, consume {opened:?}, {during:?}");
    let kind = |error: Option<mq_core::Error>| error.map(|error| error.kind());
    assert_eq!(kind(published.err()), Some(ErrorKind::Rejected));
    // The broker does not answer; the consumer that was asked for takes nothing later.
    assert_eq!(kind(opened.err()), Some(ErrorKind::Timeout));
    cluster.nodes[0].start().await?;
    story.healed("kill of its node")?;
    let broker = cluster.connect(0).await?;
    patiently("the queue", || readable(&broker, &queue)).await?;
    story.read(&broker, &queue).await?;
    let report = story.end(Claim::at_least_once(), &[&queue])?;
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    assert_eq!(report.counts().confirmed, MANY);
    Ok(())
}

async fn majority(urls: String) -> Check {
    let mut cluster = Cluster::of(&urls).await?;
    let queue = unique("majority");
    let to = Destination::queue(queue.as_str());
    cluster.connect(0).await?.declare(&to).await?;
    let story = Story::begin("majority")?;
    let broker = Amqp::builder()
        .url(&cluster.urls[0])?
        .publish_timeout(Duration::from_secs(10))
        .connect()
        .await?;
    let before = story.publish(&broker.publisher(), &to, MANY).await?;
    assert_eq!(before.confirmed, MANY);
    story.fault("kill of two nodes")?;
    cluster.nodes[1].kill().await?;
    cluster.nodes[2].kill().await?;
    let during = story.publish(&broker.publisher(), &to, 20).await?;
    eprintln!("without a majority: {during:?}");
    assert_eq!(during.confirmed, 0, "{during:?}");
    for node in 1..3 {
        cluster.nodes[node].start().await?;
    }
    story.healed("kill of two nodes")?;
    let broker = cluster.connect(1).await?;
    patiently("the queue", || readable(&broker, &queue)).await?;
    story.read(&broker, &queue).await?;
    let report = story.end(Claim::at_least_once(), &[&queue])?;
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    assert_eq!(report.counts().confirmed, MANY);
    Ok(())
}

/// Opens a consumer, and closes it.
async fn readable(broker: &Amqp, queue: &str) -> mq_core::Result<()> {
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let consumer = broker.consumer(&Subscription::queue(queue), plan).await?;
    consumer.close().await
}

fn refused(text: String) -> mq_core::Error {
    mq_core::Error::new(ErrorKind::Broker, "publish", text)
}

/// Confirmed before a node is killed.
const MANY: u64 = 1_000;
