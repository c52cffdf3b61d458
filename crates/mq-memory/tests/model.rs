//! A queue against a naive model: whatever the settlements, nothing is lost or settled twice.
#![allow(
    clippy::expect_used,
    clippy::unwrap_in_result,
    reason = "a test panics where it fails"
)]

use std::collections::BTreeMap;

use mq_core::{
    Broker, ConsumePlan, Consumer, Delivery, Destination, Message, Publisher, Subscription,
};
use mq_memory::{Memory, MemoryConsumer};
use proptest::prelude::*;

const PREFETCH: u16 = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish,
    Receive,
    Ack(u8),
    Requeue(u8),
    Release(u8),
    Drop(u8),
    Reject(u8),
    Close(u8),
    Vanish(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        6 => Just(Step::Receive),
        3 => any::<u8>().prop_map(Step::Ack),
        2 => any::<u8>().prop_map(Step::Requeue),
        1 => any::<u8>().prop_map(Step::Release),
        1 => any::<u8>().prop_map(Step::Drop),
        1 => any::<u8>().prop_map(Step::Reject),
        1 => any::<u8>().prop_map(Step::Close),
        1 => any::<u8>().prop_map(Step::Vanish),
    ]
}

/// Where a message is, as far as the model knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Queue,
    Consumer(usize),
    Acked,
    Dead,
}

struct World {
    broker: Memory,
    queue: Destination,
    consumers: Vec<MemoryConsumer>,
    held: Vec<(usize, u32, Delivery)>,
    /// Place and failed deliveries of each message.
    model: BTreeMap<u32, (Place, u32)>,
}

impl World {
    async fn new(log: bool) -> Self {
        let broker = if log {
            Memory::builder().log(2).build()
        } else {
            Memory::new()
        };
        let queue = Destination::queue("q");
        broker.declare(&queue).await.expect("declared");
        let mut world = Self {
            broker,
            queue,
            consumers: Vec::new(),
            held: Vec::new(),
            model: BTreeMap::new(),
        };
        world.consumers = vec![world.open("q").await, world.open("q").await];
        world
    }

    async fn open(&self, name: &'static str) -> MemoryConsumer {
        let plan = ConsumePlan::new().prefetch(PREFETCH);
        self.broker
            .consumer(&Subscription::queue(name), plan)
            .await
            .expect("a consumer")
    }

    async fn publish(&mut self) {
        let number = self.model.len() as u32;
        let message = Message::new(number.to_le_bytes().to_vec()).key(number.to_string());
        self.broker
            .publisher()
            .publish(&self.queue, message)
            .await
            .expect("confirmed");
        self.model.insert(number, (Place::Queue, 0));
    }

    /// Receives all there is; checks it against the model.
    async fn receive(&mut self) -> Result<(), TestCaseError> {
        for at in 0..self.consumers.len() {
            let mut batch = Vec::new();
            let received = self.consumers[at].receive_many(&mut batch, 8);
            let _ = tokio::time::timeout(std::time::Duration::from_millis(1), received).await;
            for delivery in batch {
                let number = number(&delivery);
                let (place, failures) = self.model[&number];
                prop_assert_eq!(place, Place::Queue, "{} was not in the queue", number);
                prop_assert_eq!(delivery.attempt(), failures + 1);
                self.model.insert(number, (Place::Consumer(at), failures));
                self.held.push((at, number, delivery));
            }
            let holds = self.held.iter().filter(|(owner, ..)| *owner == at).count();
            prop_assert!(holds <= usize::from(PREFETCH));
        }
        Ok(())
    }

    fn settle(&mut self, step: Step, pick: u8) -> Result<(), TestCaseError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let (_, number, delivery) = self.held.swap_remove(usize::from(pick) % self.held.len());
        let failures = self.model[&number].1;
        let settlement = delivery.into_settlement();
        let (result, after) = match step {
            Step::Ack(_) => (settlement.ack(), (Place::Acked, failures)),
            Step::Reject(_) => (settlement.reject("no"), (Place::Dead, failures)),
            Step::Release(_) => (settlement.release(), (Place::Queue, failures)),
            Step::Requeue(_) => (settlement.requeue(), (Place::Queue, failures + 1)),
            _ => {
                drop(settlement);
                (Ok(()), (Place::Queue, failures + 1))
            }
        };
        prop_assert!(result.is_ok(), "{result:?}");
        self.model.insert(number, after);
        Ok(())
    }

    /// A consumer goes with what it holds, and another one comes.
    async fn replace(&mut self, pick: u8, close: bool) -> Result<(), TestCaseError> {
        let at = usize::from(pick) % self.consumers.len();
        let new = self.open("q").await;
        let old = std::mem::replace(&mut self.consumers[at], new);
        if close {
            old.close().await.expect("closed");
        } else {
            drop(old);
        }
        for (_, number, delivery) in self.held.extract_if(.., |(owner, ..)| *owner == at) {
            prop_assert!(delivery.ack().is_err(), "a late settlement was taken");
            let failures = self.model[&number].1;
            self.model
                .insert(number, (Place::Queue, failures + u32::from(!close)));
        }
        Ok(())
    }

    /// Settles everything and compares what is where with the model.
    async fn drain(mut self) -> Result<(), TestCaseError> {
        while self
            .model
            .values()
            .any(|(place, _)| !matches!(place, Place::Acked | Place::Dead))
        {
            let before = self.held.len();
            self.receive().await?;
            prop_assert!(
                self.held.len() > before || before > 0,
                "lost: {:?}",
                self.model
            );
            while !self.held.is_empty() {
                self.settle(Step::Ack(0), 0)?;
            }
        }
        self.receive().await?;
        prop_assert!(self.held.is_empty(), "delivered after its settlement");
        let mut dead = self.open("q.dead").await;
        let mut letters = Vec::new();
        let mut batch = Vec::new();
        let brief = std::time::Duration::from_millis(1);
        while tokio::time::timeout(brief, dead.receive_many(&mut batch, 8))
            .await
            .is_ok()
        {
            for letter in batch.drain(..) {
                letters.push(number(&letter));
                letter.ack().expect("acked");
            }
        }
        letters.sort_unstable();
        let expected: Vec<u32> = self
            .model
            .iter()
            .filter(|(_, (place, _))| *place == Place::Dead)
            .map(|(number, _)| *number)
            .collect();
        prop_assert_eq!(letters, expected);
        Ok(())
    }
}

