//! Kafka, plainly: one message at a time, each with its receipt, and many under way at once.
//!
//! ```text
//! cargo run --example kafka_sync -- --broker kafka://127.0.0.1:9092
//! ```
//!
//! `publish` is `produce_sync_offset` in `brod`. `enqueue` is `produce`, whose answer comes later, as
//! brod's `CallRef` does; here it is a future.

use std::time::Instant;

use mq_examples::{Args, Result, within};
use mq_kafka::{
    Kafka,
    core::{Broker, ConsumePlan, Consumer, Destination, Message, Publisher, Subscription},
};

const MANY: usize = 1000;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    // One partition, so that the offsets below are 0, 1, 2 and so on.
    let kafka = Kafka::builder(args.kafka()?)
        .partitions(1)
        .connect()
        .await?;
    let payments = Destination::queue(args.name("payments"));
    kafka.declare(&payments).await?;
    let publisher = kafka.publisher();
    let message = || Message::new(args.token().to_owned());

    // When this returns, the message is stored: by the leader and all replicas in sync. Any other
    // outcome is an error that says whether the message may be stored nevertheless.
    for _ in 0..3 {
        let receipt = publisher.publish(&payments, message()).await?;
        let at = receipt.position().ok_or("no position")?;
        println!(
            "published: partition {}, offset {}, {:?}",
            at.partition,
            at.offset,
            receipt.stored()
        );
    }

    let started = Instant::now();
    for _ in 0..MANY {
        publisher.publish(&payments, message()).await?;
    }
    let one_by_one = started.elapsed();

    // `enqueue` waits for room in the window, not for the broker. No outcome is lost: each has its
    // own receipt or error.
    let started = Instant::now();
    let mut outcomes = Vec::new();
    for _ in 0..MANY {
        outcomes.push(publisher.enqueue(&payments, message()).await?);
    }
    let mut offsets = Vec::new();
    for outcome in outcomes {
        let receipt = outcome.await?;
        offsets.push(receipt.position().ok_or("no position")?.offset);
    }
    let pipelined = started.elapsed();
    println!(
        "{MANY} one by one took {} ms, {MANY} under way at once {} ms",
        one_by_one.as_millis(),
        pipelined.as_millis()
    );
    let (first, last) = (offsets.first(), offsets.last());
    println!(
        "the latter lie at {} to {}, in their order: {}",
        first.copied().unwrap_or_default(),
        last.copied().unwrap_or_default(),
        offsets.is_sorted()
    );

    let source = Subscription::queue(payments.name().clone());
    let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
    let mut batch = Vec::new();
    let mut read = 0;
    while read < 3 + 2 * MANY {
        let received = consumer.receive_many(&mut batch, MANY);
        if within("messages", received).await?? == 0 {
            return Err("the consumer ended".into());
        }
        for delivery in batch.drain(..) {
            let ours = delivery.payload().is_some_and(|p| p == args.token());
            read += usize::from(ours);
            delivery.ack()?;
        }
    }
    println!("{read} are there with the token {}", args.token());
    consumer.close().await?;
    kafka.close().await?;
    Ok(())
}
