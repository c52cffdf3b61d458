//! The one task that writes to the publishing channel and tells every outcome.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use lapin::{
    Channel, Confirmation, ErrorKind as Client,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use mq_core::{Error, ErrorKind, Receipt, Result, Stored, flow::PublishFlow};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Topics,
    batch::BatchReply,
    inflight::InFlight,
    window::{Completion, Outcome, Window},
};
use crate::{
    connection::{AmqpEvent, Link, Uplink},
    error::map,
    headers::{Letter, Outbound, number},
    metrics::Counters,
};

/// What the publisher asks of its writer.
#[expect(
    clippy::vec_box,
    reason = "each goes its own way from here, and is not to be moved again"
)]
pub(super) enum Command {
    Publish(Box<Job>),
    Many(Vec<Box<Job>>),
    /// Answered when everything before it has its outcome.
    Flush(oneshot::Sender<()>),
}

/// One publish, until its outcome is told. It is large and goes from hand to hand, so it lies in a box.
pub(super) struct Job {
    /// `None` once it was written. If that was to a channel that is gone, it has to be made again.
    outbound: Option<Outbound>,
    /// What it is made of, if it may have to be written again.
    letter: Option<Letter>,
    reply: Reply,
    flow: Option<Box<PublishFlow>>,
    enqueued: Instant,
}

/// Who waits for an outcome.
pub(super) enum Reply {
    One(oneshot::Sender<Result<Receipt>>),
    Batch(BatchReply),
}

pub(super) struct Writer {
    pub(super) uplink: Arc<Uplink>,
    pub(super) room: Arc<Semaphore>,
    pub(super) topics: Arc<Topics>,
    pub(super) limit: Duration,
    pub(super) counters: Arc<Counters>,
}

/// All that waits: it outlives a channel.
struct Desk {
    commands: mpsc::Receiver<Command>,
    intake: Vec<Command>,
    /// False when the last publisher was dropped.
    open: bool,
    jobs: VecDeque<Box<Job>>,
    /// So many of the jobs are written one by one, each when the one before it has its outcome: one of
    /// them ended its channel, and shall end no other publish again.
    careful: usize,
    /// What is on its way was written so.
    alone: bool,
    window: Window<Box<Job>>,
    flushes: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// Why the writer stopped writing to a channel.
enum End {
    /// The last publisher was dropped, and every outcome is told.
    Finished,
    /// The channel is gone, for this reason if it is told.
    Lost(Option<lapin::Error>),
}

impl Job {
    pub(super) fn new(
        outbound: Outbound,
        letter: Option<Letter>,
        reply: Reply,
        flow: Option<Box<PublishFlow>>,
        enqueued: Instant,
    ) -> Box<Self> {
        Box::new(Self {
            outbound: Some(outbound),
            letter,
            reply,
            flow,
            enqueued,
        })
    }

    /// True if the broker may have it.
    fn was_written(&self) -> bool {
        self.outbound.is_none()
    }
}

impl Writer {
    /// Begins with the channel of a link that is there.
    pub(super) async fn run(self, first: (Arc<Link>, Channel), commands: mpsc::Receiver<Command>) {
        let mut desk = Desk {
            commands,
            intake: Vec::new(),
            open: true,
            jobs: VecDeque::new(),
            careful: 0,
            alone: false,
            window: Window::new(1, self.limit),
            flushes: VecDeque::new(),
        };
        let (mut link, mut channel) = first;
        let over = loop {
            match self.drive(&channel, &mut desk).await {
                End::Finished => return,
                End::Lost(cause) => self.lose(&link, &mut desk, cause),
            }
            (link, channel) = match self.ready(&mut desk).await {
                Ok(Some(ready)) => ready,
                Ok(None) => return,
                Err(over) => break over,
            };
        };
        // Nothing is sent any more, and whoever asks is told so at once.
        self.refuse(&mut desk, &over);
        while desk.open {
            desk.take().await;
            self.refuse(&mut desk, &over);
        }
    }

