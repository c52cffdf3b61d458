//! The session of a worker: takes what its handlers decided.

use std::{fmt, sync::Arc};

use mq_core::{Destination, Message, Outcome, Result, Settlement, guarantee::Undone};

use crate::{
    metrics::Watch,
    publisher::KafkaPublisher,
    settle::{Announced, Output},
};

/// The transactions of one consumer; the session of [`ExactlyOnce`](crate::ExactlyOnce).
pub struct ExactlyOnceSession {
    announced: Arc<Announced>,
    publisher: KafkaPublisher,
    watch: Watch,
}

impl ExactlyOnceSession {
    pub(super) fn new(announced: Arc<Announced>, publisher: KafkaPublisher, watch: Watch) -> Self {
        Self {
            announced,
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
        let outputs = match self.records(outputs).await {
            Ok(outputs) => outputs,
            Err(error) => return Err(Undone::new(settlement, error)),
        };
        let received = settlement.received().clone();
        let tag = settlement.tag();
        if !outputs.is_empty() {
            self.announced.put(tag, outputs);
        }
        if let Err(error) = decision.settle(settlement) {
            // Taken by nobody, so neither are its outputs.
            drop(self.announced.take(tag));
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

impl fmt::Debug for ExactlyOnceSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExactlyOnceSession").finish_non_exhaustive()
    }
}
