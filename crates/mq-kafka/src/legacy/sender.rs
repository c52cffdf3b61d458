//! Sends what publishers enqueue, in their order, one request after another.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io::ErrorKind as ErrorKindIo,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use kafka::client::{KafkaClient, ProduceMessage, RequiredAcks};
use kafka::error::KafkaCode;
use mq_core::{Destination, Error, ErrorKind, Position, Receipt, Result, Stored};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    error::{self, Answer, is_passing, no_topic},
    record::partition_of,
    thread::{Called, ClientThread, Failed},
};

/// A message on its way.
pub(super) struct Outgoing {
    pub(super) operation: &'static str,
    pub(super) to: Destination,
    pub(super) key: Option<Bytes>,
    pub(super) payload: Option<Bytes>,
    pub(super) acks: RequiredAcks,
    /// Not sent any more from then on.
    pub(super) deadline: Instant,
    pub(super) tell: oneshot::Sender<Result<Receipt>>,
    /// Its room in the window, given back when its outcome is known.
    pub(super) room: OwnedSemaphorePermit,
    /// An earlier try may have stored it.
    pub(super) maybe_stored: bool,
}

impl Outgoing {
    fn size(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len) + self.key.as_ref().map_or(0, Bytes::len)
    }

    /// Tells the outcome; nobody may be waiting any more.
    fn end(self, outcome: Result<Receipt>) {
        let _ = self.tell.send(outcome);
        drop(self.room);
    }

    /// Ends it as not stored, unless an earlier try may have stored it.
    fn fail_unstored(self, error: Error) {
        match self.maybe_stored {
            true => self.fail(ErrorKind::Unknown, "an earlier try may have stored it"),
            false => self.end(Err(error)),
        }
    }

    fn fail(self, kind: ErrorKind, text: &'static str) {
        let error = self.error(kind, text);
        self.end(Err(error));
    }

    fn error(&self, kind: ErrorKind, text: &'static str) -> Error {
        Error::new(kind, self.operation, text).with("destination", &self.to)
    }
}

/// What became of one message of a call.
#[derive(Debug, Clone, Copy)]
enum Sent {
    /// Stored, where the broker told it.
    At(i32, Option<i64>),
    Answer(KafkaCode),
    /// The topic is not there.
    Missing,
    /// There is no leader to send it to.
    NoLeader,
    /// The request was sent, and there is no answer.
    NoAnswer,
    /// The call ended before it was its turn.
    NotTried,
}

/// What one call looks at beside its records.
#[derive(Debug, Clone, Copy)]
struct Pass {
    /// Which partition gets what has no key.
    turn: usize,
    /// The cluster is asked anew for its topics and leaders.
    refresh: bool,
}

/// What is to be sent: in the order of its enqueueing within a topic.
#[derive(Default)]
struct Backlog {
    waiting: VecDeque<Outgoing>,
    /// What no leader took, and what came for the same topics since.
    held: VecDeque<Outgoing>,
}

impl Backlog {
    fn held_topics(&self) -> HashSet<Arc<str>> {
        let topics = self.held.iter().map(|one| Arc::clone(one.to.name()));
        topics.collect()
    }

    fn add(&mut self, more: Vec<Outgoing>) {
        let topics = self.held_topics();
        for one in more {
            match topics.contains(one.to.name()) {
                true => self.held.push_back(one),
                false => self.waiting.push_back(one),
            }
        }
    }

    /// Holds what is to be sent again, and what waits behind it. Other topics go on meanwhile.
    fn hold(&mut self, again: Vec<Outgoing>) {
        self.held.extend(again);
        let waiting = std::mem::take(&mut self.waiting);
        self.add(waiting.into());
    }

    /// What was held is the next to be sent.
    fn release(&mut self) {
        self.held.append(&mut self.waiting);
        std::mem::swap(&mut self.held, &mut self.waiting);
    }
}

