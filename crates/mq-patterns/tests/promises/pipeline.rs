//! What the page of pipelines promises.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mq_core::{
    Broker, Capabilities, ConsumePlan, Consumer, Declaration, Deletion, Destination, Error,
    ErrorKind, Message, Publisher, Receipt, Received, Result, RetryAdvice, Subscription, headers,
};
use mq_patterns::pipeline::Stage;
use mq_testkit::{Check, Failure, Fixture};
use tokio::sync::Notify;

use crate::scene::{Item, Scene, items, numbers, reports, same};

/// A stage from the queue `in` to the queue `out`, both declared.
async fn stage<F: Fixture, B: Broker>(scene: &Scene<F>, broker: &B) -> Check<Stage<Item, Item, B>> {
    let from = Subscription::queue(scene.name("in"));
    let to = Destination::queue(scene.name("out"));
    let stage = Stage::new(broker, "copy", from, to);
    stage.declare().await?;
    Ok(stage)
}

async fn copy(item: Item) -> Result<Item, Infallible> {
    Ok(item)
}

async fn feed<F: Fixture>(scene: &Scene<F>, items: &[Item]) -> Check {
    let to = Destination::queue(scene.name("in"));
    for item in items {
        let message = Message::json(item)?
            .key(&item.key)
            .correlation_id("trade-1");
        scene.broker.publisher().publish(&to, message).await?;
    }
    Ok(())
}

/// Takes so many messages of the queue `out`, acknowledged, and sees that there are no more.
async fn outputs<F: Fixture>(scene: &Scene<F>, count: usize) -> Check<Vec<Received>> {
    let out = Subscription::queue(scene.name("out"));
    let mut consumer = scene.broker.consumer(&out, ConsumePlan::new()).await?;
    let mut taken = Vec::new();
    while taken.len() < count {
        let output = scene.soon("an output", consumer.receive()).await??;
        let output = output.ok_or_else(|| Failure::new("the consumer ended"))?;
        taken.push(output.received().clone());
        output.ack()?;
    }
    scene.quiet("one more output", consumer.receive()).await?;
    consumer.close().await?;
    Ok(taken)
}

fn decoded(outputs: &[Received]) -> Check<Vec<Item>> {
    let decode = |output: &Received| output.decode::<mq_core::codec::JsonCodec, Item>();
    Ok(outputs.iter().map(decode).collect::<Result<_>>()?)
}

pub(crate) async fn unconfirmed<F: Fixture>(scene: &Scene<F>) -> Check {
    let client = scene.fixture.connect().await?;
    let silent = Odd::new(client, Answer::Never);
    let first = stage(scene, &silent).await?;
    feed(scene, &items(1, 1)).await?;
    let run = first.worker().run(first.translate(copy));
    let worker = scene.start(run);
    scene.soon("a publish", silent.asked.notified()).await?;
    // Nothing was stored, and the worker is gone: had it acknowledged, the item would be lost.
    worker.abort().await;
    drop(first);

    let second = stage(scene, &scene.broker).await?;
    let worker = scene.start(second.worker().run(second.translate(copy)));
    let outputs = outputs(scene, 1).await?;
    same(decoded(&outputs)?, items(1, 1), "the output")?;
    scene.stop(worker).await
}

pub(crate) async fn twice<F: Fixture>(scene: &Scene<F>) -> Check {
    // The broker has the output, and its word is lost on the way.
    let client = scene.fixture.connect().await?;
    let odd = Odd::new(client, Answer::LostOnce);
    let stage = stage(scene, &odd).await?;
    let splits = |item: Item| async move { Ok::<_, Infallible>(vec![item.clone(), item]) };
    let worker = scene.start(stage.worker().run(stage.split(splits)));
    feed(scene, &items(1, 1)).await?;
    // Twice the first one, whose answer was lost, and the second one with it.
    let outputs = outputs(scene, 4).await?;
    let ids: BTreeSet<String> = outputs.iter().map(|o| o.id().to_string()).collect();
    same(ids.len(), 2, "different ids")?;
    scene.stop(worker).await
}

pub(crate) async fn impossible<F: Fixture>(scene: &Scene<F>) -> Check {
    let from = Subscription::queue(scene.name("in"));
    scene.broker.declare(&from).await?;
    let nowhere = Destination::queue(scene.name("nowhere"));
    let stage = Stage::<Item, Item, _>::new(&scene.broker, "copy", from.clone(), nowhere);
    let items = items(2, 1);
    feed(scene, &items[..1]).await?;
    // Undecodable inputs go the same way.
    let bad = Message::new("no item");
    let to = Destination::queue(scene.name("in"));
    scene.broker.publisher().publish(&to, bad).await?;
    let worker = scene.start(stage.worker().run(stage.translate(copy)));
    let letters = [scene.dead(&from).await?, scene.dead(&from).await?];
    scene.stop(worker).await?;
    let text = |letter: &Received, name| letter.headers().text(name).map(str::to_owned);
    let reasons: BTreeSet<_> = letters
        .iter()
        .map(|l| text(l, headers::DEAD_REASON))
        .collect();
    let expected = ["permanent", "undecodable"].map(|r| Some(r.to_owned()));
    same(reasons, expected.into(), "the reasons")?;
    let errors: Vec<_> = letters
        .iter()
        .filter_map(|l| text(l, headers::DEAD_ERROR))
        .collect();
    let named = errors
        .iter()
        .any(|error| error.contains(&scene.name("nowhere")));
    same(named, true, "the missing queue in the error")
}

