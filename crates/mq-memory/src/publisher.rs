//! Publishing into this process.

use std::{
    future::{Ready, ready},
    sync::{Arc, atomic::Ordering},
};

use mq_core::{Destination, Message, PendingBatch, Publisher, Receipt, Result, Unconfirmed};
use tokio::task::coop;

use crate::connection::Shared;

/// The confirmed publisher: an outcome is known as soon as the message is enqueued.
#[derive(Debug, Clone)]
pub struct MemoryPublisher(pub(crate) Arc<Shared>);

/// The publisher that waits for no answer: an unroutable or rejected message is lost without a
/// word, as on a real broker.
#[derive(Debug, Clone)]
pub struct MemoryUnconfirmed(pub(crate) Arc<Shared>);

impl Publisher for MemoryPublisher {
    type Pending = Ready<Result<Receipt>>;

    async fn enqueue(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> Result<Self::Pending> {
        // A loop of publishes never waits; this lets other tasks of the thread run.
        coop::consume_budget().await;
        self.0.publishing("publish")?;
        let message = message.into();
        self.0.check(to, &message)?;
        Ok(ready(self.0.store(to, message)))
    }

    async fn publish(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> Result<Receipt> {
        // The same as the provided one, with one future less to move the message through.
        coop::consume_budget().await;
        self.0.publishing("publish")?;
        let message = message.into();
        self.0.check(to, &message)?;
        self.0.store(to, message)
    }

    async fn enqueue_batch(&self, to: &Destination, messages: Vec<Message>) -> PendingBatch {
        coop::consume_budget().await;
        let outcomes = self.0.store_batch(to, messages);
        PendingBatch::new(ready(outcomes))
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.0.publisher_closed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Unconfirmed for MemoryUnconfirmed {
    async fn hand_over(&self, to: &Destination, message: impl Into<Message> + Send) -> Result<()> {
        coop::consume_budget().await;
        self.0.open("hand over")?;
        let message = message.into();
        self.0.check(to, &message)?;
        self.0.hand_over(to, message);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }
}