/// Sends until nobody can enqueue any more, and nothing is left.
pub(super) async fn run(
    mut thread: ClientThread,
    mut enqueued: mpsc::Receiver<Outgoing>,
    request_timeout: Duration,
) {
    let mut backlog = Backlog::default();
    let (mut open, mut due) = (true, Instant::now());
    let (mut turn, mut bytes) = (0_usize, 0_usize);
    let mut refreshed = Instant::now();
    loop {
        let mut more = Vec::new();
        if backlog.waiting.is_empty() {
            tokio::select! {
                count = enqueued.recv_many(&mut more, MOST), if open => open = count > 0,
                () = sleep_until(due), if !backlog.held.is_empty() => {}
                else => return,
            }
        }
        let now = Instant::now();
        if !backlog.held.is_empty() && now >= due {
            backlog.release();
        }
        backlog.add(more);
        let batch = next_batch(&mut backlog.waiting, now);
        if batch.is_empty() {
            continue;
        }
        bytes += batch.iter().map(|one| one.size() + 1).sum::<usize>();
        if bytes > STICKY {
            // What has no key goes to the next partition from here on.
            (turn, bytes) = (turn.wrapping_add(1), 0);
        }
        let refresh = refreshed.elapsed() >= METADATA_AGE;
        if refresh {
            refreshed = now;
        }
        let pass = Pass { turn, refresh };
        let again = send(&mut thread, batch, request_timeout, pass).await;
        if !again.is_empty() {
            if backlog.held.is_empty() {
                due = Instant::now() + BACKOFF;
            }
            backlog.hold(again);
        }
    }
}

/// The next messages, as long as one request may be; those whose time is over end here.
fn next_batch(waiting: &mut VecDeque<Outgoing>, now: Instant) -> Vec<Outgoing> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some(one) = waiting.pop_front() {
        if one.deadline <= now {
            let text = "no broker took it in time; it was never sent";
            let error = one.error(ErrorKind::Timeout, text);
            one.fail_unstored(error);
            continue;
        }
        bytes += one.size();
        if !batch.is_empty() && bytes > MOST_BYTES {
            waiting.push_front(one);
            break;
        }
        batch.push(one);
    }
    batch
}

/// Sends these, tells their outcomes, and gives back those that are to be sent again.
async fn send(
    thread: &mut ClientThread,
    batch: Vec<Outgoing>,
    request_timeout: Duration,
    pass: Pass,
) -> Vec<Outgoing> {
    let records: Vec<Record> = batch.iter().map(Record::of).collect();
    let ack_timeout = request_timeout / 2;
    // Taken by the thread before it sends, or by this task, so that nothing is sent after that.
    let gate = Arc::new(AtomicBool::new(false));
    let taken = Arc::clone(&gate);
    let call = move |client: &mut KafkaClient| produce(client, &records, &taken, ack_timeout, pass);
    let sent = match thread.call_partly(request_timeout, call).await {
        Ok(sent) => sent,
        // Only the client's making fails that way, before anything is sent.
        Err(failed @ (Failed::Refused(_) | Failed::Client(_) | Failed::TooManyHung)) => {
            let error = error::map("publish", failed);
            if is_passing(&error) {
                return batch;
            }
            for one in batch {
                one.fail_unstored(error.clone());
            }
            return Vec::new();
        }
        Err(Failed::Hung) if !gate.swap(true, SeqCst) => return batch,
        Err(Failed::Hung | Failed::Panicked) => vec![Sent::NoAnswer; batch.len()],
    };
    let alone = batch.len() == 1;
    // The cluster does not take one alone either: the others wait as well, and keep their order.
    let mut stuck = false;
    let mut again = Vec::new();
    for (mut one, sent) in batch.into_iter().zip(sent) {
        match sent {
            Sent::At(partition, offset) => {
                let receipt = receipt(one.acks, partition, offset);
                one.end(Ok(receipt));
            }
            Sent::Missing => {
                let error = no_topic(one.operation, &one.to);
                one.fail_unstored(error);
            }
            Sent::NoLeader | Sent::NotTried => again.push(one),
            Sent::NoAnswer => one.fail(ErrorKind::Unknown, "the broker's answer is missing"),
            Sent::Answer(code) => match error::produced(code) {
                Answer::Again => {
                    // A leader that is relieved while it waits for its followers answers so too, and has stored it.
                    one.maybe_stored |= matches!(code, KafkaCode::NotLeaderForPartition)
                        && matches!(one.acks, RequiredAcks::All);
                    again.push(one);
                }
                Answer::Refused(..) if !alone && (stuck || one.deadline <= Instant::now()) => {
                    again.push(one);
                }
                // The broker takes or refuses all messages of a partition together.
                Answer::Refused(..) if !alone => {
                    let back = Box::pin(send(thread, vec![one], request_timeout, pass)).await;
                    stuck |= !back.is_empty();
                    again.extend(back);
                }
                Answer::Refused(kind, text) => {
                    let error = one.error(kind, text);
                    one.fail_unstored(error);
                }
                Answer::Unknown => one.fail(
                    ErrorKind::Unknown,
                    "the broker's answer says neither stored nor refused",
                ),
            },
        }
    }
    again
}

