//! What a case has at hand: a client of its own, names of its own, and readers that wait in bounds.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::Duration,
};

use mq_core::{
    Broker, ConsumePlan, Consumer, Delivery, Destination, ErrorKind, Message, MessageBuilder,
    MessageId, Publisher, Received, Subscription,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    Check, Failure, Fixture,
    failure::ensure,
};

/// What a case has at hand.
pub(crate) struct Scene<F: Fixture> {
    fixture: Arc<F>,
    /// The case's first client.
    pub(crate) broker: F::Broker,
    prefix: String,
}

impl<F: Fixture> Scene<F> {
    /// Connects the first client.
    pub(crate) async fn new(fixture: Arc<F>, case: &str) -> Check<Self> {
        let broker = fixture.connect().await.map_err(|e| Failure::from(e).while_doing("connect"))?;
        // The last part of a UUIDv7 is random, so that runs on one broker do not meet.
        let id = MessageId::unique().to_string();
        let run = id.rsplit('-').next().unwrap_or_default();
        Ok(Self { fixture, broker, prefix: format!("mq-test.{run}.{case}") })
    }

    /// A name that nobody else uses, legal on every broker.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("{}.{what}", self.prefix)
    }

    /// A queue that is not there.
    pub(crate) fn missing_queue(&self) -> Queue {
        Queue::named(&self.name("missing"))
    }

    /// Declares the case's queue.
    pub(crate) async fn queue(&self) -> Check<Queue> {
        self.further_queue("queue").await
    }

    /// Declares a queue.
    pub(crate) async fn further_queue(&self, what: &str) -> Check<Queue> {
        let queue = Queue::named(&self.name(what));
        self.broker.declare(&queue.to).await?;
        Ok(queue)
    }

    /// Declares the case's topic.
    pub(crate) async fn topic(&self) -> Check<Destination> {
        let topic = Destination::topic(self.name("topic"));
        self.broker.declare(&topic).await?;
        Ok(topic)
    }

    /// Declares a durable subscription.
    pub(crate) async fn subscribe(&self, topic: &Destination, name: &str) -> Check<Subscription> {
        let subscription = Subscription::durable(Arc::clone(topic.name()), name);
        self.broker.declare(&subscription).await?;
        Ok(subscription)
    }

    /// A further client, as another process would have it.
    pub(crate) async fn client(&self) -> Check<F::Broker> {
        self.fixture.connect().await.map_err(|e| Failure::from(e).while_doing("connect again"))
    }

    /// Publishes one message on the first client; it has to be confirmed.
    pub(crate) async fn publish(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> Check {
        self.broker.publisher().publish(to, message).await?;
        Ok(())
    }

    /// Publishes messages numbered from 0; all have to be confirmed.
    pub(crate) async fn fill(&self, to: &Destination, count: u64) -> Check {
        self.publish_all(to, (0..count).map(|n| numbered(n).build()).collect()).await
    }

    /// Publishes messages as a batch; all have to be confirmed.
    pub(crate) async fn publish_all(&self, to: &Destination, messages: Vec<Message>) -> Check {
        for outcome in self.broker.publisher().publish_batch(to, messages).await {
            outcome?;
        }
        Ok(())
    }

    /// Opens a consumer on the first client.
    pub(crate) async fn open(&self, from: &Subscription) -> Check<Reader<F>> {
        self.open_with(from, ConsumePlan::new()).await
    }

    /// Opens a consumer on the first client, with a plan.
    pub(crate) async fn open_with(
        &self,
        from: &Subscription,
        plan: ConsumePlan,
    ) -> Check<Reader<F>> {
        self.open_on(&self.broker, from, plan).await
    }

    /// Opens a consumer on a further client, as another process would.
    pub(crate) async fn open_elsewhere(&self, from: &Subscription) -> Check<Reader<F>> {
        let client = self.client().await?;
        self.open_on(&client, from, ConsumePlan::new()).await
    }

    /// Opens a consumer.
    pub(crate) async fn open_on(
        &self,
        client: &F::Broker,
        from: &Subscription,
        plan: ConsumePlan,
    ) -> Check<Reader<F>> {
        Ok(Reader {
            consumer: client.consumer(from, plan).await?,
            patience: self.fixture.patience(),
            quiet: self.fixture.quiet(),
            _client: client.clone(),
        })
    }

    /// Passes if opening a consumer is refused with this kind of error; returns its text.
    pub(crate) async fn refuses_to_open(
        &self,
        from: &Subscription,
        plan: ConsumePlan,
        kind: ErrorKind,
    ) -> Check<String> {
        let result = self.broker.consumer(from, plan).await.map(|_| ());
        refused(result, kind, "opening a consumer")
    }

    /// Passes if the queue is empty for whoever comes now.
    pub(crate) async fn is_empty(&self, queue: &Queue) -> Check {
        let mut reader = self.open_elsewhere(&queue.from).await?;
        reader.nothing().await?;
        reader.close().await
    }

    /// How long a case waits for what must come.
    pub(crate) fn patience(&self) -> Duration {
        self.fixture.patience()
    }
}

