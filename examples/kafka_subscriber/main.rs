//! Kafka, plainly: a subscriber of a group that acknowledges each message by itself, and goes on
//! where the group stood.
//!
//! ```text
//! cargo run --example kafka_subscriber -- --broker kafka://127.0.0.1:9092
//! ```
//!
//! In `brod` it is a `brod_group_subscriber_v2` whose `handle_message/2` answers `{ok, commit, State}`
//! or `{ok, ack, State}`. There an offset stands for all before it; here each message is settled by
//! itself, and the group's offset stays below the first that is not.

use mq_examples::{Args, Result, within};
use mq_kafka::{
    Kafka, KafkaConsumer,
    core::{
        Broker, ConsumePlan, Consumer, Delivery, Destination, Message, Publisher, Subscription,
    },
};

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    // One partition, so that the messages come in their order.
    let kafka = Kafka::builder(args.kafka()?)
        .partitions(1)
        .connect()
        .await?;
    let orders = Destination::topic(args.name("orders"));
    kafka.declare(&orders).await?;
    // The group `billing@orders-…`, which starts at the end of the topic now and keeps its place
    // from now on. Other subscriptions of the topic get the same messages.
    let billing = Subscription::durable(orders.name().clone(), "billing");
    kafka.declare(&billing).await?;
    for n in 1..=6 {
        let message = Message::new(format!("order {n}, {}", args.token()));
        kafka.publisher().publish(&orders, message).await?;
    }
    println!("6 orders are stored in {}", orders.name());

    let mut first = kafka.consumer(&billing, ConsumePlan::new()).await?;
    let mut in_work = Vec::new();
    for n in 1..=4 {
        let order = next(&mut first).await?;
        if n == 2 {
            println!("first subscriber: {} is still in work", text(&order));
            in_work.push(order);
        } else {
            println!("first subscriber: {} is done", text(&order));
            order.ack()?;
        }
    }
    // An ack is a mark; this waits until the broker has all of them.
    within("the commit", first.settled()).await??;
    println!("committed: offset 1, and beside it that orders 3 and 4 are done");
    // It gives back what is in work, and leaves the group.
    first.close().await?;

    let mut second = kafka.consumer(&billing, ConsumePlan::new()).await?;
    for _ in 0..3 {
        let order = next(&mut second).await?;
        println!(
            "second subscriber: {} is done at attempt {}",
            text(&order),
            order.attempt()
        );
        order.ack()?;
    }
    second.close().await?;
    kafka.close().await?;
    Ok(())
}

async fn next(consumer: &mut KafkaConsumer) -> Result<Delivery> {
    let received = within("an order", consumer.receive()).await??;
    received.ok_or_else(|| "the consumer ended".into())
}

fn text(order: &Delivery) -> String {
    String::from_utf8_lossy(order.payload().map_or(&[][..], |p| p)).into_owned()
}
