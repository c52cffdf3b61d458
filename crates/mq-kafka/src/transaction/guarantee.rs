//! The guarantee that a worker is given.

use std::{fmt, sync::Arc, time::Duration};

use mq_core::{
    Acknowledge, Broker, ConsumePlan, Error, ErrorKind, Guarantee, Outcome, Received, Result,
    Settlement,
    guarantee::{Entry, Undone},
};

use super::{
    level::TransactionLevel,
    session::ExactlyOnceSession,
    status::{Status, Transactions},
    transactor::Transactor,
};
use crate::{
    connection::{Kafka, transactional},
    consumer::KafkaConsumer,
    error::{self, Stage},
};

#[doc = include_str!("exactly_once.md")]
#[derive(Clone)]
#[must_use = "a guarantee has its effect when a worker is given it"]
pub struct ExactlyOnce {
    id: Arc<str>,
    every: Duration,
    after: usize,
    timeout: Duration,
    require_tv2: bool,
    status: Arc<Status>,
}

impl ExactlyOnce {
    /// Transactions under this id: the name of *this* instance, the same after each restart of it and no other's, such as
    /// `copier-1`.
    ///
    /// It is what fences a zombie: whoever begins with an id takes it from whoever had it, and what that left open is aborted. With a
    /// new id for each start nobody fences it, and its open transaction holds up every reader until the time-out.
    pub fn new(transactional_id: impl Into<Arc<str>>) -> Self {
        Self {
            id: transactional_id.into(),
            every: Duration::from_millis(100),
            after: 10_000,
            timeout: Duration::from_secs(30),
            require_tv2: false,
            status: Arc::default(),
        }
    }

    /// Sets for how long a transaction takes records in before it commits. Default 100 ms; at most a third of the transaction
    /// time-out.
    ///
    /// It is what a reader waits for at most, and what a crash repeats at most.
    pub fn commit_every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Sets after how many records a transaction commits, whatever the clock says; at least 1. Default 10,000.
    ///
    /// It commits also once it has 32 MiB of outputs, dead letters and deferred records.
    pub fn commit_after(mut self, records: usize) -> Self {
        self.after = records;
        self
    }

    /// Sets after how long the broker aborts a transaction whose process is silent: 10 to 60 s. Default 30 s.
    ///
    /// Until then a process that was killed, and is not started again, holds up every `read_committed` reader of what it wrote
    /// to, and who takes over its partitions. A process that stands still for longer is fenced. An output that is not stored within a
    /// third of it has its transaction aborted, and a longer [`linger`](crate::KafkaBuilder::linger) is cut to a sixth.
    pub fn transaction_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Refuses to start with anything less than [`TransactionLevel::V2`]. Without it a lesser level is a warning.
    pub fn require_tv2(mut self) -> Self {
        self.require_tv2 = true;
        self
    }

    /// The transaction protocol in use; `None` until a worker has started with it.
    pub fn level(&self) -> Option<TransactionLevel> {
        self.status.level()
    }

    /// How many transactions there were so far, over all workers that ran with this value.
    pub fn transactions(&self) -> Transactions {
        self.status.read()
    }

    /// Aborts the transaction that is open, or the next one, when it would be committed: its records come again. A drill, to see
    /// that one's own readers get nothing twice.
    pub fn abort(&self) {
        self.status.ask_abort();
    }

    fn check(&self) -> Result<()> {
        let config = |text| {
            let error = Error::new(ErrorKind::Config, CONSUME, text);
            Err(error.with("transactional id", &self.id))
        };
        if self.id.is_empty() {
            return config("the transactional id has a name");
        }
        if !(Duration::from_secs(10)..=Duration::from_secs(60)).contains(&self.timeout) {
            return config("the transaction time-out is 10 to 60 s");
        }
        if self.every.is_zero() || self.every > self.timeout / 3 {
            return config(
                "commit_every is over 0 and at most a third of the transaction time-out",
            );
        }
        if self.after == 0 {
            return config("commit_after is at least 1");
        }
        Ok(())
    }
}

impl Guarantee<Kafka> for ExactlyOnce {
    type Scope = ();
    type Session = ExactlyOnceSession;

    fn plan(&self, plan: &mut ConsumePlan) {
        plan.acknowledge = Acknowledge::AfterHandling;
        plan.read_committed = true;
    }

    async fn start(
        &self,
        broker: &Kafka,
        consumer: &mut KafkaConsumer,
    ) -> Result<ExactlyOnceSession> {
        self.check()?;
        let Some(running) = self.status.begin() else {
            let text = "another worker of this process uses this guarantee";
            return Err(Error::new(ErrorKind::Config, CONSUME, text)
                .with("transactional id", &self.id)
                .help("each worker has a transactional id of its own, or they fence each other"));
        };
        let inner = broker.inner();
        let seat = consumer.begin_transactions()?;
        let failed = |e| error::map(CONSUME, Stage::Before, e).with("transactional id", &self.id);
        let (producer, brokers) = transactional(&inner.config, &self.id, self.timeout)
            .await
            .map_err(failed)?;
        let level = TransactionLevel::of(inner, &producer).await?;
        self.status.set_level(level);
        if level != TransactionLevel::V2 {
            if self.require_tv2 {
                let text = "the cluster does not have the transaction protocol that was asked for";
                return Err(Error::new(ErrorKind::Unsupported, CONSUME, text)
                    .with("transactional id", &self.id)
                    .with("level", level)
                    .help("brokers from 4.2 on, with transaction.version=2 finalized"));
            }
            tracing::warn!(id = %self.id, %level, "a late end of a transaction can hit the next one");
        }
        tracing::debug!(id = %self.id, %level, "transactions begin");
        // What was read before may have been behind a transaction that the predecessor left open. It has ended now.
        for log in &seat.logs {
            log.ledger.rewind(None);
            log.group.consumer.wakeup();
        }
        let watch = inner.watch.clone();
        let session = ExactlyOnceSession::new(seat.announced, broker.publisher(), watch.clone());
        let transactor = Transactor {
            producer,
            brokers,
            logs: seat.logs,
            publisher: broker.publisher(),
            watch,
            running,
            every: self.every,
            after: self.after,
            abort_after: self.timeout / 2,
            unreachable_after: inner.config.unreachable_after,
            close_within: inner.config.request_timeout(),
            over: seat.over,
        };
        tokio::spawn(transactor.run());
        Ok(session)
    }

    async fn open(&self, _received: &Received) -> Result<Entry<()>> {
        Ok(Entry::Run(()))
    }

    async fn close(&self, (): (), outcome: Outcome) -> Result<Outcome> {
        Ok(outcome)
    }

    async fn settle(
        &self,
        session: &ExactlyOnceSession,
        settlement: Settlement,
        outcome: Outcome,
    ) -> Result<(), Undone> {
        session.settle(settlement, outcome).await
    }
}

impl fmt::Debug for ExactlyOnce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExactlyOnce")
            .field("transactional_id", &self.id)
            .field("commit_every", &self.every)
            .field("commit_after", &self.after)
            .field("transaction_timeout", &self.timeout)
            .field("require_tv2", &self.require_tv2)
            .field("level", &self.level())
            .field("transactions", &self.transactions())
            .finish()
    }
}

const CONSUME: &str = "consume";