/// A queue, to publish to and to read from.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    pub(crate) to: Destination,
    pub(crate) from: Subscription,
}

impl Queue {
    pub(crate) fn named(name: &str) -> Self {
        Self { to: Destination::queue(name), from: Subscription::queue(name) }
    }

    /// The queue of its dead letters.
    pub(crate) fn dead(&self) -> Self {
        Self::named(&format!("{}.dead", self.to.name()))
    }
}

/// A consumer whose waits are bounded.
pub(crate) struct Reader<F: Fixture> {
    consumer: <F::Broker as Broker>::Consumer,
    patience: Duration,
    quiet: Duration,
    /// A client lives as long as its consumers, as in a process.
    _client: F::Broker,
}

impl<F: Fixture> Reader<F> {
    /// The next delivery, which has to come.
    pub(crate) async fn next(&mut self) -> Check<Delivery> {
        match timeout_at(Instant::now() + self.patience, self.consumer.receive()).await {
            Ok(received) => received?.ok_or_else(|| Failure::new("the consumer ended")),
            Err(_) => Err(Failure::new(format!("no delivery within {:?}", self.patience))),
        }
    }

    /// The next deliveries, unsettled.
    pub(crate) async fn take(&mut self, count: usize) -> Check<Vec<Delivery>> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let next = self.next().await;
            let seen = || format!("delivery {} of {count}", taken.len() + 1);
            taken.push(next.map_err(|failure| failure.while_doing(&seen()))?);
        }
        Ok(taken)
    }

    /// Takes and acknowledges.
    pub(crate) async fn ack(&mut self, count: usize) -> Check<Vec<Received>> {
        let mut acked = Vec::with_capacity(count);
        while acked.len() < count {
            let next = self.next().await;
            let seen = || format!("delivery {} of {count}", acked.len() + 1);
            let (received, settlement) = next.map_err(|f| f.while_doing(&seen()))?.into_parts();
            settlement.ack()?;
            acked.push(received);
        }
        Ok(acked)
    }

    /// Passes if nothing comes.
    pub(crate) async fn nothing(&mut self) -> Check {
        match timeout_at(Instant::now() + self.quiet, self.consumer.receive()).await {
            Err(_) => Ok(()),
            Ok(received) => {
                let text = match received? {
                    Some(delivery) => format!("an unexpected delivery: {:?}", delivery.received()),
                    None => "the consumer ended".to_owned(),
                };
                Err(Failure::new(text))
            }
        }
    }

    /// Waits until the broker has every verdict.
    pub(crate) async fn settled(&mut self) -> Check {
        Ok(self.consumer.settled().await?)
    }

    /// Closes the consumer.
    pub(crate) async fn close(self) -> Check {
        Ok(self.consumer.close().await?)
    }

    /// The bare consumer.
    pub(crate) fn into_inner(self) -> <F::Broker as Broker>::Consumer {
        self.consumer
    }

    /// The bare consumer, to call it in other ways.
    pub(crate) fn inner(&mut self) -> &mut <F::Broker as Broker>::Consumer {
        &mut self.consumer
    }
}

/// A message whose payload is a number.
pub(crate) fn numbered(number: u64) -> MessageBuilder {
    Message::new(number.to_string())
}

/// The number in a payload.
pub(crate) fn number(message: &Message) -> Check<u64> {
    let text = message.payload().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| Failure::new(format!("no number in the payload of {message:?}")))
}

/// The numbers in payloads, in the order of the deliveries.
pub(crate) fn numbers<'a>(messages: impl IntoIterator<Item = &'a Received>) -> Check<Vec<u64>> {
    messages.into_iter().map(|received| number(received.message())).collect()
}

/// Passes if the numbers are exactly those of the range, each once, in any order.
pub(crate) fn each_once(numbers: &[u64], expected: std::ops::Range<u64>) -> Check {
    let found: BTreeSet<u64> = numbers.iter().copied().collect();
    let missing: Vec<u64> = expected.clone().filter(|n| !found.contains(n)).take(SHOWN).collect();
    let foreign: Vec<_> = found.iter().filter(|n| !expected.contains(n)).take(SHOWN).collect();
    let twice = numbers.len() - found.len();
    ensure!(
        missing.is_empty() && foreign.is_empty() && twice == 0,
        "{} deliveries of {expected:?}: missing {missing:?}, unexpected {foreign:?}, {twice} more than once",
        numbers.len()
    );
    Ok(())
}

/// Passes if the operation was refused with this kind of error; returns its text.
#[track_caller]
pub(crate) fn refused<T>(result: mq_core::Result<T>, kind: ErrorKind, what: &str) -> Check<String> {
    match result {
        Err(error) if error.kind() == kind => Ok(error.to_string()),
        Err(error) => Err(Failure::from(error).while_doing(&format!("{what} has to be {kind:?}"))),
        Ok(_) => Err(Failure::new(format!("{what} has to be refused as {kind:?}, and was not"))),
    }
}

const SHOWN: usize = 10;
