//! Moves rejected records: copy to the dead-letter home, confirmed, then settled.

use std::sync::Arc;

use mq_core::{Destination, dead_letter_copy};
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use crate::publisher::KafkaPublisher;

/// Copies rejected records until it is stopped or a copy is not confirmed, which ends the consumer.
pub(crate) async fn copy_rejected(
    ledger: Arc<Ledger>,
    publisher: KafkaPublisher,
    home: Destination,
    stop: CancellationToken,
) {
    loop {
        let rejects = ledger.take_rejects();
        if rejects.is_empty() {
            tokio::select! {
                () = stop.cancelled() => return,
                () = ledger.rejected.notified() => continue,
            }
        }
        let mut copies = Vec::with_capacity(rejects.len());
        for reject in rejects {
            let copy = dead_letter_copy(&reject.received, &reject.why);
            copies.push((publisher.enqueue_to(&home, &copy).await, reject));
        }
        for (enqueued, reject) in copies {
            // Each one ends by the publish deadline.
            let confirmed = match enqueued {
                Ok(outcome) => outcome.await,
                Err(error) => Err(error),
            };
            match confirmed {
                Ok(_) => ledger.copied(&reject),
                Err(error) => {
                    ledger.not_copied(&reject);
                    ledger.end(Some(error.with("source", reject.received.source())));
                }
            }
        }
    }
}
