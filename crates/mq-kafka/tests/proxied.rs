//! The fault proxy of mq-testkit in front of Kafka: the client stays behind it.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{
    collections::HashSet,
    process::ExitCode,
    time::{Duration, Instant},
};

use mq_kafka::{
    GroupProtocol, Kafka, KafkaConsumer,
    core::{Broker, Consumer, ErrorKind, Message, Publisher},
};
use mq_testkit::{
    Check, Suite, broker_address,
    proxy::{Direction, Fault, Proxy},
};
use support::{Bare, check, fill, open, queue, release::under, same, take, text, within};

fn main() -> ExitCode {
    Suite::new("proxied", "mq-kafka", broker_address("MQ_KAFKA_SERVERS"))
        .case("all_traffic_goes_through_the_proxy", all_traffic)
        .case("a_consumer_goes_on_soon_after_an_outage", outage)
        .case("while_commits_fail_nothing_more_is_handed_out", |servers| {
            commits_fail(servers, GroupProtocol::Classic)
        })
        .case(
            "while_kip_848_commits_fail_nothing_more_is_handed_out",
            |servers| under(GroupProtocol::Consumer, servers, commits_fail),
        )
        .case(
            "a_consumer_that_finds_no_broker_for_too_long_is_disconnected",
            no_broker,
        )
        .run()
}

async fn all_traffic(servers: String) -> Check {
    let (direct, queue) = queue(&servers, "proxied").await?;
    let proxy = Proxy::start_kafka(&servers).await?;
    let kafka = Kafka::builder(proxy.servers())
        .connect_timeout(Duration::from_secs(2))
        .publish_timeout(Duration::from_secs(4))
        .connect()
        .await?;
    // Administration, publishing, a group.
    kafka.verify(&queue).await?;
    fill(&kafka, &queue, 0..100).await?;
    let mut consumer = open(&kafka, &queue).await?;
    for (number, delivery) in take(&mut consumer, 100).await?.into_iter().enumerate() {
        same(text(&delivery), number.to_string(), "in order")?;
        delivery.ack()?;
    }
    consumer.settled().await?;
    // The bare client, with the calls of an operator.
    let bare = Bare::connect(&proxy.servers()).await?;
    let admin = bare.admin();
    let cluster = within(10, admin.describe_cluster(Default::default())).await??;
    let own = proxy.address();
    for broker in &cluster.brokers {
        same(
            format!("{}:{}", broker.host, broker.port),
            own.to_string(),
            "what is advertised",
        )?;
    }
    check(proxy.failure().is_none(), format!("{:?}", proxy.failure()))?;
    let counters = proxy.counters();
    check(counters.open >= 3, format!("{counters:?}"))?;

    // What goes past the proxy would go on now.
    proxy.set(Direction::Both, Fault::Refuse);
    proxy.cut();
    let outcome = within(20, kafka.publisher().publish(&queue, Message::new("x"))).await?;
    let error = outcome.expect_err("no way to the broker");
    check(
        matches!(
            error.kind(),
            ErrorKind::Unknown | ErrorKind::Disconnected | ErrorKind::Timeout
        ),
        format!("{error:?}"),
    )?;
    fill(&direct, &queue, 0..1).await?;
    check(
        tokio::time::timeout(Duration::from_secs(1), consumer.receive())
            .await
            .is_err(),
        "received past the proxy",
    )?;
    // And it comes back.
    proxy.clear();
    take(&mut consumer, 1).await?.remove(0).ack()?;
    over(consumer, kafka, proxy, direct).await
}

/// Long enough that krafka would ask a partition again only 9 s later.
async fn outage(servers: String) -> Check {
    let (direct, queue) = queue(&servers, "outage").await?;
    fill(&direct, &queue, 0..1).await?;
    let proxy = Proxy::start_kafka(&servers).await?;
    // It stays a member: one that has to join again asks at once in any case.
    let kafka = Kafka::builder(proxy.servers())
        .group_protocol(GroupProtocol::Classic)
        .session_timeout(Duration::from_secs(60))
        .connect()
        .await?;
    let mut consumer = open(&kafka, &queue).await?;
    take(&mut consumer, 1).await?.remove(0).ack()?;
    within(10, consumer.settled()).await??;
    proxy.set(Direction::Both, Fault::Refuse);
    proxy.cut();
    fill(&direct, &queue, 1..2).await?;
    check(
        tokio::time::timeout(Duration::from_secs(16), consumer.receive())
            .await
            .is_err(),
        "received past the proxy",
    )?;
    proxy.clear();
    let healed = Instant::now();
    take(&mut consumer, 1).await?.remove(0).ack()?;
    check(
        healed.elapsed() < Duration::from_secs(5),
        format!("after {:?}", healed.elapsed()),
    )?;
    over(consumer, kafka, proxy, direct).await
}

