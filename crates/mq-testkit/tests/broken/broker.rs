//! The broken broker, and its fixture.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use mq_core::{
    Broker, Capabilities, ConsumePlan, Consumer, DeadLetters, Declaration, Deletion, Destination,
    Error, ErrorKind, Filter, Result, Subscription, SubscriptionKind, check_name,
};
use mq_memory::Memory;
use mq_testkit::{Fixture, Hook, Link};
use tokio::task::unconstrained;

use super::{
    Fault,
    consumer::BrokenConsumer,
    link::Line,
    publisher::{BrokenPublisher, BrokenUnconfirmed},
};

/// The shape of the in-process broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Queues,
    Log,
}

/// A broker in this process with a fault.
pub(crate) struct Local {
    first: Broken,
}

impl Local {
    pub(crate) fn new(shape: Shape, fault: Fault) -> Self {
        let mut builder = Memory::builder();
        if shape == Shape::Log {
            builder = builder.log(4);
        }
        let inner = builder.build();
        Self {
            first: Broken {
                inner,
                fault,
                opened: Arc::default(),
                closed: Arc::default(),
                declaring: Arc::default(),
                line: Line::new(),
            },
        }
    }
}

impl Fixture for Local {
    type Broker = Broken;

    async fn connect(&self) -> Result<Broken> {
        let mut client = self.first.clone();
        if client.fault != Fault::SharesOneClient {
            client.inner = self.first.inner.client();
            client.closed = Arc::default();
        }
        Ok(client)
    }

    fn patience(&self) -> Duration {
        match self.first.fault {
            // A busy machine must not make the control fail.
            Fault::None => Duration::from_secs(20),
            _ => Duration::from_secs(1),
        }
    }

    fn quiet(&self) -> Duration {
        Duration::from_millis(100)
    }

