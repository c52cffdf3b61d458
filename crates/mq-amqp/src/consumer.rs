//! The consumer: deliveries in batches, settled by marks. And the one that settles nothing.

mod no_ack;
mod opener;

use std::{fmt, mem, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::join};
use lapin::{
    Channel,
    options::{BasicCancelOptions, QueueDeleteOptions},
    types::ShortString,
};
use mq_core::{
    ConsumePlan, Consumer, Delivery, Error, ErrorKind, Result, Settle, Subscription, stale,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

pub use self::no_ack::AmqpNoAckConsumer;
use self::opener::Opener;
use crate::{
    AmqpPublisher,
    connection::{AmqpEvent, Link, Uplink},
    error::late,
    headers::{is_counted, received},
    settle::{Command, Sink},
};

/// A consumer of one queue, on a channel of its own.
///
/// Acknowledgements are sent together: when a quarter of the prefetch (at most 64) is marked, or
/// after 1 ms. `requeue` is counted by a quorum queue; on a classic one, which counts nothing, it
/// is a copy with its attempt in the headers, confirmed before the original is settled. Which of the
/// two a queue is, [`AmqpBuilder::queue`](crate::AmqpBuilder::queue) says; where it does not, a
/// classic queue shows at its first redelivery, and the failure before is not counted.
///
/// When its connection or channel is lost, or the broker cancels it, it is opened again while
/// [`receive`](Consumer::receive) waits, as [`Recovery`](crate::Recovery) has it, with
/// [events](crate::Amqp::events); a queue that is gone is declared again if this client declared it.
/// What was handed out before is then stale, and comes again. It ends with an error where waiting
/// would not help: a queue that is gone and was declared elsewhere
/// ([`NotFound`](ErrorKind::NotFound)), a permission, other settings, and a dead letter that the
/// broker refuses.
pub struct AmqpConsumer {
    state: State,
    opener: Arc<Opener>,
    source: Arc<str>,
    queue: ShortString,
    /// A verdict on a channel that is gone may not have reached the broker, and nobody was told.
    unheard: bool,
    /// Times that it was opened again in quick succession.
    attempt: u32,
}

enum State {
    Live(Box<Live>),
    Reopening(AbortOnDropHandle<Result<Live>>),
    Over,
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
    /// The broker counts failed attempts alone.
    exact_attempts: bool,
    queue: ShortString,
    /// It has this queue for itself, and takes it along.
    ephemeral: bool,
    since: Instant,
    /// The most time for a copy to be confirmed.
    copy_limit: Duration,
}

impl AmqpConsumer {
    pub(crate) async fn open(
        uplink: Arc<Uplink>,
        publisher: AmqpPublisher,
        subscription: Subscription,
        plan: ConsumePlan,
    ) -> Result<Self> {
        let source = Arc::clone(subscription.name());
        let opener = Arc::new(Opener {
            uplink,
            publisher,
            subscription,
            plan,
        });
        let live = opener.open().await?;
        Ok(Self {
            queue: live.queue.clone(),
            state: State::Live(Box::new(live)),
            opener,
            source,
            unheard: false,
            attempt: 0,
        })
    }

    /// The queue that it reads. An ephemeral subscription's is exclusive to this connection, and the
    /// broker made its name; it has another one after a lost connection.
    pub fn queue(&self) -> &str {
        self.queue.as_str()
    }
}

impl Consumer for AmqpConsumer {
    async fn receive_many(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        if max == 0 {
            return Err(Error::new(
                ErrorKind::Config,
                "receive",
                "max is at least 1",
            ));
        }
        loop {
            match &mut self.state {
                State::Over => return Ok(0),
                State::Live(live) => match live.receive_many(&self.source, into, max).await {
                    Ok(count) => return Ok(count),
                    Err(end) => self.lost(end)?,
                },
                State::Reopening(opening) => {
                    let opened = opening.await;
                    self.reopened(opened.unwrap_or_else(|error| {
                        let text = "opening a consumer again ended without an answer";
                        Err(Error::new(ErrorKind::Bug, "receive", text).caused_by(error))
                    }))?;
                }
            }
        }
    }

    async fn settled(&mut self) -> Result<()> {
        if mem::take(&mut self.unheard) {
            return Err(stale(&self.source));
        }
        let State::Live(live) = &self.state else {
            return Ok(());
        };
        let settled = live.settled().await;
        if settled.is_err() {
            // It is told now.
            live.sink.hear();
        }
        settled.map_err(|e| e.with("source", &self.source))
    }

    async fn close(mut self) -> Result<()> {
        match mem::replace(&mut self.state, State::Over) {
            State::Live(live) => live
                .close()
                .await
                .map_err(|e| e.with("source", &self.source)),
            State::Reopening(_) | State::Over => Ok(()),
        }
    }
}

/// Why a consumer does not go on as it is.
enum End {
    /// The channel is gone, or the broker cancelled it.
    Lost(Error),
    /// A verdict could not be carried out.
    Failed(Error),
}

impl AmqpConsumer {
    /// Begins to open it again, or ends it. Whatever is still to be settled is stale, and goes back
    /// to the broker.
    fn lost(&mut self, end: End) -> Result<()> {
        let State::Live(live) = mem::replace(&mut self.state, State::Over) else {
            return Ok(());
        };
        live.sink.end();
        self.unheard |= live.sink.is_unheard();
        if live.since.elapsed() > STEADY {
            self.attempt = 0;
        }
        live.close_behind(Arc::clone(&self.source));
        let (why, again) = match end {
            End::Lost(why) => (why, true),
            // The copy may be stored or not: the message comes again, and is copied again.
            End::Failed(why) => {
                let passing = why.possibly_delivered()
                    || matches!(why.kind(), ErrorKind::Timeout | ErrorKind::Disconnected);
                (why, passing)
            }
        };
        let opener = &self.opener;
        if !again || !opener.may_open_again() {
            return Err(why);
        }
        opener.tell(AmqpEvent::ConsumerLost {
            subscription: opener.subscription.clone(),
            why: why.clone(),
        });
        self.attempt += 1;
        let reopening = Arc::clone(opener).reopen(why, self.attempt);
        self.state = State::Reopening(AbortOnDropHandle::new(tokio::spawn(reopening)));
        Ok(())
    }

    fn reopened(&mut self, opened: Result<Live>) -> Result<()> {
        match opened {
            Ok(live) => {
                self.queue = live.queue.clone();
                self.state = State::Live(Box::new(live));
                Ok(())
            }
            Err(error) => {
                self.state = State::Over;
                Err(error)
            }
        }
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
    /// Waits for one delivery and takes up to `max`.
    ///
    /// # Cancel safety
    /// Safe: what the client yields is in `into` or kept.
    async fn receive_many(
        &mut self,
        source: &Arc<str>,
        into: &mut Vec<Delivery>,
        max: usize,
    ) -> Result<usize, End> {
        let sink = Arc::clone(&self.sink);
        let mut next = tokio::select! {
            biased;
            error = sink.failed() => return Err(End::Failed(error)),
            next = self.next() => next,
        };
        let (before, mut count) = (into.len(), 0);
        while let Some(mut delivery) = next.take() {
            let tag = delivery.delivery_tag;
            sink.opened(tag, is_counted(&delivery));
            let mut received = received(&mut delivery, Arc::clone(source));
            if !self.exact_attempts {
                received = received.with_inexact_attempt();
            }
            sink.delivered(tag, &received);
            into.push(Delivery::new(received, Arc::clone(&self.settlements), tag));
            count += 1;
            if count < max {
                next = self.next().now_or_never().flatten();
            }
        }
        if count > 0 {
            sink.handed_out(&into[before..]);
            return Ok(count);
        }
        let why = self.ended.take().flatten();
        let mut error = lost(&self.link, source, why);
        if error.kind() == ErrorKind::Lost
            && let Some(limit) = self.link.named().queue(source).unsettled_at_most()
        {
            error = error.with("consumer_timeout", format!("{limit:?}"));
        }
        Err(End::Lost(error))
    }

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
    fn close_behind(self: Box<Self>, source: Arc<str>) {
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
        // In any case: deliveries that somebody holds keep the channel, and with it what is unsettled.
        let close = self.channel.close(200, "closed".into());
        let close = self.link.answer("close", close);
        // In this order, and no longer than one of them may take.
        let (deleted, closed) = join(self.leave_queue(), close).await;
        if let Some(failure) = self.sink.failure() {
            return Err(failure);
        }
        settled?;
        cancelled?;
        deleted?;
        closed
    }

    /// Deletes the queue of an ephemeral subscription, which else would fill up until the connection ends.
    async fn leave_queue(&self) -> Result<()> {
        if !self.ephemeral {
            return Ok(());
        }
        let queue = self.queue.clone();
        let deleted = self
            .channel
            .queue_delete(queue, QueueDeleteOptions::default());
        self.link.answer("close", deleted).await.map(drop)
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        if let State::Live(live) = mem::replace(&mut self.state, State::Over) {
            live.close_behind(Arc::clone(&self.source));
        }
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
            .field("open", &matches!(self.state, State::Live(_)))
            .finish_non_exhaustive()
    }
}

const OPERATION: &str = "consume";
/// A consumer that lasted so long was no failed attempt.
const STEADY: Duration = Duration::from_secs(10);