fn receipt(acks: RequiredAcks, partition: i32, offset: Option<i64>) -> Receipt {
    let receipt = Receipt::new(match acks {
        RequiredAcks::All => Stored::InSync,
        _ => Stored::Leader,
    });
    let offset = offset.and_then(|offset| u64::try_from(offset).ok());
    match (u32::try_from(partition), offset) {
        (Ok(partition), Some(offset)) => receipt.at(Position { partition, offset }),
        _ => receipt,
    }
}

/// A message as the thread needs it.
struct Record {
    topic: Arc<str>,
    key: Option<Bytes>,
    payload: Option<Bytes>,
    acks: RequiredAcks,
}

impl Record {
    fn of(outgoing: &Outgoing) -> Self {
        Self {
            topic: Arc::clone(outgoing.to.name()),
            key: outgoing.key.clone(),
            payload: outgoing.payload.clone(),
            acks: outgoing.acks,
        }
    }
}

/// Where a record goes: answers that are asked for, leader and partition.
type Way = (i16, i32, i32);

/// Sends records, a request for each leader, so that it is known of each whether it was sent.
fn produce(
    client: &mut KafkaClient,
    records: &[Record],
    gate: &AtomicBool,
    ack_timeout: Duration,
    pass: Pass,
) -> kafka::Result<Called<Vec<Sent>>> {
    let known = |client: &KafkaClient, record: &Record| client.topics().contains(&record.topic);
    if pass.refresh || !records.iter().all(|record| known(client, record)) {
        client.load_metadata_all()?;
    }
    let mut sent = vec![Sent::NotTried; records.len()];
    let mut ways: Vec<Option<Way>> = Vec::with_capacity(records.len());
    for (at, record) in records.iter().enumerate() {
        let way = way(client, record, pass.turn);
        if let Err(why) = way {
            sent[at] = why;
        }
        ways.push(way.ok());
    }
    let mut requests: Vec<(i16, i32)> = ways.iter().flatten().map(|way| (way.0, way.1)).collect();
    requests.sort_unstable();
    requests.dedup();
    let mut stale = sent.iter().any(|sent| matches!(sent, Sent::NoLeader));
    if gate.swap(true, SeqCst) {
        // Nobody waits for it any more.
        return Ok(Called {
            value: sent,
            usable: true,
        });
    }
    for (acks, leader) in requests {
        let of_this = |way: &Option<Way>| way.is_some_and(|way| (way.0, way.1) == (acks, leader));
        let chosen: Vec<usize> = (0..records.len())
            .filter(|at| of_this(&ways[*at]))
            .collect();
        let answer = request(client, records, &ways, &chosen, ack_timeout);
        for (at, outcome) in chosen.into_iter().zip(answer.outcomes) {
            sent[at] = outcome;
            stale |= matches!(outcome, Sent::Answer(_));
        }
        if answer.broken {
            // The next call has a new client; what is not tried yet waits for it.
            return Ok(Called {
                value: sent,
                usable: false,
            });
        }
    }
    if stale {
        // It may be elsewhere or gone. If this fails, the next call finds it out.
        let usable = client.load_metadata_all().is_ok();
        return Ok(Called {
            value: sent,
            usable,
        });
    }
    Ok(Called {
        value: sent,
        usable: true,
    })
}

/// The answer for the messages of a partition: the offset of the first, and how many were counted.
type Stretch = (Result<i64, KafkaCode>, i64);

/// What became of a request.
struct Requested {
    /// Of its records, in their order.
    outcomes: Vec<Sent>,
    /// The connection is not to be used again.
    broken: bool,
}

