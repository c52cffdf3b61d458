//! The client below blocks, and its calls can hang for minutes. So it lives on a thread of its own, and
//! whoever calls waits with a deadline.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use kafka::client::{GroupOffsetStorage, KafkaClient};
use mq_core::Error;
use tokio::{sync::oneshot, time::timeout};

use super::{config::LegacyBuilder, handshake};

/// What the threads of a connection share.
#[derive(Debug)]
pub(super) struct Threads {
    servers: Vec<String>,
    name: String,
    request_timeout: Duration,
    /// Threads that were left with a call that did not return.
    left: AtomicUsize,
}

impl Threads {
    pub(super) fn new(config: &LegacyBuilder) -> Arc<Self> {
        let servers = config.servers.split(',').map(|one| one.trim().to_owned());
        Arc::new(Self {
            servers: servers.collect(),
            name: config.name.clone(),
            request_timeout: config.request_timeout,
            left: AtomicUsize::new(0),
        })
    }

    /// A client that has found the cluster.
    fn client(&self) -> Result<KafkaClient, Failed> {
        let time = self.request_timeout * 3 / 4;
        let found = handshake::find(&self.servers, &self.name, time).map_err(Failed::Refused)?;
        // The one that answers alone: with a dead one before it the client would wait for minutes.
        let mut client = KafkaClient::new(vec![found.to_owned()]);
        client.set_client_id(self.name.clone());
        client.set_group_offset_storage(Some(GroupOffsetStorage::Kafka));
        client.set_fetch_min_bytes(1);
        // After its last try a commit of kafka 0.10 goes on for ever without a pause in between. With
        // a pause between tries the deadline here ends the wait.
        client.set_retry_max_attempts(u32::MAX);
        client
            .set_fetch_max_wait_time(FETCH_WAIT)
            .map_err(Failed::Client)?;
        // Always of all topics: asked for one by its name, an older broker may create it.
        client.load_metadata_all().map_err(Failed::Client)?;
        Ok(client)
    }
}

/// Why a call has no result.
#[derive(Debug)]
pub(super) enum Failed {
    /// It was not made: there is no client, and this is why.
    Refused(Error),
    /// The client's own error. Before the call was made if the client could not be made.
    Client(kafka::Error),
    /// It did not return in time.
    Hung,
    /// Too many calls before it did not return; it was not made.
    TooManyHung,
    /// The client panicked.
    Panicked,
}

/// What a call gave, and whether its client may be used again.
pub(super) struct Called<T> {
    pub(super) value: T,
    pub(super) usable: bool,
}

type Job = Box<dyn FnOnce(&mut Option<KafkaClient>) + Send>;

/// A client on its thread. One call at a time.
pub(super) struct ClientThread {
    threads: Arc<Threads>,
    running: Option<Running>,
}

struct Running {
    jobs: SyncSender<Job>,
    left: Arc<AtomicBool>,
}

impl ClientThread {
    pub(super) fn new(threads: &Arc<Threads>) -> Self {
        Self {
            threads: Arc::clone(threads),
            running: None,
        }
    }

    /// Makes a call, with a client that is connected anew after each error that was not a broker's
    /// answer: the rest of an answer could still be on the wire.
    ///
    /// # Cancel safety
    /// Dropped, the call may still be made; its thread is left to it.
    pub(super) async fn call<T: Send + 'static>(
        &mut self,
        deadline: Duration,
        call: impl FnOnce(&mut KafkaClient) -> kafka::Result<T> + Send + 'static,
    ) -> Result<T, Failed> {
        let usable = true;
        let whole =
            move |client: &mut KafkaClient| call(client).map(|value| Called { value, usable });
        self.call_partly(deadline, whole).await
    }

    /// The same for a call that has a result though its client may be of no more use.
    pub(super) async fn call_partly<T: Send + 'static>(
        &mut self,
        deadline: Duration,
        call: impl FnOnce(&mut KafkaClient) -> kafka::Result<Called<T>> + Send + 'static,
    ) -> Result<T, Failed> {
        let (tell, told) = oneshot::channel();
        let threads = Arc::clone(&self.threads);
        let job = move |client: &mut Option<KafkaClient>| {
            if tell.is_closed() {
                return;
            }
            // A panic leaves the client in no known state, so it is not used again.
            let made = catch_unwind(AssertUnwindSafe(|| made(client, &threads, call)));
            let result = made.unwrap_or(Err(Failed::Panicked));
            let usable = match &result {
                Ok(called) => called.usable,
                Err(failed) => failed.is_an_answer(),
            };
            if !usable {
                *client = None;
            }
            // Whoever asked may be gone.
            let _ = tell.send(result.map(|called| called.value));
        };
        let running = match self.running.take() {
            Some(running) => running,
            None => self.start()?,
        };
        if running.jobs.try_send(Box::new(job)).is_err() {
            // It takes a call whenever it has none, so it has ended.
            return Err(Failed::Panicked);
        }
        let mut busy = Busy {
            threads: &self.threads,
            running: Some(running),
        };
        match timeout(deadline, told).await {
            Ok(Ok(result)) => {
                self.running = busy.running.take();
                result
            }
            Ok(Err(_)) => {
                busy.running = None;
                Err(Failed::Panicked)
            }
            Err(_) => Err(Failed::Hung),
        }
    }

    fn start(&self) -> Result<Running, Failed> {
        if self.threads.left.load(SeqCst) >= MOST_LEFT {
            return Err(Failed::TooManyHung);
        }
        let (jobs, waiting) = sync_channel(1);
        let left = Arc::new(AtomicBool::new(false));
        let (threads, is_left) = (Arc::clone(&self.threads), Arc::clone(&left));
        let spawned = thread::Builder::new()
            .name("mq-kafka-legacy".into())
            .spawn(move || {
                run(&waiting);
                if is_left.load(SeqCst) {
                    threads.left.fetch_sub(1, SeqCst);
                }
            });
        match spawned {
            Ok(_) => Ok(Running { jobs, left }),
            Err(error) => Err(Failed::Client(error.into())),
        }
    }
}

/// A thread with a call. Dropped with it, when the call is late or its caller is gone, the thread is left, and counted until the
/// call returns: the client waits 120 s for an answer, the operating system about as long for a connection, and a commit is tried
/// again as long as its coordinator is not there.
struct Busy<'a> {
    threads: &'a Threads,
    running: Option<Running>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.threads.left.fetch_add(1, SeqCst);
            running.left.store(true, SeqCst);
        }
    }
}

impl Failed {
    /// The broker answered, so the connection is where it should be.
    fn is_an_answer(&self) -> bool {
        matches!(
            self,
            Self::Client(kafka::Error::Kafka(_) | kafka::Error::TopicPartitionError { .. })
        )
    }
}

fn made<T>(
    client: &mut Option<KafkaClient>,
    threads: &Threads,
    call: impl FnOnce(&mut KafkaClient) -> kafka::Result<T>,
) -> Result<T, Failed> {
    let client = match client {
        Some(client) => client,
        None => client.insert(threads.client()?),
    };
    call(client).map_err(Failed::Client)
}

fn run(jobs: &Receiver<Job>) {
    let mut client = None;
    while let Ok(job) = jobs.recv() {
        job(&mut client);
    }
}

impl fmt::Debug for ClientThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientThread")
    }
}

/// How long a broker holds a fetch while it has nothing.
const FETCH_WAIT: Duration = Duration::from_millis(100);
/// Threads that may be left behind at a time.
const MOST_LEFT: usize = 8;