    /// Waits for a channel, and keeps the deadlines meanwhile. `None` when nobody is left to want one.
    async fn ready(&self, desk: &mut Desk) -> Result<Option<(Arc<Link>, Channel)>> {
        let mut opening = std::pin::pin!(self.open());
        loop {
            let due = desk.deadline(self.limit);
            tokio::select! {
                biased;
                opened = opening.as_mut() => return opened.map(Some),
                () = desk.take() => {}
                () = sleep_until(due) => self.expire(desk),
            }
            desk.answer_flushes();
            if !desk.open && desk.jobs.is_empty() {
                return Ok(None);
            }
        }
    }

    /// A channel with confirmations, as soon as there is one.
    ///
    /// # Errors
    /// If there is no hope for a connection.
    async fn open(&self) -> Result<(Arc<Link>, Channel)> {
        loop {
            let link = self.uplink.up("publish").await?;
            match Self::channel(&link).await {
                Ok(channel) => return Ok((link, channel)),
                Err(error) => {
                    tracing::warn!(%error, "no channel for publishing yet");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// A channel with confirmations on this link.
    pub(super) async fn channel(link: &Link) -> Result<Channel> {
        let channel = link.channel("publish").await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        link.answer("publish", select).await.map(|()| channel)
    }

    /// Writes and judges until the channel or the publisher ends.
    async fn drive(&self, channel: &Channel, desk: &mut Desk) -> End {
        let mut flight = InFlight::new();
        let mut done = Vec::new();
        // It may fire early, since the oldest publish is replaced by younger ones; never late.
        let mut timer = std::pin::pin!(sleep_until(Instant::now()));
        // When to give up on a dead channel that still owes answers.
        let mut grace = None;
        loop {
            // A burst: each publish is polled once, so that its frames go out with all others.
            while let Some(job) = desk.next(channel) {
                if let Some((outbound, job)) = self.written_form(job) {
                    let number = desk.window.next();
                    let enqueued = job.enqueued;
                    desk.window.push(job, enqueued);
                    let output = flight.push(number, publish_to(channel, outbound, number));
                    done.extend(output.map(|output| (number, output)));
                } else {
                    self.room.add_permits(1);
                    desk.clamp_flushes();
                }
            }
            flight.drain(&mut done);
            let (round, lost) = completions(&mut done);
            self.room
                .add_permits(desk.window.round(round, |job, outcome| {
                    self.tell(job, outcome);
                }));
            if let Some(cause) = lost {
                return End::Lost(cause);
            }
            if !channel.status().connected() {
                let now = Instant::now();
                if flight.is_empty() || now >= *grace.get_or_insert(now + GRACE) {
                    return End::Lost(None);
                }
            }
            desk.answer_flushes();
            if !desk.open && desk.window.is_empty() && desk.jobs.is_empty() {
                return End::Finished;
            }
            if desk.may_go_on(channel) {
                continue;
            }
            let open = desk.open;
            tokio::select! {
                biased;
                () = desk.take(), if open => {}
                () = flight.ready() => {}
                () = sleep_until(grace.unwrap_or_else(Instant::now)), if grace.is_some() => {}
                () = timer.as_mut() => {
                    self.expire(desk);
                    timer.as_mut().reset(desk.deadline(self.limit));
                }
            }
        }
    }

    /// The form that is written. One that was written before is made again; if that cannot be, it is
    /// told.
    fn written_form(&self, mut job: Box<Job>) -> Option<(Outbound, Box<Job>)> {
        if let Some(outbound) = job.outbound.take() {
            if let Some(flow) = &job.flow {
                flow.begin();
            }
            self.counters.published(1);
            return Some((outbound, job));
        }
        let settings = self.uplink.settings();
        let limits = self.uplink.known().limits(settings.max_message_size);
        match job.letter.as_ref()?.outbound(limits) {
            Ok(outbound) => Some((outbound, job)),
            Err(error) => {
                job.tell(&self.counters, Err(error));
                None
            }
        }
    }

    /// The channel is gone: its publishes are written again, or are unknown.
    fn lose(&self, link: &Link, desk: &mut Desk, cause: Option<lapin::Error>) {
        // It may have been a topic that is gone, so what was seen has to be looked up again.
        self.topics.forget();
        let soft = cause.as_ref().is_some_and(lapin::Error::is_amqp_soft_error);
        let cause = cause.map_or_else(|| link.gone("publish"), |cause| map("publish", cause));
        self.uplink.known().learn(&cause);
        let error = Error::new(
            ErrorKind::Unknown,
            "publish",
            "the channel was lost before the broker answered",
        )
        .with("why", &cause)
        .help("publish it again with the same id")
        .caused_by(cause.clone());
        let held = desk.window.held();
        let mut lost: VecDeque<Box<Job>> = desk.window.abandon().collect();
        let mut unknown = 0;
        // The broker answered so to something that was written here.
        if soft
            && desk.alone
            && let Some(job) = lost.pop_front()
        {
            // It was written alone, so it is the one, and was not taken.
            job.tell(&self.counters, Err(cause.clone()));
        }
        let mut again = VecDeque::with_capacity(lost.len() + desk.jobs.len());
        for job in lost {
            if job.letter.is_some() {
                again.push_back(job);
            } else {
                job.tell(&self.counters, Err(error.clone()));
                unknown += 1;
            }
        }
        // Those that were answered at their deadline had their room until now.
        self.room.add_permits(held - again.len());
        let resent = again.len();
        if soft || desk.careful > 0 {
            desk.careful += resent;
        }
        desk.alone = false;
        again.append(&mut desk.jobs);
        desk.jobs = again;
        desk.restart_flushes();
        if held > 0 {
            self.uplink
                .settings()
                .events
                .tell(AmqpEvent::PublishesLost {
                    why: cause,
                    resent,
                    unknown,
                });
        }
    }

    /// Ends what is past its deadline. What is written stays in the window: its confirmation may
    /// still come.
    fn expire(&self, desk: &mut Desk) {
        let now = Instant::now();
        desk.window
            .expire(now, |job| job.tell(&self.counters, Err(self.silent())));
        let mut expired = 0;
        while let Some(job) = desk.jobs.front()
            && job.enqueued + self.limit <= now
        {
            let Some(job) = desk.jobs.pop_front() else {
                break;
            };
            desk.careful = desk.careful.saturating_sub(1);
            if job.was_written() {
                job.tell(&self.counters, Err(self.silent()));
            } else {
                job.tell_unwritten(Err(self.unsent()));
            }
            expired += 1;
        }
        if expired > 0 {
            self.room.add_permits(expired);
            desk.clamp_flushes();
        }
    }

    /// Ends all that waits: there is no connection any more.
    fn refuse(&self, desk: &mut Desk, over: &Error) {
        self.room.add_permits(desk.jobs.len());
        for job in desk.jobs.drain(..) {
            if job.was_written() {
                let unknown = Error::new(
                    ErrorKind::Unknown,
                    "publish",
                    "the connection was lost before the broker answered",
                )
                .with("why", over)
                .help("publish it again with the same id")
                .caused_by(over.clone());
                job.tell(&self.counters, Err(unknown));
            } else {
                job.tell_unwritten(Err(over.clone()));
            }
        }
        desk.clamp_flushes();
        desk.answer_flushes();
    }

    fn tell(&self, job: Box<Job>, outcome: Outcome) {
        let outcome = match outcome {
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
        };
        job.tell(&self.counters, outcome);
    }

    fn silent(&self) -> Error {
        let help = if self.uplink.is_blocked() {
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

    fn unsent(&self) -> Error {
        Error::new(
            ErrorKind::Timeout,
            "publish",
            "there was no connection in time: the message was never sent",
        )
        .with("seconds", self.limit.as_secs_f32())
        .help("see why the broker cannot be reached, then publish it again")
    }
}

impl Desk {
    /// Takes what was asked in the meantime, or notes that nobody can ask any more. Waits for ever after
    /// that.
    ///
    /// # Cancel safety
    /// Safe.
    async fn take(&mut self) {
        if !self.open {
            return std::future::pending().await;
        }
        self.open = self.commands.recv_many(&mut self.intake, BURST).await > 0;
        for command in self.intake.drain(..) {
            match command {
                Command::Publish(job) => self.jobs.push_back(job),
                Command::Many(many) => self.jobs.extend(many),
                Command::Flush(reply) => {
                    let below = self.window.next() + self.jobs.len() as u64;
                    self.flushes.push_back((below, reply));
                }
            }
        }
    }

    /// The next publish that may be written to this channel now.
    fn next(&mut self, channel: &Channel) -> Option<Box<Job>> {
        if !self.may_go_on(channel) {
            return None;
        }
        let job = self.jobs.pop_front()?;
        self.alone = self.careful > 0;
        self.careful = self.careful.saturating_sub(1);
        Some(job)
    }

    fn may_go_on(&self, channel: &Channel) -> bool {
        let carefully = self.careful > 0 || self.alone;
        let room = !carefully || self.window.is_empty();
        room && !self.jobs.is_empty() && channel.status().connected()
    }

    /// When the oldest unanswered publish is due.
    fn deadline(&self, limit: Duration) -> Instant {
        let waiting = self.jobs.front().map(|job| job.enqueued + limit);
        let due = self.window.deadline().into_iter().chain(waiting).min();
        due.unwrap_or_else(|| Instant::now() + limit)
    }

    fn answer_flushes(&mut self) {
        while self
            .flushes
            .front()
            .is_some_and(|(below, _)| self.window.answered(*below))
        {
            let _ = self.flushes.pop_front().map(|(_, reply)| reply.send(()));
        }
    }

    /// After jobs went without being written: nobody waits for a number that nobody will have.
    fn clamp_flushes(&mut self) {
        let most = self.window.next() + self.jobs.len() as u64;
        for (below, _) in &mut self.flushes {
            *below = most.min(*below);
        }
    }

    /// After jobs came back, which get new numbers.
    fn restart_flushes(&mut self) {
        let all = self.window.next() + self.jobs.len() as u64;
        for (below, _) in &mut self.flushes {
            *below = all;
        }
    }
}

/// Writes a publish and waits for its confirmation. Not an `async fn`: what is taken apart here would be carried along whole.
fn publish_to(
    channel: &Channel,
    mut outbound: Outbound,
    number: u64,
) -> impl Future<Output = lapin::Result<Confirmation>> {
    let properties = outbound.numbered(number);
    let Outbound {
        exchange,
        routing_key,
        mandatory,
        payload,
        ..
    } = outbound;
    async move {
        let options = BasicPublishOptions {
            mandatory,
            immediate: false,
        };
        let confirm = channel
            .basic_publish(exchange, routing_key, options, &payload, properties)
            .await?;
        // The client has a copy. Ours would otherwise live as long as the broker thinks, unless it is kept
        // to be written again.
        drop(payload);
        confirm.await
    }
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

/// The outcome of a publish whose writer is gone, as at the end of the runtime.
pub(super) fn abandoned() -> Error {
    Error::new(
        ErrorKind::Unknown,
        "publish",
        "the publisher ended before the broker answered",
    )
}

impl Job {
    /// The end of one that was written.
    fn tell(self: Box<Self>, counters: &Counters, outcome: Result<Receipt>) {
        counters.outcome(&outcome);
        if let Some(flow) = self.flow {
            flow.end(&outcome);
        }
        self.reply.tell(outcome);
    }

    /// The end of one that was never written: as where it is refused before, no step of it is told or counted.
    fn tell_unwritten(self: Box<Self>, outcome: Result<Receipt>) {
        if let Some(flow) = self.flow {
            flow.never_left(&outcome);
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

/// Before another try to open a channel on a connection that works.
const PAUSE: Duration = Duration::from_millis(200);
/// Commands taken at a time.
const BURST: usize = 256;
/// The client ends every pending publish when it sees that a channel is dead; one that slipped in
/// at that moment may be left over.
const GRACE: Duration = Duration::from_secs(1);
