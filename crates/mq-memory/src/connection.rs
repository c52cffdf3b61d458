//! The broker in this process, and the handle to it.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use mq_core::{
    Broker, Capabilities, ConsumePlan, Declaration, Deletion, Destination, Message, Receipt,
    Result, Subscription,
    flow::{Flow, FlowKind},
    trace::{PlainSpans, Propagator, Sending, Tracer},
};
use tokio::sync::Notify;

use crate::{
    Builder, MemoryConsumer, MemoryPublisher, MemoryUnconfirmed, capabilities, error, headers,
    settle::{self, Channel},
    topology::Topology,
};

/// A client of a broker in this process. A clone shares it.
///
/// The broker lives as long as a client, publisher, consumer or delivery of it.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Shared>);

/// What the clones of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    closed: AtomicBool,
    pub(crate) publisher_closed: AtomicBool,
    channels: Mutex<Vec<Weak<Channel>>>,
    pub(crate) flow: Flow,
    pub(crate) tracer: Tracer,
    name: Arc<str>,
    propagator: Option<Arc<dyn Propagator>>,
}

/// The broker itself.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) topology: Topology,
    max_message_bytes: usize,
    next_member: AtomicU64,
}

impl Memory {
    /// A new broker in the shape of queues, with the defaults of [`Builder`], and a client of it.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Settings for another shape or other limits.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A further client of the same broker, as another process would have one: with a publisher
    /// and a [`close`](Broker::close) of its own.
    #[must_use]
    pub fn client(&self) -> Self {
        self.further(Arc::clone(&self.0.name))
    }

    /// A further [`client`](Self::client), which has this name in flow events and spans.
    #[must_use]
    pub fn client_named(&self, name: &str) -> Self {
        self.further(name.into())
    }

    fn further(&self, name: Arc<str>) -> Self {
        let flow = self.0.flow.renamed(&name);
        Self::of(
            Arc::clone(&self.0.hub),
            flow,
            name,
            self.0.propagator.clone(),
        )
    }

    pub(crate) fn with(settings: &Builder) -> Self {
        let hub = Hub {
            topology: Topology::new(settings),
            max_message_bytes: settings.max_message_bytes,
            next_member: AtomicU64::new(1),
        };
        let (flow, name) = (settings.flow.clone(), Arc::clone(&settings.name));
        Self::of(Arc::new(hub), flow, name, settings.propagator.clone())
    }

    fn of(
        hub: Arc<Hub>,
        flow: Flow,
        name: Arc<str>,
        propagator: Option<Arc<dyn Propagator>>,
    ) -> Self {
        let spans = PlainSpans::new("mq-memory", Arc::clone(&name));
        Self(Arc::new(Shared {
            hub,
            closed: AtomicBool::new(false),
            publisher_closed: AtomicBool::new(false),
            channels: Mutex::default(),
            flow,
            tracer: Tracer::new(spans, propagator.clone()),
            name,
            propagator,
        }))
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Broker for Memory {
    type Publisher = MemoryPublisher;
    type Unconfirmed = MemoryUnconfirmed;
    type Consumer = MemoryConsumer;

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn product(&self) -> String {
        let shape = if self.0.hub.topology.is_log() {
            "log"
        } else {
            "queues"
        };
        format!(
            "{} {} ({shape})",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION")
        )
    }

    fn flow(&self) -> Flow {
        self.0.flow.clone()
    }

    fn tracer(&self) -> Tracer {
        self.0.tracer.clone()
    }

    fn publisher(&self) -> MemoryPublisher {
        MemoryPublisher(Arc::clone(&self.0))
    }

    fn unconfirmed(&self) -> MemoryUnconfirmed {
        MemoryUnconfirmed(Arc::clone(&self.0))
    }

    async fn consumer(
        &self,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<MemoryConsumer> {
        let shared = &self.0;
        shared.open("consume")?;
        plan.check(subscription, shared.capabilities())?;
        let home = plan.dead_letter_home(subscription);
        let member = shared.hub.next_member.fetch_add(1, Ordering::Relaxed);
        let wake = Arc::new(Notify::new());
        let source = shared
            .hub
            .topology
            .open(subscription, home.as_ref(), &plan, member, &wake)?;
        let channel = Arc::new(Channel {
            shared: Arc::clone(shared),
            source,
            member,
            subscription: subscription.clone(),
            prefetch: plan.prefetch.into(),
            home,
            wake,
            state: Mutex::<settle::State>::default(),
        });
        let mut channels = shared
            .channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        channels.retain(|channel| channel.strong_count() > 0);
        channels.push(Arc::downgrade(&channel));
        drop(channels);
        shared.flow.consumer(FlowKind::Opened, subscription, None);
        Ok(MemoryConsumer::new(channel))
    }

    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.0.open("declare")?;
        self.0.hub.topology.declare(&what.into())
    }

    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.0.open("verify")?;
        self.0.hub.topology.verify(&what.into())
    }

    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        self.0.open("delete")?;
        self.0.hub.topology.delete(&what.into())
    }

