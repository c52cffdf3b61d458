//! The one task that writes to the publishing channel and tells every outcome.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use futures::task::AtomicWaker;
use lapin::{
    BasicProperties, Channel, Confirmation, ErrorKind as Client,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use mq_core::{Error, ErrorKind, Receipt, Result, Stored, flow::PublishFlow};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    Topics,
    inflight::InFlight,
    window::{Completion, Outcome, Window},
};
use crate::{
    connection::Link,
    error::map,
    headers::{Outbound, number},
};

/// What the publisher asks of its writer.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are the large one; a box would be an allocation each"
)]
pub(super) enum Command {
    Publish(Job),
    Many(Vec<Job>),
    /// Answered when everything before it has its outcome.
    Flush(oneshot::Sender<()>),
}

/// One publish.
pub(super) struct Job {
    pub(super) outbound: Outbound,
    pub(super) reply: Reply,
    pub(super) flow: Option<Box<PublishFlow>>,
    pub(super) enqueued: Instant,
}

/// A publish that was written, and whose outcome is missing.
struct Written {
    reply: Reply,
    flow: Option<Box<PublishFlow>>,
}

/// Who waits for an outcome.
pub(super) enum Reply {
    One(oneshot::Sender<Result<Receipt>>),
    Batch(BatchReply),
}

pub(super) struct Writer {
    pub(super) link: Arc<Link>,
    pub(super) room: Arc<Semaphore>,
    pub(super) topics: Arc<Topics>,
    pub(super) limit: Duration,
}

/// Why the writer stopped writing to a channel.
enum End {
    /// The last publisher was dropped, and every outcome is told.
    Finished,
    /// The channel is gone. These were never written to it.
    Lost(VecDeque<Job>),
}

impl Writer {
    /// A channel with confirmations.
    pub(super) async fn channel(&self) -> Result<Channel> {
        let channel = self.link.channel("publish").await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        self.link.answer("publish", select).await?;
        Ok(channel)
    }

    pub(super) async fn run(self, mut channel: Channel, mut commands: mpsc::Receiver<Command>) {
        let mut window = Window::new(1, self.limit);
        let mut unsent = VecDeque::new();
        loop {
            match self
                .drive(&channel, &mut window, &mut commands, unsent)
                .await
            {
                End::Finished => return,
                End::Lost(jobs) => unsent = jobs,
            }
            // It may have been a topic that is gone, so what was seen has to be looked up again.
            self.topics.forget();
            channel = match self.channel().await {
                Ok(channel) => channel,
                Err(error) => {
                    tracing::warn!(%error, "the publisher has no channel any more");
                    break;
                }
            };
        }
        // Without a connection nothing is sent, and whoever asks is told so at once.
        for job in unsent {
            self.refuse(job);
        }
        while let Some(command) = commands.recv().await {
            match command {
                Command::Publish(job) => self.refuse(job),
                Command::Many(jobs) => jobs.into_iter().for_each(|job| self.refuse(job)),
                Command::Flush(reply) => drop(reply.send(())),
            }
        }
    }

