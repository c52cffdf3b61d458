//! The broker itself: queues in memory behind a TCP port. A real one would be another program.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::sync_channel},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::headers::Wire;

/// What a client says. Each is answered under its number, except `Settle`.
#[derive(Serialize, Deserialize)]
pub(crate) enum Ask {
    Declare(String),
    Exists(String),
    /// Answered with no if a consumer reads it, or it holds messages and those are not to go too.
    Delete(String, bool),
    Publish(String, Wire),
    /// Consumer, queue, prefetch.
    Consume(u64, String, usize),
    /// Consumer, tag, what becomes of it.
    Settle(u64, u64, Fate),
    /// Consumer, and which of its messages somebody had in hand.
    Cancel(u64, Vec<u64>),
    /// Answered when all before it is done.
    Ping,
}

/// What becomes of a message.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    Done,
    Again,
    AgainUncounted,
}

/// What the broker says.
#[allow(clippy::large_enum_variant, reason = "one at a time is on its way")]
#[derive(Serialize, Deserialize)]
pub(crate) enum Say {
    /// Yes or no to the question of this number.
    Answer(u64, bool),
    /// To a consumer.
    Deliver(u64, Given),
}

/// A message on its way to a consumer.
#[derive(Serialize, Deserialize)]
pub(crate) struct Given {
    pub(crate) tag: u64,
    /// Attempts that the broker has counted.
    pub(crate) failed: u32,
    pub(crate) redelivered: bool,
    pub(crate) message: Wire,
}

struct Entry {
    failed: u32,
    redelivered: bool,
    expires: Option<Instant>,
    message: Wire,
}

#[derive(Default)]
struct Queue {
    next: u64,
    /// In the order of arrival, also after a requeue.
    ready: BTreeMap<u64, Entry>,
    consumers: Vec<Member>,
}

struct Member {
    connection: u64,
    consumer: u64,
    prefetch: usize,
    open: BTreeMap<u64, Entry>,
    /// Its bounds are the prefetch of consumers and the windows of publishers.
    to: mpsc::UnboundedSender<Say>,
}

type Queues = Arc<Mutex<HashMap<String, Queue>>>;

/// Starts a broker, which lives as long as the program.
pub(crate) fn start() -> SocketAddr {
    let (told, address) = sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime?.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let _ = told.send(listener.local_addr()?);
            let queues = Queues::default();
            for connection in 0.. {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(serve(stream, connection, Arc::clone(&queues)));
            }
            std::io::Result::Ok(())
        })
    });
    address.recv().unwrap_or_else(|_| panic!("no broker"))
}

async fn serve(stream: TcpStream, connection: u64, queues: Queues) {
    let (mut reader, mut writer) = stream.into_split();
    let (to, mut outbox) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(say) = outbox.recv().await {
            if write(&mut writer, &say).await.is_err() {
                break;
            }
        }
    });
    while let Some((number, ask)) = read::<(u64, Ask)>(&mut reader).await {
        if let Some(answer) = handle(&queues, connection, ask, &to) {
            let _ = to.send(Say::Answer(number, answer));
        }
    }
    // It is gone: what it held was tried, for all that is known.
    for queue in lock(&queues).values_mut() {
        queue.remove(|member| member.connection == connection, |_| true);
    }
}