/// Sends some of the records, all to one leader.
fn request(
    client: &mut KafkaClient,
    records: &[Record],
    ways: &[Option<Way>],
    chosen: &[usize],
    ack_timeout: Duration,
) -> Requested {
    let all = |outcome, broken| Requested {
        outcomes: vec![outcome; chosen.len()],
        broken,
    };
    let Some(first) = chosen.first() else {
        return all(Sent::NotTried, false);
    };
    let acks = records[*first].acks;
    let partition_at = |at: usize| ways[at].map_or(0, |way| way.2);
    let messages = chosen.iter().map(|at| {
        let record = &records[*at];
        let (key, payload) = (record.key.as_deref(), record.payload.as_deref());
        ProduceMessage::new(&record.topic, partition_at(*at), key, payload)
    });
    let messages: Vec<_> = messages.collect();
    let confirms = match client.produce_messages(acks, ack_timeout, messages) {
        Ok(confirms) => confirms,
        // Found before anything is sent.
        Err(kafka::Error::Kafka(code)) => return all(Sent::Answer(code), false),
        Err(kafka::Error::Io(error)) if error.kind() == ErrorKindIo::ConnectionRefused => {
            return all(Sent::NotTried, true);
        }
        Err(_) => return all(Sent::NoAnswer, true),
    };
    if matches!(acks, RequiredAcks::None) {
        let handed = chosen.iter().map(|at| Sent::At(partition_at(*at), None));
        return Requested {
            outcomes: handed.collect(),
            broken: false,
        };
    }
    // Of the messages of a partition the answer has the offset of the first.
    let mut answers: HashMap<(&str, i32), Stretch> = HashMap::new();
    for confirm in &confirms {
        for partition in &confirm.partition_confirms {
            let at = (confirm.topic.as_str(), partition.partition);
            answers.insert(at, (partition.offset, 0));
        }
    }
    let outcomes = chosen.iter().map(|at| {
        let partition = partition_at(*at);
        match answers.get_mut(&(&*records[*at].topic, partition)) {
            Some((Ok(first), count)) => {
                let offset = *first + *count;
                *count += 1;
                // Without an offset: stored all the same.
                Sent::At(partition, (*first >= 0).then_some(offset))
            }
            Some((Err(code), _)) => Sent::Answer(*code),
            None => Sent::NoAnswer,
        }
    });
    Requested {
        outcomes: outcomes.collect(),
        broken: false,
    }
}

fn way(client: &KafkaClient, record: &Record, turn: usize) -> Result<Way, Sent> {
    let topics = client.topics();
    let partitions = topics.partitions(&record.topic);
    let partitions = partitions.ok_or(Sent::Missing)?;
    let partition = match &record.key {
        Some(key) => partition_of(key, partitions.len()),
        None => {
            let available = partitions.available_ids();
            let count = available.len().max(1);
            *available.get(turn % count).ok_or(Sent::NoLeader)?
        }
    };
    let found = partitions.partition(partition);
    let leader = found.and_then(|found| found.leader().map(|leader| leader.id()));
    let acks = record.acks as i16;
    leader
        .map(|leader| (acks, leader, partition))
        .ok_or(Sent::NoLeader)
}

/// Messages that are taken from the queue at a time.
const MOST: usize = 500;
/// Bytes of one request: a broker makes one batch of all that a partition gets by it, and that has the
/// topic's limit, 1 MiB unless it is set.
const MOST_BYTES: usize = 512 * 1024;
/// Bytes after which messages without a key change their partition, as Java's producer has it.
const STICKY: usize = 16 * 1024;
const BACKOFF: Duration = Duration::from_millis(100);
/// A topic that has more partitions since is known to have them by then, as with Java's producer.
const METADATA_AGE: Duration = Duration::from_mins(5);

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    async fn one(topic: &str, number: u8) -> Outgoing {
        let room = Arc::new(Semaphore::new(1));
        Outgoing {
            operation: "publish",
            to: Destination::queue(topic),
            key: None,
            payload: Some(vec![number].into()),
            acks: RequiredAcks::All,
            deadline: Instant::now() + Duration::from_secs(30),
            tell: oneshot::channel().0,
            room: room.acquire_owned().await.unwrap(),
            maybe_stored: false,
        }
    }

    fn shown<'a>(all: impl IntoIterator<Item = &'a Outgoing>) -> Vec<String> {
        let shown = all.into_iter().map(|one| {
            let number = one.payload.as_ref().map_or(0, |payload| payload[0]);
            format!("{}{number}", one.to.name())
        });
        shown.collect()
    }

    #[tokio::test]
    async fn what_is_held_keeps_its_order_and_other_topics_go_on() {
        let mut backlog = Backlog::default();
        let more = vec![one("a", 1).await, one("b", 1).await, one("a", 2).await];
        backlog.add(more);
        let first = backlog.waiting.pop_front().unwrap();
        backlog.hold(vec![first]);
        assert_eq!(shown(&backlog.waiting), ["b1"]);
        backlog.add(vec![one("a", 3).await, one("b", 2).await]);
        assert_eq!(shown(&backlog.waiting), ["b1", "b2"]);
        assert_eq!(shown(&backlog.held), ["a1", "a2", "a3"]);
        backlog.release();
        assert_eq!(shown(&backlog.waiting), ["a1", "a2", "a3", "b1", "b2"]);
        assert!(backlog.held.is_empty());
    }

    #[tokio::test]
    async fn what_may_be_stored_is_never_told_as_unstored() {
        let (tell, told) = oneshot::channel();
        let mut late = one("a", 1).await;
        (late.tell, late.maybe_stored) = (tell, true);
        late.deadline = Instant::now();
        next_batch(&mut [late].into(), Instant::now());
        let error = told.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unknown);
        assert!(error.possibly_delivered());
    }
}
