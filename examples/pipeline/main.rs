//! A pipeline: two stages that consume, transform and publish. The first drops what nobody needs,
//! the second makes several messages of one. No input is acknowledged before its outputs are
//! confirmed.
//!
//! ```text
//! cargo run --example pipeline
//! cargo run --example pipeline -- --broker amqp://guest:guest@127.0.0.1:5672/%2f
//! cargo run --example pipeline -- --broker kafka://127.0.0.1:9092
//! ```

use mq_core::{
    BoxError, Broker, ConsumePlan, Consumer, Destination, Message, Publisher, Subscription,
    codec::JsonCodec,
};
use mq_examples::{Args, Background, Result, within};
use mq_patterns::pipeline::Stage;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    number: u32,
    articles: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Parcel {
    order: u32,
    article: String,
}

/// The first stage: an order for nothing is dropped (EIP *Message Filter*).
async fn check(order: Order) -> Result<Option<Order>, BoxError> {
    Ok((!order.articles.is_empty()).then_some(order))
}

/// The second stage: a parcel for each article (EIP *Splitter*).
async fn pack(order: Order) -> Result<Vec<Parcel>, BoxError> {
    let parcel = |article| Parcel {
        order: order.number,
        article,
    };
    Ok(order.articles.into_iter().map(parcel).collect())
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse()?;
    let broker = args.connect().await?;
    let [placed, checked, parcels] = ["placed", "checked", "parcels"].map(|name| args.name(name));
    let from = |queue: &String| Subscription::queue(queue.as_str());
    let to = |queue: &String| Destination::queue(queue.as_str());

    let checking = Stage::new(&broker, "check", from(&placed), to(&checked));
    let packing = Stage::new(&broker, "pack", from(&checked), to(&parcels));
    tokio::try_join!(checking.declare(), packing.declare())?;
    println!("{placed} -> check -> {checked} -> pack -> {parcels}");

    let stages = [
        Background::start(checking.worker().run(checking.filter(check))),
        Background::start(packing.worker().run(packing.split(pack))),
    ];
    for (number, articles) in [(1, vec!["tea"]), (2, vec![]), (3, vec!["cups", "milk"])] {
        println!("order {number} for {articles:?}");
        let articles = articles.into_iter().map(str::to_owned).collect();
        let order = Message::json(&Order { number, articles })?
            .key("ada") // one key, so that the order of the orders is kept
            .correlation_id(args.token());
        broker.publisher().publish(&to(&placed), order).await?;
    }

    let mut shop = broker.consumer(&from(&parcels), ConsumePlan::new()).await?;
    for _ in 0..3 {
        let delivery = within("a parcel", shop.receive())
            .await??
            .ok_or("the consumer ended")?;
        let Parcel { order, article } = delivery.decode::<JsonCodec, _>()?;
        let correlation = delivery.correlation_id().unwrap_or_default();
        println!("parcel of order {order}: {article}, correlation id {correlation}");
        delivery.ack()?;
    }
    shop.close().await?;
    for stage in stages {
        stage.stop().await?;
    }
    broker.close().await?;
    Ok(())
}
