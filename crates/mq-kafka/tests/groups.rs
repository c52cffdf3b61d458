//! Members of a group: who has which partitions. On a running Kafka, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use mq_kafka::{
    Assignment, GroupProtocol, Kafka, KafkaConsumer,
    core::{
        Broker, ConsumePlan, Consumer, Destination, ErrorKind, Message, Publisher, Received,
        Subscription, Worker,
    },
};
use mq_testkit::{Check, Failure, Suite, broker_address};
use support::{
    Bare, Own, check, fill, open, queue, quiet, release::under, same, take, text, unique, within,
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let address = broker_address("MQ_KAFKA_SERVERS");
    Suite::new("kafka-groups", "mq-kafka", address)
        // A broker with default settings gives a killed member 45 s.
        .deadline(Duration::from_secs(150))
        .case(
            "three_members_share_six_partitions_through_a_close_and_a_kill",
            |servers| three_members(servers, GroupProtocol::Classic),
        )
        .case(
            "three_kip_848_members_share_six_partitions_through_a_close_and_a_kill",
            |servers| under(GroupProtocol::Consumer, servers, three_members),
        )
        .case("a_member_that_stands_by_has_no_partitions", standing_by)
        .case("an_ephemeral_subscription_has_all_partitions", ephemeral)
        .case(
            "a_consumer_whose_topic_is_gone_has_no_partitions",
            |servers| lost_topic(servers, GroupProtocol::Classic),
        )
        .case(
            "a_kip_848_consumer_whose_topic_is_gone_has_no_partitions",
            |servers| under(GroupProtocol::Consumer, servers, lost_topic),
        )
        .case("a_consumer_whose_runtime_is_gone_says_so", lost_runtime)
        .case(
            "a_settlement_after_the_partition_moved_is_stale",
            |servers| stale_after_revoke(servers, GroupProtocol::Classic),
        )
        .case(
            "a_settlement_after_the_kip_848_partition_moved_is_stale",
            |servers| under(GroupProtocol::Consumer, servers, stale_after_revoke),
        )
        .case(
            "what_ends_while_partitions_are_taken_does_not_come_again",
            |servers| ends_in_time(servers, GroupProtocol::Classic),
        )
        .case(
            "what_ends_while_kip_848_partitions_are_taken_does_not_come_again",
            |servers| under(GroupProtocol::Consumer, servers, ends_in_time),
        )
        .case(
            "what_ends_while_its_worker_stops_does_not_come_again",
            |servers| stops_in_time(servers, GroupProtocol::Classic),
        )
        .case(
            "what_ends_while_its_kip_848_worker_stops_does_not_come_again",
            |servers| under(GroupProtocol::Consumer, servers, stops_in_time),
        )
        .case("the_classic_group_protocol_resumes_too", classic_protocol)
        .run()
}

