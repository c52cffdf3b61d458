//! What the tests of this crate share: a queue on the in-process broker, and a way to run a worker
//! until something was seen.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::{future::IntoFuture, time::Duration};

use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Delivery, Destination, Message, Publisher,
    Received, Run, Subscription,
};
use mq_memory::Memory;
use tokio::sync::{mpsc, oneshot};

/// A broker with the declared queue `orders`.
pub(crate) struct Bench {
    pub(crate) broker: Memory,
    pub(crate) orders: Destination,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::on(Memory::new()).await
    }

    pub(crate) async fn on(broker: Memory) -> Self {
        let orders = Destination::queue("orders");
        broker.declare(&orders).await.expect("declares");
        Self { broker, orders }
    }

    pub(crate) fn source(&self) -> Subscription {
        Subscription::queue("orders")
    }

    pub(crate) async fn publish(&self, message: impl Into<Message> + Send) {
        self.broker
            .publisher()
            .publish(&self.orders, message)
            .await
            .expect("confirmed");
    }

    /// The next message of a queue, acknowledged.
    pub(crate) async fn take(&self, queue: &str) -> Received {
        let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
        let mut consumer = self
            .broker
            .consumer(&Subscription::queue(queue), plan)
            .await
            .expect("opens");
        let delivery = soon(consumer.receive())
            .await
            .expect("receives")
            .expect("a message");
        let (received, settlement) = delivery.into_parts();
        settlement.ack().expect("settles");
        consumer.close().await.expect("closes");
        received
    }

    /// True if a queue holds nothing, delivered or not.
    pub(crate) async fn is_empty(&self, queue: &str) -> bool {
        self.rest(queue).await.is_empty()
    }

    /// What a queue holds, put back.
    pub(crate) async fn rest(&self, queue: &str) -> Vec<Received> {
        let plan = ConsumePlan::new()
            .prefetch(1000)
            .dead_letters(DeadLetters::None);
        let mut consumer = self
            .broker
            .consumer(&Subscription::queue(queue), plan)
            .await
            .expect("opens");
        let mut rest = Vec::new();
        let wait = Duration::from_millis(50);
        while let Ok(found) = tokio::time::timeout(wait, consumer.receive()).await {
            rest.push(found.expect("receives").expect("a message"));
        }
        let seen = rest
            .iter()
            .map(|delivery: &Delivery| delivery.received().clone())
            .collect();
        for delivery in rest {
            delivery.into_settlement().release().expect("settles");
        }
        consumer.close().await.expect("closes");
        seen
    }
}

/// Ends with a panic instead of hanging.
pub(crate) async fn soon<T>(future: impl IntoFuture<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future.into_future())
        .await
        .expect("within its deadline")
}

/// Runs a worker until the channel has given so many values, then stops it gracefully.
pub(crate) async fn run_until<T: Send + 'static>(
    run: Run,
    mut seen: mpsc::UnboundedReceiver<T>,
    count: usize,
) -> Vec<T> {
    let (done, all) = oneshot::channel();
    let signal = async move {
        let mut values = Vec::new();
        while values.len() < count {
            values.push(seen.recv().await.expect("the worker runs"));
        }
        let _ = done.send(values);
    };
    soon(run.with_graceful_shutdown(signal))
        .await
        .expect("ends well");
    all.await.expect("the signal came")
}
