//! The consumer that acknowledges nothing.

use std::{
    collections::VecDeque,
    fmt,
    future::ready,
    iter,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    Channel, ConsumerDelegate,
    message::{Delivery, DeliveryResult},
    options::BasicConsumeOptions,
    types::{FieldTable, ShortString},
};
use mq_core::{
    ConsumePlan, DeadLetters, Error, ErrorKind, Received, Result, Subscription,
    flow::{Flow, FlowKind},
    trace::Tracer,
};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{
    lost,
    opener::{named, subscribed},
};
use crate::{
    capabilities::CAPABILITIES,
    config::Settings,
    connection::{AmqpRole, CHUNK, Gate, Link},
    headers::received,
    metrics::Counters,
};

/// A consumer whose messages are done for the broker as soon as it sent them (`no-ack`, AMQP 0-9-1,
/// section 1.8.3.3): *at most once*.
///
/// It yields messages without a settlement and is no [`Consumer`](mq_core::Consumer), so that it
/// cannot slip into a stronger guarantee.
///
/// # What is lost
/// When this process dies, when the connection is lost, and when it is closed or dropped: every
/// message that the broker has sent and nobody has [received](Self::receive). Those are at most the
/// buffer, and beside it what is in the sockets between the two; from a quorum queue, whose messages
/// the broker sends on without regard to the sockets, all that the queue holds. There is no
/// redelivery and no dead letter.
///
/// # Memory
/// The broker pushes without end. So the consumer has a connection of its own, which is not read
/// while `buffer` messages wait, until half of them are received. What one read of 32 KiB (with a
/// message larger than that, all of it) brings beyond is the slack. While nobody receives, one byte
/// more is read for each heartbeat, with TLS one record, so that the connection is not taken for
/// dead.
pub struct AmqpNoAckConsumer {
    inbox: Arc<Inbox>,
    link: Arc<Link>,
    source: Subscription,
    flow: Flow,
    tracer: Tracer,
    counters: Arc<Counters>,
    queue: ShortString,
    over: bool,
    /// Where the client tells the end once a closing has begun: its delegate is asked no more then.
    stream: lapin::Consumer,
    /// The client closes it when nobody holds it.
    _channel: Channel,
    _breath: AbortOnDropHandle<()>,
}

/// What the broker sent and nobody took.
struct Inbox {
    gate: Gate,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Delivery>,
    /// How the stream ended.
    ended: Option<Option<lapin::Error>>,
}

/// The client's hand in the inbox, called on its I/O thread for each message in turn.
struct Intake(Arc<Inbox>);

impl AmqpNoAckConsumer {
    pub(crate) async fn open(
        settings: &Settings,
        subscription: &Subscription,
        buffer: usize,
    ) -> Result<Self> {
        let name = named(subscription);
        let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
        plan.check(subscription, CAPABILITIES)?;
        if buffer == 0 {
            let text = "the buffer holds at least one message";
            return Err(name(Error::new(ErrorKind::Config, OPERATION, text)));
        }
        let gate = Gate::new(buffer);
        let role = AmqpRole::ConsumeWithoutAck;
        let link = Link::any(settings, role, &Arc::default(), Some(&gate)).await?;
        let link = Arc::new(link);
        let channel = link.channel(OPERATION).await?;
        let queue = subscribed(&link, &channel, subscription).await?;
        // The answer comes within the first chunk, and whatever follows waits for the inbox.
        gate.arm();
        let (consumer, none) = (ShortString::default(), FieldTable::default());
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consume = channel.basic_consume(queue.clone(), consumer, options, none);
        let stream = link.answer(OPERATION, consume).await.map_err(&name)?;
        let inbox = Arc::new(Inbox {
            gate: gate.clone(),
            state: Mutex::default(),
            changed: Notify::new(),
        });
        stream.set_delegate(Intake(Arc::clone(&inbox)));
        gate.count();
        let breath = if settings.is_tls() { CHUNK } else { 1 };
        let flow = settings.flow.clone();
        flow.consumer(FlowKind::Opened, subscription, None);
        let breathing = breathe(gate, link.heartbeat(), breath);
        Ok(Self {
            inbox,
            link,
            source: subscription.clone(),
            flow,
            tracer: settings.tracer.clone(),
            counters: Arc::clone(&settings.counters),
            queue,
            over: false,
            stream,
            _channel: channel,
            _breath: AbortOnDropHandle::new(tokio::spawn(breathing)),
        })
    }