async fn three_members(servers: String, protocol: GroupProtocol) -> Check {
    let kafka = Kafka::builder(&servers).partitions(6).connect().await?;
    let queue = Destination::queue(unique("three"));
    kafka.declare(&queue).await?;
    let seen = Arc::new(Seen::default());
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(Member::start(&servers, protocol, &queue, &seen).await?);
    }
    shared(&mut members, 2).await?;

    // One publishes on and on, so that each change happens under way.
    let published = Arc::new(Mutex::new(0_u32));
    let publishing = tokio::spawn({
        let (publisher, queue, published) = (kafka.publisher(), queue.clone(), published.clone());
        async move {
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            loop {
                tick.tick().await;
                let n = *published.lock().expect("no panic");
                let to = publisher.partition(n % 6);
                to.publish(&queue, Message::new(n.to_string())).await?;
                *published.lock().expect("no panic") += 1;
            }
            #[allow(unreachable_code, reason = "it says what the errors are")]
            Ok::<_, mq_kafka::core::Error>(())
        }
    });
    seen.until(300).await?;

    let closed = members.pop().expect("three").close().await?;
    same(closed.partitions(), vec![], "after close")?;
    shared(&mut members, 3).await?;
    let now = published.lock().map(|n| *n).expect("no panic");
    seen.until(now + 300).await?;

    for member in &mut members {
        member.runs().await?;
    }
    let bare = Bare::connect(&servers).await?;
    same(
        bare.members(queue.name()).await?,
        2,
        "members before the kill",
    )?;
    members.pop().expect("two").kill();
    // The other one goes on with what it has, and nobody has told the group.
    let now = published.lock().map(|n| *n).expect("no panic");
    seen.until(now + 50).await?;
    same(
        bare.members(queue.name()).await?,
        2,
        "members after the kill",
    )?;
    shared(&mut members, 6).await?;
    same(
        bare.members(queue.name()).await?,
        1,
        "members after the session",
    )?;
    let now = published.lock().map(|n| *n).expect("no panic");
    seen.until(now + 300).await?;

    check(!publishing.is_finished(), "publishing went on")?;
    publishing.abort();
    let _ = publishing.await;
    // The last one may be stored although nobody counted it.
    let published = published.lock().map(|n| *n).expect("no panic");
    seen.until(published).await?;
    same(seen.again(), vec![], "what was settled and came again")?;
    let last = members.pop().expect("one");
    last.close().await?;
    Ok(())
}

async fn queue_under(
    servers: &str,
    protocol: GroupProtocol,
    what: &str,
) -> Check<(Kafka, Destination)> {
    let builder = Kafka::builder(servers).group_protocol(protocol);
    let (kafka, queue) = (builder.connect().await?, Destination::queue(unique(what)));
    kafka.declare(&queue).await?;
    Ok((kafka, queue))
}

async fn standing_by(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(1).connect().await?;
    let queue = Destination::queue(unique("standing-by"));
    kafka.declare(&queue).await?;
    let first = open(&kafka, &queue).await?;
    let mut had = first.assignment();
    same(had.partitions(), vec![0], "the first member")?;
    let second = within(60, open(&kafka, &queue)).await??;
    let mut gets = second.assignment();
    same(gets.partitions(), vec![], "the second member")?;
    first.close().await?;
    same(
        had.changed().await,
        Some(vec![]),
        "the first member, closed",
    )?;
    same(had.changed().await, None, "the first member, later")?;
    let got = within(60, gets.changed()).await?;
    same(got, Some(vec![0]), "the second member, alone")?;
    drop(second);
    let left = within(30, gets.changed()).await?;
    same(left, Some(vec![]), "the second member, dropped")
}

async fn ephemeral(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(3).connect().await?;
    let topic = Destination::topic(unique("ephemeral"));
    kafka.declare(&topic).await?;
    let source = Subscription::ephemeral(topic.name().clone());
    for _ in 0..2 {
        let consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
        let assignment = consumer.assignment();
        same(assignment.partitions(), vec![0, 1, 2], "partitions")?;
        consumer.close().await?;
        same(assignment.partitions(), vec![], "after close")?;
    }
    Ok(())
}

async fn lost_topic(servers: String, protocol: GroupProtocol) -> Check {
    let (kafka, queue) = queue_under(&servers, protocol, "lost-topic").await?;
    let mut consumer = open(&kafka, &queue).await?;
    let mut assignment = consumer.assignment();
    same(assignment.partitions().len(), 8, "partitions")?;
    Bare::connect(&servers).await?.delete(queue.name()).await?;
    let ended = within(30, consumer.receive()).await?;
    same(ended.expect_err("no topic").kind(), ErrorKind::Lost, "kind")?;
    let all = async { while assignment.changed().await.is_some() {} };
    within(30, all).await?;
    same(assignment.partitions(), vec![], "after the loss")
}

