//! Kafka, plainly: a group of three members over six partitions, each a process of its own. Who has
//! which partitions is printed at first, after one has closed, and after one was killed. No message
//! is lost on the way.
//!
//! ```text
//! cargo run --example kafka_group -- --broker kafka://127.0.0.1:9092
//! ```
//!
//! The program starts itself three times, with `--member`. In `brod` each of them would be a node
//! with a `brod_group_subscriber_v2`, and `assignments_received/4` tells what is told here by
//! `assignment`.

mod member;
mod process;

use std::collections::BTreeSet;

use mq_examples::{Args, Result};
use mq_kafka::{
    Kafka, KafkaPublisher,
    core::{Broker, Destination, Message, Publisher},
};
use process::Group;

const PARTITIONS: u32 = 6;
/// Messages of each partition in each part of the story.
const EACH: usize = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let flags = xflags::parse_or_exit! {
        /// `kafka://host:port[,host:port]`.
        optional --broker broker: String
        /// A word that goes through the broker and is printed when it is back. Default: a random one.
        optional --token word: String
        /// For the program itself: to be a member of the group.
        optional --member
    };
    let args = Args::new(flags.broker.as_deref(), flags.token)?;
    let servers = args.kafka()?;
    let jobs = Destination::queue(args.name("jobs"));
    if flags.member {
        return member::run(servers, &jobs).await;
    }
    let kafka = Kafka::builder(servers)
        .partitions(PARTITIONS)
        .connect()
        .await?;
    kafka.declare(&jobs).await?;
    let publisher = kafka.publisher();

    let mut group = Group::start(&["one", "two", "three"], servers, args.token())?;
    group.shared(2).await?;
    group.print_partitions();
    let mut stored = BTreeSet::new();
    stored.extend(publish(&publisher, &jobs, args.token(), "at first").await?);
    group.print_taken(stored.len()).await?;

    println!("three closes");
    group.close("three").await?;
    group.shared(3).await?;
    group.print_partitions();
    stored.extend(publish(&publisher, &jobs, args.token(), "after the close").await?);
    group.print_taken(stored.len()).await?;

    println!("two hangs, then is killed (SIGKILL)");
    group.hang("two").await?;
    stored.extend(publish(&publisher, &jobs, args.token(), "before the kill").await?);
    let half = PARTITIONS as usize / 2 * EACH;
    group.print_taken(stored.len() - half).await?;
    group.kill("two").await?;
    group.shared(6).await?;
    println!("its session is over");
    group.print_partitions();
    group.print_taken(stored.len()).await?;

    group.close("one").await?;
    let lost = stored.difference(group.taken()).count();
    println!(
        "{} jobs were stored, {} came, {lost} are lost; the token is {}",
        stored.len(),
        group.taken().len(),
        group.token().unwrap_or("missing"),
    );
    kafka.close().await?;
    Ok(())
}

/// Publishes the same number of jobs to each partition; returns their texts.
async fn publish(
    publisher: &KafkaPublisher,
    jobs: &Destination,
    token: &str,
    when: &str,
) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for partition in 0..PARTITIONS {
        let partition = publisher.partition(partition);
        for n in 0..EACH {
            let text = format!("{token} {when} {} {n}", texts.len());
            partition.publish(jobs, Message::new(text.clone())).await?;
            texts.push(text);
        }
    }
    Ok(texts)
}
