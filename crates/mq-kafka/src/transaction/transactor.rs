//! The task that makes the transactions of one consumer, one after the other.
//!
//! Outputs are sent as soon as no earlier record of their partition is open, so that a commit finds most of them stored. What is
//! settled while one commits waits for the next.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::select_all;
use krafka::{
    CloseOptions, KrafkaError,
    producer::{TopicPartitionOffset, TransactionState, TransactionalProducer},
};
use mq_core::{Error, ErrorKind, Result};
use tokio::{
    sync::oneshot,
    time::{sleep, sleep_until, timeout_at},
};
use tracing::{debug, warn};

use super::{
    brokers::{Brokers, Touched},
    open::{Open, Refusal, Sent, Source},
    search::Searches,
    status::Running,
};
use crate::{
    consumer::SeatLog,
    error::{self, Stage},
    metrics::Watch,
    publisher::KafkaPublisher,
    settle::{Move, Moved, Slice},
};

pub(super) struct Transactor {
    pub(super) producer: TransactionalProducer,
    pub(super) brokers: Brokers,
    /// What is consumed: the source, then its retry topics. A transaction holds the offsets of all of them.
    pub(super) logs: Vec<SeatLog>,
    /// Makes records of copies; it sends nothing.
    pub(super) publisher: KafkaPublisher,
    pub(super) watch: Watch,
    pub(super) running: Running,
    pub(super) every: Duration,
    pub(super) after: usize,
    /// After how long one is aborted that could not be committed yet: before the broker does it, which would fence us.
    pub(super) abort_after: Duration,
    /// For how long the coordinator may leave an end unanswered.
    pub(super) unreachable_after: Duration,
    pub(super) close_within: Duration,
    /// Dropped at the very end.
    pub(super) over: oneshot::Sender<()>,
}

/// Why a transaction is not committed.
enum Fault {
    /// It is to be aborted, and its records come again.
    Abort(Error),
    /// No further transaction can be made.
    Fatal(Error),
}

impl Transactor {
    /// Makes transactions until it is stopped, or can't.
    pub(super) async fn run(self) {
        if let Err(error) = self.work().await {
            let error = error.with("transactional id", self.producer.transactional_id());
            for log in &self.logs {
                log.ledger
                    .end(Some(error.clone().with("topic", &log.group.topic)));
            }
        }
        let options = CloseOptions::new().timeout(self.close_within);
        if let Err(error) = self.producer.close_with(options).await {
            // The coordinator ends by its own time-out what is still open.
            debug!(id = self.producer.transactional_id(), %error, "not closed");
        }
        drop(self.running);
        drop(self.over);
    }

