//! What happened in a case, told event by event, and judged by the checker.

use std::{collections::VecDeque, fs, path::PathBuf, time::Duration};

use mq_core::{
    Broker, ConsumePlan, Consumer, DeadLetters, Destination, ErrorKind, Message, Publisher,
    Receipt, Received, Subscription,
};
use mq_testkit::{
    Check,
    checker::{Checker, Claim, Report},
    history::{Event, Recorder, Tag, Tags},
};

use super::unique;

/// The history of one case, in a folder of its own that is deleted when the report is made.
pub struct Story {
    pub folder: PathBuf,
    pub run: String,
    producer: Recorder,
    tags: Tags,
    consumer: Recorder,
    faults: Recorder,
}

/// What publishes came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    pub confirmed: u64,
    /// Rejected, or never sent.
    pub refused: u64,
    pub unknown: u64,
}

impl Story {
    pub fn begin(name: &str) -> Check<Self> {
        let run = unique(name);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(&run);
        let producer = Recorder::create(&folder, &run, "producer")?;
        Ok(Self {
            tags: producer.tags(),
            producer,
            consumer: Recorder::create(&folder, &run, "consumer")?,
            faults: Recorder::create(&folder, &run, "faults")?,
            folder,
            run,
        })
    }

    /// Publishes that many messages, some on their way at a time.
    pub async fn publish(
        &self,
        publisher: &impl Publisher,
        to: &Destination,
        count: u64,
    ) -> Check<Published> {
        self.publish_some(publisher, to, count, |_| false).await
    }

    /// Publishes until the outcomes so far say that it is enough, or a publish is not even sent since
    /// the connection is gone.
    pub async fn publish_until(
        &self,
        publisher: &impl Publisher,
        to: &Destination,
        enough: impl FnMut(Published) -> bool,
    ) -> Check<Published> {
        self.publish_some(publisher, to, u64::MAX, enough).await
    }

    async fn publish_some(
        &self,
        publisher: &impl Publisher,
        to: &Destination,
        mut left: u64,
        mut enough: impl FnMut(Published) -> bool,
    ) -> Check<Published> {
        let mut published = Published::default();
        let mut pending = VecDeque::new();
        loop {
            while left > 0 && pending.len() < ON_THEIR_WAY {
                let tag = self.tags.next("key");
                left -= 1;
                self.producer.record(Event::send(&tag))?;
                let message = Message::new(tag.to_payload(200)).key(tag.key());
                match publisher.enqueue(to, message).await {
                    Ok(outcome) => pending.push_back((tag, outcome)),
                    Err(error) => {
                        self.told(&tag, to, &Err(error), &mut published)?;
                        left = 0;
                    }
                }
            }
            let Some((tag, outcome)) = pending.pop_front() else {
                return Ok(published);
            };
            self.told(&tag, to, &outcome.await, &mut published)?;
            if enough(published) {
                left = 0;
            }
        }
    }

    fn told(
        &self,
        tag: &Tag,
        to: &Destination,
        outcome: &mq_core::Result<Receipt>,
        published: &mut Published,
    ) -> Check {
        self.producer
            .record(Event::outcome(tag, to.name(), outcome))?;
        match outcome {
            Ok(_) => published.confirmed += 1,
            Err(error) if error.kind() == ErrorKind::Unknown => published.unknown += 1,
            Err(_) => published.refused += 1,
        }
        Ok(())
    }

    /// Reads a queue until nothing has come for a while; each message has its effect and is
    /// acknowledged. Returns how many came, and how many of them came again.
    pub async fn read(&self, broker: &impl Broker, queue: &str) -> Check<(u64, u64)> {
        let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
        let subscription = Subscription::queue(queue);
        let mut consumer = broker.consumer(&subscription, plan).await?;
        let (mut came, mut again) = (0, 0);
        while let Ok(delivery) = tokio::time::timeout(QUIET, consumer.receive()).await {
            let Some(delivery) = delivery? else { break };
            self.handled(queue, delivery.received())?;
            came += 1;
            again += u64::from(delivery.redelivered() == Some(true));
            delivery.ack()?;
        }
        consumer.close().await?;
        Ok((came, again))
    }

    /// A message of this queue has its effect.
    pub fn handled(&self, queue: &str, received: &Received) -> Check {
        if let Ok(tag) = self.consumer.received(queue, received)? {
            self.consumer.record(Event::effect(queue, &tag))?;
        }
        Ok(())
    }

    /// A fault of this name begins.
    pub fn fault(&self, name: &str) -> Check {
        Ok(self.faults.record(Event::fault(name))?)
    }

    /// It is over.
    pub fn healed(&self, name: &str) -> Check {
        Ok(self.faults.record(Event::healed(name))?)
    }

    /// What the checker says, when nothing is left to read in these queues.
    pub fn end(self, claim: Claim, queues: &[&str]) -> Check<Report> {
        self.faults.record(Event::drained())?;
        let claim = queues
            .iter()
            .fold(claim, |claim, queue| claim.group(*queue));
        let report = Checker::new(claim).keep(1).check(&self.folder)?;
        // With `--nocapture` it tells what was seen.
        eprintln!("{report}");
        fs::remove_dir_all(&self.folder)?;
        Ok(report)
    }
}

/// Publishes whose outcome is missing.
const ON_THEIR_WAY: usize = 50;
/// How long nothing comes before a queue is taken for read: longer than a queue takes to find a
/// leader.
const QUIET: Duration = Duration::from_secs(6);