fn handle(
    queues: &Queues,
    connection: u64,
    ask: Ask,
    to: &mpsc::UnboundedSender<Say>,
) -> Option<bool> {
    let mut queues = lock(queues);
    let is =
        |member: &Member, consumer| member.connection == connection && member.consumer == consumer;
    Some(match ask {
        Ask::Declare(name) => {
            queues.entry(name).or_default();
            true
        }
        Ask::Exists(name) => queues.contains_key(&name),
        Ask::Delete(name, with_messages) => {
            let kept = queues.get_mut(&name).is_some_and(|queue| {
                queue.dispatch();
                !queue.consumers.is_empty() || !(with_messages || queue.ready.is_empty())
            });
            if !kept {
                queues.remove(&name);
            }
            !kept
        }
        Ask::Publish(name, message) => {
            let Some(queue) = queues.get_mut(&name) else {
                return Some(false);
            };
            let life = message.expires_in.map(Duration::from_millis);
            let entry = Entry {
                failed: 0,
                redelivered: false,
                expires: life.and_then(|life| Instant::now().checked_add(life)),
                message,
            };
            queue.next += 1;
            queue.ready.insert(queue.next, entry);
            queue.dispatch();
            true
        }
        Ask::Consume(consumer, name, prefetch) => {
            let Some(queue) = queues.get_mut(&name) else {
                return Some(false);
            };
            queue.consumers.push(Member {
                connection,
                consumer,
                prefetch,
                open: BTreeMap::new(),
                to: to.clone(),
            });
            // Before the first delivery, which the client must expect by then.
            queue.dispatch();
            true
        }
        Ask::Settle(consumer, tag, fate) => {
            for queue in queues.values_mut() {
                let found = queue
                    .consumers
                    .iter_mut()
                    .find(|member| is(member, consumer));
                if let Some(entry) = found.and_then(|member| member.open.remove(&tag)) {
                    if fate != Fate::Done {
                        queue.give_back(tag, entry, fate == Fate::Again);
                    }
                    queue.dispatch();
                }
            }
            return None;
        }
        Ask::Cancel(consumer, handed) => {
            for queue in queues.values_mut() {
                queue.remove(|member| is(member, consumer), |tag| handed.contains(&tag));
            }
            true
        }
        Ask::Ping => true,
    })
}

impl Queue {
    /// Hands out what is ready, to whoever has least.
    fn dispatch(&mut self) {
        self.ready
            .retain(|_, entry| entry.expires.is_none_or(|end| Instant::now() < end));
        while let Some((&tag, _)) = self.ready.first_key_value() {
            let free = self
                .consumers
                .iter_mut()
                .filter(|member| member.open.len() < member.prefetch);
            let Some(member) = free.min_by_key(|member| member.open.len()) else {
                return;
            };
            let Some(entry) = self.ready.remove(&tag) else {
                return;
            };
            let given = Given {
                tag,
                failed: entry.failed,
                redelivered: entry.redelivered,
                message: entry.message.clone(),
            };
            member.open.insert(tag, entry);
            let _ = member.to.send(Say::Deliver(member.consumer, given));
        }
    }

    fn give_back(&mut self, tag: u64, mut entry: Entry, counted: bool) {
        entry.redelivered = true;
        entry.failed += u32::from(counted);
        self.ready.insert(tag, entry);
    }

    fn remove(&mut self, which: impl Fn(&Member) -> bool, counted: impl Fn(u64) -> bool) {
        while let Some(index) = self.consumers.iter().position(&which) {
            for (tag, entry) in self.consumers.remove(index).open {
                self.give_back(tag, entry, counted(tag));
            }
        }
        self.dispatch();
    }
}

fn lock(queues: &Queues) -> MutexGuard<'_, HashMap<String, Queue>> {
    queues.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one frame: its length in four bytes, then JSON.
pub(crate) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    frame: &impl Serialize,
) -> std::io::Result<()> {
    let text = serde_json::to_vec(frame)?;
    let length = u32::try_from(text.len()).map_err(std::io::Error::other)?;
    to.write_all(&[&length.to_be_bytes()[..], &text].concat())
        .await
}

/// Reads one frame; `None` at the end, and for what is no frame.
pub(crate) async fn read<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Option<T> {
    let length = from.read_u32().await.ok()?;
    let mut text = Vec::new();
    let mut part = from.take(u64::from(length.min(LONGEST)));
    part.read_to_end(&mut text).await.ok()?;
    serde_json::from_slice(&text).ok()
}

/// Twice the largest payload, for its digits, and room for the rest.
const LONGEST: u32 = 40 * 1024 * 1024;
