//! The patterns over queues, and what becomes of a job that fails.

use mq_core::{ConsumePlan, Destination, Filter, Outcome, Subscription, flow::FlowKind as Kind};
use mq_examples::{Result, within};
use mq_patterns::{
    fan_out::FanOut,
    producer_consumer::{Consumer, Producer},
    routing::Routing,
    work_queue::WorkQueue,
};

use crate::scene::Scene;

/// Three jobs, and two workers who share them.
pub(crate) async fn work_queue(scene: &Scene<'_>) -> Result<()> {
    let (shop, one, two) = (
        scene.client("shop").await?,
        scene.client("worker one").await?,
        scene.client("worker two").await?,
    );
    let name = scene.name("jobs");
    let queue = WorkQueue::<String, _>::new(&shop, name.as_str()).envelope(scene.stamp());
    queue.declare().await?;
    for job in ["a", "b", "c"] {
        queue.submit(&job.to_owned()).await?;
    }
    let worker = |client| WorkQueue::<String, _>::new(client, name.as_str()).worker(1);
    let one = scene.start(worker(&one), |_| Outcome::ack());
    scene.reached(Kind::Delivered, 1).await?;
    let two = scene.start(worker(&two), |_| Outcome::ack());
    scene.reached(Kind::Delivered, 2).await?;
    // The first one is quicker, and so gets the third job too.
    one.handle(1);
    scene.reached(Kind::Delivered, 3).await?;
    one.handle(1);
    scene.reached(Kind::Acked, 2).await?;
    two.handle(1);
    scene.reached(Kind::Acked, 3).await?;
    one.stop().await?;
    two.stop().await
}

/// Five items, sent one after the other and read one after the other.
pub(crate) async fn producer_consumer(scene: &Scene<'_>) -> Result<()> {
    let (sensor, archive) = (
        scene.client("sensor").await?,
        scene.client("archive").await?,
    );
    let name = scene.name("readings");
    let queue = Destination::queue(name.as_str());
    mq_core::Broker::declare(&sensor, &queue).await?;
    let producer = Producer::<u32, _>::new(&sensor, queue);
    let mut producer = producer.envelope(scene.stamp()).window(1);
    for reading in 0..5 {
        producer.send(&reading).await?;
    }
    producer.finish().await.all_confirmed()?;
    let (source, plan) = (Subscription::queue(name), ConsumePlan::new());
    let mut consumer = Consumer::<u32, _>::open(&archive, &source, plan).await?;
    for _ in 0..5 {
        let item = within("an item", consumer.next()).await??;
        let item = item.ok_or("the consumer ended")?;
        scene.note(item.received());
        item.ack()?;
        consumer.settled().await?;
    }
    Ok(consumer.close().await?)
}

/// One event, and two subscribers who both get it.
pub(crate) async fn fan_out(scene: &Scene<'_>) -> Result<()> {
    let (shop, mail, stock) = (
        scene.client("shop").await?,
        scene.client("mail").await?,
        scene.client("stock").await?,
    );
    let name = scene.name("orders");
    let topic = FanOut::<String, _>::new(&shop, name.as_str()).envelope(scene.stamp());
    topic.declare().await?;
    let of = |client, group| FanOut::<String, _>::new(client, name.as_str()).subscriber(group);
    let (to_mail, to_stock) = (of(&mail, "mail"), of(&stock, "stock"));
    to_mail.declare().await?;
    to_stock.declare().await?;
    topic.publish(&"ordered".to_owned()).await?;
    for (at, subscriber) in [to_mail, to_stock].into_iter().enumerate() {
        let hand = scene.start(subscriber.worker(), |_| Outcome::ack());
        hand.handle(1);
        scene.reached(Kind::Acked, at + 1).await?;
        hand.stop().await?;
    }
    Ok(())
}

/// Three events with routing keys; one subscriber takes what is paid, one what is from the EU, and
/// the third event is none of theirs.
pub(crate) async fn routing(scene: &Scene<'_>) -> Result<()> {
    let (shop, books, customs) = (
        scene.client("shop").await?,
        scene.client("books").await?,
        scene.client("customs").await?,
    );
    let name = scene.name("events");
    let topic = Routing::<String, _>::new(&shop, name.as_str()).envelope(scene.stamp());
    let topic = topic.route(String::clone);
    topic.declare().await?;
    let of = |client, who, pattern| {
        let topic = Routing::<String, _>::new(client, name.as_str());
        topic.subscriber(who, Filter::pattern(pattern))
    };
    let to_books = of(&books, "books", "*.paid");
    let to_customs = of(&customs, "customs", "eu.*");
    to_books.declare().await?;
    to_customs.declare().await?;
    for event in ["us.paid", "eu.sent", "us.lost"] {
        topic.publish(&event.to_owned()).await?;
    }
    for (at, subscriber) in [to_books, to_customs].into_iter().enumerate() {
        let hand = scene.start(subscriber.worker(), |_| Outcome::ack());
        hand.handle(1);
        scene.reached(Kind::Acked, at + 1).await?;
        hand.stop().await?;
    }
    Ok(())
}

/// A job that fails twice: it is attempted again, then it is a dead letter.
pub(crate) async fn retry(scene: &Scene<'_>) -> Result<()> {
    let (shop, worker) = (scene.client("shop").await?, scene.client("worker").await?);
    let name = scene.name("tasks");
    let queue = WorkQueue::<String, _>::new(&shop, name.as_str()).envelope(scene.stamp());
    queue.declare().await?;
    queue.submit(&"a".to_owned()).await?;
    let queue = WorkQueue::<String, _>::new(&worker, name);
    let hand = scene.start(queue.worker(1).max_attempts(2), |_| Outcome::retry("no"));
    hand.handle(2);
    scene.reached(Kind::Acked, 1).await?;
    hand.stop().await
}
