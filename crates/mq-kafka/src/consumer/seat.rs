//! A consumer whose verdicts reach the broker in transactions.

use std::sync::Arc;

use mq_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{CONSUME, KafkaConsumer, log::LogReader};
use crate::settle::{Announced, Group, Ledger, Origin};

/// What a guarantee needs to commit a consumer's verdicts in transactions.
pub(crate) struct Seat {
    /// The source itself, then its retry topics.
    pub(crate) logs: Vec<SeatLog>,
    /// Where the outputs of a verdict are handed over.
    pub(crate) announced: Arc<Announced>,
    /// Dropped when the last transaction has ended: the consumer's `close` waits for it.
    pub(crate) over: oneshot::Sender<()>,
}

/// One topic that is consumed in transactions.
pub(crate) struct SeatLog {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) group: Arc<Group>,
    pub(crate) origin: Origin,
    /// It needs no more transactions.
    pub(crate) stop: CancellationToken,
}

impl KafkaConsumer {
    /// From now on verdicts reach the broker in transactions that the caller makes.
    ///
    /// # Errors
    /// `Unsupported` without a group, and where messages are deferred in place; `Bug` once deliveries were
    /// asked for.
    pub(crate) fn begin_transactions(&mut self) -> Result<Seat> {
        if self.shared.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                CONSUME,
                "a share group has no offsets that a transaction could commit",
            )
            .with("source", &self.source)
            .help("take another GroupProtocol for the connection"));
        }
        let announced = Arc::default();
        let begun = self
            .readers
            .iter()
            .map(|r| r.begin_transactions(&announced));
        let logs = begun.collect::<Result<_>>();
        let logs = logs.map_err(|error| error.with("source", &self.source))?;
        let (over, transacted) = oneshot::channel();
        self.transacted = Some(transacted);
        Ok(Seat {
            logs,
            announced,
            over,
        })
    }
}

impl LogReader {
    fn begin_transactions(&self, announced: &Arc<Announced>) -> Result<SeatLog> {
        let error = |kind, text| Error::new(kind, CONSUME, text);
        if !self.group.commits {
            let text = "a consumer without a group has no place that a transaction could commit";
            return Err(error(ErrorKind::Unsupported, text));
        }
        if self.ledger.defers_in_place() {
            // When it is due stands beside a plain commit, and a restart must not make it early.
            let text = "a message cannot be deferred in place in a transaction, which commits an offset and no due time beside it";
            return Err(error(ErrorKind::Unsupported, text)
                .help("leave out `ordered_by_key` or the delays: retry topics do without it"));
        }
        if !self.ledger.begin_transactions(announced) {
            let text = "transactions begin before the first delivery, once";
            return Err(error(ErrorKind::Bug, text));
        }
        self.plain.cancel();
        Ok(SeatLog {
            ledger: Arc::clone(&self.ledger),
            group: Arc::clone(&self.group),
            origin: self.origin.clone(),
            stop: self.tasks.clone(),
        })
    }
}
