//! The consumer: deliveries in batches, settled by marks.

use std::{fmt, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use lapin::{
    Channel,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use mq_core::{
    ConsumePlan, Consumer, Delivery, Destination, Error, ErrorKind, Result, Settle, Subscription,
    SubscriptionKind,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    AmqpPublisher,
    capabilities::CAPABILITIES,
    connection::Link,
    error::{late, within},
    headers::{is_counted, received},
    settle::{Command, Origin, Sink, Task},
    topology::{self, DELIVERY_LIMIT},
};

/// A consumer of one queue, on a channel of its own.
///
/// Acknowledgements are sent together: when a quarter of the prefetch (at most 64) is marked, or
/// after 1 ms. `requeue` is counted by a quorum queue; on a classic one, which counts nothing, it
/// is a copy with its attempt in the headers, confirmed before the original is settled.
///
/// A stream that the broker ends, as when the queue is deleted, is an error and never just an end.
pub struct AmqpConsumer {
    live: Option<Live>,
    source: Arc<str>,
    link: Arc<Link>,
}

/// What an open consumer holds.
struct Live {
    stream: lapin::Consumer,
    channel: Channel,
    sink: Arc<Sink>,
    settlements: Arc<dyn Settle>,
    commands: mpsc::Sender<Command>,
    limit: Duration,
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
        let name = |error: Error| error.with("subscription", subscription);
        let ephemeral = matches!(subscription.kind(), SubscriptionKind::Ephemeral { .. });
        if plan.max_attempts > DELIVERY_LIMIT && !ephemeral {
            let text = "the broker dead-letters a message before its last attempt";
            return Err(name(Error::new(ErrorKind::Config, OPERATION, text))
                .with("max_attempts", plan.max_attempts)
                .with("delivery_limit", DELIVERY_LIMIT));
        }
        let mut queue = topology::queue_of(OPERATION, subscription)?;
        let home = plan.dead_letter_home(subscription);
        if let Some(home) = &home {
            topology::exists(link, OPERATION, home).await.map_err(name)?;
        }
        let channel = link.channel(OPERATION).await?;
        let limit = link.limit();
        let qos = channel.basic_qos(plan.prefetch, BasicQosOptions::default());
        within(limit, OPERATION, qos).await?;
        if let SubscriptionKind::Ephemeral { topic } = subscription.kind() {
            let filter = subscription.filter_by();
            queue = topology::ephemeral(link, &channel, topic, filter).await.map_err(name)?;
        }
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consume = channel.basic_consume(queue.clone(), ShortString::default(), options, none);
        let stream = within(limit, OPERATION, consume).await.map_err(|error| {
            let missing = error.kind() == ErrorKind::NotFound;
            let error = name(error);
            if missing { error.help("declare it first") } else { error }
        })?;

        let source = Arc::clone(subscription.name());
        let origin = Origin {
            source: Arc::clone(&source),
            queue: Destination::queue(queue.as_str()),
            home,
            counted: !ephemeral,
            prefetch: plan.prefetch,
            limits: publisher.limits(),
        };
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
        let live = Live { stream, channel, sink, settlements, commands, limit, copy_limit };
        Ok(Self { live: Some(live), source, link: Arc::clone(link) })
    }

    /// The error of a stream that ended without our doing.
    fn lost(&self, why: Option<lapin::Error>) -> Error {
        if !self.link.is_connected() || why.as_ref().is_some_and(|e| !e.is_amqp_soft_error()) {
            return self.link.gone("receive").with("source", &self.source);
        }
        let error = Error::new(ErrorKind::Lost, "receive", "the broker cancelled the consumer")
            .with("source", &self.source);
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
}

impl Consumer for AmqpConsumer {
    async fn receive_many(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        let Some(live) = &mut self.live else { return Ok(0) };
        if max == 0 {
            return Err(Error::new(ErrorKind::Config, "receive", "max is at least 1"));
        }
        let first = tokio::select! {
            biased;
            error = live.sink.failed() => Err(Some(error)),
            next = live.stream.next() => next.ok_or(None),
        };
        let mut next = match first {
            Ok(next) => Some(next),
            Err(failure) => {
                let error = failure.unwrap_or_else(|| self.lost(None));
                self.over();
                return Err(error);
            }
        };
        let mut count = 0;
        while let Some(result) = next.take() {
            match result {
                Ok(mut delivery) => {
                    let tag = delivery.delivery_tag;
                    live.sink.opened(tag, is_counted(&delivery));
                    let received = received(&mut delivery, Arc::clone(&self.source));
                    into.push(Delivery::new(received, Arc::clone(&live.settlements), tag));
                    count += 1;
                }
                Err(error) if count == 0 => {
                    let error = self.lost(Some(error));
                    self.over();
                    return Err(error);
                }
                // The connection's own record has the cause when the next call asks for it.
                Err(_) => break,
            }
            if count < max {
                next = live.stream.next().now_or_never().flatten();
            }
        }
        Ok(count)
    }

    async fn settled(&mut self) -> Result<()> {
        match &self.live {
            Some(live) => live.settled().await.map_err(|e| e.with("source", &self.source)),
            None => Ok(()),
        }
    }

    async fn close(mut self) -> Result<()> {
        match self.live.take() {
            Some(live) => live.close().await.map_err(|e| e.with("source", &self.source)),
            None => Ok(()),
        }
    }
}

impl AmqpConsumer {
    /// After an error: whatever is still to be settled is stale.
    fn over(&mut self) {
        if let Some(live) = self.live.take() {
            live.sink.end();
        }
    }
}

impl Live {
    async fn settled(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send(Command::Settled(reply)).await.ok()?;
            answer.await.ok()
        };
        let limit = self.limit * 2 + self.copy_limit;
        match tokio::time::timeout(limit, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(Error::new(ErrorKind::Bug, "settle", "the settling task is gone")),
            Err(_) => Err(late("settle", limit)),
        }
    }

    /// Cancels, hands back what nobody saw, waits for the broker to have every verdict, closes: in
    /// any other order acknowledgements could be lost.
    async fn close(mut self) -> Result<()> {
        let cancel = self.channel.basic_cancel(self.stream.tag(), BasicCancelOptions::default());
        let cancelled = within(self.limit, "close", cancel).await;
        if cancelled.is_ok() {
            // What is buffered ends with the cancellation's answer.
            while let Ok(Some(Ok(delivery))) =
                tokio::time::timeout(self.limit, self.stream.next()).await
            {
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
        within(self.limit, "close", self.channel.close(200, "closed".into())).await
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        let Some(live) = self.live.take() else { return };
        // Without a runtime the channel just closes, and the broker takes everything back.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let source = Arc::clone(&self.source);
            runtime.spawn(async move {
                if let Err(error) = live.close().await {
                    tracing::debug!(%error, %source, "a dropped consumer did not close");
                }
            });
        }
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
