//! The consumer: deliveries in batches, settled by marks. And the one that settles nothing.

mod no_ack;

use std::{fmt, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use lapin::{
    Channel,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use mq_core::{
    ConsumePlan, Consumer, Delivery, Destination, Error, ErrorKind, Result, Settle, Subscription,
    SubscriptionKind, flow::FlowKind,
};
use tokio::sync::{mpsc, oneshot};

pub use self::no_ack::AmqpNoAckConsumer;
use crate::{
    AmqpPublisher,
    capabilities::CAPABILITIES,
    connection::Link,
    error::late,
    headers::{is_counted, received},
    settle::{Command, Origin, Sink, Task},
    topology,
};

/// A consumer of one queue, on a channel of its own.
///
/// Acknowledgements are sent together: when a quarter of the prefetch (at most 64) is marked, or
/// after 1 ms. `requeue` is counted by a quorum queue; on a classic one, which counts nothing, it
/// is a copy with its attempt in the headers, confirmed before the original is settled. Which of the
/// two a queue is, [`AmqpBuilder::queue`](crate::AmqpBuilder::queue) says; where it does not, a
/// classic queue shows at its first redelivery, and the failure before is not counted.
///
/// A stream that the broker ends, as when the queue is deleted, is an error and never just an end.
pub struct AmqpConsumer {
    live: Option<Live>,
    source: Arc<str>,
    queue: ShortString,
    link: Arc<Link>,
}

/// What an open consumer holds.
struct Live {
    stream: lapin::Consumer,
    /// How the stream ended: the client tells it once, and never again.
    ended: Option<Option<lapin::Error>>,
    channel: Channel,
    sink: Arc<Sink>,
    settlements: Arc<dyn Settle>,
    commands: mpsc::Sender<Command>,
    link: Arc<Link>,
    /// The most time for a copy to be confirmed.
    copy_limit: Duration,
}

impl AmqpConsumer {
    pub(crate) async fn open(
        link: &Arc<Link>,
        publisher: AmqpPublisher,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<Self> {
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
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let opening = Opening(Some(&channel));
        let consume = channel.basic_consume(queue.clone(), ShortString::default(), options, none);
        let stream = link.answer(OPERATION, consume).await.map_err(&name)?;
        opening.done();

        let source = Arc::clone(subscription.name());
        let origin = Origin {
            source: subscription.clone(),
            flow: publisher.flow().clone(),
            queue: Destination::queue(queue.as_str()),
            home,
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
            publisher,
            prefetch: plan.prefetch,
        };
        tokio::spawn(task.run(receiver));
        let settlements = Arc::clone(&sink) as Arc<dyn Settle>;
        let ended = None;
        let live = Live {
            stream,
            ended,
            channel,
            sink,
            settlements,
            commands,
            link: Arc::clone(link),
            copy_limit,
        };
        Ok(Self {
            live: Some(live),
            source,
            queue,
            link: Arc::clone(link),
        })
    }

    /// The queue that it reads. An ephemeral subscription's is exclusive to this connection, and the
    /// broker made its name.
    pub fn queue(&self) -> &str {
        self.queue.as_str()
    }
}

impl Consumer for AmqpConsumer {
    async fn receive_many(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        let Some(live) = &mut self.live else {
            return Ok(0);
        };
        if max == 0 {
            return Err(Error::new(
                ErrorKind::Config,
                "receive",
                "max is at least 1",
            ));
        }
        let sink = Arc::clone(&live.sink);
        let first = tokio::select! {
            biased;
            error = sink.failed() => Err(error),
            next = live.next() => Ok(next),
        };
        let mut next = match first {
            Ok(next) => next,
            Err(error) => return Err(self.over(error)),
        };
        let mut count = 0;
        while let Some(mut delivery) = next.take() {
            let tag = delivery.delivery_tag;
            live.sink.opened(tag, is_counted(&delivery));
            let received = received(&mut delivery, Arc::clone(&self.source));
            live.sink.delivered(tag, &received);
            into.push(Delivery::new(received, Arc::clone(&live.settlements), tag));
            count += 1;
            if count < max {
                next = live.next().now_or_never().flatten();
            }
        }
        if count > 0 {
            return Ok(count);
        }
        let why = live.ended.take().flatten();
        let error = lost(&self.link, &self.source, why);
        Err(self.over(error))
    }

    async fn settled(&mut self) -> Result<()> {
        match &self.live {
            Some(live) => live
                .settled()
                .await
                .map_err(|e| e.with("source", &self.source)),
            None => Ok(()),
        }
    }

    async fn close(mut self) -> Result<()> {
        match self.live.take() {
            Some(live) => live
                .close()
                .await
                .map_err(|e| e.with("source", &self.source)),
            None => Ok(()),
        }
    }
}

impl AmqpConsumer {
    /// After an error: whatever is still to be settled is stale, and goes back to the broker.
    fn over(&mut self, error: Error) -> Error {
        if let Some(live) = self.live.take() {
            live.sink.end();
            live.close_behind(Arc::clone(&self.source));
        }
        error
    }
}

/// A consumer that is asked for. Dropped before it is there, as after a timeout, its channel is closed:
/// else the broker's late answer would give messages to nobody.
struct Opening<'a>(Option<&'a Channel>);

impl Opening<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(channel) = self.0 {
            // It is on its way, behind the request, with the first poll.
            let closing = channel.close(200, "not opened in time".into());
            drop(closing.now_or_never());
        }
    }
}

