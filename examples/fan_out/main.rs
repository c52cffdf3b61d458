//! Fan-out to three subscribers that live with their consumer: each gets every event, and nobody
//! else gets at what one of them reads. On RabbitMQ each has an exclusive queue.
//!
//! ```text
//! cargo run --example fan_out
//! cargo run --example fan_out -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! cargo run --example fan_out -- --broker kafka://127.0.0.1:9092
//! ```

use mq_amqp::Amqp;
use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, ErrorKind, Subscription, codec::JsonCodec,
};
use mq_examples::{Args, Result, within};
use mq_patterns::fan_out::FanOut;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Price {
    article: String,
    cents: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    if let Ok(url) = args.rabbitmq() {
        let broker = Amqp::connect(url).await?;
        let subscribers = fan_out(&args, &broker).await?;

        // The names of such queues are made by the broker, and can be found out. It does not help.
        let queue = Subscription::queue(subscribers[0].queue());
        let other = Amqp::connect(url).await?;
        let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
        match other.consumer(&queue, plan).await {
            Err(error) if error.kind() == ErrorKind::InUse => println!("refused: {error}"),
            Err(error) => return Err(error.into()),
            Ok(_) => return Err("another connection could open an exclusive queue".into()),
        }
        other.close().await?;
        close(subscribers, &broker).await
    } else {
        let broker = args.connect().await?;
        let subscribers = fan_out(&args, &broker).await?;
        println!("there is no queue that another connection could open");
        close(subscribers, &broker).await
    }
}

/// Opens three subscribers and publishes three events.
async fn fan_out<B: Broker>(args: &Args, broker: &B) -> Result<Vec<B::Consumer>> {
    let topic = args.name("prices");
    let token = args.token().to_owned();
    let prices = FanOut::new(broker, topic.as_str()).envelope(move |_: &Price, message| {
        // One key, so that the events keep their order on every broker.
        message.key("shop").header("token", token.clone())
    });
    prices.declare().await?;
    let mut subscribers = Vec::new();
    for _ in 0..3 {
        let subscription = Subscription::ephemeral(topic.as_str());
        subscribers.push(broker.consumer(&subscription, ConsumePlan::new()).await?);
    }
    println!("three subscribers of the topic {topic}");

    for (article, cents) in [("tea", 420), ("milk", 95), ("cups", 1250)] {
        let article = article.to_owned();
        prices.publish(&Price { article, cents }).await?;
    }
    for (subscriber, number) in subscribers.iter_mut().zip(1..) {
        let mut heard = Vec::new();
        let mut token = None;
        for _ in 0..3 {
            let delivery = within("a price", subscriber.receive())
                .await??
                .ok_or("it ended")?;
            let Price { article, cents } = delivery.decode::<JsonCodec, _>()?;
            heard.push(format!("{article} {cents}"));
            token = delivery.headers().text("token").map(str::to_owned);
            delivery.ack()?;
        }
        let token = token.unwrap_or_default();
        println!(
            "subscriber {number} got {}, with the token {token}",
            heard.join(", ")
        );
    }
    Ok(subscribers)
}

async fn close<B: Broker>(subscribers: Vec<B::Consumer>, broker: &B) -> Result<()> {
    for subscriber in subscribers {
        subscriber.close().await?;
    }
    Ok(broker.close().await?)
}