async fn commits_fail(servers: String, protocol: GroupProtocol) -> Check {
    let (direct, queue) = queue(&servers, "commits-fail").await?;
    fill(&direct, &queue, 0..2000).await?;
    let proxy = Proxy::start_kafka(&servers).await?;
    let kafka = Kafka::builder(proxy.servers())
        .group_protocol(protocol)
        .connect_timeout(Duration::from_secs(2))
        .publish_timeout(Duration::from_secs(4))
        .connect()
        .await?;
    let mut consumer = open(&kafka, &queue).await?;
    for delivery in take(&mut consumer, 100).await? {
        delivery.ack()?;
    }
    within(10, consumer.settled()).await??;

    // A commit goes out, and no answer comes back. Nearly 2000 records are here already; each takes 10 ms.
    proxy.set(Direction::ToClient, Fault::BlackHole);
    let mut handled: Vec<String> = Vec::new();
    while let Ok(delivery) =
        tokio::time::timeout(Duration::from_millis(1500), consumer.receive()).await
    {
        let delivery = delivery?.expect("it goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
        handled.push(text(&delivery));
        delivery.ack()?;
    }
    check(
        (1..1000).contains(&handled.len()),
        format!("{} were handled while no commit was taken", handled.len()),
    )?;

    // All of them arrive, and no more of them again than were handled meanwhile.
    proxy.clear();
    let mut missing: HashSet<String> = (100..2000).map(|number| number.to_string()).collect();
    missing.retain(|number| !handled.contains(number));
    let mut again = 0;
    while !missing.is_empty() {
        let delivery = take(&mut consumer, 1).await?.remove(0);
        if !missing.remove(&text(&delivery)) {
            again += 1;
        }
        delivery.ack()?;
    }
    check(
        again <= handled.len(),
        format!("{again} again, {} handled", handled.len()),
    )?;
    over(consumer, kafka, proxy, direct).await
}

async fn no_broker(servers: String) -> Check {
    let (direct, queue) = queue(&servers, "no-broker").await?;
    fill(&direct, &queue, 0..1).await?;
    let proxy = Proxy::start_kafka(&servers).await?;
    let limit = Duration::from_secs(5);
    let kafka = Kafka::builder(proxy.servers())
        .connect_timeout(Duration::from_secs(2))
        .unreachable_after(limit)
        .connect()
        .await?;
    let mut consumer = open(&kafka, &queue).await?;
    take(&mut consumer, 1).await?.remove(0).ack()?;
    proxy.set(Direction::Both, Fault::Refuse);
    let cut = Instant::now();
    proxy.cut();
    let ended = within(60, consumer.receive())
        .await?
        .expect_err("no way to a broker");
    same(ended.kind(), ErrorKind::Disconnected, "kind")?;
    same(ended.is_retryable(), true, "retryable")?;
    same(ended.context("topic"), Some(&**queue.name()), "topic")?;
    // The last answer came up to one look before the cut.
    check(
        cut.elapsed() >= limit / 2,
        format!("it ended after {:?}", cut.elapsed()),
    )?;
    let closed = within(30, consumer.close()).await?;
    let closed = closed.expect_err("it ended in an error");
    same(closed.kind(), ErrorKind::Disconnected, "kind at close")?;
    within(30, kafka.close()).await??;
    proxy.close().await;
    Ok(direct.close().await?)
}

/// Closes what a case had, the client behind the proxy first.
async fn over(consumer: KafkaConsumer, kafka: Kafka, proxy: Proxy, direct: Kafka) -> Check {
    within(30, consumer.close()).await??;
    within(30, kafka.close()).await??;
    proxy.close().await;
    Ok(direct.close().await?)
}