fn number(delivery: &Delivery) -> u32 {
    let bytes = delivery.payload().expect("a payload");
    u32::from_le_bytes(bytes[..].try_into().expect("four bytes"))
}

async fn agrees(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new(false).await;
    for step in steps {
        match step {
            Step::Publish => world.publish().await,
            Step::Receive => world.receive().await?,
            Step::Close(pick) => world.replace(pick, true).await?,
            Step::Vanish(pick) => world.replace(pick, false).await?,
            Step::Ack(pick)
            | Step::Requeue(pick)
            | Step::Release(pick)
            | Step::Drop(pick)
            | Step::Reject(pick) => world.settle(step, pick)?,
        }
    }
    world.drain().await
}

/// In a log only loss, early or double settlement can be told: what is behind an unfinished record
/// may come again when a member goes.
async fn loses_nothing(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let world = World::new(true).await;
    let World {
        broker,
        queue,
        mut consumers,
        ..
    } = world;
    let (mut held, mut published, mut settled) = (Vec::new(), 0_u32, BTreeMap::new());
    let open = async || {
        let plan = ConsumePlan::new().prefetch(PREFETCH);
        broker
            .consumer(&Subscription::queue("q"), plan)
            .await
            .expect("a consumer")
    };
    let steps = steps
        .into_iter()
        .map(Some)
        .chain(std::iter::repeat_n(None, 10_000));
    for step in steps {
        if step.is_none() && settled.len() as u32 == published {
            break;
        }
        match step.unwrap_or(Step::Receive) {
            Step::Publish => {
                let message = Message::new(published.to_le_bytes().to_vec());
                let message = message.key(published.to_string());
                broker
                    .publisher()
                    .publish(&queue, message)
                    .await
                    .expect("confirmed");
                published += 1;
            }
            Step::Receive => {
                for (at, consumer) in consumers.iter_mut().enumerate() {
                    let mut batch = Vec::new();
                    let received = consumer.receive_many(&mut batch, 8);
                    let _ =
                        tokio::time::timeout(std::time::Duration::from_millis(1), received).await;
                    held.extend(batch.into_iter().map(|delivery| (at, delivery)));
                    let holds = held.iter().filter(|(owner, _)| *owner == at).count();
                    prop_assert!(holds <= usize::from(PREFETCH));
                }
            }
            Step::Close(pick) | Step::Vanish(pick) => {
                let at = usize::from(pick) % consumers.len();
                consumers[at] = open().await;
                held.retain(|(owner, _)| *owner != at);
            }
            Step::Requeue(pick) | Step::Release(pick) | Step::Drop(pick) if !held.is_empty() => {
                drop(held.swap_remove(usize::from(pick) % held.len()));
            }
            Step::Ack(pick) | Step::Reject(pick) if !held.is_empty() => {
                let (_, delivery) = held.swap_remove(usize::from(pick) % held.len());
                let number = number(&delivery);
                if delivery.ack().is_ok() {
                    *settled.entry(number).or_insert(0) += 1;
                }
            }
            _ => {}
        }
        if step.is_none() {
            for (_, delivery) in held.drain(..) {
                let number = number(&delivery);
                if delivery.ack().is_ok() {
                    *settled.entry(number).or_insert(0) += 1;
                }
            }
        }
    }
    prop_assert_eq!(settled.len() as u32, published, "lost");
    Ok(())
}

fn run(test: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(test)
}

proptest! {
    #[test]
    fn a_queue_loses_nothing_and_settles_nothing_twice(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        run(agrees(steps))?;
    }

    #[test]
    fn a_log_loses_nothing(steps in prop::collection::vec(step(), 0..120)) {
        run(loses_nothing(steps))?;
    }
}