    /// Writes and judges until the channel or the publisher ends.
    async fn drive(
        &self,
        channel: &Channel,
        window: &mut Window<Written>,
        commands: &mut mpsc::Receiver<Command>,
        mut jobs: VecDeque<Job>,
    ) -> End {
        let mut flight = InFlight::new();
        let mut flushes: VecDeque<(u64, oneshot::Sender<()>)> = VecDeque::new();
        let (mut intake, mut done) = (Vec::new(), Vec::new());
        let mut open = true;
        // It may fire early, since the oldest publish is replaced by younger ones; never late.
        let mut timer = std::pin::pin!(sleep_until(Instant::now()));
        // When to give up on a dead channel that still owes answers.
        let mut grace = None;
        loop {
            // A burst: each publish is polled once, so that its frames go out with all others.
            while let Some(mut job) = jobs.pop_front() {
                if !channel.status().connected() {
                    jobs.push_front(job);
                    break;
                }
                if let Some(flow) = &job.flow {
                    flow.begin();
                }
                let (reply, flow) = (job.reply, job.flow);
                let number = window.push(Written { reply, flow }, job.enqueued);
                let properties = job.outbound.numbered(number);
                let output = flight.push(number, publish(channel, job.outbound, properties));
                done.extend(output.map(|output| (number, output)));
            }
            flight.drain(&mut done);
            let (round, lost) = completions(&mut done);
            self.room.add_permits(window.round(round, tell));
            if let Some(cause) = lost {
                return self.lose(window, cause, jobs);
            }
            if !channel.status().connected() {
                let now = Instant::now();
                if flight.is_empty() || now >= *grace.get_or_insert(now + GRACE) {
                    return self.lose(window, None, jobs);
                }
            }
            while flushes
                .front()
                .is_some_and(|(below, _)| window.answered(*below))
            {
                let _ = flushes.pop_front().map(|(_, reply)| reply.send(()));
            }
            if !open && window.is_empty() {
                return End::Finished;
            }
            tokio::select! {
                biased;
                taken = commands.recv_many(&mut intake, BURST), if open => open = taken > 0,
                () = flight.ready() => {}
                () = sleep_until(grace.unwrap_or_else(Instant::now)), if grace.is_some() => {}
                () = timer.as_mut() => {
                    window.expire(Instant::now(), |written| written.tell(Err(self.silent())));
                    let next = window.deadline().unwrap_or_else(|| Instant::now() + self.limit);
                    timer.as_mut().reset(next);
                }
            }
            for command in intake.drain(..) {
                match command {
                    Command::Publish(job) => jobs.push_back(job),
                    Command::Many(many) => jobs.extend(many),
                    Command::Flush(reply) => {
                        flushes.push_back((window.next() + jobs.len() as u64, reply));
                    }
                }
            }
        }
    }

    /// Ends every publish on the channel as unknown.
    fn lose(
        &self,
        window: &mut Window<Written>,
        cause: Option<lapin::Error>,
        unsent: VecDeque<Job>,
    ) -> End {
        let cause = cause.map_or_else(|| self.link.gone("publish"), |cause| map("publish", cause));
        self.link.learn(&cause);
        let error = Error::new(
            ErrorKind::Unknown,
            "publish",
            "the channel was lost before the broker answered",
        )
        .with("why", &cause)
        .help("publish it again with the same id")
        .caused_by(cause);
        self.room.add_permits(window.held());
        for written in window.abandon() {
            written.tell(Err(error.clone()));
        }
        End::Lost(unsent)
    }

    fn refuse(&self, job: Job) {
        job.reply.tell(Err(self.link.gone("publish")));
        self.room.add_permits(1);
    }

    fn silent(&self) -> Error {
        let help = if self.link.is_blocked() {
            "an alarm of the broker blocks publishing: see its memory and disk; publish it again \
             with the same id"
        } else {
            "publish it again with the same id"
        };
        Error::new(
            ErrorKind::Unknown,
            "publish",
            "the broker did not answer in time",
        )
        .with("seconds", self.limit.as_secs_f32())
        .help(help)
    }
}

async fn publish(
    channel: &Channel,
    outbound: Outbound,
    properties: BasicProperties,
) -> lapin::Result<Confirmation> {
    let Outbound {
        exchange,
        routing_key,
        mandatory,
        payload,
        ..
    } = outbound;
    let options = BasicPublishOptions {
        mandatory,
        immediate: false,
    };
    let confirm = channel
        .basic_publish(exchange, routing_key, options, &payload, properties)
        .await?;
    // The client has a copy; ours would otherwise live as long as the broker thinks.
    drop(payload);
    confirm.await
}

/// What the client completed, and whether the channel is lost, with the cause if it is told.
fn completions(
    done: &mut Vec<(u64, lapin::Result<Confirmation>)>,
) -> (Vec<Completion>, Option<Option<lapin::Error>>) {
    let mut round = Vec::with_capacity(done.len());
    let mut lost: Option<Option<lapin::Error>> = None;
    for (number, result) in done.drain(..) {
        let (acked, returned) = match result {
            Ok(Confirmation::Ack(returned)) => (true, returned),
            Ok(Confirmation::Nack(returned)) => (false, returned),
            Ok(Confirmation::NotRequested) => {
                tracing::error!("the publishing channel is not in confirm mode");
                lost.get_or_insert(None);
                continue;
            }
            Err(error) => {
                // The first one that tells the cause; others say only that the channel is gone.
                let vague = matches!(
                    error.kind(),
                    Client::InvalidChannelState(..) | Client::InvalidConnectionState(_)
                );
                let lost = lost.get_or_insert(None);
                if !vague && lost.is_none() {
                    *lost = Some(error);
                }
                continue;
            }
        };
        // A return without our number is none of ours, yet it hangs here: 0 is nobody's number.
        let returned = returned.map(|message| {
            (
                number_of(&message),
                format!("{} {}", message.reply_code, message.reply_text),
            )
        });
        round.push(Completion {
            number,
            acked,
            returned,
        });
    }
    (round, lost)
}

