//! A client: one connection, questions under numbers, and the broker that it makes.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mq_core::{
    Broker, Capabilities, ConsumePlan, Declaration, Deletion, Error, ErrorKind, Result,
    Subscription,
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};

use crate::{
    capabilities::CAPABILITIES,
    consumer::CourierConsumer,
    error,
    publisher::{CourierPublisher, CourierUnconfirmed},
    server::{self, Ask, Given, Say},
    topology,
};

/// A connection to the broker. A clone shares it; when the last is dropped, it ends.
#[derive(Clone)]
pub(crate) struct Courier(pub(crate) Arc<Link>);

pub(crate) struct Link {
    outbox: mpsc::Sender<(u64, Ask)>,
    pub(crate) state: Arc<State>,
    number: AtomicU64,
    /// Room for publishes whose outcome is missing.
    pub(crate) window: Arc<Semaphore>,
    pub(crate) publisher_closed: AtomicBool,
    tasks: [AbortHandle; 2],
}

/// What the reading task shares with those who ask.
#[derive(Default)]
pub(crate) struct State {
    waiting: Mutex<HashMap<u64, Waiting>>,
    consumers: Mutex<HashMap<u64, mpsc::Sender<Given>>>,
    lost: AtomicBool,
    closed: AtomicBool,
}

struct Waiting {
    answer: oneshot::Sender<bool>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Courier {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let connected = timeout(DEADLINE, TcpStream::connect(address)).await;
        let failed = |why: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Connect, "connect", "no broker answers")
                .with("address", address)
                .with("why", why)
        };
        let stream = connected.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        let (mut reader, mut writer) = stream.into_split();
        let (outbox, mut frames) = mpsc::channel(64);
        let state = Arc::new(State::default());
        let (reading, writing) = (Arc::clone(&state), Arc::clone(&state));
        let read = tokio::spawn(async move {
            while let Some(say) = server::read::<Say>(&mut reader).await {
                reading.take(say);
            }
            reading.lose();
        });
        let write = tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if server::write(&mut writer, &frame).await.is_err() {
                    break;
                }
            }
            writing.lose();
        });
        Ok(Self(Arc::new(Link {
            outbox,
            state,
            number: AtomicU64::new(0),
            window: Arc::new(Semaphore::new(WINDOW)),
            publisher_closed: AtomicBool::new(false),
            tasks: [read.abort_handle(), write.abort_handle()],
        })))
    }
}

impl Link {
    pub(crate) fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks and waits for the answer, yes or no.
    pub(crate) async fn ask(&self, operation: &'static str, ask: Ask) -> Result<bool> {
        let answered = async {
            let answer = self.begin(operation, ask, None).await?;
            answer.await.map_err(|_| self.state.gone(operation))
        };
        timeout(DEADLINE, answered)
            .await
            .map_err(|_| error::late(operation))?
    }

    /// Asks; dropped before it returns, nothing was asked.
    pub(crate) async fn begin(
        &self,
        operation: &'static str,
        ask: Ask,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<oneshot::Receiver<bool>> {
        let place = self.outbox.reserve().await;
        let place = place.map_err(|_| self.state.gone(operation))?;
        self.state.check(operation)?;
        let (number, (answer, answered)) = (self.next(), oneshot::channel());
        let waiting = Waiting {
            answer,
            _room: room,
        };
        lock(&self.state.waiting).insert(number, waiting);
        place.send((number, ask));
        if self.state.lost.load(Ordering::Acquire) {
            // The reading task may have looked before it was written down.
            lock(&self.state.waiting).remove(&number);
        }
        Ok(answered)
    }

    /// Says what is not answered.
    pub(crate) async fn tell(&self, ask: Ask) {
        // Without a connection there is nobody to tell, and the broker takes everything back.
        let _ = self.outbox.send((self.next(), ask)).await;
    }
}

impl State {
    fn take(&self, say: Say) {
        match say {
            Say::Answer(number, yes) => {
                if let Some(waiting) = lock(&self.waiting).remove(&number) {
                    let _ = waiting.answer.send(yes);
                }
            }
            Say::Deliver(consumer, given) => {
                if let Some(inbox) = lock(&self.consumers).get(&consumer) {
                    // It has room for the whole prefetch.
                    let _ = inbox.try_send(given);
                }
            }
        }
    }

    /// Nobody will be answered any more.
    fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        lock(&self.waiting).clear();
        lock(&self.consumers).clear();
    }

    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        match self.lost.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire) {
            true => Err(self.gone(operation)),
            false => Ok(()),
        }
    }

    pub(crate) fn gone(&self, operation: &'static str) -> Error {
        match self.closed.load(Ordering::Acquire) {
            true => error::closed(operation),
            false => error::disconnected(operation),
        }
    }

    pub(crate) fn consumers(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Given>>> {
        lock(&self.consumers)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

// guide: broker
impl Broker for Courier {
    type Publisher = CourierPublisher;
    type Unconfirmed = CourierUnconfirmed;
    type Consumer = CourierConsumer;

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn product(&self) -> String {
        "Courier 1".into()
    }

    fn publisher(&self) -> CourierPublisher {
        CourierPublisher(Arc::clone(&self.0))
    }

    fn unconfirmed(&self) -> CourierUnconfirmed {
        CourierUnconfirmed(self.publisher())
    }

    async fn consumer(&self, from: &Subscription, plan: ConsumePlan) -> Result<CourierConsumer> {
        plan.check(from, CAPABILITIES)?;
        CourierConsumer::open(&self.0, from, plan).await
    }

    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        topology::declare(&self.0, what.into()).await
    }

    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        topology::verify(&self.0, what.into()).await
    }

    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        topology::delete(&self.0, what.into()).await
    }

    async fn close(&self) -> Result<()> {
        let flushed = mq_core::Publisher::close(&self.publisher()).await;
        self.0.state.closed.store(true, Ordering::Release);
        self.0.state.lose();
        flushed
    }
}
// guide: end

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
const WINDOW: usize = 1000;