pub(crate) async fn stages<F: Fixture>(scene: &Scene<F>) -> Check {
    let broker = &scene.broker;
    let queue = |name: &str| Subscription::queue(scene.name(name));
    let to = |name: &str| Destination::queue(scene.name(name));
    let odd = Stage::new(broker, "odd", queue("in"), to("odd"));
    let double = Stage::new(broker, "double", queue("odd"), to("doubled"));
    let tenfold = Stage::new(broker, "tenfold", queue("doubled"), to("out"));
    for stage in [&odd, &double, &tenfold] {
        stage.declare().await?;
    }
    let (seen, mut filtered) = reports();
    let keep = move |item: Item| {
        let seen = seen.clone();
        async move {
            seen.try_send(item.number)
                .map_err(|_| "the case has ended")?;
            Ok::<_, &str>((item.number % 2 == 1).then_some(item))
        }
    };
    let twice = |item: Item| async move { Ok::<_, Infallible>(vec![item.clone(), item]) };
    let times = |item: Item| async move {
        let number = item.number * 10;
        Ok::<_, Infallible>(Item { number, ..item })
    };
    let workers = [
        scene.start(
            odd.worker()
                .concurrency(4)
                .ordered_by_key()
                .run(odd.filter(keep.clone())),
        ),
        scene.start(
            double
                .worker()
                .concurrency(4)
                .ordered_by_key()
                .run(double.split(twice)),
        ),
        scene.start(
            tenfold
                .worker()
                .concurrency(4)
                .ordered_by_key()
                .run(tenfold.translate(times)),
        ),
    ];
    feed(scene, &items(10, 3)).await?;
    let outputs = outputs(scene, 10).await?;
    let made = decoded(&outputs)?;
    same(
        numbers(&made),
        vec![10, 10, 30, 30, 50, 50, 70, 70, 90, 90],
        "the outputs",
    )?;
    for (output, item) in outputs.iter().zip(&made) {
        let key = output.key().and_then(|key| key.as_str());
        same(key, Some(item.key.as_str()), "the key")?;
        same(
            output.correlation_id(),
            Some("trade-1"),
            "the correlation id",
        )?;
    }
    for key in ["key-0", "key-1", "key-2"] {
        let of_key = made.iter().filter(|item| item.key == key);
        let order: Vec<u64> = of_key.map(|item| item.number).collect();
        same(order.is_sorted(), true, "the order of a key")?;
    }
    // What was filtered out was seen once and acknowledged: it does not come again.
    let mut all = scene.reports(&mut filtered, 10).await?;
    all.sort_unstable();
    same(all, (0..10).collect(), "the inputs of the filter")?;
    for worker in workers {
        scene.stop(worker).await?;
    }
    let again = scene.start(odd.worker().run(odd.filter(keep)));
    scene
        .quiet("an input that was filtered out", filtered.recv())
        .await?;
    scene.stop(again).await
}

/// A broker whose publisher is odd; everything else is the real one.
#[derive(Clone)]
struct Odd<B: Broker> {
    inner: B,
    publisher: OddPublisher<B::Publisher>,
    /// Told when something is published.
    asked: Arc<Notify>,
}

/// How the publisher answers.
#[derive(Clone, Copy)]
enum Answer {
    /// It sends nothing and never answers.
    Never,
    /// The first message is stored, and said to be unknown.
    LostOnce,
}

#[derive(Clone)]
struct OddPublisher<P> {
    inner: P,
    answer: Answer,
    asked: Arc<Notify>,
    count: Arc<AtomicUsize>,
}

impl<B: Broker> Odd<B> {
    fn new(inner: B, answer: Answer) -> Self {
        let asked = Arc::<Notify>::default();
        let publisher = OddPublisher {
            inner: inner.publisher(),
            answer,
            asked: Arc::clone(&asked),
            count: Arc::default(),
        };
        Self {
            inner,
            publisher,
            asked,
        }
    }
}

impl<P: Publisher> Publisher for OddPublisher<P> {
    type Pending = std::pin::Pin<Box<dyn Future<Output = Result<Receipt>> + Send>>;

    async fn enqueue(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> Result<Self::Pending> {
        self.asked.notify_one();
        let first = self.count.fetch_add(1, Ordering::Relaxed) == 0;
        match self.answer {
            Answer::Never => Ok(Box::pin(std::future::pending())),
            Answer::LostOnce => {
                let stored = self.inner.enqueue(to, message).await?;
                Ok(Box::pin(async move {
                    let receipt = stored.await?;
                    if first {
                        let error = Error::new(ErrorKind::Unknown, "publish", "no answer");
                        return Err(error.advise(RetryAdvice::GaveUp));
                    }
                    Ok(receipt)
                }))
            }
        }
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

impl<B: Broker> Broker for Odd<B> {
    type Publisher = OddPublisher<B::Publisher>;
    type Unconfirmed = B::Unconfirmed;
    type Consumer = B::Consumer;

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn product(&self) -> String {
        self.inner.product()
    }

    fn publisher(&self) -> Self::Publisher {
        self.publisher.clone()
    }

    fn unconfirmed(&self) -> Self::Unconfirmed {
        self.inner.unconfirmed()
    }

    async fn consumer(&self, from: &Subscription, plan: ConsumePlan) -> Result<B::Consumer> {
        self.inner.consumer(from, plan).await
    }

    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.inner.declare(what).await
    }

    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.inner.verify(what).await
    }

    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        self.inner.delete(what).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
