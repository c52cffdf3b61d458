//! The session of a worker: takes what its handlers decided.

use std::{fmt, sync::Arc};

use mq_core::{
    Decision, Destination, Error, ErrorKind, Message, Outcome, Result, Settlement,
    guarantee::Undone,
};

use crate::{
    metrics::Watch,
    publisher::KafkaPublisher,
    settle::{Ledger, Output},
};

/// The transactions of one consumer; the session of [`ExactlyOnce`](crate::ExactlyOnce).
pub struct ExactlyOnceSession {
    ledger: Arc<Ledger>,
    publisher: KafkaPublisher,
    watch: Watch,
}

impl ExactlyOnceSession {
    pub(super) fn new(ledger: Arc<Ledger>, publisher: KafkaPublisher, watch: Watch) -> Self {
        Self {
            ledger,
            publisher,
            watch,
        }
    }

    /// Stages the outputs with the record. Nothing is sent here.
    pub(super) async fn settle(
        &self,
        settlement: Settlement,
        outcome: Outcome,
    ) -> Result<(), Undone> {
        let (decision, outputs) = outcome.into_parts();
        if let Decision::Defer(_) = decision {
            return Err(Undone::new(settlement, no_defer()));
        }
        let outputs = match self.records(outputs).await {
            Ok(outputs) => outputs,
            Err(error) => return Err(Undone::new(settlement, error)),
        };
        let received = settlement.received().clone();
        let Some(position) = received.position() else {
            let error = Error::new(ErrorKind::Bug, "settle", "not a record of this consumer");
            return Err(Undone::new(settlement, error));
        };
        // Kafka counts partitions in 31 bits.
        let partition = i32::try_from(position.partition).unwrap_or(i32::MAX);
        let tag = settlement.tag();
        let announced = !outputs.is_empty();
        if announced {
            self.ledger.announce(partition, tag, outputs);
        }
        if let Err(error) = decision.settle(settlement) {
            if announced {
                self.ledger.retract(partition, tag);
            }
            tracing::warn!(id = %received.id(), %error, "the message will be delivered again");
        }
        Ok(())
    }

    /// The outputs as records, checked: what is wrong with one of them is its message's fault, not the transaction's.
    async fn records(&self, outputs: Vec<(Destination, Message)>) -> Result<Vec<Output>> {
        let mut records = Vec::with_capacity(outputs.len());
        for (to, mut message) in outputs {
            let sending = self.watch.tracer.send(&to, &mut message);
            let record = self.publisher.record(&to, &message).await;
            sending.failed(&record);
            let flow = self.watch.flow.sending(&message, &to, sending);
            let record = record?;
            records.push(Output { record, flow });
        }
        Ok(records)
    }
}

fn no_defer() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "settle",
        "a message cannot be deferred in a transaction",
    )
    .help("let the attempt fail, which tries again, or publish the message to a queue of its own")
}

impl fmt::Debug for ExactlyOnceSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExactlyOnceSession").finish_non_exhaustive()
    }
}
