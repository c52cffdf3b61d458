//! The confirmed publisher, and the one that waits for no answer.

mod batch;
mod inflight;
mod unconfirmed;
mod window;
mod writer;

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use mq_core::{
    Destination, Error, ErrorKind, Message, PendingBatch, Publisher, Receipt, Result,
    flow::{Flow, PublishFlow},
    trace::Tracer,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc, oneshot},
    time::{Instant, timeout},
};

pub use self::unconfirmed::AmqpUnconfirmed;
use self::{
    batch::Batch,
    writer::{Command, Job, Reply, Writer},
};
use crate::{
    config::Settings,
    connection::{Uplink, whole},
    headers::{Letter, Limits, Outbound},
    metrics::Counters,
    topology::{
        self,
        cascade::{self, Later},
    },
};

/// The confirmed publisher of an [`Amqp`](crate::Amqp): one channel, one window, exact outcomes.
///
/// Publishes to queues, and to topics where the destination asks for it, are mandatory: what no
/// queue takes is [`Unroutable`](ErrorKind::Unroutable). A topic is looked up before its first
/// publish on a connection, so that a missing one is [`NotFound`](ErrorKind::NotFound) and ends no
/// other publish.
///
/// If the channel or the connection is lost, every publish that is on its way is written again, with
/// the same id, to the next one; so it may be stored twice. With
/// [`resend`](crate::AmqpBuilder::resend) off it is [`Unknown`](ErrorKind::Unknown) instead. Where the
/// broker closed the channel over something that was published, those on their way are written one by
/// one, so that the one that it was over is told apart: as [`NotFound`](ErrorKind::NotFound) for a topic
/// that was deleted meanwhile, [`TooLarge`](ErrorKind::TooLarge) for a limit of the broker below
/// `max_message_size`, [`Permission`](ErrorKind::Permission).
///
/// Each publish has its deadline, also while there is no connection. What was never written by then is
/// a [`Timeout`](ErrorKind::Timeout), and stored nowhere.
#[derive(Clone)]
pub struct AmqpPublisher {
    shared: Arc<Shared>,
    /// How long every message waits before it gets to its queue.
    delay: Option<Duration>,
}

struct Shared {
    uplink: Arc<Uplink>,
    commands: mpsc::Sender<Command>,
    /// One permit for each publish that may still enter the window.
    room: Arc<Semaphore>,
    window: usize,
    limit: Duration,
    max_message_size: usize,
    resend: bool,
    closed: AtomicBool,
    topics: Arc<Topics>,
    flow: Flow,
    tracer: Tracer,
    counters: Arc<Counters>,
}

/// A publish of a batch before it has room.
type Prepared = (Letter, Outbound, Reply, Option<Box<PublishFlow>>);

/// What was seen on this connection.
#[derive(Default)]
struct Topics {
    seen: Names,
    /// Queues that are bound to the delay cascade.
    bound: Names,
}

#[derive(Default)]
struct Names(Mutex<HashSet<Arc<str>>>);

/// Resolves to the outcome of one publish.
///
/// It ends by the publisher's deadline. Dropping it does not recall the message.
#[derive(Debug)]
#[must_use = "the outcome is known only when it is awaited"]
pub struct AmqpPending {
    outcome: oneshot::Receiver<Result<Receipt>>,
    to: Destination,
}

impl AmqpPublisher {
    pub(crate) async fn start(settings: &Settings, uplink: Arc<Uplink>) -> Result<Self> {
        let window = settings.publish_window;
        let room = Arc::new(Semaphore::new(window));
        // Permits bound the publishes; the rest is for `flush`.
        let (commands, receiver) = mpsc::channel(window + 16);
        let topics = Arc::<Topics>::default();
        let limit = settings.publish_timeout;
        let writer = Writer {
            uplink: Arc::clone(&uplink),
            room: Arc::clone(&room),
            topics: Arc::clone(&topics),
            limit,
            counters: Arc::clone(&settings.counters),
        };
        let link = uplink.link("publish").await?;
        let channel = Writer::channel(&link).await?;
        tokio::spawn(writer.run((link, channel), receiver));
        let closed = AtomicBool::new(false);
        let shared = Shared {
            uplink,
            commands,
            room,
            window,
            limit,
            max_message_size: settings.max_message_size,
            resend: settings.resend,
            closed,
            topics,
            flow: settings.flow.clone(),
            tracer: settings.tracer.clone(),
            counters: Arc::clone(&settings.counters),
        };
        Ok(Self {
            shared: Arc::new(shared),
            delay: None,
        })
    }