    async fn work(&self) -> Result<()> {
        let mut in_a_row = 0;
        let mut searches = Searches::new(self.logs.len());
        let mut turn = 0;
        loop {
            searches.look(|log, at, next| self.logs[log].ledger.is_before(at, next));
            let mut open = Open::default();
            let slices = self.take_staged(turn, &searches, &mut open);
            if slices.is_empty() {
                tokio::select! {
                    () = self.due() => {}
                    // What a filter leaves out is settled by nobody, and is to be committed before long all the same.
                    () = sleep(IDLE) => {}
                    () = self.stopped() => return Ok(()),
                }
                continue;
            }
            let transacted = self.transact(turn, slices, &mut open, &searches).await;
            // The first of a transaction could fill each of them.
            turn = (turn + 1) % self.logs.len();
            match transacted {
                Ok(()) => in_a_row = 0,
                Err(Fault::Fatal(error)) => return Err(error),
                Err(Fault::Abort(why)) => {
                    let covered = open.covered();
                    match self.abort(open, &why).await? {
                        Refusal::None => {}
                        Refusal::OneOfThem => searches.narrow(covered),
                        Refusal::This(log) => searches.found(log),
                    }
                    if self.logs.iter().all(|log| log.stop.is_cancelled()) {
                        return Ok(());
                    }
                    in_a_row += 1;
                    // What fails again and again must not become a hot loop.
                    let pause = BACKOFF * (1 << u32::min(in_a_row, 6)) / 2;
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.stopped() => return Ok(()),
                    }
                }
            }
        }
    }

    /// No log needs transactions any more.
    async fn stopped(&self) {
        for log in &self.logs {
            log.stop.cancelled().await;
        }
    }

    /// One of the logs may have something.
    async fn due(&self) {
        let due = self.logs.iter().map(|log| log.ledger.due.notified());
        select_all(due.map(Box::pin)).await;
    }

    /// Takes what this transaction may hold now, with the numbers of the logs; first of the log whose turn it is.
    fn take_staged(
        &self,
        turn: usize,
        searches: &Searches,
        open: &mut Open,
    ) -> Vec<(usize, Slice)> {
        let mut taken = Vec::new();
        for at in (turn..self.logs.len()).chain(0..turn) {
            if searches.is_on() && open.is_of_another(at) {
                continue;
            }
            let room = open.room(searches.limit(at, self.after));
            for slice in self.logs[at].ledger.take_staged(room) {
                open.cover(at, &slice);
                taken.push((at, slice));
            }
        }
        taken
    }

    /// True if a commit should not wait for the clock.
    fn take_flush(&self) -> bool {
        // Asked of each: this commit may answer several of them.
        let asked = self.logs.iter().filter(|log| log.ledger.take_flush());
        asked.count() > 0
    }

    /// How many verdicts were given.
    fn verdicts(&self) -> u64 {
        self.logs.iter().map(|log| log.ledger.verdicts()).sum()
    }

    /// One transaction, from its first record to its commit.
    async fn transact(
        &self,
        turn: usize,
        first: Vec<(usize, Slice)>,
        open: &mut Open,
        searches: &Searches,
    ) -> Result<(), Fault> {
        let now = tokio::time::Instant::now();
        let (until, latest) = (now + self.every, now + self.abort_after);
        let mut slices = first;
        loop {
            let text = "the brokers have not taken the outputs in time";
            in_time(latest, || late(text), self.send(slices, open)).await?;
            let limits = open.places().map(|(at, _)| searches.limit(at, self.after));
            let limit = limits.min();
            if limit.is_some_and(|limit| open.room(limit).is_none()) || self.take_flush() {
                break;
            }
            tokio::select! {
                biased;
                () = sleep_until(until) => break,
                () = self.stopped() => break,
                () = self.due() => {}
            }
            slices = self.take_staged(turn, searches, open);
        }
        if self.running.0.take_abort() {
            // With its outputs stored, as they are when it fails at its commit. One that is not stored makes no difference.
            let _ = timeout_at(latest, self.producer.flush()).await;
            let asked = Error::new(ErrorKind::Rejected, TRANSACT, "an abort was asked for");
            return Err(Fault::Abort(asked));
        }
        self.commit(latest, open).await
    }

    /// Has the client begin, right before the first call that needs it.
    fn begin(&self, open: &mut Open) -> Result<(), Fault> {
        if !open.begun {
            self.producer.begin().map_err(|e| self.fault(e))?;
            open.begun = true;
        }
        Ok(())
    }

    async fn send(&self, slices: Vec<(usize, Slice)>, open: &mut Open) -> Result<(), Fault> {
        for (log, slice) in slices {
            for staged in slice.staged {
                let source = Source {
                    log,
                    partition: slice.partition,
                    offset: staged.offset,
                };
                for output in staged.outputs {
                    self.begin(open)?;
                    open.goes_to(&output.record.topic);
                    let handle = self.producer.enqueue(output.record).await;
                    let handle = handle.map_err(|e| self.fault(e))?;
                    let sent = Sent {
                        source,
                        is_copy: false,
                        handle,
                    };
                    open.sent(sent, &self.watch.counters);
                    open.flow(output.flow);
                }
                if let Some(moved) = staged.moved {
                    self.send_copy(source, moved, open).await?;
                }
            }
        }
        Ok(())
    }

    /// The copy of a record that leaves for another topic: in the same transaction as its offset, so neither is without the other.
    async fn send_copy(&self, source: Source, moved: Move, open: &mut Open) -> Result<(), Fault> {
        let SeatLog { ledger, origin, .. } = &self.logs[source.log];
        let (home, copy) = ledger.homes.copy(&moved, origin).map_err(Fault::Fatal)?;
        let sending = self.watch.tracer.send_copy(&home, &copy);
        let record = self.publisher.record(&home, &copy).await;
        sending.failed(&record);
        let record = record.map_err(|error| match error.is_retryable() {
            true => Fault::Abort(error),
            // As outside of transactions: a copy that can't be stored ends the consumer.
            false => Fault::Fatal(error),
        })?;
        self.begin(open)?;
        open.goes_to(&record.topic);
        let handle = self.producer.enqueue(record).await;
        let handle = handle.map_err(|e| self.fault(e))?;
        let sent = Sent {
            source,
            is_copy: true,
            handle,
        };
        open.sent(sent, &self.watch.counters);
        open.flow(self.watch.flow.sending(&copy, &home, sending));
        open.copied.push((source.log, moved));
        Ok(())
    }

    async fn commit(&self, latest: tokio::time::Instant, open: &mut Open) -> Result<(), Fault> {
        let handled = self.verdicts();
        let mut places = Vec::new();
        for (log, moved_to) in open.places() {
            let SeatLog { ledger, group, .. } = &self.logs[log];
            let moved = || Fault::Abort(mq_core::stale(&group.topic));
            // Told anew each time: it is what the group knows this member by now (KIP-447). Before the look at what it has: of
            // what is taken from it since then, the broker knows by another generation.
            let member = group.consumer.group_metadata().await.ok_or_else(moved)?;
            let another = group.is_another().await || group.is_of_another_topic();
            if another || !ledger.holds(moved_to.values()) {
                return Err(moved());
            }
            let place =
                |at: &Moved| TopicPartitionOffset::new(&*group.topic, at.partition, at.next);
            let offsets: Vec<_> = moved_to.values().map(place).collect();
            places.push((&group.topic, offsets, member));
        }
        self.begin(open)?;
        for (topic, offsets, member) in places {
            let sent = self.producer.send_offsets(&offsets, &member);
            let sent = async {
                let sent = self.brokers.looked_at(sent).await;
                sent.map_err(|e| self.fault(e))
            };
            let text = "the coordinator of a group has not taken the offsets in time";
            in_time(latest, || late(text).with("topic", topic), sent).await?;
        }
        // The commit waits for them too, but once it is under way it is not dropped.
        let stored = async { self.producer.flush().await.map_err(|e| self.fault(e)) };
        let text = "the brokers have not stored the outputs in time";
        in_time(latest, || late(text), stored).await?;
        if self.producer.state() == TransactionState::Fatal
            && let Some(error) = open.failure()
        {
            // The commit would say that there is no producer any more, and not why.
            return Err(self.fault(error));
        }
        self.end(open).await?;
        open.committed();
        for (log, moved) in &open.copied {
            self.logs[*log].ledger.copied_in_transaction(moved);
        }
        for (log, places) in open.places() {
            self.logs[log].ledger.transacted(places.values());
        }
        let meanwhile = self.verdicts() - handled;
        self.running.0.committed(meanwhile);
        Ok(())
    }

    /// Commits until it is known how that went. While a commit is unanswered, only the commit may be called again: an abort that
    /// arrives behind it would hit what comes next (KAFKA-17754).
    async fn end(&self, open: &Open) -> Result<(), Fault> {
        let touched = self.touched(open);
        // From the first answer on that is none: the call before it may have rested for long.
        let mut unanswered = None;
        loop {
            let Err(error) = self.brokers.ends(&touched, self.producer.commit()).await else {
                return Ok(());
            };
            if self.producer.state() != TransactionState::CommitUnknown {
                return Err(self.fault(error));
            }
            let id = self.producer.transactional_id();
            warn!(id, records = open.records, %error, "the commit is not answered; asking again");
            let since = *unanswered.get_or_insert_with(Instant::now);
            if since.elapsed() >= self.unreachable_after {
                return Err(Fault::Fatal(
                    Error::new(
                        ErrorKind::Disconnected,
                        TRANSACT,
                        "the coordinator has not said for too long whether the transaction is committed",
                    )
                    .help("start again: the broker knows, and it is one transaction either way")
                    .caused_by(error),
                ));
            }
            sleep(BACKOFF).await;
        }
    }

    async fn abort(&self, open: Open, why: &Error) -> Result<Refusal> {
        let id = self.producer.transactional_id();
        warn!(id, records = open.records, error = %why, "the transaction is aborted; its records come again");
        if !matches!(why.kind(), ErrorKind::Stale | ErrorKind::Rejected) {
            // One that is not there any more, or not ours, is the fault of the message that goes there: its check says so the next
            // time.
            self.publisher.forget_topics(&open.topics);
        }
        let (touched, since) = (self.touched(&open), Instant::now());
        if open.begun {
            // Most likely a broker was away, and is just coming back.
            self.brokers.led(&touched).await;
        }
        while open.begun
            && let Err(error) = self.brokers.ends(&touched, self.producer.abort()).await
        {
            if self.producer.state() == TransactionState::Fatal
                || error.is_fatal()
                || error::is_forgotten(&error)
            {
                // An end that came before the abort refuses the abort: what came first says why.
                let first = std::error::Error::source(why).and_then(|e| e.downcast_ref());
                let cause = match (&error, first) {
                    (KrafkaError::IllegalState { .. }, Some(first)) => KrafkaError::clone(first),
                    _ => error,
                };
                return Err(error::producer_over(TRANSACT, cause));
            }
            if since.elapsed() >= self.unreachable_after {
                let text = "the coordinator has not taken an abort for too long";
                let gone = Error::new(ErrorKind::Disconnected, TRANSACT, text);
                return Err(gone.caused_by(error));
            }
            debug!(id, %error, "the abort is not taken; asking again");
            sleep(BACKOFF).await;
        }
        self.running.0.aborted();
        let logs: Vec<usize> = open.places().map(|(log, _)| log).collect();
        let (refusal, condemned) = open.aborted(why)?;
        for at in logs {
            let SeatLog { ledger, group, .. } = &self.logs[at];
            let of_log = condemned.as_ref().filter(|(log, _)| *log == at);
            ledger.rewind(of_log.map(|(_, condemned)| condemned.clone()));
            // Only the task that polls may move the position back, and it may be in the middle of a wait.
            group.consumer.wakeup();
        }
        Ok(refusal)
    }

    fn touched(&self, open: &Open) -> Touched {
        let groups = open.places();
        let groups = groups.map(|(log, _)| Arc::clone(&self.logs[log].group.name));
        Touched {
            topics: open.topics.clone(),
            groups: groups.collect(),
        }
    }

    /// What an error of the client means for the transaction.
    fn fault(&self, error: KrafkaError) -> Fault {
        if self.producer.state() == TransactionState::Fatal || error.is_fatal() {
            return Fault::Fatal(error::producer_over(TRANSACT, error));
        }
        Fault::Abort(error::map(TRANSACT, Stage::Before, error))
    }
}

/// Makes a step of a transaction that comes before its commit; one that takes longer is dropped, and the transaction aborted.
async fn in_time<T>(
    latest: tokio::time::Instant,
    late: impl FnOnce() -> Error,
    step: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let made = timeout_at(latest, step).await;
    made.unwrap_or_else(|_| Err(Fault::Abort(late())))
}

fn late(text: &'static str) -> Error {
    Error::new(ErrorKind::Timeout, TRANSACT, text)
}

const TRANSACT: &str = "transaction";
const BACKOFF: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
