//! Routing: each subscriber gets the events that its filter takes. By the exact routing key, as a
//! direct exchange has it on RabbitMQ; by a pattern, as a topic exchange has it; and by headers.
//!
//! ```text
//! cargo run --example routing
//! cargo run --example routing -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! cargo run --example routing -- --broker kafka://127.0.0.1:9092
//! ```

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use mq_amqp::{Amqp, ExchangeKind};
use mq_core::{BoxError, Broker, Filter, Json, Received, State, dynamic::AnyBroker};
use mq_examples::{Args, Background, Result, within};
use mq_patterns::routing::Routing;
use tokio::sync::mpsc;

/// An event that a subscriber got, and the token that it came with.
type Got = (&'static str, String, Option<String>);

async fn subscriber(
    State((name, got)): State<(&'static str, mpsc::Sender<Got>)>,
    Json(event): Json<String>,
    received: Received,
) -> Result<(), BoxError> {
    let token = received.headers().text("token").map(str::to_owned);
    Ok(got.send((name, event, token)).await?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let (alerts, orders) = (args.name("alerts"), args.name("orders"));
    let broker = match args.rabbitmq() {
        // Only RabbitMQ has kinds of exchanges. A topic is a topic exchange, unless it is told.
        Ok(url) => {
            let amqp = Amqp::builder().url(url)?;
            let amqp = amqp.exchange(alerts.as_str(), ExchangeKind::Direct);
            AnyBroker::new(amqp.connect().await?)
        }
        Err(_) => args.connect().await?,
    };

    let topic = Routing::new(&broker, alerts).route(String::clone);
    let events = ["info", "warning", "fatal", "warning"];
    let pager = ("pager", Filter::exact("fatal"), 1);
    let mail = ("mail", Filter::exact("warning"), 2);
    route(&args, topic, &events, &[pager, mail]).await?;

    let topic = Routing::new(&broker, orders).route(String::clone);
    let events = ["us.book.new", "eu.book.paid", "us.toy.new", "eu.toy.paid"];
    let accounting = ("accounting", Filter::pattern("*.*.paid"), 2);
    let toys = ("toys", Filter::pattern("*.toy.#"), 2);
    let us = ("region".to_owned(), "us".to_owned());
    let america = ("america", Filter::AllHeaders(vec![us]), 2);
    route(&args, topic, &events, &[accounting, toys, america]).await?;
    broker.close().await?;
    Ok(())
}

/// Publishes events, and shows what each subscriber gets: its name, its filter, and how many of the
/// events that takes.
async fn route(
    args: &Args,
    topic: Routing<String, AnyBroker>,
    events: &[&str],
    subscribers: &[(&'static str, Filter, usize)],
) -> Result<()> {
    let token = args.token().to_owned();
    let topic = topic.envelope(move |event, message| {
        let region = event.split('.').next().unwrap_or_default();
        // One ordering key, so that each subscriber gets its events in the order of publishing.
        let message = message.key("all").header("token", token.clone());
        message.header("region", region.to_owned())
    });
    topic.declare().await?;
    let (sender, mut receiver) = mpsc::channel(16);
    let mut declared = Vec::new();
    let mut to_run = Vec::new();
    for (name, filter, _) in subscribers {
        let who = topic.subscriber(*name, filter.clone());
        declared.push(who.declare());
        to_run.push(who.worker().state((*name, sender.clone())).run(subscriber));
    }
    try_join_all(declared).await?;
    let workers: Vec<_> = to_run.into_iter().map(Background::start).collect();
    drop(sender);
    for event in events {
        topic.publish(&(*event).to_owned()).await?;
    }
    println!("published {}", events.join(", "));

    let mut taken = BTreeMap::<_, Vec<String>>::new();
    let mut tokens = BTreeSet::new();
    for _ in 0..subscribers.iter().map(|(_, _, count)| count).sum() {
        let got = within("an event", receiver.recv()).await?;
        let (name, event, token) = got.ok_or("all subscribers ended")?;
        taken.entry(name).or_default().push(event);
        tokens.extend(token);
    }
    for (name, filter, _) in subscribers {
        println!("{name} takes {filter:?}: {}", taken[name].join(", "));
    }
    println!("all with the token {}", Vec::from_iter(tokens).join(", "));
    for worker in workers {
        worker.stop().await?;
    }
    Ok(())
}