impl Live {
    /// The next delivery; `None` if the stream has ended.
    ///
    /// # Cancel safety
    /// Safe: what the client yields is returned or kept.
    async fn next(&mut self) -> Option<lapin::message::Delivery> {
        if self.ended.is_some() {
            return None;
        }
        match self.stream.next().await {
            Some(Ok(delivery)) => return Some(delivery),
            Some(Err(error)) => self.ended = Some(Some(error)),
            None => self.ended = Some(None),
        }
        None
    }

    /// Closes in a task. Without a runtime the channel just closes, and the broker takes everything
    /// back.
    fn close_behind(self, source: Arc<str>) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = self.close().await {
                    tracing::debug!(%error, %source, "a consumer did not close");
                }
            });
        }
    }

    async fn settled(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send(Command::Settled(reply)).await.ok()?;
            answer.await.ok()
        };
        let limit = self.link.limit() * 2 + self.copy_limit;
        match tokio::time::timeout(limit, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(Error::new(
                ErrorKind::Bug,
                "settle",
                "the settling task is gone",
            )),
            Err(_) => Err(late("settle", limit)),
        }
    }

    async fn close(self) -> Result<()> {
        let sink = Arc::clone(&self.sink);
        let closed = self.close_in_order().await;
        sink.closed();
        closed
    }

    /// Cancels, hands back what nobody saw, waits for the broker to have every verdict, closes: in
    /// any other order acknowledgements could be lost.
    async fn close_in_order(mut self) -> Result<()> {
        let cancel = self
            .channel
            .basic_cancel(self.stream.tag(), BasicCancelOptions::default());
        let cancelled = self.link.answer("close", cancel).await;
        if cancelled.is_ok() {
            // What is buffered ends with the cancellation's answer.
            let limit = self.link.limit();
            while let Ok(Some(delivery)) = tokio::time::timeout(limit, self.next()).await {
                self.sink.release(delivery.delivery_tag);
            }
        }
        let settled = self.settled().await;
        self.sink.end();
        if let Some(failure) = self.sink.failure() {
            return Err(failure);
        }
        settled?;
        cancelled?;
        let close = self.channel.close(200, "closed".into());
        self.link.answer("close", close).await
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            live.close_behind(Arc::clone(&self.source));
        }
    }
}

/// Says in an error which subscription it is about.
fn named(subscription: &Subscription) -> impl Fn(Error) -> Error {
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
async fn subscribed(
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

/// The error of a stream that ended without our doing.
fn lost(link: &Link, source: &str, why: Option<lapin::Error>) -> Error {
    if !link.is_connected() || why.as_ref().is_some_and(|e| !e.is_amqp_soft_error()) {
        return link.gone("receive").with("source", source);
    }
    let text = "the broker cancelled the consumer";
    let error = Error::new(ErrorKind::Lost, "receive", text).with("source", source);
    match why {
        Some(why) => {
            let why = crate::error::map("receive", why);
            error.with("why", &why).caused_by(why)
        }
        // Nothing but the cancellation itself is told (RabbitMQ, consumer cancel notification).
        None => error.help(
            "the queue was deleted, its node is down, or a delivery was not settled within the \
             broker's acknowledgement timeout",
        ),
    }
}

impl fmt::Debug for AmqpConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpConsumer")
            .field("source", &self.source)
            .field("open", &self.live.is_some())
            .finish_non_exhaustive()
    }
}

const OPERATION: &str = "consume";
