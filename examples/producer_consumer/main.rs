//! Producer and consumer: one side sends without waiting for the other, which takes items one at a
//! time, at its own pace, and settles each by hand.
//!
//! ```text
//! cargo run --example producer_consumer
//! cargo run --example producer_consumer -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! cargo run --example producer_consumer -- --broker kafka://127.0.0.1:9092
//! ```

use mq_core::{Broker, ConsumePlan, Destination, Subscription};
use mq_examples::{Args, Result, within};
use mq_patterns::producer_consumer::{Consumer, Producer};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Reading {
    hour: u32,
    celsius: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let broker = args.connect().await?;
    let queue = args.name("readings");
    let readings = Destination::queue(queue.as_str());
    broker.declare(&readings).await?;
    println!("declared the queue {queue}");

    // Nobody consumes yet. `send` waits only for room in its window, `finish` for every outcome.
    let token = args.token().to_owned();
    let mut producer = Producer::new(&broker, readings)
        .envelope(move |_: &Reading, message| message.key("attic").header("token", token.clone()));
    for (hour, celsius) in (6..).zip([17.5, 18.0, 20.5, 21.0, 22.5]) {
        producer.send(&Reading { hour, celsius }).await?;
    }
    let sent = producer.finish().await;
    println!(
        "sent 5 readings: {} confirmed, {} failed",
        sent.confirmed,
        sent.failed.len()
    );

    // With a prefetch of 1 the broker hands out the next one when this one is settled.
    let plan = ConsumePlan::new().prefetch(1);
    let mut consumer =
        Consumer::<Reading, _>::open(&broker, &Subscription::queue(queue), plan).await?;
    let mut token = None;
    let mut stored = 0;
    while stored < 5 {
        let reading = within("a reading", consumer.next())
            .await??
            .ok_or("the consumer ended")?;
        let attempt = reading.received().attempt();
        if reading.hour == 8 && attempt == 1 {
            println!(
                "{} h: {} °C, attempt 1: the disk is full",
                reading.hour, reading.celsius
            );
            reading.fail("the disk is full")?; // so it is delivered again
            continue;
        }
        println!(
            "{} h: {} °C, attempt {attempt}: stored",
            reading.hour, reading.celsius
        );
        token = reading
            .received()
            .headers()
            .text("token")
            .map(str::to_owned);
        reading.ack()?;
        stored += 1;
    }
    consumer.close().await?; // once the broker has every verdict
    println!(
        "received all of them, with the token {}",
        token.unwrap_or_default()
    );
    broker.close().await?;
    Ok(())
}