async fn lost_runtime(servers: String) -> Check {
    let (_, queue) = queue(&servers, "lost-runtime").await?;
    let mut runtime = Own::new()?;
    let opened = runtime.spawn(async move {
        let kafka = Kafka::connect(&servers).await?;
        open(&kafka, &queue).await
    });
    let mut consumer = opened.await??;
    let mut assignment = consumer.assignment();
    same(assignment.partitions().len(), 8, "partitions")?;
    runtime.end();
    let left = within(10, assignment.changed()).await?;
    same(left, Some(vec![]), "without its runtime")?;
    let ended = within(10, consumer.receive()).await?;
    same(
        ended.expect_err("no runtime").kind(),
        ErrorKind::Closed,
        "kind",
    )
}

async fn stale_after_revoke(servers: String, protocol: GroupProtocol) -> Check {
    let (kafka, queue) = queue_under(&servers, protocol, "revoke").await?;
    let keys: Vec<Message> = (0..200_u32)
        .map(|n| Message::new(n.to_string()).key(n.to_string()).build())
        .collect();
    kafka
        .publisher()
        .publish_batch(&queue, keys)
        .await
        .all_confirmed()?;
    let plan = || ConsumePlan::new().prefetch(500);
    let source = Subscription::queue(queue.name().clone());
    let mut first = kafka.consumer(&source, plan()).await?;
    let held = take(&mut first, 200).await?;
    // The second member gets half of the partitions, after the first had a moment to finish.
    let mut second = within(30, kafka.consumer(&source, plan())).await??;
    let moved = within(30, second.receive()).await??.expect("a delivery");
    same(moved.attempt(), 2, "attempt of what was with a handler")?;
    let mut stale = BTreeSet::new();
    let mut settled = BTreeSet::new();
    for delivery in held {
        let text = text(&delivery);
        match delivery.ack() {
            Ok(()) => settled.insert(text),
            Err(error) => {
                same(error.kind(), ErrorKind::Stale, "kind")?;
                stale.insert(text)
            }
        };
    }
    check(
        stale.contains(&text(&moved)),
        "settled what another member has",
    )?;
    // Not one of the stale verdicts was committed: all those messages come again. (Most come to the
    // second member; krafka sometimes gives up the first one's whole assignment.)
    let mut again = BTreeSet::from([text(&moved)]);
    let mut held = vec![moved];
    while again != stale {
        let next = async {
            tokio::select! {
                next = first.receive() => next,
                next = second.receive() => next,
            }
        };
        let next = within(20, next).await??.expect("a delivery");
        check(
            !settled.contains(&text(&next)),
            "what was settled came again",
        )?;
        again.insert(text(&next));
        held.push(next);
    }
    Ok(())
}

