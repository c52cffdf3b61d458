//! How a worker is put together.

use std::{fmt, time::Duration};

use tower_layer::{Identity, Layer, Stack};
use tower_service::Service;

use super::{
    batch::{BatchHandler, BatchRunner, BatchSize},
    intake::{Parts, drive},
    run::Run,
    runner::SingleRunner,
};
use crate::{
    AtLeastOnce, BoxError, Broker, Capability, ConsumePlan, DeadLetters, Deferred, Error,
    ErrorKind, Guarantee, IntoService, Outcome, Received, Result, Subscription, layer::IntoLayer,
};

/// Consumes a subscription with a handler (EIP *Event-Driven Consumer*, *Message Dispatcher*).
///
/// It opens the consumer when it runs, hands each message to one of a fixed set of runners,
/// publishes what the handler returned, and settles, the way its guarantee asks for.
///
/// A failed message is delivered again until it was attempted
/// [`max_attempts`](Worker::max_attempts) times, then goes to the dead-letter home. A message that
/// cannot be decoded goes there at once. A panic is a failed attempt.
///
/// ```
/// # use mq_core::{Broker, Destination, Json, Message, Publisher, Subscription, Worker};
/// # use tokio::sync::mpsc;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> mq_core::Result<()> {
/// let broker = mq_memory::Memory::new();
/// let orders = Destination::queue("orders");
/// broker.declare(&orders).await?;
/// broker.publisher().publish(&orders, Message::json(&7)?).await?;
///
/// let (seen, mut handled) = mpsc::channel(1);
/// Worker::new(&broker, Subscription::queue("orders"))
///     .run(move |Json(order): Json<u32>| {
///         let seen = seen.clone();
///         async move { seen.send(order).await }
///     })
///     .with_graceful_shutdown(async move { assert_eq!(handled.recv().await, Some(7)) })
///     .await
/// # }
/// ```
#[must_use = "a worker does nothing until it is run"]
pub struct Worker<B, G = AtLeastOnce, S = (), L = Identity> {
    broker: B,
    subscription: Subscription,
    guarantee: G,
    state: S,
    layer: L,
    plan: ConsumePlan,
    concurrency: usize,
    ordered: bool,
    deadline: Duration,
}

impl<B: Broker> Worker<B> {
    /// A worker on a subscription: one runner, no layers, at least once.
    pub fn new(broker: &B, subscription: Subscription) -> Self {
        Self {
            broker: broker.clone(),
            subscription,
            guarantee: AtLeastOnce,
            state: (),
            layer: Identity::new(),
            plan: ConsumePlan::new(),
            concurrency: 1,
            ordered: false,
            deadline: Duration::from_secs(30),
        }
    }
}

impl<B: Broker, G, S, L> Worker<B, G, S, L> {
    /// Sets how many messages are handled at a time; at least 1. Default 1.
    ///
    /// A prefetch lower than this is raised to it.
    pub fn concurrency(mut self, runners: usize) -> Self {
        self.concurrency = runners;
        self
    }

    /// Sets how many messages may be unsettled at a time; at least 1. Default 100.
    ///
    /// It is what a slow worker can hold up.
    pub fn prefetch(mut self, prefetch: u16) -> Self {
        self.plan.prefetch = prefetch;
        self
    }

    /// Handles the messages of one ordering key one after the other, in the order of delivery.
    ///
    /// A failed message is then attempted again in place, at once, while later ones of its key
    /// wait and other keys go on. This orders within one process: across processes it needs
    /// partitions or a single active consumer.
    ///
    /// With a layer that asks for delays it asks for [`Deferred::InPlace`] too: a broker without it
    /// is refused. So is one without [`Capability::KeyOrder`].
    pub fn ordered_by_key(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Sets how often a failed message is attempted before it is rejected; at least 1. Default 5.
    ///
    /// The attempts that the message carries and those that the broker counted are included. A message that used them up without ever
    /// being settled is rejected and not handled, if its attempts are exact ([`Received::attempt_is_exact`]); else it may be one
    /// that nobody saw.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.plan.max_attempts = attempts;
        self
    }

    /// Sets where rejected messages go. Default: the subscription's own home.
    pub fn dead_letters(mut self, dead_letters: DeadLetters) -> Self {
        self.plan.dead_letters = dead_letters;
        self
    }

    /// Sets how long handlers may go on after the shutdown signal. Default 30 s.
    ///
    /// Handlers that are still at it are dropped; their messages go back to the broker. One that blocks its thread cannot be dropped:
    /// it is left to itself a second later, and its message goes back when its consumer is closed.
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the guarantee, instead of [`AtLeastOnce`].
    pub fn guarantee<G2: Guarantee<B>>(self, guarantee: G2) -> Worker<B, G2, S, L> {
        Worker {
            broker: self.broker,
            subscription: self.subscription,
            guarantee,
            state: self.state,
            layer: self.layer,
            plan: self.plan,
            concurrency: self.concurrency,
            ordered: self.ordered,
            deadline: self.deadline,
        }
    }