    /// Waits for the next message; `None` if the consumer has ended.
    ///
    /// # Errors
    /// [`Disconnected`](ErrorKind::Disconnected) or [`Lost`](ErrorKind::Lost) if the subscription
    /// was lost, [`Closed`](ErrorKind::Closed) if the broker was closed. What had come before is
    /// received first; after the error the consumer is over.
    ///
    /// # Cancel safety
    /// Safe: a message is either returned or still with the consumer.
    pub async fn receive(&mut self) -> Result<Option<Received>> {
        if self.over {
            return Ok(None);
        }
        loop {
            let changed = self.inbox.changed.notified();
            if let Some(mut delivery) = self.inbox.take() {
                let number = Some(delivery.delivery_tag);
                let received = received(&mut delivery, Arc::clone(self.source.name()));
                let (flow, source) = (&self.flow, &self.source);
                flow.delivery(FlowKind::Delivered, source, &received, number);
                let redelivered = received.redelivered() == Some(true);
                self.counters.received(redelivered);
                self.tracer.received(source, iter::once(&received));
                return Ok(Some(received));
            }
            let ended = self.inbox.lock().ended.take();
            if let Some(why) = ended {
                self.over = true;
                let error = lost(&self.link, self.source.name(), why);
                return Err(error.help("open it again: it does not come back by itself"));
            }
            tokio::select! {
                () = changed => {}
                end = self.stream.next() => match end {
                    // Sent after the closing began.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => self.inbox.end(Some(error)),
                    None => self.inbox.end(None),
                },
            }
        }
    }

    /// The messages that have come and are not received: a crash now would lose at least them.
    pub fn waiting(&self) -> usize {
        self.inbox.gate.waiting()
    }

    /// The queue that it reads. An ephemeral subscription's is exclusive to this consumer, and the
    /// broker made its name.
    pub fn queue(&self) -> &str {
        self.queue.as_str()
    }

    /// Closes its connection. What was not received is lost.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout) if the broker did not answer in time.
    ///
    /// # Cancel safety
    /// Dropped, the consumer is dropped.
    pub async fn close(self) -> Result<()> {
        self.link
            .close()
            .await
            .map_err(|error| error.with("source", self.source.name()))
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

/// Lets the client see now and then that the broker is alive, while nothing else is read.
async fn breathe(gate: Gate, heartbeat: Option<Duration>, bytes: usize) {
    while let Some(pause) = heartbeat {
        tokio::time::sleep(pause).await;
        gate.breathe(bytes);
    }
}

impl Inbox {
    fn take(&self) -> Option<Delivery> {
        let delivery = self.lock().waiting.pop_front()?;
        self.gate.leave();
        Some(delivery)
    }

    /// Takes note of the end; the client tells an error before the mere end.
    fn end(&self, why: Option<lapin::Error>) {
        self.lock().ended.get_or_insert(why);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is behind this lock is whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsumerDelegate for Intake {
    fn on_new_delivery(
        &self,
        delivery: DeliveryResult,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let Self(inbox) = self;
        match delivery {
            Ok(Some(delivery)) => {
                let mut state = inbox.lock();
                if inbox.gate.enter() {
                    state.waiting.push_back(delivery);
                }
            }
            Ok(None) => inbox.end(None),
            Err(error) => inbox.end(Some(error)),
        }
        inbox.changed.notify_one();
        // All is done; what the client would spawn is for handlers that wait.
        Box::pin(ready(()))
    }
}

impl Drop for AmqpNoAckConsumer {
    fn drop(&mut self) {
        self.flow.consumer(FlowKind::Closed, &self.source, None);
    }
}

impl fmt::Debug for AmqpNoAckConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpNoAckConsumer")
            .field("source", self.source.name())
            .field("queue", &self.queue.as_str())
            .field("waiting", &self.waiting())
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

const OPERATION: &str = "consume";
