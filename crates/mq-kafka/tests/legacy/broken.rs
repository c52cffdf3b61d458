//! Clusters that are too new, fall silent, or are none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use mq_kafka::{
    Kafka,
    core::{Broker, Consumer, Error, ErrorKind, Message, Publisher, Subscription},
    legacy::LegacyKafka,
};
use mq_testkit::{
    Check, Failure,
    proxy::{Direction, Fault, Proxy},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    refused::plan,
    support::{check, queue, same, within},
};

fn quick(servers: &str) -> mq_kafka::legacy::LegacyBuilder {
    LegacyKafka::builder(servers)
        .request_timeout(Duration::from_secs(2))
        .publish_timeout(Duration::from_secs(2))
        .unreachable_after(Duration::from_secs(4))
        .read_uncommitted()
}

/// Connecting fails within some seconds.
async fn fails(servers: &str) -> Check<Error> {
    let connected = within(10, quick(servers).connect()).await?;
    let error = connected.expect_err("nobody is there");
    check(
        error.to_string().contains(servers),
        format!("no servers: {error}"),
    )?;
    Ok(error)
}

/// 4.0 raised `metadata.version` above 21.
pub(crate) async fn newer(servers: String) -> Check {
    let kafka = Kafka::connect(&servers).await?;
    let product = kafka.product();
    kafka.close().await?;
    let level = product
        .split("metadata.version ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let level: u32 = level.and_then(|text| text.parse().ok()).expect("a level");
    let connected = LegacyKafka::connect(&servers).await;
    if level <= 21 {
        return Ok(connected?.close().await?);
    }
    let error = connected.expect_err(&product);
    same(error.kind(), ErrorKind::Unsupported, &product)?;
    let text = error.to_string();
    for said in ["KIP-896", "mq_kafka::Kafka", "3.9"] {
        check(text.contains(said), format!("{said} is not said: {text}"))?;
    }
    Ok(())
}

pub(crate) async fn refused(_: String) -> Check {
    let error = fails("127.0.0.1:1").await?;
    same(error.kind(), ErrorKind::Connect, "nobody listens")
}

pub(crate) async fn silent(_: String) -> Check {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let ticks = AtomicU32::new(0);
    // In the same task: a connect that blocks would let none of them pass.
    let ticking = async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            ticks.fetch_add(1, SeqCst);
        }
    };
    let start = Instant::now();
    let error = tokio::select! {
        error = fails(&address) => error?,
        () = ticking => return Err(Failure::new("it ticks for ever")),
    };
    same(error.kind(), ErrorKind::Timeout, "no answer")?;
    check(start.elapsed() < Duration::from_secs(5), "it took too long")?;
    // Some 70 to 200 on a machine that is idle.
    let ticks = ticks.load(SeqCst);
    check(
        ticks > 10,
        format!("the runtime stood still: {ticks} ticks"),
    )
}

/// What Kafka 3.9 says of its versions, and then nothing.
pub(crate) async fn silent_after_versions(_: String) -> Check {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let answered = Arc::new(AtomicU32::new(0));
    let told = Arc::clone(&answered);
    let answering = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            // Of the name `mq-kafka`.
            let mut request = [0; 22];
            if stream.read_exact(&mut request).await.is_ok() && request[5] == 18 {
                let mut answer = vec![0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
                answer.extend([0, 1, 0, 0, 0, 17]);
                if stream.write_all(&answer).await.is_ok() {
                    told.fetch_add(1, SeqCst);
                }
            }
            open.push(stream);
        }
    });
    let error = fails(&address).await?;
    answering.abort();
    check(answered.load(SeqCst) > 0, "it was told the versions")?;
    same(error.kind(), ErrorKind::Timeout, "no answer")
}

pub(crate) async fn no_kafka(_: String) -> Check {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let answering = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    let error = fails(&address).await?;
    answering.abort();
    same(error.kind(), ErrorKind::Connect, "no Kafka")
}

/// The link stands still under a publisher and a consumer that were at work.
pub(crate) async fn silent_later(servers: String) -> Check {
    let (kafka, queue) = queue(&servers, "silent").await?;
    let proxy = Proxy::start_kafka(&servers).await.expect("a proxy");
    let legacy = quick(&proxy.servers()).connect().await?;
    let source = Subscription::queue(queue.name().clone());
    let mut consumer = legacy.consumer(&source, plan()).await?;
    legacy
        .publisher()
        .publish(&queue, Message::new("before").key("k"))
        .await?;
    let first = within(30, consumer.receive()).await??.expect("a delivery");
    first.ack()?;
    consumer.settled().await?;
    proxy.set(Direction::Both, Fault::BlackHole);
    let publisher = legacy.publisher();
    let late = publisher.publish(&queue, Message::new("late").key("k"));
    let error = within(15, late).await?.expect_err("nobody answers");
    same(
        error.kind(),
        ErrorKind::Unknown,
        "a publish without an answer",
    )?;
    // From now on there is not even a connection: it is known that it was not sent.
    let never = publisher.publish(&queue, Message::new("never").key("k"));
    let error = within(15, never).await?.expect_err("nobody is there");
    same(
        error.kind(),
        ErrorKind::Timeout,
        "a publish that was not sent",
    )?;
    let ended = within(40, consumer.receive()).await?;
    same(
        ended.expect_err("gone").kind(),
        ErrorKind::Disconnected,
        "the consumer",
    )?;
    let verified = within(15, legacy.verify(&queue)).await?;
    same(
        verified.expect_err("nobody answers").kind(),
        ErrorKind::Timeout,
        "verify",
    )?;
    within(20, legacy.close()).await??;
    proxy.close().await;
    Ok(kafka.close().await?)
}
