//! The producer against a publisher whose answers come when the test says so.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use mq_core::{
    Broker, Capabilities, ConsumePlan, Declaration, Deletion, Destination, Error, ErrorKind,
    Message, Publisher, Receipt, Result, Stored, Subscription,
};
use mq_memory::{Memory, MemoryConsumer, MemoryUnconfirmed};
use mq_patterns::producer_consumer::Producer;
use proptest::prelude::*;
use tokio::{sync::oneshot, time::timeout};

/// Publishes nothing: each message waits for its answer from the test.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<VecDeque<(Message, Answer)>>>);

type Answer = oneshot::Sender<Result<Receipt>>;

impl Held {
    fn waiting(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Answers the oldest message, and returns it.
    fn answer(&self, stored: bool) -> Message {
        let (message, answer) = self.0.lock().unwrap().pop_front().expect("a message");
        let outcome = match stored {
            true => Ok(Receipt::new(Stored::Process)),
            false => Err(Error::new(ErrorKind::Unknown, "publish", "no answer")),
        };
        answer.send(outcome).expect("the producer waits");
        message
    }
}

impl Publisher for Held {
    type Pending = Pin<Box<dyn Future<Output = Result<Receipt>> + Send>>;

    async fn enqueue(
        &self,
        _: &Destination,
        message: impl Into<Message> + Send,
    ) -> Result<Self::Pending> {
        let (answer, answered) = oneshot::channel();
        self.0.lock().unwrap().push_back((message.into(), answer));
        Ok(Box::pin(async move { answered.await.expect("an answer") }))
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A broker with that publisher.
#[derive(Clone, Default)]
struct HeldBroker(Held);

impl Broker for HeldBroker {
    type Publisher = Held;
    type Unconfirmed = MemoryUnconfirmed;
    type Consumer = MemoryConsumer;

    fn capabilities(&self) -> Capabilities {
        Capabilities::none()
    }

    fn product(&self) -> String {
        "held".into()
    }

    fn publisher(&self) -> Held {
        self.0.clone()
    }

    fn unconfirmed(&self) -> MemoryUnconfirmed {
        Memory::new().unconfirmed()
    }

    async fn consumer(&self, from: &Subscription, plan: ConsumePlan) -> Result<MemoryConsumer> {
        Memory::new().consumer(from, plan).await
    }

    async fn declare(&self, _: impl Into<Declaration> + Send) -> Result<()> {
        Ok(())
    }

    async fn verify(&self, _: impl Into<Declaration> + Send) -> Result<()> {
        Ok(())
    }

    async fn delete(&self, _: impl Into<Deletion> + Send) -> Result<()> {
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

fn producer(window: usize) -> (Held, Producer<u64, Held>) {
    let broker = HeldBroker::default();
    let producer = Producer::new(&broker, Destination::queue("items")).window(window);
    (broker.0, producer)
}

/// Long, on a clock that jumps ahead when nothing else can happen.
const NEVER: Duration = Duration::from_hours(1);

#[tokio::test(start_paused = true)]
async fn send_waits_for_room_and_a_dropped_send_sent_nothing() {
    let (held, mut producer) = producer(2);
    producer.send(&1).await.expect("room");
    producer.send(&2).await.expect("room");
    let third = timeout(NEVER, producer.send(&3)).await;
    assert!(third.is_err(), "there was no room");
    assert_eq!(held.waiting(), 2);

    let first = held.answer(true);
    assert_eq!(first.payload().map(|p| &p[..]), Some(&b"1"[..]));
    timeout(NEVER, producer.send(&3))
        .await
        .expect("room again")
        .expect("sent");
    assert_eq!(held.waiting(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_window_full_of_failures_stops_the_producer_until_they_are_taken() {
    let (held, mut producer) = producer(2);
    for item in 0..2 {
        producer.send(&item).await.expect("room");
        held.answer(false);
    }
    let error = producer.send(&2).await.expect_err("too many failures");
    assert_eq!(error.kind(), ErrorKind::Unknown);
    assert_eq!(held.waiting(), 0);

    assert_eq!(producer.flush().await.failed.len(), 2);
    producer.send(&2).await.expect("room again");
    held.answer(true);
    let sent = producer.finish().await;
    assert_eq!((sent.confirmed, sent.failed.len()), (1, 0));
    assert_eq!(sent.all_confirmed().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_flush_forgets_nothing() {
    let (held, mut producer) = producer(8);
    for item in 0..3 {
        producer.send(&item).await.expect("room");
    }
    held.answer(true);
    held.answer(false);
    assert!(timeout(NEVER, producer.flush()).await.is_err());
    held.answer(true);
    let sent = producer.flush().await;
    assert_eq!((sent.confirmed, sent.failed.len()), (2, 1));
    sent.all_confirmed().expect_err("one was not");
}

proptest! {
    #[test]
    fn counts_every_item_once_and_never_has_more_than_the_window_under_way(
        window in 1_usize..20,
        stored in prop::collection::vec(prop::bool::weighted(0.95), 0..100),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (held, mut producer) = producer(window);
            let (mut answers, mut failed, mut total) = (stored.iter(), Vec::new(), 0);
            let mut answer = || {
                let stored = answers.next().copied().unwrap_or(true);
                let message = held.answer(stored);
                if !stored {
                    failed.push(message.id().clone());
                }
            };
            let mut failures = Vec::new();
            for item in 0..stored.len() as u64 {
                loop {
                    match timeout(NEVER, producer.send(&item)).await {
                        Ok(Ok(())) => break,
                        // No room: it waits until an answer comes.
                        Err(_) => answer(),
                        // Too many failures: it goes on when they are taken.
                        Ok(Err(_)) => {
                            while held.waiting() > 0 {
                                answer();
                            }
                            let sent = producer.flush().await;
                            total += sent.confirmed;
                            failures.extend(sent.failed);
                        }
                    }
                }
                prop_assert!(held.waiting() <= window);
            }
            while held.waiting() > 0 {
                answer();
            }
            let sent = producer.finish().await;
            total += sent.confirmed;
            failures.extend(sent.failed);
            let ids: Vec<_> = failures.iter().map(|f| f.message.id().clone()).collect();
            prop_assert_eq!(ids, failed);
            prop_assert_eq!(total as usize + failures.len(), stored.len());
            Ok(())
        })?;
    }
}
