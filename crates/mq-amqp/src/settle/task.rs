//! The task that carries marks to the broker, and copies before their originals.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions},
};
use mq_core::{Destination, Error, ErrorKind, Result, trace};
use tokio::{
    sync::{OnceCell, mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::Span;

use super::{Copy, Sink, Why, ledger::Frame};
use crate::{AmqpPublisher, connection::Link, metrics::Settled, topology::cascade};

/// What a consumer asks of its task.
pub(crate) enum Command {
    /// Answered when the broker has every verdict given so far.
    Settled(oneshot::Sender<Result<()>>),
}

pub(crate) struct Task {
    pub(crate) sink: Arc<Sink>,
    pub(crate) link: Arc<Link>,
    pub(crate) publisher: AmqpPublisher,
    pub(crate) prefetch: u16,
    /// Set once it is sure that what is delayed for the queue arrives.
    pub(crate) arrives: Arc<OnceCell<()>>,
}

type Copying =
    FuturesUnordered<Pin<Box<dyn Future<Output = (u64, Why, Result<Destination>)> + Send>>>;

impl Task {
    /// Runs until the consumer is gone and nothing is left to be sent.
    pub(crate) async fn run(self, mut commands: mpsc::Receiver<Command>) {
        let sink = Arc::clone(&self.sink);
        let mut copying: Copying = FuturesUnordered::new();
        let mut waiting: Vec<oneshot::Sender<Result<()>>> = Vec::new();
        let mut due: Option<Instant> = None;
        // A verdict that did not reach the broker.
        let mut lost: Option<Error> = None;
        let mut open = true;
        loop {
            // The consumer is gone; its copies are waited for.
            if !open && copying.is_empty() {
                if let Err(error) = self.flush(true, &mut copying).await {
                    tracing::debug!(%error, "the last verdicts did not reach the broker");
                }
                return;
            }
            tokio::select! {
                () = sink.wake.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                Some((tag, why, copied)) = copying.next(), if !copying.is_empty() => match copied {
                    Ok(to) => {
                        sink.copied(tag, why, &to);
                        sink.ledger().copied(tag);
                    }
                    Err(error) => {
                        lost.get_or_insert_with(|| error.clone());
                        sink.fail(error);
                    }
                },
                command = commands.recv(), if open => match command {
                    Some(Command::Settled(reply)) => waiting.push(reply),
                    None => open = false,
                },
            }
            let now = Instant::now();
            let full = sink.ledger().acks() >= sink.batch;
            let all = due.is_some_and(|due| due <= now) || !waiting.is_empty();
            let flush = all || full || sink.ledger().is_urgent();
            if flush && let Err(error) = self.flush(all, &mut copying).await {
                lost.get_or_insert(error);
                sink.end();
            }
            due = match sink.ledger().is_dirty() {
                true => due.filter(|due| *due > now).or(Some(now + DELAY)),
                false => None,
            };
            if copying.is_empty() && !waiting.is_empty() {
                let answer = match &lost {
                    Some(error) => Err(unheard(error)),
                    None => self.synced().await,
                };
                if answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Stale) {
                    // The channel is gone, also where the client's own record lags behind.
                    sink.end();
                }
                for reply in waiting.drain(..) {
                    let _ = reply.send(answer.clone());
                }
            }
        }
    }

    /// Sends what is marked, and starts copies.
    async fn flush(&self, all: bool, copying: &mut Copying) -> Result<()> {
        let mut copies = Vec::new();
        let (frames, settled) = {
            let mut ledger = self.sink.ledger();
            (ledger.take(all, &mut copies), ledger.settled())
        };
        for (tag, copy) in copies {
            let Copy {
                letter,
                outbound,
                why,
                flow,
            } = copy;
            let (publisher, link) = (self.publisher.clone(), Arc::clone(&self.link));
            let arrives = Arc::clone(&self.arrives);
            copying.push(Box::pin(async move {
                let to = letter.to.clone();
                let copied = async {
                    if why == Why::Defer {
                        let sure = || cascade::arrives(&link, "settle", to.name());
                        arrives.get_or_try_init(sure).await?;
                    }
                    publisher.send(letter, outbound, flow).await?.await?;
                    Ok(to)
                };
                (tag, why, copied.await)
            }));
        }
        // Before they are written: a redelivery is told after its cause.
        frames.iter().for_each(|frame| self.sink.settling(*frame));
        self.sink.held.settled(settled);
        let spans = self.spans(settled);
        let channel = &self.sink.channel;
        let written = async {
            // All are queued in order before the first is waited for.
            join_all(frames.into_iter().map(|frame| send(channel, frame)))
                .await
                .into_iter()
                .collect::<lapin::Result<()>>()
        };
        let written = self.link.answer("settle", written).await;
        spans.iter().for_each(|span| trace::failed(span, &written));
        written
    }

    /// The spans of a flush, one for each verdict that is among it.
    fn spans(&self, settled: Settled) -> [Span; 3] {
        let Settled {
            acked,
            requeued,
            released,
        } = settled;
        let (tracer, source) = (&self.sink.tracer, &self.sink.source);
        [("ack", acked), ("reject", requeued), ("nack", released)].map(|(operation, count)| {
            if count == 0 {
                return Span::none();
            }
            tracer.settle(source, operation, Some(count))
        })
    }

    /// A round trip on the channel: its answer comes after everything sent before. The prefetch is
    /// set to what it is, which needs no permission and changes nothing.
    async fn synced(&self) -> Result<()> {
        // Before the round trip: what is marked meanwhile is not in it.
        let any = self.sink.hear();
        let answer = self.round_trip().await;
        if answer.is_err() && any {
            self.sink.unheard();
        }
        answer
    }

    async fn round_trip(&self) -> Result<()> {
        let options = BasicQosOptions::default();
        let answer = self.sink.channel.basic_qos(self.prefetch, options);
        match self.link.answer("settle", answer).await {
            Err(error) if error.kind() != ErrorKind::Timeout => Err(unheard(&error)),
            answer => answer,
        }
    }
}

async fn send(channel: &Channel, frame: Frame) -> lapin::Result<()> {
    match frame {
        Frame::AckUpTo(tag) => {
            channel
                .basic_ack(tag, BasicAckOptions { multiple: true })
                .await
        }
        Frame::Ack(tag) => channel.basic_ack(tag, BasicAckOptions::default()).await,
        Frame::Requeue(tag) => {
            channel
                .basic_reject(tag, BasicRejectOptions { requeue: true })
                .await
        }
        Frame::Release(tag) => {
            let options = BasicNackOptions {
                multiple: false,
                requeue: true,
            };
            channel.basic_nack(tag, options).await
        }
    }
}

fn unheard(why: &Error) -> Error {
    Error::new(
        ErrorKind::Stale,
        "settle",
        "a verdict did not reach the broker; it delivers the message again",
    )
    .with("why", why)
    .caused_by(why.clone())
}

/// How long an acknowledgement waits for others.
const DELAY: Duration = Duration::from_millis(1);
