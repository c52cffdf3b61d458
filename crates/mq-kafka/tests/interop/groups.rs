//! A group that goes from us to a consumer of another make, and back.

use std::time::Duration;

use mq_kafka::{
    Kafka, KafkaConsumer,
    core::{
        Broker, ConsumePlan, Consumer, Delivery, Destination, Message, Publisher, Subscription,
    },
};
use mq_testkit::{Check, Failure, Suite};
use tokio::{sync::OnceCell, time::timeout};

use crate::peer::{Peer, delete, once, run_java, same, unique};

/// Adds the cases of this peer.
pub(crate) fn add(suite: Suite, peer: Peer) -> Suite {
    let case = |suite: Suite, field, direction, check: fn(&Told) -> Check| {
        suite.case(peer.case(field, direction), move |servers| async move {
            check(told(&servers, peer).await?)
        })
    };
    let suite = case(suite, "group with unfinished records", "to", |told| {
        same(
            &told.taken_over,
            &(2..10).collect::<Vec<u64>>(),
            "offsets that the peer read",
        )
    });
    let suite = case(suite, "group", "from", |told| {
        same(
            &told.taken_back,
            &vec![(10, 1)],
            "offsets and attempts of ours after the peer's",
        )
    });
    if peer == Peer::Kcat {
        return suite;
    }
    let suite = case(suite, "committed offset and lag", "to", |told| {
        same(
            told.before.as_ref(),
            Some(&["2", "10", "8"].map(String::from)),
            "before the peer",
        )?;
        same(
            told.after.as_ref(),
            Some(&["11", "11", "0"].map(String::from)),
            "at the end",
        )
    });
    case(suite, "end of the log", "to", |told| {
        same(told.end.as_deref(), Some("10"), "offset")
    })
}

/// What the peer was told, and we after it.
#[derive(Debug)]
struct Told {
    /// Committed offset, end of the log and lag, as the Java tool tells them.
    before: Option<[String; 3]>,
    after: Option<[String; 3]>,
    end: Option<String>,
    taken_over: Vec<u64>,
    taken_back: Vec<(u64, u32)>,
}

/// One story for all cases of a peer.
async fn told(servers: &str, peer: Peer) -> Check<&'static Told> {
    static TOLD: [OnceCell<Result<Told, String>>; 2] = [const { OnceCell::const_new() }; 2];
    once(&TOLD[peer as usize], || tell(servers, peer)).await
}

async fn tell(servers: &str, peer: Peer) -> Check<Told> {
    let kafka = Kafka::builder(servers).partitions(1).connect().await?;
    let topic = Destination::topic(unique("group"));
    let subscription = Subscription::durable(topic.name().clone(), "s");
    let group = subscription.name().to_string();
    kafka.declare(&topic).await?;
    kafka.declare(&subscription).await?;
    for number in 0..10 {
        kafka
            .publisher()
            .publish(&topic, Message::new(number.to_string()))
            .await?;
    }
    // Three are done, and all below the third but one: its place and failure stand beside the offset.
    let mut consumer = kafka.consumer(&subscription, ConsumePlan::new()).await?;
    let mut unfinished = Vec::new();
    for offset in 0..10 {
        let delivery = next(&mut consumer).await?;
        match offset {
            0 | 1 | 3 => delivery.ack()?,
            _ => unfinished.push(delivery),
        }
    }
    unfinished.remove(0).into_settlement().requeue()?;
    consumer.settled().await?;
    consumer.close().await?;
    drop(unfinished);

    let java = peer == Peer::Java;
    let before = if java {
        Some(describe(&group).await?)
    } else {
        None
    };
    let end = if java {
        Some(log_end(topic.name()).await?)
    } else {
        None
    };
    let taken = peer.consume(servers, &group, topic.name(), 8).await?;
    kafka
        .publisher()
        .publish(&topic, Message::new("10"))
        .await?;
    let mut consumer = kafka.consumer(&subscription, ConsumePlan::new()).await?;
    let mut taken_back = Vec::new();
    loop {
        let delivery = next(&mut consumer).await?;
        let offset = delivery.position().map(|at| at.offset).unwrap_or_default();
        taken_back.push((offset, delivery.attempt()));
        delivery.ack()?;
        if offset == 10 {
            break;
        }
    }
    consumer.close().await?;
    let after = if java {
        Some(describe(&group).await?)
    } else {
        None
    };
    kafka.close().await?;
    let name = topic.name().to_string();
    delete(servers, &[format!("{name}.s.dead"), name]).await?;
    Ok(Told {
        before,
        after,
        end,
        taken_over: taken.iter().map(|seen| seen.offset).collect(),
        taken_back,
    })
}

async fn next(consumer: &mut KafkaConsumer) -> Check<Delivery> {
    let late = |_| Failure::new("no record came within 20 s");
    let received = timeout(Duration::from_secs(20), consumer.receive())
        .await
        .map_err(late)??;
    received.ok_or_else(|| Failure::new("the consumer ended"))
}

/// Committed offset, end of the log and lag of the group's only partition.
async fn describe(group: &str) -> Check<[String; 3]> {
    let output = run_java(
        "kafka-consumer-groups.sh",
        &["--describe", "--group", group],
        b"",
    )
    .await?;
    let text = String::from_utf8_lossy(&output);
    let mut lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let table = lines
        .find(|words| words.first() == Some(&"GROUP"))
        .zip(lines.next());
    let cell = |column: &str| {
        let (head, row) = table.as_ref()?;
        let at = head.iter().position(|word| *word == column)?;
        row.get(at).map(|word| (*word).to_owned())
    };
    match ["CURRENT-OFFSET", "LOG-END-OFFSET", "LAG"].map(cell) {
        [Some(committed), Some(end), Some(lag)] => Ok([committed, end, lag]),
        _ => Err(Failure::new(format!("no table of offsets in {text:?}"))),
    }
}

/// The next offset of the topic's only partition.
async fn log_end(topic: &str) -> Check<String> {
    let output = run_java("kafka-get-offsets.sh", &["--topic", topic], b"").await?;
    let text = String::from_utf8_lossy(&output);
    let end = text
        .trim()
        .strip_prefix(&format!("{topic}:0:"))
        .map(str::to_owned);
    end.ok_or_else(|| Failure::new(format!("no offset in {text:?}")))
}
