//! RabbitMQ, publishing: declare a durable queue, publish persistent messages, and hear from the
//! broker what became of each. It needs `mq-amqp` alone.
//!
//! ```text
//! cargo run --example rabbitmq_publish -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! ```

use mq_amqp::{
    Amqp,
    core::{
        Broker, ConsumePlan, Consumer, Destination, ErrorKind, Message, MessageId, Publisher,
        Subscription,
    },
};
use mq_examples::{Args, Result, within};

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let queue = args.name("payments");

    // AMQP.Connection.open(url), AMQP.Channel.open(connection): both are in here.
    let broker = Amqp::connect(args.rabbitmq()?).await?;

    // AMQP.Queue.declare(channel, queue, durable: true, arguments: [quorum, …]). Again is fine.
    let payments = Destination::queue(queue.as_str());
    broker.declare(&payments).await?;
    println!("declared the durable queue {queue}, and {queue}.dead for what fails for good");

    // AMQP.Confirm.select, AMQP.Basic.publish(…, persistent: true, mandatory: true), and then
    // AMQP.Confirm.wait_for_confirms: what is Ok is stored by the queue.
    let publisher = broker.publisher();
    let first = Message::new("pay 10 EUR")
        .id(MessageId::new("payment-1")?)
        .content_type("text/plain")
        .header("token", args.token().to_owned())
        .build();
    let receipt = publisher.publish(&payments, first.clone()).await?;
    println!("payment-1 is stored by its {:?}", receipt.stored());

    // Many at once: `enqueue` waits for room in a window, each handle for its own outcome.
    let mut pending = Vec::new();
    for number in 2..=1000 {
        let message = Message::new("pay 1 EUR").id(MessageId::new(format!("payment-{number}"))?);
        pending.push(publisher.enqueue(&payments, message).await?);
    }
    let mut confirmed = 0;
    for one in pending {
        one.await?;
        confirmed += 1;
    }
    println!("{confirmed} more were confirmed, with up to 1000 on their way");

    // A queue that is not there: the broker would drop the message and confirm it all the same.
    let nowhere = Destination::queue(args.name("paiments"));
    match publisher.publish(&nowhere, first).await {
        Err(error) if error.kind() == ErrorKind::Unroutable => println!("unroutable: {error}"),
        other => return Err(format!("not expected: {other:?}").into()),
    }

    // What a consumer gets of it.
    let payments = Subscription::queue(queue);
    let mut consumer = broker.consumer(&payments, ConsumePlan::new()).await?;
    let payment = within("a payment", consumer.receive())
        .await??
        .ok_or("the consumer ended")?;
    println!(
        "received {} with the token {}",
        payment.id(),
        payment.headers().text("token").unwrap_or_default()
    );
    payment.ack()?;
    consumer.close().await?;
    broker.close().await?;
    Ok(())
}
