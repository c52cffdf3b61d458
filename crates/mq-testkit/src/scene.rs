//! What a case has at hand: clients, names and queues of its own.

use std::{sync::Arc, time::Duration};

use mq_core::{
    Broker, Capability, ConsumePlan, Destination, ErrorKind, Message, MessageId, Publisher,
    Subscription,
};

use crate::{
    Check, Failure, Fixture, Link,
    checks::{numbered, refused},
    failure::{ensure, located},
    reader::Reader,
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
        let broker = fixture
            .connect()
            .await
            .map_err(|e| Failure::from(e).while_doing("connect"))?;
        // The last part of a UUIDv7 is random, so that runs on one broker do not meet.
        let id = MessageId::unique().to_string();
        let run = id.rsplit('-').next().unwrap_or_default();
        Ok(Self {
            fixture,
            broker,
            prefix: format!("mq-test.{run}.{case}"),
        })
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
    #[track_caller]
    pub(crate) fn queue(&self) -> impl Future<Output = Check<Queue>> + Send {
        located(async move { self.further_queue("queue").await })
    }

    /// Declares a queue.
    #[track_caller]
    pub(crate) fn further_queue(&self, what: &str) -> impl Future<Output = Check<Queue>> + Send {
        located(async move {
            let queue = Queue::named(&self.name(what));
            self.broker.declare(&queue.to).await?;
            Ok(queue)
        })
    }

    /// Declares the case's topic.
    #[track_caller]
    pub(crate) fn topic(&self) -> impl Future<Output = Check<Destination>> + Send {
        located(async move {
            let topic = Destination::topic(self.name("topic"));
            self.broker.declare(&topic).await?;
            Ok(topic)
        })
    }

    /// Declares a durable subscription.
    #[track_caller]
    pub(crate) fn subscribe(
        &self,
        topic: &Destination,
        name: &str,
    ) -> impl Future<Output = Check<Subscription>> + Send {
        located(async move {
            let subscription = Subscription::durable(Arc::clone(topic.name()), name);
            self.broker.declare(&subscription).await?;
            Ok(subscription)
        })
    }

    /// A further client, as another process would have it.
    #[track_caller]
    pub(crate) fn client(&self) -> impl Future<Output = Check<F::Broker>> + Send {
        located(async move {
            self.fixture
                .connect()
                .await
                .map_err(|e| Failure::from(e).while_doing("connect again"))
        })
    }

    /// A further client behind a link that can be cut.
    #[track_caller]
    pub(crate) fn client_by_link(
        &self,
    ) -> impl Future<Output = Check<(F::Broker, Box<dyn Link>)>> + Send {
        located(async move {
            self.fixture
                .connect_by_link()
                .await
                .map_err(|e| Failure::from(e).while_doing("connect by a link"))
        })
    }

    /// A client, and the case's queue, of which it can ask for a single active consumer.
    #[track_caller]
    pub(crate) fn single_active_queue(
        &self,
    ) -> impl Future<Output = Check<(F::Broker, Destination)>> + Send {
        located(async move {
            let name = self.name("single");
            let made = self.fixture.single_active_queue(&name).await;
            made.map_err(|e| Failure::from(e).while_doing("make a queue for a single consumer"))
        })
    }

    /// A client, and a queue that takes no message any more.
    #[track_caller]
    pub(crate) fn refusing_queue(
        &self,
    ) -> impl Future<Output = Check<(F::Broker, Destination)>> + Send {
        located(async move {
            let name = self.name("refusing");
            let made = self.fixture.refusing_queue(&name).await;
            made.map_err(|e| Failure::from(e).while_doing("make a queue that refuses"))
        })
    }

    /// The numbers of messages of one key as they came; sorted where no order of a key is promised.
    pub(crate) fn in_order(&self, mut numbers: Vec<u64>) -> Vec<u64> {
        if !self.broker.capabilities().has(Capability::KeyOrder) {
            numbers.sort_unstable();
        }
        numbers
    }

    /// Publishes one message on the first client; it has to be confirmed.
    #[track_caller]
    pub(crate) fn publish(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> impl Future<Output = Check> + Send {
        located(async move {
            self.broker.publisher().publish(to, message).await?;
            Ok(())
        })
    }

    /// Publishes messages numbered from 0; all have to be confirmed.
    #[track_caller]
    pub(crate) fn fill(&self, to: &Destination, count: u64) -> impl Future<Output = Check> + Send {
        located(async move {
            self.publish_all(to, (0..count).map(|n| numbered(n).build()).collect())
                .await
        })
    }

    /// Publishes messages as a batch; all have to be confirmed.
    #[track_caller]
    pub(crate) fn publish_all(
        &self,
        to: &Destination,
        messages: Vec<Message>,
    ) -> impl Future<Output = Check> + Send {
        located(async move {
            self.broker
                .publisher()
                .publish_batch(to, messages)
                .await
                .all_confirmed()?;
            Ok(())
        })
    }

    /// Opens a consumer on the first client.
    #[track_caller]
    pub(crate) fn open(
        &self,
        from: &Subscription,
    ) -> impl Future<Output = Check<Reader<F>>> + Send {
        located(async move { self.open_with(from, ConsumePlan::new()).await })
    }

    /// Opens a consumer on the first client, with a plan.
    #[track_caller]
    pub(crate) fn open_with(
        &self,
        from: &Subscription,
        plan: ConsumePlan,
    ) -> impl Future<Output = Check<Reader<F>>> + Send {
        located(async move { self.open_on(&self.broker, from, plan).await })
    }

    /// Opens a consumer on a further client, as another process would.
    #[track_caller]
    pub(crate) fn open_elsewhere(
        &self,
        from: &Subscription,
    ) -> impl Future<Output = Check<Reader<F>>> + Send {
        located(async move {
            let client = self.client().await?;
            self.open_on(&client, from, ConsumePlan::new()).await
        })
    }

    /// Opens a consumer.
    #[track_caller]
    pub(crate) fn open_on(
        &self,
        client: &F::Broker,
        from: &Subscription,
        plan: ConsumePlan,
    ) -> impl Future<Output = Check<Reader<F>>> + Send {
        located(async move {
            let consumer = client.consumer(from, plan).await?;
            Ok(Reader::new(&*self.fixture, client.clone(), consumer))
        })
    }

    /// Passes if opening a consumer is refused with this kind of error; returns its text.
    #[track_caller]
    pub(crate) fn refuses_to_open(
        &self,
        from: &Subscription,
        plan: ConsumePlan,
        kind: ErrorKind,
    ) -> impl Future<Output = Check<String>> + Send {
        located(async move {
            let result = self.broker.consumer(from, plan).await.map(|_| ());
            refused(result, kind, "opening a consumer")
        })
    }

    /// Passes if the queue is empty for whoever comes now.
    #[track_caller]
    pub(crate) fn is_empty(&self, queue: &Queue) -> impl Future<Output = Check> + Send {
        located(async move {
            let mut reader = self.open_elsewhere(&queue.from).await?;
            // Its arrival shows that the consumer gets what there is.
            let marker = MessageId::unique().to_string();
            self.publish(&queue.to, Message::new(marker.clone()))
                .await?;
            let first = reader.ack(1).await?.remove(0);
            let text = "an unexpected delivery";
            let same = first
                .payload()
                .is_some_and(|found| *found == marker.as_bytes());
            ensure!(same, "{text}: {first:?}");
            reader.nothing().await?;
            reader.close().await
        })
    }

    /// How long a case waits before it believes that nothing comes.
    pub(crate) fn quiet(&self) -> Duration {
        self.fixture.quiet()
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
        Self {
            to: Destination::queue(name),
            from: Subscription::queue(name),
        }
    }

    /// The queue of its dead letters.
    pub(crate) fn dead(&self) -> Self {
        Self::named(&format!("{}.dead", self.to.name()))
    }
}
