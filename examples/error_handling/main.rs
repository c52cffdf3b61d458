//! Error handling: retry with backoff, and dead letters. Whatever a message does to its handler,
//! the consumer goes on, and at the end the dead letters say why each of them is there.
//!
//! ```text
//! cargo run --example error_handling
//! cargo run --example error_handling -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! cargo run --example error_handling -- --broker kafka://127.0.0.1:9092
//! ```

use std::time::Duration;

use mq_core::{
    Attempt, Broker, Classify, ConsumePlan, Consumer, Destination, Failure, Json, Message,
    Publisher, State, Subscription, Worker,
};
use mq_examples::{Args, Background, Result, within};
use mq_reliability::{
    dead_letter::DeadLetter,
    retry::{Policy, Retry},
};
use serde::Deserialize;
use tokio::sync::mpsc;

#[derive(Deserialize)]
struct Payment {
    number: u32,
    from: String,
}

/// What is sent. All have one key, so that they are handled in this order on every broker.
const PAYMENTS: [&str; 7] = [
    r#"{"number": 1, "from": "ada"}"#,
    r#"{"number": 2, "from": "a slow bank"}"#,
    r#"{"number": 3, "from": "a bank that is gone"}"#,
    r#"{"number": 4, "from": "a closed account"}"#,
    r#"{"number": 5, "from": "#,
    r#"{"number": 6, "from": "nobody"}"#,
    r#"{"number": 7, "from": "bob"}"#,
];

async fn pay(
    Json(payment): Json<Payment>,
    Attempt(attempt): Attempt,
    State(paid): State<mpsc::Sender<u32>>,
) -> Result<(), Failure> {
    let number = payment.number;
    println!("payment {number}, attempt {attempt}");
    match payment.from.as_str() {
        "a slow bank" if attempt < 3 => Err("no answer yet")?, // tried again, with backoff
        "a bank that is gone" => Err("no answer").transient()?, // the same, said more clearly
        "a closed account" => Err("the account is closed").permanent()?, // no retry can help
        "nobody" => panic!("a payment has somebody who pays"),
        _ => Ok(paid.send(number).await?),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let broker = args.connect().await?;
    let queue = args.name("payments");
    let payments = Destination::queue(queue.as_str());
    broker.declare(&payments).await?; // and its dead-letter home
    for payment in PAYMENTS {
        let message = Message::new(payment)
            .key("all")
            .header("token", args.token().to_owned());
        broker.publisher().publish(&payments, message).await?;
    }
    println!("published {} payments to {queue}", PAYMENTS.len());

    let (paid, mut done) = mpsc::channel(PAYMENTS.len());
    let ms = Duration::from_millis;
    let worker = Worker::new(&broker, Subscription::queue(queue.as_str()))
        .layer(Retry::new(Policy::fast(3).backoff(ms(10), ms(100))))
        .state(paid)
        .run(pay);
    let worker = Background::start(worker);
    for expected in [1, 2, 7] {
        let number = within("a payment", done.recv()).await?;
        if number != Some(expected) {
            worker.stop().await?; // says why it ended, if it did
            return Err(format!("payment {expected} was due, not {number:?}").into());
        }
    }
    worker.stop().await?;
    println!("paid: 1, 2, 7");

    let home = format!("{queue}.dead");
    println!("dead letters in {home}:");
    let mut letters = broker
        .consumer(&Subscription::queue(home), ConsumePlan::new())
        .await?;
    let mut token = None;
    for _ in 0..4 {
        let delivery = within("a dead letter", letters.receive())
            .await??
            .ok_or("it ended")?;
        let letter = DeadLetter::of(delivery.received())?;
        println!(
            "{} at attempt {}: {}",
            letter.reason(),
            letter.attempts(),
            letter.error()
        );
        let bytes = delivery.payload().ok_or("a dead letter without payload")?;
        println!("   its bytes: {}", String::from_utf8_lossy(bytes));
        token = delivery.headers().text("token").map(str::to_owned);
        delivery.ack()?;
    }
    letters.close().await?;
    println!("each with the token {}", token.unwrap_or_default());
    broker.close().await?;
    Ok(())
}
