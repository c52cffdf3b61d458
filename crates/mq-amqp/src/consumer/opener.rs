//! Opens a consumer, and opens it again.

use std::{sync::Arc, time::Duration};

use lapin::{
    Channel,
    options::{BasicConsumeOptions, BasicQosOptions},
    types::ShortString,
};
use mq_core::{
    Capability, ConsumePlan, Destination, Error, ErrorKind, Result, Settle, Subscription,
    SubscriptionKind, flow::FlowKind,
};
use tokio::{
    sync::{OnceCell, mpsc},
    time::{Instant, sleep},
};

use super::{Live, OPERATION, Opening};
use crate::{
    AmqpPublisher,
    capabilities::{self, CAPABILITIES},
    connection::{AmqpEvent, Link, Uplink, is_refusal},
    metrics::Held,
    settle::{Origin, Sink, Task},
    topology::{self, cascade},
};

/// What a consumer is opened by, each time.
pub(super) struct Opener {
    pub(super) uplink: Arc<Uplink>,
    pub(super) publisher: AmqpPublisher,
    pub(super) subscription: Subscription,
    pub(super) plan: ConsumePlan,
}

impl Opener {
    /// Opens it on the link of the moment.
    pub(super) async fn open(&self) -> Result<Live> {
        let link = self.uplink.link(OPERATION).await?;
        self.open_on(&link).await
    }

    async fn open_on(&self, link: &Arc<Link>) -> Result<Live> {
        let Self {
            publisher,
            subscription,
            plan,
            ..
        } = self;
        plan.check(subscription, CAPABILITIES)?;
        let name = named(subscription);
        let ephemeral = matches!(subscription.kind(), SubscriptionKind::Ephemeral { .. });
        link.named().check_subscription(OPERATION, subscription)?;
        let limit = link.named().queue(subscription.name()).deliveries();
        if let Some(limit) = limit.filter(|limit| plan.max_attempts > *limit && !ephemeral) {
            let text = "the broker dead-letters a message before its last attempt";
            return Err(name(Error::new(ErrorKind::Config, OPERATION, text))
                .with("max_attempts", plan.max_attempts)
                .with("delivery_limit", limit));
        }
        let itself = topology::queue_of(OPERATION, subscription)?;
        // An ephemeral subscription has one consumer in any case.
        if plan.single_active_consumer && !ephemeral {
            topology::check_single_active(link, subscription).await?;
        }
        let home = plan.dead_letter_home(subscription);
        if let Some(home) = &home
            && let Err(error) = topology::exists(link, OPERATION, home).await
        {
            // What is wrong with the queue itself explains more than its missing home.
            if !ephemeral {
                let itself = Destination::queue(itself.as_str());
                topology::exists(link, OPERATION, &itself)
                    .await
                    .map_err(&name)?;
            }
            return Err(name(error));
        }
        let channel = link.channel(OPERATION).await?;
        let qos = channel.basic_qos(plan.prefetch, BasicQosOptions::default());
        link.answer(OPERATION, qos).await?;
        let queue = subscribed(link, &channel, subscription).await?;
        // What is missing may be the cascade: then it says so itself.
        let about = |error: Error| match error.context("missing") {
            Some(_) => error.with("subscription", subscription),
            None => name(error),
        };
        let undeferrable = cascade::check(link.named(), OPERATION, queue.as_str()).err();
        if !plan.delays.is_empty() {
            cascade::in_range(OPERATION, &plan.delays).map_err(about)?;
            cascade::arrives(link, OPERATION, queue.as_str())
                .await
                .map_err(about)?;
        }
        let options = BasicConsumeOptions::default();
        let arguments = topology::consume_arguments(link.named(), subscription);
        let opening = Opening(Some(&channel));
        let consume =
            channel.basic_consume(queue.clone(), ShortString::default(), options, arguments);
        let stream = link.answer(OPERATION, consume).await.map_err(&name)?;
        opening.done();

        let origin = Origin {
            source: subscription.clone(),
            flow: publisher.flow().clone(),
            tracer: publisher.tracer().clone(),
            held: Held::new(Arc::clone(publisher.counters())),
            queue: Destination::queue(queue.as_str()),
            home,
            undeferrable,
            counted: !ephemeral && limit.is_some(),
            prefetch: plan.prefetch,
            limits: publisher.limits(),
        };
        let flow = &origin.flow;
        flow.consumer(FlowKind::Opened, subscription, None);
        let sink = Arc::new(Sink::new(channel.clone(), origin));
        let (commands, receiver) = mpsc::channel(1);
        let copy_limit = publisher.limit() * 2;
        let task = Task {
            sink: Arc::clone(&sink),
            link: Arc::clone(link),
            publisher: publisher.clone(),
            prefetch: plan.prefetch,
            arrives: Arc::new(OnceCell::new_with((!plan.delays.is_empty()).then_some(()))),
        };
        tokio::spawn(task.run(receiver));
        let settlements = Arc::clone(&sink) as Arc<dyn Settle>;
        Ok(Live {
            stream,
            ended: None,
            channel,
            sink,
            settlements,
            commands,
            exact_attempts: capabilities::of(self.uplink.known().product())
                .has(Capability::ExactAttempts),
            link: Arc::clone(link),
            queue,
            ephemeral,
            since: Instant::now(),
            copy_limit,
        })
    }

