//! The program of the README: a producer and a consumer that say what they do, and the check of their run.
#![allow(clippy::print_stdout, reason = "a program that shows its report")]

use std::{env, process, time::Duration};

use mq_memory::Memory;
use mq_memory::core::{Broker, ConsumePlan, Consumer, Publisher};
use mq_memory::core::{Destination, Message, Subscription};
use mq_testkit::checker::{Checker, Claim, Verdict};
use mq_testkit::history::{Event, Recorder};
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = env::temp_dir().join(format!("orders-{}", process::id()));
    let (broker, orders) = (Memory::new(), Destination::queue("orders")); // or any other broker
    broker.declare(&orders).await?;
    // In the producer: each message carries a tag; say so before and after it is published.
    let recorder = Recorder::create(&folder, "run-1", "producer")?;
    let tags = recorder.tags();
    for customer in ["alice", "bob", "alice"] {
        let tag = tags.next(customer);
        recorder.record(Event::send(&tag))?;
        let message = Message::new(tag.to_payload(200)).key(tag.key());
        let outcome = broker.publisher().publish(&orders, message).await;
        recorder.record(Event::outcome(&tag, "orders", &outcome))?;
    }
    // In the consumer: effect, record, acknowledge.
    let recorder = Recorder::create(&folder, "run-1", "consumer")?;
    let source = Subscription::queue("orders");
    let mut consumer = broker.consumer(&source, ConsumePlan::new()).await?;
    while let Ok(delivery) = timeout(Duration::from_secs(1), consumer.receive()).await {
        let Some(delivery) = delivery? else { break };
        let tag = recorder.received("orders", delivery.received())??;
        recorder.record(Event::effect(delivery.source(), &tag))?; // behind the effect itself
        delivery.ack()?;
    }
    let report = Checker::new(Claim::at_least_once().ordered()).check(&folder)?;
    assert_eq!(report.verdict(), Verdict::Holds, "{report}");
    println!("{report}");
    Ok(std::fs::remove_dir_all(&folder)?)
}
