//! Kafka, plainly: a message to a partition by its number, and to the partition of its key.
//!
//! ```text
//! cargo run --example kafka_partition -- --broker kafka://127.0.0.1:9092
//! ```
//!
//! In `brod` it is `produce_sync_offset(Client, Topic, Partition, Key, Value)`, and for the second
//! part a partitioner in the place of the number. brod's `hash` is Erlang's own; keys lie here where
//! the Java client puts them.

use mq_examples::{Args, Result, within};
use mq_kafka::{
    Kafka,
    core::{Broker, ConsumePlan, Consumer, Destination, Message, Publisher, Subscription},
};

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let kafka = Kafka::builder(args.kafka()?)
        .partitions(4)
        .connect()
        .await?;
    let readings = Destination::queue(args.name("readings"));
    kafka.declare(&readings).await?;
    let publisher = kafka.publisher();

    // A publisher for one partition. The key travels with the message, and decides nothing here.
    for partition in [3, 0, 3] {
        let message = Message::new(args.token().to_owned()).key("by number");
        let receipt = publisher
            .partition(partition)
            .publish(&readings, message)
            .await?;
        let at = receipt.position().ok_or("no position")?;
        println!(
            "by number: partition {}, offset {}",
            at.partition, at.offset
        );
    }

    // Without a number the key decides, always for the same partition.
    for key in ["alice", "bob", "alice"] {
        let message = Message::new(args.token().to_owned()).key(key);
        let receipt = publisher.publish(&readings, message).await?;
        let at = receipt.position().ok_or("no position")?;
        println!(
            "by key {key}: partition {}, offset {}",
            at.partition, at.offset
        );
    }

    let fifth = publisher.partition(4);
    match fifth.publish(&readings, Message::new("x")).await {
        Ok(_) => return Err("there are four partitions".into()),
        Err(error) => println!("refused, nothing was sent: {error}"),
    }

    let source = Subscription::queue(readings.name().clone());
    let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
    let mut found = Vec::new();
    for _ in 0..6 {
        let received = within("a message", consumer.receive()).await??;
        let delivery = received.ok_or("the consumer ended")?;
        let at = delivery.position().ok_or("no position")?;
        let key = delivery.message().key().map(|key| key.as_bytes().to_vec());
        let payload = delivery.payload().cloned().unwrap_or_default();
        found.push((at.partition, at.offset, key.unwrap_or_default(), payload));
        delivery.ack()?;
    }
    found.sort();
    for (partition, offset, key, payload) in found {
        let (key, token) = (String::from_utf8(key)?, String::from_utf8(payload.into())?);
        println!("partition {partition}, offset {offset}: {key}, {token}");
    }
    consumer.close().await?;
    kafka.close().await?;
    Ok(())
}