    /// False if a lost consumer is over.
    pub(super) fn may_open_again(&self) -> bool {
        let recovery = self.uplink.settings().recovery;
        !self.uplink.is_closed() && !recovery.is_over(Duration::ZERO)
    }

    pub(super) fn tell(&self, event: AmqpEvent) {
        self.uplink.settings().events.tell(event);
    }

    /// Opens it again, with pauses, until it succeeds or there is no hope.
    pub(super) async fn reopen(self: Arc<Self>, mut why: Error, attempts: u32) -> Result<Live> {
        let recovery = self.uplink.settings().recovery;
        let since = Instant::now();
        let named = named(&self.subscription);
        let over = |why: Error| {
            let why = why.with("source", self.subscription.name());
            self.tell(AmqpEvent::ConsumerEnded {
                subscription: self.subscription.clone(),
                why: why.clone(),
            });
            why
        };
        for attempt in attempts.. {
            if recovery.is_over(since.elapsed()) {
                break;
            }
            sleep(recovery.pause(attempt)).await;
            let link = match self.uplink.up("receive").await {
                Ok(link) => link,
                Err(error) => return Err(over(named(error))),
            };
            match self.open_on(&link).await {
                Ok(live) => {
                    self.tell(AmqpEvent::ConsumerRestored {
                        subscription: self.subscription.clone(),
                        queue: live.queue.to_string(),
                        outage: since.elapsed(),
                    });
                    return Ok(live);
                }
                Err(error)
                    if error.kind() == ErrorKind::NotFound && self.redeclare(&link).await =>
                {
                    why = error;
                }
                Err(error) if is_refusal(&error) => return Err(over(error)),
                Err(error) => {
                    tracing::debug!(%error, subscription = %self.subscription, "not open yet");
                    why = error;
                }
            }
        }
        Err(over(why))
    }

    /// Declares its queue again, if this client declared it before; true if it is there then.
    async fn redeclare(&self, link: &Link) -> bool {
        let Some(what) = self.uplink.declared_for(&self.subscription) else {
            return false;
        };
        match what.declare(link).await {
            Ok(()) => true,
            Err(why) => {
                let lost = !link.is_connected();
                let what = what.to_string();
                self.tell(AmqpEvent::DeclareFailed { what, why });
                lost
            }
        }
    }
}

/// Says in an error which subscription it is about.
pub(super) fn named(subscription: &Subscription) -> impl Fn(Error) -> Error {
    move |error| {
        let missing = error.kind() == ErrorKind::NotFound;
        let error = error.with("subscription", subscription);
        if missing {
            error.help("declare it first")
        } else {
            error
        }
    }
}

/// The queue of a subscription: an ephemeral one gets its queue here.
pub(super) async fn subscribed(
    link: &Link,
    channel: &Channel,
    subscription: &Subscription,
) -> Result<ShortString> {
    match subscription.kind() {
        SubscriptionKind::Ephemeral { topic } => {
            topology::ephemeral(link, channel, topic, subscription.filter_by())
                .await
                .map_err(named(subscription))
        }
        _ => topology::queue_of(OPERATION, subscription),
    }
}