    /// A publisher of the same connection whose messages get to their queue after this delay, never
    /// earlier: the next whole second, at least one, at most 2^28 - 1 (eight and a half years).
    ///
    /// They wait in the delay cascade, which has to be there: see [`Amqp::delays`](crate::Amqp::delays).
    /// The header [`DUE`](mq_core::headers::DUE) tells when a message was due. An expiry counts from
    /// the message's own time, is told to its consumer, and is not watched by the broker. Window and
    /// deadline are the connection's, and closing one publisher closes all.
    ///
    /// A confirmation says that the message waits. Before the first one to a queue on a connection the
    /// queue is bound to the cascade. If it is deleted while messages wait for it, they end in the
    /// queue `mq.delay.dead`.
    ///
    /// # Errors
    /// Of a publish, and nothing is sent: [`Unsupported`](ErrorKind::Unsupported) for a longer delay,
    /// for a topic, since a message that has waited has lost the routing key that its subscriptions
    /// are bound by, and for a queue whose settings let it refuse at a limit;
    /// [`NotFound`](ErrorKind::NotFound) if the cascade or the queue is missing;
    /// [`Mismatch`](ErrorKind::Mismatch) if the cascade is another one.
    #[must_use]
    pub fn delayed(&self, delay: Duration) -> Self {
        Self {
            delay: Some(delay),
            ..self.clone()
        }
    }

    /// Enqueues a copy that a consumer made, which goes on after `close`.
    pub(crate) async fn send(
        &self,
        letter: Letter,
        outbound: Outbound,
        flow: Option<Box<PublishFlow>>,
    ) -> Result<AmqpPending> {
        let permit = self.shared.room(1).await?;
        let (reply, outcome) = oneshot::channel();
        let to = letter.to.clone();
        let job = self
            .shared
            .job(letter, outbound, Reply::One(reply), flow, Instant::now());
        self.shared.command(Command::Publish(job)).await?;
        permit.forget();
        Ok(AmqpPending { outcome, to })
    }

    /// Where it tells what becomes of its messages.
    pub(crate) fn flow(&self) -> &Flow {
        &self.shared.flow
    }

    /// What the spans of its connection are made with.
    pub(crate) fn tracer(&self) -> &Tracer {
        &self.shared.tracer
    }

    /// Where its connection counts.
    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// The most time for room, and then for an outcome.
    pub(crate) fn limit(&self) -> Duration {
        self.shared.limit
    }

    /// What fits into a message, by what is known at this moment.
    pub(crate) fn limits(&self) -> Limits {
        self.shared
            .uplink
            .known()
            .limits(self.shared.max_message_size)
    }

    /// Makes sure that a message which waits arrives, and says how it goes.
    async fn route_later(&self, to: &Destination, delay: Duration) -> Result<Later> {
        if !to.is_queue() {
            let text = "a message to a topic cannot be delayed on RabbitMQ";
            return Err(Error::new(ErrorKind::Unsupported, "publish", text)
                .help("delay it into a queue, and let its worker publish it to the topic"));
        }
        let shared = &self.shared;
        let later = Later::after("publish", to.name(), delay)?;
        if !shared.topics.bound.has(to.name()) {
            let link = shared.uplink.link_within("publish", shared.limit).await?;
            let queue = Arc::clone(to.name());
            let bind = async move { cascade::arrives(&link, "publish", &queue).await };
            whole("publish", bind).await?;
            shared.topics.bound.add(to.name());
        }
        Ok(later)
    }

    async fn prepare(&self, to: &Destination, message: Message) -> Result<(Letter, Outbound)> {
        let shared = &self.shared;
        let mut letter = Letter::new(to.clone(), message);
        if let Some(delay) = self.delay {
            letter.later = Some(self.route_later(to, delay).await?);
        } else {
            letter.transient = shared.uplink.settings().named.is_transient(to);
        }
        let outbound = letter.outbound(self.limits())?;
        if !to.is_queue() && !shared.topics.seen.has(to.name()) {
            let link = shared.uplink.link_within("publish", shared.limit).await?;
            topology::exists(&link, "publish", to).await?;
            shared.topics.seen.add(to.name());
        }
        Ok((letter, outbound))
    }
}

impl Publisher for AmqpPublisher {
    type Pending = AmqpPending;

