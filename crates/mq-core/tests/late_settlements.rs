//! A broker that says at the end that it did not get every settlement.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::future::ready;

use mq_core::{
    Broker, Capabilities, ConsumePlan, Consumer, Declaration, Deletion, Delivery, Destination,
    Error, ErrorKind, Message, Publisher, Received, Result, Subscription, Worker, stale,
};
use mq_memory::Memory;
use tokio::sync::mpsc;

/// Its consumers end with an error of this kind.
#[derive(Clone)]
struct Late(Memory, ErrorKind);

struct LateConsumer(<Memory as Broker>::Consumer, ErrorKind);

impl Broker for Late {
    type Publisher = <Memory as Broker>::Publisher;
    type Unconfirmed = <Memory as Broker>::Unconfirmed;
    type Consumer = LateConsumer;

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn product(&self) -> String {
        self.0.product()
    }

    fn publisher(&self) -> Self::Publisher {
        self.0.publisher()
    }

    fn unconfirmed(&self) -> Self::Unconfirmed {
        self.0.unconfirmed()
    }

    async fn consumer(&self, from: &Subscription, plan: ConsumePlan) -> Result<LateConsumer> {
        let consumer = self.0.consumer(from, plan).await?;
        Ok(LateConsumer(consumer, self.1))
    }

    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.0.declare(what).await
    }

    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.0.verify(what).await
    }

    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        self.0.delete(what).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

impl Consumer for LateConsumer {
    fn receive_many(
        &mut self,
        into: &mut Vec<Delivery>,
        max: usize,
    ) -> impl Future<Output = Result<usize>> + Send {
        self.0.receive_many(into, max)
    }

    fn settled(&mut self) -> impl Future<Output = Result<()>> + Send {
        self.0.settled()
    }

    async fn close(self) -> Result<()> {
        self.0.close().await?;
        Err(match self.1 {
            ErrorKind::Stale => stale("orders"),
            kind => Error::new(kind, "close", "as it was told to"),
        })
    }
}

/// Handles one message with such a broker, and says how the worker ended.
async fn end_with(kind: ErrorKind) -> Result<()> {
    let broker = Late(Memory::new(), kind);
    let orders = Destination::queue("orders");
    broker.declare(&orders).await?;
    broker
        .publisher()
        .publish(&orders, Message::new("x"))
        .await?;
    let (tx, mut handled) = mpsc::channel(1);
    Worker::new(&broker, Subscription::queue("orders"))
        .run(move |_: Received| ready(tx.try_send(()).map_err(|error| error.to_string())))
        .with_graceful_shutdown(async move { handled.recv().await.expect("handled") })
        .await
}

#[tokio::test]
async fn what_comes_again_is_no_failure_of_a_worker() {
    end_with(ErrorKind::Stale).await.expect("an orderly end");
}

#[tokio::test]
async fn every_other_error_of_a_close_is() {
    let error = end_with(ErrorKind::Timeout)
        .await
        .expect_err("it timed out");
    assert_eq!(error.kind(), ErrorKind::Timeout);
}