fn number_of(message: &lapin::message::BasicReturnMessage) -> u64 {
    number(&message.properties).unwrap_or(0)
}

fn tell(written: Written, outcome: Outcome) {
    written.tell(match outcome {
        Outcome::Confirmed => Ok(Receipt::new(Stored::Queues)),
        Outcome::Rejected => Err(Error::new(
            ErrorKind::Rejected,
            "publish",
            "a queue refused the message: it is full, or it failed",
        )
        .help("make room in the queue, then publish it again")),
        Outcome::Unroutable(text) => Err(Error::new(
            ErrorKind::Unroutable,
            "publish",
            "no queue took the message",
        )
        .with("broker", text)
        .help("declare the queue or subscription first")),
    });
}

/// The outcome of a publish whose writer is gone, as at the end of the runtime.
pub(super) fn abandoned() -> Error {
    Error::new(
        ErrorKind::Unknown,
        "publish",
        "the publisher ended before the broker answered",
    )
}

impl Written {
    fn tell(self, outcome: Result<Receipt>) {
        if let Some(flow) = self.flow {
            flow.end(&outcome);
        }
        self.reply.tell(outcome);
    }
}

impl Reply {
    /// Tells the outcome; nobody may be listening any more.
    pub(super) fn tell(self, outcome: Result<Receipt>) {
        match self {
            Self::One(reply) => drop(reply.send(outcome)),
            Self::Batch(reply) => reply.tell(outcome),
        }
    }
}

/// The outcomes of a batch: one completion for all.
pub(super) struct Batch(Arc<BatchState>);

pub(super) struct BatchReply {
    state: Option<Arc<BatchState>>,
    at: usize,
}

struct BatchState {
    outcomes: Mutex<(Vec<Option<Result<Receipt>>>, usize)>,
    task: AtomicWaker,
}

impl Batch {
    pub(super) fn new(messages: usize) -> Self {
        let outcomes = Mutex::new((vec![None; messages], messages));
        Self(Arc::new(BatchState {
            outcomes,
            task: AtomicWaker::new(),
        }))
    }

    pub(super) fn reply(&self, at: usize) -> Reply {
        Reply::Batch(BatchReply {
            state: Some(Arc::clone(&self.0)),
            at,
        })
    }

    pub(super) async fn outcomes(self) -> Vec<Result<Receipt>> {
        std::future::poll_fn(|cx| {
            self.0.task.register(cx.waker());
            let mut outcomes = self
                .0
                .outcomes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if outcomes.1 > 0 {
                return Poll::Pending;
            }
            let told = std::mem::take(&mut outcomes.0).into_iter();
            Poll::Ready(
                told.map(|one| one.unwrap_or_else(|| Err(abandoned())))
                    .collect(),
            )
        })
        .await
    }
}

impl BatchReply {
    fn tell(mut self, outcome: Result<Receipt>) {
        if let Some(state) = self.state.take() {
            state.set(self.at, outcome);
        }
    }
}

impl Drop for BatchReply {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            state.set(self.at, Err(abandoned()));
        }
    }
}

impl BatchState {
    fn set(&self, at: usize, outcome: Result<Receipt>) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = outcomes.0.get_mut(at) {
            *one = Some(outcome);
        }
        outcomes.1 -= 1;
        if outcomes.1 == 0 {
            self.task.wake();
        }
    }
}

/// Commands taken at a time.
const BURST: usize = 256;
/// The client ends every pending publish when it sees that a channel is dead; one that slipped in
/// at that moment may be left over.
const GRACE: Duration = Duration::from_secs(1);