    async fn enqueue(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> Result<AmqpPending> {
        let mut message = message.into();
        self.shared.open()?;
        let sending = self.shared.tracer.send(to, &mut message);
        let (letter, outbound) = match self.prepare(to, message).await {
            Ok(prepared) => prepared,
            Err(error) => {
                let refused = Err(error.with("to", to));
                sending.failed(&refused);
                return refused;
            }
        };
        let flow = self.shared.flow.sending(&letter.message, to, sending);
        self.send(letter, outbound, flow).await
    }

    async fn flush(&self) -> Result<()> {
        let (reply, flushed) = oneshot::channel();
        let shared = &self.shared;
        let all = async {
            shared.command(Command::Flush(reply)).await?;
            // A dropped answer means that nothing is pending any more.
            let _ = flushed.await;
            Ok::<(), Error>(())
        };
        // Each outcome has its own deadline, so this one is a second line of defence.
        match timeout(
            shared.limit + shared.uplink.settings().operation_timeout,
            all,
        )
        .await
        {
            Ok(Err(error)) if error.kind() != ErrorKind::Disconnected => Err(error),
            Ok(_) => Ok(()),
            Err(_) => Err(crate::error::late("flush", shared.limit)),
        }
    }

    async fn close(&self) -> Result<()> {
        self.shared.closed.store(true, Ordering::Release);
        self.flush().await
    }

    async fn enqueue_batch(&self, to: &Destination, mut messages: Vec<Message>) -> PendingBatch {
        let shared = &self.shared;
        let sending = shared.tracer.send_batch(to, &mut messages);
        let batch = Batch::new(messages.len());
        let chunk = shared.window.min(CHUNK);
        let mut jobs = Vec::with_capacity(chunk.min(messages.len()));
        let mut left = messages.len();
        for (at, message) in messages.into_iter().enumerate() {
            let reply = batch.reply(at);
            left -= 1;
            let prepared = match shared.open() {
                Ok(()) => self.prepare(to, message).await,
                Err(error) => Err(error),
            };
            match prepared {
                Ok((letter, outbound)) => {
                    let flow = shared.flow.sending(&letter.message, to, sending.clone());
                    jobs.push((letter, outbound, reply, flow));
                }
                Err(error) => {
                    let refused = Err(error);
                    sending.failed(&refused);
                    reply.tell(refused);
                }
            }
            if jobs.len() == chunk || left == 0 {
                shared.send_all(&mut jobs).await;
            }
        }
        let to = to.clone();
        PendingBatch::new(async move {
            let name = |outcome: Result<Receipt>| outcome.map_err(|error| error.with("to", &to));
            batch.outcomes().await.into_iter().map(name).collect()
        })
    }
}

impl Shared {
    fn open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::Closed,
                "publish",
                "the publisher was closed",
            ));
        }
        self.uplink.check("publish")
    }

    fn job(
        &self,
        letter: Letter,
        outbound: Outbound,
        reply: Reply,
        flow: Option<Box<PublishFlow>>,
        enqueued: Instant,
    ) -> Box<Job> {
        let letter = self.resend.then_some(letter);
        Job::new(outbound, letter, reply, flow, enqueued)
    }

    /// Waits for room for some publishes.
    async fn room(&self, publishes: usize) -> Result<SemaphorePermit<'_>> {
        let many = u32::try_from(publishes).unwrap_or(u32::MAX);
        // The timer is for the slow path alone.
        if let Ok(permit) = self.room.try_acquire_many(many) {
            return Ok(permit);
        }
        match timeout(self.limit, self.room.acquire_many(many)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(writer::abandoned()),
            Err(_) => Err(self.no_room()),
        }
    }

    async fn send_all(&self, jobs: &mut Vec<Prepared>) {
        if jobs.is_empty() {
            return;
        }
        match self.room(jobs.len()).await {
            Ok(permit) => {
                let enqueued = Instant::now();
                let job = |(letter, outbound, reply, flow)| {
                    self.job(letter, outbound, reply, flow, enqueued)
                };
                // Sent or not, the replies hold on: a writer that is gone drops them.
                if self
                    .command(Command::Many(jobs.drain(..).map(job).collect()))
                    .await
                    .is_ok()
                {
                    permit.forget();
                }
            }
            Err(error) => {
                for (_, _, reply, _) in jobs.drain(..) {
                    reply.tell(Err(error.clone()));
                }
            }
        }
    }

    async fn command(&self, command: Command) -> Result<()> {
        self.commands
            .send(command)
            .await
            .map_err(|_| writer::abandoned())
    }

    fn no_room(&self) -> Error {
        let help = if self.uplink.is_blocked() {
            "an alarm of the broker blocks publishing: see its memory and disk"
        } else {
            "the broker answers slower than you publish: wait, or raise `publish_window`"
        };
        Error::new(
            ErrorKind::Timeout,
            "publish",
            "there was no room in the window in time",
        )
        .with("window", self.window)
        .with("seconds", self.limit.as_secs_f32())
        .help(help)
    }
}

impl Topics {
    fn forget(&self) {
        self.seen.lock().clear();
        self.bound.lock().clear();
    }
}

impl Names {
    fn has(&self, name: &str) -> bool {
        self.lock().contains(name)
    }

    fn add(&self, name: &Arc<str>) {
        let mut known = self.lock();
        // Names that an application makes up without end must not fill the memory.
        if known.len() >= MAX_TOPICS {
            known.clear();
        }
        known.insert(Arc::clone(name));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for AmqpPending {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.outcome).poll(cx));
        let outcome = outcome.unwrap_or_else(|_| Err(writer::abandoned()));
        Poll::Ready(outcome.map_err(|error| error.with("to", &self.to)))
    }
}

impl fmt::Debug for AmqpPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpPublisher")
            .field("uplink", &self.shared.uplink)
            .field("window", &self.shared.window)
            .field("room", &self.shared.room.available_permits())
            .finish_non_exhaustive()
    }
}

/// The most messages of a batch that wait for room together.
const CHUNK: usize = 64;
const MAX_TOPICS: usize = 10_000;
