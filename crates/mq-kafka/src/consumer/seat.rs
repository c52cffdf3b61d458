//! A consumer whose verdicts reach the broker in transactions.

use std::sync::Arc;

use mq_core::{Destination, Error, ErrorKind, Result};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{CONSUME, KafkaConsumer, log::LogReader};
use crate::settle::{Group, Ledger};

/// What a guarantee needs to commit a consumer's verdicts in transactions.
pub(crate) struct Seat {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) group: Arc<Group>,
    /// Where rejected records go.
    pub(crate) home: Option<Destination>,
    /// The consumer needs no more transactions.
    pub(crate) stop: CancellationToken,
    /// Dropped when the last transaction has ended: the consumer's `close` waits for it.
    pub(crate) over: oneshot::Sender<()>,
}

impl KafkaConsumer {
    /// From now on verdicts reach the broker in transactions that the caller makes.
    ///
    /// # Errors
    /// `Unsupported` without a group, and where messages are deferred; `Bug` once deliveries were
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
        let begun = match &mut *self.readers {
            [source] => source.begin_transactions(),
            // What waits there was settled by a copy, and would be by another one beside the
            // transaction.
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                CONSUME,
                "a subscription with retry topics is not consumed in transactions",
            )
            .help("delete its retry topics once they are empty, and ask for no delays")),
        };
        begun.map_err(|error| error.with("source", &self.source))
    }
}

impl LogReader {
    fn begin_transactions(&mut self) -> Result<Seat> {
        let refused = |kind, text| Err(Error::new(kind, CONSUME, text));
        if !self.group.commits {
            let text = "a consumer without a group has no place that a transaction could commit";
            return refused(ErrorKind::Unsupported, text);
        }
        if self.ledger.defers_in_place() {
            let text = "a message cannot be deferred in a transaction, in place neither";
            return refused(ErrorKind::Unsupported, text);
        }
        if self.transacted.is_some() || !self.ledger.begin_transactions() {
            let text = "transactions begin before the first delivery, once";
            return refused(ErrorKind::Bug, text);
        }
        self.plain.cancel();
        let (over, transacted) = oneshot::channel();
        self.transacted = Some(transacted);
        Ok(Seat {
            ledger: Arc::clone(&self.ledger),
            group: Arc::clone(&self.group),
            home: self.ledger.homes.dead.clone(),
            stop: self.tasks.clone(),
            over,
        })
    }
}
