//! The patterns over a log: on Kafka.

use mq_core::{
    BoxError, Destination, Message, Outcome, Publisher, Subscription, Worker,
    flow::FlowKind as Kind,
};
use mq_examples::{Background, Result};
use mq_patterns::{consumer_group::ConsumerGroup, pipeline::Stage};

use crate::scene::Scene;

/// Two messages of one key, and two groups that both get them, each at its own offset.
pub(crate) async fn consumer_group(scene: &Scene<'_>) -> Result<()> {
    let (shop, books, stock) = (
        scene.client("shop").await?,
        scene.client("books").await?,
        scene.client("stock").await?,
    );
    let name = scene.name("orders");
    let of = |client, who| ConsumerGroup::<String, _>::new(client, name.as_str(), who);
    let groups = [of(&books, "books"), of(&stock, "stock")];
    for group in &groups {
        group.declare().await?;
    }
    let topic = of(&shop, "books").envelope(scene.stamp());
    for event in ["ordered", "paid"] {
        topic.publish(&event.to_owned()).await?;
    }
    for (at, group) in groups.into_iter().enumerate() {
        let hand = scene.start(group.member(1), |_| Outcome::ack());
        hand.handle(2);
        scene.reached(Kind::Acked, 2 * (at + 1)).await?;
        hand.stop().await?;
    }
    Ok(())
}

/// One order that becomes a parcel, and one that is dropped.
pub(crate) async fn pipeline(scene: &Scene<'_>) -> Result<()> {
    let (shop, packer) = (scene.client("shop").await?, scene.client("packer").await?);
    let (orders, parcels) = (scene.name("placed"), scene.name("parcels"));
    let from = Subscription::queue(orders.as_str());
    let to = Destination::queue(parcels.as_str());
    let stage = Stage::<u32, String, _>::new(&packer, "pack", from, to);
    stage.declare().await?;
    let orders = Destination::queue(orders);
    let publisher = mq_core::Broker::publisher(&shop);
    for articles in [2, 0] {
        let order = scene.stamp()(&articles, Message::json(&articles)?);
        publisher.publish(&orders, order).await?;
    }
    let pack = |articles: u32| async move {
        Ok::<_, BoxError>((articles > 0).then(|| format!("a parcel of {articles}")))
    };
    let worker = stage.worker().prefetch(1).run(stage.filter(pack));
    let running = Background::start(worker);
    scene.reached(Kind::Acked, 2).await?;
    running.stop().await?;
    // The parcel has come through the stage with the token.
    let parcels = Subscription::queue(parcels);
    let reader = scene.client("reader").await?;
    let hand = scene.start(Worker::new(&reader, parcels), |_| Outcome::ack());
    hand.handle(1);
    scene.reached(Kind::Acked, 3).await?;
    hand.stop().await
}
