//! RabbitMQ, consuming without acknowledgements (`no_ack`): for the broker a message is done as soon
//! as it is sent. What a program has not handled when it ends is lost. It needs `mq-amqp` alone.
//!
//! ```text
//! cargo run --example rabbitmq_no_ack -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! ```

use std::time::Duration;

use mq_amqp::{
    Amqp, AmqpNoAckConsumer,
    core::{Broker, Destination, Message, Publisher, Received, Subscription},
};
use mq_examples::{Args, Result, within};

async fn next(consumer: &mut AmqpNoAckConsumer) -> Result<Received> {
    let message = within("a price", consumer.receive()).await??;
    Ok(message.ok_or("the consumer ended")?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let queue = args.name("prices");
    let broker = Amqp::connect(args.rabbitmq()?).await?;
    let destination = Destination::queue(queue.as_str());
    broker.declare(&destination).await?;
    let publisher = broker.publisher();
    for price in ["10 EUR", "11 EUR", "12 EUR"] {
        publisher.publish(&destination, Message::new(price)).await?;
    }
    println!("published 3 prices to {queue}");

    // AMQP.Basic.consume(channel, queue, nil, no_ack: true). It has a name of its own here, yields
    // messages that have nothing to settle, and no worker takes it: it cannot be chosen by mistake.
    // At most about 100 messages wait in this program; the broker keeps the others.
    let prices = Subscription::queue(queue.as_str());
    let mut consumer = broker.no_ack_consumer(&prices, 100).await?;
    let price = next(&mut consumer).await?;
    println!(
        "received {}",
        String::from_utf8_lossy(price.payload().ok_or("no payload")?)
    );
    let arrived = async {
        while consumer.waiting() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the other two", arrived).await?;
    println!("2 more are in this program, and no longer in the queue");
    // As after a crash: nothing goes back.
    consumer.close().await?;
    println!("it ends before it has handled them");

    let last = Message::new("13 EUR").header("token", args.token().to_owned());
    publisher.publish(&destination, last).await?;
    let mut consumer = broker.no_ack_consumer(&prices, 100).await?;
    let price = next(&mut consumer).await?;
    println!(
        "the next consumer starts at {}, with the token {}: 11 and 12 EUR are lost",
        String::from_utf8_lossy(price.payload().ok_or("no payload")?),
        price.headers().text("token").unwrap_or_default()
    );
    consumer.close().await?;
    broker.close().await?;
    Ok(())
}
