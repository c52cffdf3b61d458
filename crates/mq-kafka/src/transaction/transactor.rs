//! The task that makes the transactions of one consumer, one after the other.
//!
//! Outputs are sent as soon as no earlier record of their partition is open, so that a commit finds most of them stored. What is
//! settled while one commits waits for the next.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use krafka::{
    CloseOptions, KrafkaError,
    producer::{TransactionState, TransactionalProducer},
};
use mq_core::{Destination, Error, ErrorKind, Received, Rejection, Result, dead_letter_copy};
use tokio::{
    sync::oneshot,
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    brokers::Brokers,
    open::{Open, Refusal, Sent},
    search::Search,
    status::Running,
};
use crate::{
    error::{self, Stage},
    metrics::Watch,
    publisher::KafkaPublisher,
    settle::{Group, Ledger, Moved, Slice},
};

pub(super) struct Transactor {
    pub(super) producer: TransactionalProducer,
    pub(super) brokers: Brokers,
    pub(super) ledger: Arc<Ledger>,
    pub(super) group: Arc<Group>,
    /// Where rejected records go.
    pub(super) home: Option<Destination>,
    /// Makes records of dead letters; it sends nothing.
    pub(super) publisher: KafkaPublisher,
    pub(super) watch: Watch,
    pub(super) running: Running,
    pub(super) every: Duration,
    pub(super) after: usize,
    /// For how long the coordinator may leave an end unanswered.
    pub(super) unreachable_after: Duration,
    pub(super) close_within: Duration,
    pub(super) stop: CancellationToken,
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
            self.ledger.end(Some(self.named(error)));
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
        let mut search = Search::default();
        loop {
            let after = search.limit(self.after);
            let slices = self.ledger.take_staged(after);
            if slices.is_empty() {
                tokio::select! {
                    () = self.ledger.due.notified() => {}
                    () = self.stop.cancelled() => return Ok(()),
                }
                continue;
            }
            let mut open = Open::default();
            match self.transact(slices, &mut open, after).await {
                Ok(()) => {
                    in_a_row = 0;
                    search.committed(open.records);
                }
                Err(Fault::Fatal(error)) => return Err(error),
                Err(Fault::Abort(why)) => {
                    let records = open.records;
                    match self.abort(open, &why).await? {
                        Refusal::None => {}
                        Refusal::OneOfThem => search.narrow(records),
                        Refusal::This => search = Search::default(),
                    }
                    if self.stop.is_cancelled() {
                        return Ok(());
                    }
                    in_a_row += 1;
                    // What fails again and again must not become a hot loop.
                    let pause = BACKOFF * (1 << u32::min(in_a_row, 6)) / 2;
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.stop.cancelled() => return Ok(()),
                    }
                }
            }
        }
    }

    /// One transaction, from its first record to its commit.
    async fn transact(
        &self,
        first: Vec<Slice>,
        open: &mut Open,
        after: usize,
    ) -> Result<(), Fault> {
        self.producer.begin().map_err(|e| self.fault(e))?;
        let until = tokio::time::Instant::now() + self.every;
        let mut slices = first;
        loop {
            self.send(slices, open).await?;
            if open.records >= after || self.ledger.take_flush() {
                break;
            }
            tokio::select! {
                biased;
                () = sleep_until(until) => break,
                () = self.stop.cancelled() => break,
                () = self.ledger.due.notified() => {}
            }
            slices = self.ledger.take_staged(after - open.records);
        }
        if self.running.0.take_abort() {
            // With its outputs stored, as they are when it fails at its commit. One that is not stored makes no difference.
            let _ = self.producer.flush().await;
            let asked = Error::new(ErrorKind::Rejected, TRANSACT, "an abort was asked for");
            return Err(Fault::Abort(asked));
        }
        self.commit(open).await
    }

    async fn send(&self, slices: Vec<Slice>, open: &mut Open) -> Result<(), Fault> {
        for slice in slices {
            open.place(Moved::from(&slice));
            open.records += slice.staged.len();
            for staged in slice.staged {
                for output in staged.outputs {
                    let handle = self.producer.enqueue(output.record).await;
                    let handle = handle.map_err(|e| self.fault(e))?;
                    let sent = Sent {
                        partition: slice.partition,
                        offset: staged.offset,
                        dead: false,
                        handle,
                    };
                    open.sent(sent, &self.watch.counters);
                    open.flow(output.flow);
                }
                if let Some((received, why)) = staged.dead {
                    let at = (slice.partition, staged.offset);
                    self.send_dead(at, received, &why, open).await?;
                }
            }
        }
        Ok(())
    }

    /// The copy of a rejected record: in the same transaction as its offset, so neither is without the other.
    async fn send_dead(
        &self,
        (partition, offset): (i32, i64),
        received: Received,
        why: &Rejection,
        open: &mut Open,
    ) -> Result<(), Fault> {
        let Some(home) = &self.home else {
            let text = "this consumer has no dead-letter home";
            return Err(Fault::Fatal(Error::new(ErrorKind::Bug, TRANSACT, text)));
        };
        let copy = dead_letter_copy(&received, why);
        let sending = self.watch.tracer.send_copy(home, &copy);
        let record = self.publisher.record(home, &copy).await;
        sending.failed(&record);
        let record = record.map_err(|error| match error.is_retryable() {
            true => Fault::Abort(error),
            // As outside of transactions: a rejected record that can't be stored ends the consumer.
            false => Fault::Fatal(error),
        })?;
        let handle = self.producer.enqueue(record).await;
        let handle = handle.map_err(|e| self.fault(e))?;
        let sent = Sent {
            partition,
            offset,
            dead: true,
            handle,
        };
        open.sent(sent, &self.watch.counters);
        open.flow(self.watch.flow.sending(&copy, home, sending));
        open.dead.push(received);
        Ok(())
    }

    async fn commit(&self, open: &mut Open) -> Result<(), Fault> {
        if !self.ledger.holds(open.places()) {
            return Err(Fault::Abort(self.moved()));
        }
        let handled = self.ledger.verdicts();
        // Told anew each time: it is what the group knows this member by now (KIP-447).
        let member = self.group.consumer.group_metadata().await;
        let member = member.ok_or_else(|| Fault::Abort(self.moved()))?;
        if self.group.is_another().await || self.group.is_of_another_topic() {
            return Err(Fault::Abort(self.moved()));
        }
        let offsets = open.offsets(&self.group.topic);
        let sent = self.producer.send_offsets(&offsets, &member);
        let sent = self.brokers.looked_at(sent).await;
        sent.map_err(|e| self.fault(e))?;
        self.end(open).await?;
        open.committed();
        if let Some(home) = &self.home {
            for received in open.dead.drain(..) {
                self.ledger.tell_dead_lettered(&received, home);
            }
        }
        self.ledger.transacted(open.places());
        let meanwhile = self.ledger.verdicts() - handled;
        self.running.0.committed(meanwhile);
        Ok(())
    }

    /// Commits until it is known how that went. While a commit is unanswered, only the commit may be called again: an abort that
    /// arrives behind it would hit what comes next (KAFKA-17754).
    async fn end(&self, open: &Open) -> Result<(), Fault> {
        let since = Instant::now();
        loop {
            let Err(error) = self.brokers.looked_at(self.producer.commit()).await else {
                return Ok(());
            };
            if self.producer.state() != TransactionState::CommitUnknown {
                return Err(self.fault(error));
            }
            let id = self.producer.transactional_id();
            warn!(id, records = open.records, %error, "the commit is not answered; asking again");
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
        let since = Instant::now();
        while let Err(error) = self.brokers.looked_at(self.producer.abort()).await {
            if self.producer.state() == TransactionState::Fatal || error.is_fatal() {
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
        let (refusal, condemned) = open.aborted(why)?;
        self.ledger.rewind(condemned);
        // Only the task that polls may move the position back, and it may be in the middle of a wait.
        self.group.consumer.wakeup();
        Ok(refusal)
    }

    /// What an error of the client means for the transaction.
    fn fault(&self, error: KrafkaError) -> Fault {
        if self.producer.state() == TransactionState::Fatal || error.is_fatal() {
            return Fault::Fatal(error::producer_over(TRANSACT, error));
        }
        Fault::Abort(error::map(TRANSACT, Stage::Before, error))
    }

    fn moved(&self) -> Error {
        mq_core::stale(&self.group.topic)
    }

    fn named(&self, error: Error) -> Error {
        error
            .with("transactional id", self.producer.transactional_id())
            .with("topic", &self.group.topic)
    }
}

const TRANSACT: &str = "transaction";
const BACKOFF: Duration = Duration::from_millis(100);
