//! RabbitMQ, consuming with acknowledgements: a message stays with the broker until it is
//! acknowledged, so a consumer that goes away loses nothing. It needs `mq-amqp` alone.
//!
//! ```text
//! cargo run --example rabbitmq_consume -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! ```

use mq_amqp::{
    Amqp, AmqpConsumer,
    core::{
        Broker, ConsumePlan, Consumer, Delivery, Destination, Message, MessageId, Publisher,
        Subscription,
    },
};
use mq_examples::{Args, Result, within};

async fn next(consumer: &mut AmqpConsumer) -> Result<Delivery> {
    let delivery = within("a payment", consumer.receive()).await??;
    Ok(delivery.ok_or("the consumer ended")?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let queue = args.name("payments");
    let broker = Amqp::connect(args.rabbitmq()?).await?;
    let destination = Destination::queue(queue.as_str());
    broker.declare(&destination).await?;
    for number in 1..=4 {
        let message = Message::new(format!("pay {number} EUR"))
            .id(MessageId::new(format!("payment-{number}"))?)
            .header("token", args.token().to_owned());
        broker.publisher().publish(&destination, message).await?;
    }
    println!("published 4 payments to {queue}");

    // AMQP.Basic.qos(channel, prefetch_count: 1), AMQP.Basic.consume(channel, queue).
    let payments = Subscription::queue(queue.as_str());
    let one = ConsumePlan::new().prefetch(1);
    let mut consumer = broker.consumer(&payments, one).await?;
    let first = next(&mut consumer).await?;
    println!(
        "a consumer received {}, and goes away without acknowledging it",
        first.id()
    );
    drop(first);
    consumer.close().await?;

    // The next one gets it again, before the others.
    let ten = ConsumePlan::new().prefetch(10);
    let mut consumer = broker.consumer(&payments, ten).await?;
    for _ in 1..=2 {
        let payment = next(&mut consumer).await?;
        let again = if payment.redelivered() == Some(true) {
            " again"
        } else {
            ""
        };
        println!("received {}{again}: booked", payment.id());
        // AMQP.Basic.ack(channel, tag). It is marked here, and sent together with others.
        payment.ack()?;
    }

    // AMQP.Basic.reject(channel, tag, requeue: true): it comes again, and the queue counts it.
    let payment = next(&mut consumer).await?;
    println!(
        "received {}, attempt {}: the ledger is busy",
        payment.id(),
        payment.attempt()
    );
    payment.into_settlement().requeue()?;
    // Nobody waits for it: the next one may come before or after it.
    let mut rest = [next(&mut consumer).await?, next(&mut consumer).await?];
    rest.sort_by_key(|payment| payment.id().to_string());
    let [third, fourth] = rest;
    println!(
        "received {}, attempt {}: booked",
        third.id(),
        third.attempt()
    );
    let token = third.headers().text("token").unwrap_or_default().to_owned();
    third.ack()?;

    // AMQP.Basic.reject(channel, tag, requeue: false), but the copy in the dead-letter queue is
    // confirmed before the original is gone, and says why it is there.
    println!(
        "received {}, attempt {}: no such account",
        fourth.id(),
        fourth.attempt()
    );
    fourth.into_settlement().reject("no such account")?;
    // Now the broker has all of it.
    consumer.settled().await?;
    consumer.close().await?;

    let dead = Subscription::queue(format!("{queue}.dead"));
    let mut letters = broker.consumer(&dead, ConsumePlan::new()).await?;
    let letter = next(&mut letters).await?;
    println!(
        "{}.dead has {}: {}",
        queue,
        letter.id(),
        letter.headers().text("mq-dead-error").unwrap_or_default()
    );
    letter.ack()?;
    letters.close().await?;
    broker.close().await?;
    println!("done, with the token {token}");
    Ok(())
}
