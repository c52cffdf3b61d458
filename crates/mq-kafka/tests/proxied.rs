//! The fault proxy of mq-testkit in front of Kafka: the client stays behind it.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{process::ExitCode, time::Duration};

use mq_kafka::{
    Kafka,
    core::{Broker, Consumer, ErrorKind, Message, Publisher},
};
use mq_testkit::{
    Check, Suite, broker_address,
    proxy::{Direction, Fault, Proxy},
};
use support::{Bare, check, fill, open, queue, same, take, text, within};

fn main() -> ExitCode {
    Suite::new("proxied", "mq-kafka", broker_address("MQ_KAFKA_SERVERS"))
        .case("all_traffic_goes_through_the_proxy", all_traffic)
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
    within(30, consumer.close()).await??;
    within(30, kafka.close()).await??;
    proxy.close().await;
    Ok(direct.close().await?)
}
