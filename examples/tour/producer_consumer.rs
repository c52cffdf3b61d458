//! Producer and consumer: neither waits for the other.

use mq_core::{Broker, ConsumePlan, Destination, Subscription};
use mq_examples::{Result, within};
use mq_patterns::producer_consumer::{Consumer, Producer};

use crate::tour::{Tour, check};

/// Sends items that nobody consumes yet, then consumes them one at a time.
pub(crate) async fn run(tour: &Tour) -> Result<()> {
    let name = tour.name("items");
    let queue = Destination::queue(name.as_str());
    tour.broker.declare(&queue).await?;

    let items: Vec<String> = (1..=ITEMS).map(|number| format!("item {number}")).collect();
    let mut producer = Producer::new(&tour.broker, queue).envelope(tour.stamp());
    for item in &items {
        producer.send(item).await?;
    }
    if let Some(failed) = producer.finish().await.failed.pop() {
        return Err(failed.error.into());
    }

    let (queue, plan) = (Subscription::queue(name), ConsumePlan::new());
    let mut consumer = Consumer::<String, _>::open(&tour.broker, &queue, plan).await?;
    let mut arrived = Vec::new();
    while arrived.len() < ITEMS {
        let next = within("an item", consumer.next()).await??;
        let item = next.ok_or("the consumer ended")?;
        if tour.ours(item.received()) {
            arrived.push(item.clone());
        }
        item.ack()?;
    }
    consumer.close().await?;
    check("producer_consumer", &arrived, &items)?;
    println!("   producer_consumer: {ITEMS} items arrived in the order of sending");
    Ok(())
}

const ITEMS: usize = 100;