/// Handlers that are at work when half of the partitions are taken from their consumer, and end before the drain does.
async fn ends_in_time(servers: String, protocol: GroupProtocol) -> Check {
    let connect = || {
        let builder = Kafka::builder(&servers).group_protocol(protocol);
        let builder = builder.partitions(4).drain(Duration::from_secs(30));
        builder.connect()
    };
    let kafka = connect().await?;
    let queue = Destination::queue(unique("in-time"));
    kafka.declare(&queue).await?;
    for partition in 0..4 {
        let to = kafka.publisher().partition(partition);
        let messages = (0..10).map(|n| Message::new(format!("{partition}-{n}")).build());
        let batch = to.publish_batch(&queue, messages.collect());
        batch.await.all_confirmed()?;
    }
    let mut first = within(80, open(&kafka, &queue)).await??;
    let mut had = first.assignment();
    let held = take(&mut first, 40).await?;
    let before = kafka.metrics().rebalances;
    let (other, to) = (connect().await?, queue.clone());
    let opening = tokio::spawn(async move { open(&other, &to).await });
    // It counts when it is asked to give some up, before it waits for their handlers.
    let asked = async {
        while kafka.metrics().rebalances == before {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(60, asked).await?;
    // They are at work for longer than all else that a revocation waits for.
    sleep(Duration::from_secs(2)).await;
    same(
        had.partitions(),
        vec![0, 1, 2, 3],
        "while handlers are at work",
    )?;
    for delivery in held {
        // None is stale.
        delivery.ack()?;
    }
    let mut second = within(80, opening).await???;
    let halved = async {
        while had.partitions().len() != 2 || second.assignment().partitions().len() != 2 {
            tokio::select! {
                _ = had.changed() => {}
                () = sleep(Duration::from_millis(100)) => {}
            }
        }
    };
    within(60, halved).await?;
    quiet(&mut first).await?;
    quiet(&mut second).await?;
    within(30, second.close()).await??;
    within(30, first.close()).await??;
    let mut next = within(80, open(&kafka, &queue)).await??;
    quiet(&mut next).await
}

/// Handlers that are at work when their worker is told to stop, and end before its deadline.
async fn stops_in_time(servers: String, protocol: GroupProtocol) -> Check {
    let builder = Kafka::builder(&servers).group_protocol(protocol);
    let kafka = builder.partitions(4).connect().await?;
    let queue = Destination::queue(unique("stops"));
    kafka.declare(&queue).await?;
    let messages = (0..200_u32).map(|n| Message::new(n.to_string()).build());
    let publisher = kafka.publisher();
    let batch = publisher.publish_batch(&queue, messages.collect());
    batch.await.all_confirmed()?;
    let (began, stop) = (Arc::new(Seen::default()), CancellationToken::new());
    let ended = Arc::new(Seen::default());
    let source = Subscription::queue(queue.name().clone());
    let (beginning, ending, stopping) = (Arc::clone(&began), Arc::clone(&ended), stop.clone());
    let run = Worker::new(&kafka, source)
        .concurrency(8)
        .shutdown_deadline(Duration::from_secs(20))
        .run(move |received: Received| {
            let (began, ended) = (Arc::clone(&beginning), Arc::clone(&ending));
            let stop = stopping.clone();
            async move {
                let payload = received.payload().map_or(&[][..], |p| p);
                let text = String::from_utf8_lossy(payload);
                began.came(&text);
                stop.cancelled().await;
                // At work for a while longer.
                sleep(Duration::from_millis(500)).await;
                ended.came(&text);
            }
        })
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    let running = tokio::spawn(run.into_future());
    began.until(8).await?;
    stop.cancel();
    within(30, running).await???;
    let (began, ended) = (began.all(), ended.all());
    same(&ended, &began, "what ended of what began")?;
    // The rest comes, and none of those.
    let mut next = within(80, open(&kafka, &queue)).await??;
    let rest = take(&mut next, 200 - ended.len()).await?;
    let again: Vec<String> = rest
        .iter()
        .map(text)
        .filter(|t| ended.contains(t))
        .collect();
    same(again, vec![], "what was done and came again")?;
    quiet(&mut next).await
}

async fn classic_protocol(servers: String) -> Check {
    let builder = Kafka::builder(&servers).group_protocol(GroupProtocol::Classic);
    let kafka = builder.connect().await?;
    check(
        kafka.product().contains("group protocol classic"),
        kafka.product(),
    )?;
    let queue = Destination::queue(unique("classic"));
    kafka.declare(&queue).await?;
    fill(&kafka, &queue, 0..10).await?;
    for half in [0..5, 5..10] {
        let mut consumer = open(&kafka, &queue).await?;
        let deliveries = take(&mut consumer, 10 - half.start).await?;
        for (n, delivery) in half.clone().zip(deliveries) {
            same(text(&delivery), n.to_string(), "what is delivered")?;
            delivery.ack()?;
        }
        consumer.close().await?;
    }
    let mut consumer = open(&kafka, &queue).await?;
    quiet(&mut consumer).await
}

/// A member of a group that acknowledges all it gets, in a runtime of its own.
struct Member {
    runtime: Own,
    assignment: Assignment,
    stop: Option<oneshot::Sender<()>>,
    ended: Option<JoinHandle<Check>>,
}

impl Member {
    async fn start(
        servers: &str,
        protocol: GroupProtocol,
        queue: &Destination,
        seen: &Arc<Seen>,
    ) -> Check<Self> {
        let runtime = Own::new()?;
        let (servers, queue) = (servers.to_owned(), queue.clone());
        let opened = runtime.spawn(async move {
            let builder = Kafka::builder(&servers).group_protocol(protocol);
            open(&builder.connect().await?, &queue).await
        });
        let consumer = opened.await??;
        let assignment = consumer.assignment();
        let (stop, stopped) = oneshot::channel();
        let ended = runtime.spawn(consume(consumer, Arc::clone(seen), stopped));
        Ok(Self {
            runtime,
            assignment,
            stop: Some(stop),
            ended: Some(ended),
        })
    }

    /// Fails if it has ended by itself, and says why.
    async fn runs(&mut self) -> Check {
        match &mut self.ended {
            Some(ended) if ended.is_finished() => ended.await?,
            _ => Ok(()),
        }
    }

    async fn close(mut self) -> Check<Assignment> {
        drop(self.stop.take());
        let ended = self.ended.take().expect("closed once");
        within(30, ended).await???;
        Ok(self.assignment.clone())
    }

    /// Ends it as a crash does: nothing of it runs any more.
    fn kill(mut self) {
        self.runtime.end();
    }
}

async fn consume(
    mut consumer: KafkaConsumer,
    seen: Arc<Seen>,
    mut stopped: oneshot::Receiver<()>,
) -> Check {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            taken = consumer.receive_many(&mut batch, 50) => {
                if taken? == 0 {
                    return Err(Failure::new("the consumer ended"));
                }
            }
            _ = &mut stopped => return Ok(consumer.close().await?),
        }
        let mut acked = Vec::new();
        for delivery in batch.drain(..) {
            let text = text(&delivery);
            seen.came(&text);
            // Stale if its partition has just moved: it comes again elsewhere.
            if delivery.ack().is_ok() {
                acked.push(text);
            }
        }
        match consumer.settled().await {
            Ok(()) => seen.settled(acked),
            Err(error) if error.kind() == ErrorKind::Stale => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What came to the members of a group, and what the broker has their verdict of.
#[derive(Default)]
struct Seen {
    came: Mutex<BTreeSet<String>>,
    settled: Mutex<BTreeSet<String>>,
    again: Mutex<Vec<String>>,
    progress: Notify,
}

impl Seen {
    fn came(&self, text: &str) {
        if self.settled.lock().expect("no panic").contains(text) {
            self.again.lock().expect("no panic").push(text.to_owned());
        }
        self.came.lock().expect("no panic").insert(text.to_owned());
        self.progress.notify_one();
    }

    fn settled(&self, texts: Vec<String>) {
        self.settled.lock().expect("no panic").extend(texts);
    }

    fn again(&self) -> Vec<String> {
        self.again.lock().expect("no panic").clone()
    }

    fn all(&self) -> BTreeSet<String> {
        self.came.lock().expect("no panic").clone()
    }

    /// Waits until so many different messages have come.
    async fn until(&self, count: u32) -> Check {
        let all = async {
            while self.came.lock().expect("no panic").len() < count as usize {
                self.progress.notified().await;
            }
        };
        within(60, all).await
    }
}

/// Waits until each member has so many of the six partitions, and no two have the same.
async fn shared(members: &mut [Member], each: usize) -> Check {
    let evenly = async {
        loop {
            let all: Vec<Vec<u32>> = members.iter().map(|m| m.assignment.partitions()).collect();
            let different: BTreeSet<u32> = all.iter().flatten().copied().collect();
            if all.iter().all(|has| has.len() == each) && different.len() == 6 {
                return Ok(());
            }
            let changes = members.iter_mut().map(|m| Box::pin(m.assignment.changed()));
            let (changed, ..) = futures::future::select_all(changes).await;
            if changed.is_none() {
                return Err(Failure::new(format!("a member is gone; before: {all:?}")));
            }
        }
    };
    within(90, evenly).await?
}