    async fn close(&self) -> Result<()> {
        self.0.closed.store(true, Ordering::Relaxed);
        self.0.publisher_closed.store(true, Ordering::Relaxed);
        let channels = std::mem::take(
            &mut *self
                .0
                .channels
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for channel in channels.iter().filter_map(Weak::upgrade) {
            channel.end(error::closed("consume"));
        }
        Ok(())
    }
}

impl Shared {
    /// # Errors
    /// `Closed` after the broker was closed.
    pub(crate) fn open(&self, operation: &'static str) -> Result<()> {
        match self.closed.load(Ordering::Relaxed) {
            true => Err(error::closed(operation)),
            false => Ok(()),
        }
    }

    /// # Errors
    /// `Closed` after the publisher or the broker was closed.
    pub(crate) fn publishing(&self, operation: &'static str) -> Result<()> {
        match self.publisher_closed.load(Ordering::Relaxed) {
            true => Err(error::closed(operation)),
            false => Ok(()),
        }
    }

    pub(crate) fn check(&self, to: &Destination, message: &Message) -> Result<()> {
        headers::check(
            to,
            message,
            self.hub.max_message_bytes,
            self.hub.topology.is_log(),
        )
    }

    /// Stores one message that was checked.
    pub(crate) fn store(&self, to: &Destination, mut message: Message) -> Result<Receipt> {
        let sending = self.tracer.send(to, &mut message);
        self.store_in(to, message, sending)
    }

    /// Stores the copy of a delivered message.
    pub(crate) fn store_copy(&self, to: &Destination, copy: Message) -> Result<Receipt> {
        let sending = self.tracer.send_copy(to, &copy);
        self.store_in(to, copy, sending)
    }

    fn store_in(&self, to: &Destination, message: Message, sending: Sending) -> Result<Receipt> {
        let Some(flow) = self.flow.sending(&message, to, sending) else {
            return self.hub.topology.store(to, message);
        };
        flow.begin();
        let outcome = self.hub.topology.store(to, message);
        flow.end(&outcome);
        outcome
    }

    /// Stores one message that was checked, and whose outcome nobody hears.
    pub(crate) fn hand_over(&self, to: &Destination, mut message: Message) {
        let sending = self.tracer.send(to, &mut message);
        let flow = self.flow.sending(&message, to, sending);
        let _ = self.hub.topology.store(to, message);
        if let Some(flow) = flow {
            flow.handed_over();
        }
    }

    /// Checks and stores many messages; what fails its check is left out.
    pub(crate) fn store_batch(
        &self,
        to: &Destination,
        mut messages: Vec<Message>,
    ) -> Vec<Result<Receipt>> {
        if let Err(error) = self.publishing("publish") {
            return messages.iter().map(|_| Err(error.clone())).collect();
        }
        let sending = self.tracer.send_batch(to, &mut messages);
        let mut failed = Vec::new();
        let mut at = 0..;
        let checked = messages.into_iter().filter_map(|message| {
            let at = at.next()?;
            match self.check(to, &message) {
                Ok(()) => Some(message),
                Err(error) => {
                    failed.push((at, error));
                    None
                }
            }
        });
        let mut outcomes: Vec<Result<Receipt>> =
            Vec::with_capacity(checked.size_hint().1.unwrap_or(0));
        if self.flow.is_on() {
            // One by one: no sink is called under the lock of a queue.
            outcomes.extend(checked.map(|message| self.store_in(to, message, Sending::none())));
        } else {
            self.hub
                .topology
                .store_all(to, checked, |outcome| outcomes.push(outcome));
        }
        for (at, error) in failed {
            outcomes.insert(at, Err(error));
        }
        if sending.is_on() {
            outcomes.iter().for_each(|outcome| sending.end(outcome));
        }
        outcomes
    }

    fn capabilities(&self) -> Capabilities {
        if self.hub.topology.is_log() {
            capabilities::LOG
        } else {
            capabilities::QUEUES
        }
    }
}