    /// Sets the state that handlers take as [`State`](crate::State).
    pub fn state<S2>(self, state: S2) -> Worker<B, G, S2, L> {
        Worker {
            broker: self.broker,
            subscription: self.subscription,
            guarantee: self.guarantee,
            state,
            layer: self.layer,
            plan: self.plan,
            concurrency: self.concurrency,
            ordered: self.ordered,
            deadline: self.deadline,
        }
    }

    /// Adds a layer around the handler and the layers added before: the last one is outermost.
    ///
    /// A layer decides and never acts: it turns a call into an outcome.
    pub fn layer<N, Via>(mut self, layer: N) -> Worker<B, G, S, Stack<L, N::Layer>>
    where
        N: IntoLayer<Via>,
    {
        let layer = layer.into_layer(&mut self.plan);
        Worker {
            broker: self.broker,
            subscription: self.subscription,
            guarantee: self.guarantee,
            state: self.state,
            layer: Stack::new(self.layer, layer),
            plan: self.plan,
            concurrency: self.concurrency,
            ordered: self.ordered,
            deadline: self.deadline,
        }
    }

    /// Runs a handler, one message a call: a function with extractors, or a
    /// `tower::Service<Received, Response = Outcome>`.
    ///
    /// Nothing happens until the result is awaited.
    pub fn run<H, Via>(self, handler: H) -> Run
    where
        G: Guarantee<B>,
        H: IntoService<Via, B, G, S>,
        L: Layer<H::Service>,
        L::Service: Service<Received, Response = Outcome, Error: Into<BoxError> + Send, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let service = self
            .layer
            .layer(handler.into_service(self.guarantee.clone(), self.state));
        let ordered = self.ordered;
        let deadline = self.deadline;
        let parts = Parts {
            broker: self.broker,
            subscription: self.subscription,
            guarantee: self.guarantee,
            plan: self.plan,
            concurrency: self.concurrency,
            ordered,
            deadline,
        };
        Run::new(deadline, |stop| {
            drive(parts, SingleRunner::new(service), stop)
        })
    }
}

impl<B: Broker, G, S> Worker<B, G, S> {
    /// Runs a handler, many messages a call.
    ///
    /// It takes no layers, since they see single messages, and a guarantee without a scope. With
    /// [`ordered_by_key`](Self::ordered_by_key) a key's messages are in one batch at a time, in
    /// order; one that failed is delivered again, behind those that were not.
    pub fn run_batch<H, Args>(self, size: BatchSize, handler: H) -> Run
    where
        G: Guarantee<B, Scope = ()>,
        H: BatchHandler<Args, S>,
        S: Clone + Send + Sync + 'static,
        Args: 'static,
    {
        let deadline = self.deadline;
        let runner = BatchRunner::new(size, handler, self.state);
        let parts = Parts {
            broker: self.broker,
            subscription: self.subscription,
            guarantee: self.guarantee,
            plan: self.plan,
            concurrency: self.concurrency,
            ordered: self.ordered,
            deadline,
        };
        Run::new(deadline, |stop| drive(parts, runner, stop))
    }
}

impl<B, G> Parts<B, G>
where
    B: Broker,
    G: Guarantee<B>,
{
    /// The finished plan, or why this worker cannot be built.
    pub(super) fn finished_plan(&self) -> Result<ConsumePlan> {
        let config = |text| Err(Error::new(ErrorKind::Config, "worker", text));
        if self.concurrency == 0 {
            return config("concurrency is at least 1");
        }
        let mut plan = self.plan.clone();
        self.guarantee.plan(&mut plan);
        if self.ordered && !plan.delays.is_empty() {
            // Set aside, a message would be overtaken by the later ones of its key.
            plan.deferred = Deferred::InPlace;
        }
        if plan.prefetch > 0 {
            let wanted = u16::try_from(self.concurrency).unwrap_or(u16::MAX);
            plan.prefetch = plan.prefetch.max(wanted);
        }
        let can = self.broker.capabilities();
        if plan.deferred == Deferred::InPlace && !can.has(Capability::DeferInPlace) {
            return Err(Error::new(
                ErrorKind::Config,
                "worker",
                "order by key and delayed retries exclude each other here: later messages of a key \
                 would overtake the one that waits",
            )
            .with("capability", Capability::DeferInPlace)
            .with("subscription", &self.subscription)
            .help("retry in place alone, or leave out `ordered_by_key`"));
        }
        if self.ordered && !can.has(Capability::KeyOrder) {
            return Err(Error::new(
                ErrorKind::Config,
                "worker",
                "this backend does not keep the order of a key, so a worker cannot either",
            )
            .with("capability", Capability::KeyOrder)
            .with("subscription", &self.subscription));
        }
        plan.check(&self.subscription, can)?;
        if plan.dead_letter_home(&self.subscription).is_none() {
            return Err(Error::new(
                ErrorKind::Config,
                "worker",
                "there is no home for rejected messages",
            )
            .with("subscription", &self.subscription)
            .help("name one with `dead_letters(DeadLetters::To(..))`"));
        }
        Ok(plan)
    }
}

impl<B, G, S, L> fmt::Debug for Worker<B, G, S, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("subscription", &self.subscription)
            .field("plan", &self.plan)
            .field("concurrency", &self.concurrency)
            .field("ordered_by_key", &self.ordered)
            .finish_non_exhaustive()
    }
}