    fn hooks(&self) -> &'static [Hook] {
        &[Hook::Link, Hook::RefusingQueue]
    }

    async fn connect_by_link(&self) -> Result<(Broken, Box<dyn Link>)> {
        let mut client = self.connect().await?;
        client.line = Line::new();
        let link = client.line.clone();
        Ok((client, Box::new(link)))
    }

    async fn refusing_queue(&self, name: &str) -> Result<(Broken, Destination)> {
        let client = self.connect().await?;
        let queue = Destination::queue(format!("{name}.refusing"));
        client.inner.declare(&queue).await?;
        Ok((client, queue))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Broken {
    pub(super) inner: Memory,
    pub(super) fault: Fault,
    /// Consumers opened so far.
    opened: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
    /// What was begun: names whose declaration, or the first opening.
    declaring: Arc<Mutex<HashSet<Arc<str>>>>,
    pub(super) line: Line,
}

impl Broken {
    async fn consumer_of(
        &self,
        subscription: &Subscription,
        mut plan: ConsumePlan,
    ) -> Result<BrokenConsumer> {
        let mut subscription = subscription.clone();
        let name = Arc::clone(subscription.name());
        match (self.fault, subscription.kind().clone()) {
            (Fault::OpensWhatIsMissing, kind) => {
                if let Some(home) = plan.dead_letter_home(&subscription) {
                    self.inner.declare(home).await?;
                }
                if let SubscriptionKind::Durable { topic, .. }
                | SubscriptionKind::Ephemeral { topic } = &kind
                {
                    self.inner
                        .declare(Destination::topic(Arc::clone(topic)))
                        .await?;
                }
                if !matches!(kind, SubscriptionKind::Ephemeral { .. }) {
                    self.inner.declare(&subscription).await?;
                }
            }
            (Fault::OpensAnyPlan, kind) => {
                let prefetch = plan.prefetch.max(1);
                plan = ConsumePlan::new()
                    .prefetch(prefetch)
                    .dead_letters(plan.dead_letters);
                if let SubscriptionKind::Queue { queue } = kind {
                    subscription = Subscription::queue(queue);
                }
            }
            (Fault::TakesAnyName, SubscriptionKind::Queue { queue })
                if check_name("consume", &queue).is_err() =>
            {
                self.inner.declare(Destination::queue("any")).await?;
                subscription = Subscription::queue("any");
            }
            (Fault::MakesSubscriptionsEphemeral, SubscriptionKind::Durable { topic, .. }) => {
                let filter = subscription.filter_by().clone();
                subscription = Subscription::ephemeral(topic).filter(filter);
            }
            (Fault::MakesSubscriptionsDurable, SubscriptionKind::Ephemeral { topic }) => {
                subscription = Subscription::durable(topic, "all");
                self.inner.declare(&subscription).await?;
            }
            _ => {}
        }
        match self.fault {
            Fault::IgnoresPrefetch => plan.prefetch = 1000,
            Fault::IgnoresFilters => subscription = subscription.filter(Filter::All),
            Fault::RejectsToTheDefaultHome => plan.dead_letters = DeadLetters::Default,
            _ => {}
        }
        let home = plan.dead_letter_home(&subscription);
        self.line.check()?;
        let mut inner = Some(self.inner.consumer(&subscription, plan).await?);
        if self.fault == Fault::DroppedOpeningKeepsConsuming {
            let mut opening = Opening(inner.take());
            // The first one is never done, and dropped.
            if self.declaring.lock().unwrap().insert("the first".into()) {
                std::future::pending().await
            }
            inner = opening.0.take();
        }
        let inner = inner.expect("opened");
        let before = self.opened.fetch_add(1, Ordering::Relaxed);
        let name = if self.fault == Fault::LosesSources {
            "?".into()
        } else {
            name
        };
        Ok(BrokenConsumer::new(self, inner, name, home, before > 0))
    }
}

impl Broker for Broken {
    type Publisher = BrokenPublisher;
    type Unconfirmed = BrokenUnconfirmed;
    type Consumer = BrokenConsumer;

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn product(&self) -> String {
        format!("{:?}", self.fault)
    }

    fn publisher(&self) -> BrokenPublisher {
        BrokenPublisher::new(self)
    }

    fn unconfirmed(&self) -> BrokenUnconfirmed {
        BrokenUnconfirmed::new(self)
    }

    async fn consumer(
        &self,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<BrokenConsumer> {
        self.consumer_of(subscription, plan).await
    }

    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        let what = match (self.fault, what.into()) {
            (Fault::IgnoresFilters, Declaration::Subscription(subscription)) => {
                subscription.filter(Filter::All).into()
            }
            (Fault::OpensWhatIsMissing, Declaration::Subscription(subscription)) => {
                if let SubscriptionKind::Durable { topic, .. } = subscription.kind() {
                    self.inner
                        .declare(Destination::topic(Arc::clone(topic)))
                        .await?;
                }
                subscription.into()
            }
            (_, what) => what,
        };
        self.line.check()?;
        let queue = match &what {
            Declaration::Destination(to) if to.is_queue() => Some(Arc::clone(to.name())),
            _ => None,
        };
        if let (Fault::DroppedDeclareBlocksTheNext, Some(name)) = (self.fault, &queue) {
            if !self.declaring.lock().unwrap().insert(Arc::clone(name)) {
                return Ok(());
            }
            // Never done, and dropped.
            std::future::pending().await
        }
        let result = self.inner.declare(what).await;
        match (self.fault, queue) {
            (Fault::TakesAnyName, _) => Ok(()),
            (Fault::DeclareClears, Some(queue)) => {
                let from = Subscription::queue(queue);
                let mut all = self.inner.consumer(&from, ConsumePlan::new()).await?;
                let wait = Duration::from_millis(5);
                while let Ok(Ok(Some(delivery))) = tokio::time::timeout(wait, all.receive()).await {
                    delivery.ack()?;
                }
                result
            }
            _ => result,
        }
    }

    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        let what = what.into();
        self.line.check()?;
        let result = self.inner.verify(what.clone()).await;
        match self.fault {
            Fault::VerifyTellsTheFirst => match result {
                Err(error) if !error.parts().is_empty() => Err(error.parts()[0].clone()),
                result => result,
            },
            Fault::VerifyCreates => self.inner.declare(what).await,
            Fault::VerifyFindsNothing => Err(Error::new(ErrorKind::NotFound, "verify", "nothing")),
            _ => result,
        }
    }

    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        let what = what.into();
        self.line.check()?;
        match self.fault {
            Fault::DeletesNothing => Ok(()),
            Fault::DeletesOnlyWhatIsThere => {
                self.inner.verify(what.what().clone()).await?;
                self.inner.delete(what).await
            }
            Fault::DeletesWithMessages => {
                self.inner
                    .delete(Deletion::of(what.what().clone()).with_messages())
                    .await
            }
            Fault::DeletesHomes => {
                let home = match what.what() {
                    Declaration::Destination(to) => to.dead_letter_home(),
                    Declaration::Subscription(from) => from.dead_letter_home(),
                };
                if let Some(home) = home {
                    self.inner
                        .delete(Deletion::of(home).with_messages())
                        .await?;
                }
                self.inner.delete(what).await
            }
            // Consumers and subscriptions keep nothing from being deleted.
            Fault::DeletesWhatIsUsed => match self.inner.delete(what).await {
                Err(error) if error.kind() == ErrorKind::InUse => Ok(()),
                deleted => deleted,
            },
            _ => self.inner.delete(what).await,
        }
    }

    async fn close(&self) -> Result<()> {
        let again = self.closed.swap(true, Ordering::Relaxed);
        match self.fault {
            Fault::ClosesNothing => Ok(()),
            Fault::ClosesOnlyOnce if again => Err(Error::new(ErrorKind::Closed, "close", "again")),
            _ => self.inner.close().await,
        }
    }
}

/// A consumer that is being opened; dropped in the middle it stays there for good.
struct Opening(Option<<Memory as Broker>::Consumer>);

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(mut consumer) = self.0.take() {
            let mut given = Vec::new();
            let _ = unconstrained(consumer.receive_many(&mut given, 5)).now_or_never();
            std::mem::forget((consumer, given));
        }
    }
}
