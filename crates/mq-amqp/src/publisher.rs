//! The confirmed publisher, and the one that waits for no answer.

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
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc, oneshot},
    time::{Instant, timeout},
};

pub use self::unconfirmed::AmqpUnconfirmed;
use self::writer::{Batch, Command, Job, Reply, Writer};
use crate::{
    config::Settings,
    connection::Link,
    headers::{Limits, Outbound},
    topology,
};

/// The confirmed publisher of an [`Amqp`](crate::Amqp): one channel, one window, exact outcomes.
///
/// Publishes to queues, and to topics where the destination asks for it, are mandatory: what no
/// queue takes is [`Unroutable`](ErrorKind::Unroutable). A topic is looked up before its first
/// publish on a connection, so that a missing one is [`NotFound`](ErrorKind::NotFound) and ends no
/// other publish.
///
/// If the broker closes the channel, such as for a topic deleted in the meantime, every publish
/// that is on its way is [`Unknown`](ErrorKind::Unknown), and the next one uses a new channel. So it
/// is too with the first message that is over a limit of the broker below `max_message_size`; from
/// then on such messages are [`TooLarge`](ErrorKind::TooLarge) before they are sent.
#[derive(Clone)]
pub struct AmqpPublisher {
    shared: Arc<Shared>,
}

struct Shared {
    link: Arc<Link>,
    commands: mpsc::Sender<Command>,
    /// One permit for each publish that may still enter the window.
    room: Arc<Semaphore>,
    window: usize,
    limit: Duration,
    max_message_size: usize,
    closed: AtomicBool,
    topics: Arc<Topics>,
    flow: Flow,
}

/// The topics that were seen on this connection.
#[derive(Default)]
struct Topics(Mutex<HashSet<Arc<str>>>);

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
    pub(crate) async fn start(settings: &Settings, link: Arc<Link>) -> Result<Self> {
        let window = settings.publish_window;
        let room = Arc::new(Semaphore::new(window));
        // Permits bound the publishes; the rest is for `flush`.
        let (commands, receiver) = mpsc::channel(window + 16);
        let topics = Arc::<Topics>::default();
        let limit = settings.publish_timeout;
        let writer = Writer {
            link: Arc::clone(&link),
            room: Arc::clone(&room),
            topics: Arc::clone(&topics),
            limit,
        };
        let channel = writer.channel().await?;
        tokio::spawn(writer.run(channel, receiver));
        let closed = AtomicBool::new(false);
        let shared = Shared {
            link,
            commands,
            room,
            window,
            limit,
            max_message_size: settings.max_message_size,
            closed,
            topics,
            flow: settings.flow.clone(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Enqueues a message in its AMQP form; for the copies of a consumer, which go on after `close`.
    pub(crate) async fn send(
        &self,
        to: Destination,
        outbound: Outbound,
        flow: Option<Box<PublishFlow>>,
    ) -> Result<AmqpPending> {
        let permit = self.shared.room(1).await?;
        let (reply, outcome) = oneshot::channel();
        let job = Job {
            outbound,
            reply: Reply::One(reply),
            flow,
            enqueued: Instant::now(),
        };
        self.shared.command(Command::Publish(job)).await?;
        permit.forget();
        Ok(AmqpPending { outcome, to })
    }

    /// Where it tells what becomes of its messages.
    pub(crate) fn flow(&self) -> &Flow {
        &self.shared.flow
    }

    /// The most time for room, and then for an outcome.
    pub(crate) fn limit(&self) -> Duration {
        self.shared.limit
    }

    /// What fits into a message, by what is known at this moment.
    pub(crate) fn limits(&self) -> Limits {
        self.shared.link.limits(self.shared.max_message_size)
    }

    async fn prepare(&self, to: &Destination, message: &Message) -> Result<Outbound> {
        let mut outbound = Outbound::new(to, message, self.limits())?;
        if self.shared.link.named().is_transient(to) {
            outbound.transient();
        }
        if !to.is_queue() && !self.shared.topics.has(to.name()) {
            topology::exists(&self.shared.link, "publish", to).await?;
            self.shared.topics.add(to.name());
        }
        Ok(outbound)
    }
}

impl Publisher for AmqpPublisher {
    type Pending = AmqpPending;

    async fn enqueue(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> Result<AmqpPending> {
        let message = message.into();
        self.shared.open()?;
        let outbound = self
            .prepare(to, &message)
            .await
            .map_err(|error| error.with("to", to))?;
        let flow = self.shared.flow.publish(&message, to);
        self.send(to.clone(), outbound, flow).await
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
        match timeout(shared.limit + shared.link.limit(), all).await {
            Ok(Err(error)) if error.kind() != ErrorKind::Disconnected => Err(error),
            Ok(_) => Ok(()),
            Err(_) => Err(crate::error::late("flush", shared.limit)),
        }
    }

    async fn close(&self) -> Result<()> {
        self.shared.closed.store(true, Ordering::Release);
        self.flush().await
    }

    async fn enqueue_batch(&self, to: &Destination, messages: Vec<Message>) -> PendingBatch {
        let shared = &self.shared;
        let batch = Batch::new(messages.len());
        let chunk = shared.window.min(CHUNK);
        let mut jobs = Vec::with_capacity(chunk.min(messages.len()));
        let mut left = messages.len();
        for (at, message) in messages.into_iter().enumerate() {
            let reply = batch.reply(at);
            left -= 1;
            let prepared = match shared.open() {
                Ok(()) => self.prepare(to, &message).await,
                Err(error) => Err(error),
            };
            match prepared {
                Ok(outbound) => jobs.push((outbound, reply, shared.flow.publish(&message, to))),
                Err(error) => reply.tell(Err(error)),
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
        if self.link.is_connected() {
            Ok(())
        } else {
            Err(self.link.gone("publish"))
        }
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
            Ok(Err(_)) => Err(self.link.gone("publish")),
            Err(_) => Err(self.no_room()),
        }
    }

    async fn send_all(&self, jobs: &mut Vec<(Outbound, Reply, Option<Box<PublishFlow>>)>) {
        if jobs.is_empty() {
            return;
        }
        match self.room(jobs.len()).await {
            Ok(permit) => {
                let enqueued = Instant::now();
                let job = |(outbound, reply, flow)| Job {
                    outbound,
                    reply,
                    flow,
                    enqueued,
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
                for (_, reply, _) in jobs.drain(..) {
                    reply.tell(Err(error.clone()));
                }
            }
        }
    }

    async fn command(&self, command: Command) -> Result<()> {
        self.commands
            .send(command)
            .await
            .map_err(|_| self.link.gone("publish"))
    }

    fn no_room(&self) -> Error {
        let help = if self.link.is_blocked() {
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

    fn forget(&self) {
        self.lock().clear();
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
            .field("link", &self.shared.link)
            .field("window", &self.shared.window)
            .field("room", &self.shared.room.available_permits())
            .finish_non_exhaustive()
    }
}

/// The most messages of a batch that wait for room together.
const CHUNK: usize = 64;
const MAX_TOPICS: usize = 10_000;
