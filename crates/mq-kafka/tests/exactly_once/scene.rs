//! What the cases of exactly once share: a source, a target, a copier, and readers that check what is there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use krafka::consumer::{AutoOffsetReset, IsolationLevel};
use mq_kafka::{
    ExactlyOnce, GroupProtocol, Kafka, KafkaBuilder, TopicSettings,
    core::{
        Broker, ConsumePlan, Consumer, DeadLetters, Destination, Message, Outcome, Publisher,
        Received, Result, Subscription, Worker,
    },
};
use mq_testkit::{Check, Failure};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::support::{check, same, unique, within};

/// Where a record of the source lies.
pub(crate) type Place = (u32, u64);

/// A queue of two partitions that is copied to a topic of three.
pub(crate) struct Scene {
    pub(crate) servers: String,
    pub(crate) kafka: Kafka,
    pub(crate) source: Destination,
    pub(crate) target: Destination,
}

impl Scene {
    pub(crate) async fn new(servers: &str, what: &str) -> Check<Self> {
        Self::made(GroupProtocol::Classic, servers, what, &[]).await
    }

    pub(crate) async fn under(protocol: GroupProtocol, servers: &str, what: &str) -> Check<Self> {
        Self::made(protocol, servers, what, &[]).await
    }

    /// With retry topics for so many seconds.
    pub(crate) async fn retrying(servers: &str, what: &str, delays: &[u64]) -> Check<Self> {
        Self::made(GroupProtocol::Classic, servers, what, delays).await
    }

    async fn made(
        protocol: GroupProtocol,
        servers: &str,
        what: &str,
        delays: &[u64],
    ) -> Check<Self> {
        let source = Destination::queue(unique(&format!("{what}.from")));
        let target = Destination::topic(unique(&format!("{what}.to")));
        let delays = delays.iter().map(|seconds| Duration::from_secs(*seconds));
        let builder = Self::builder(servers, protocol, &source, &target).delays(delays);
        let kafka = builder.connect().await?;
        kafka.declare(&source).await?;
        kafka.declare(&target).await?;
        for reader in READERS {
            kafka
                .declare(&Subscription::durable(target.name().clone(), reader))
                .await?;
        }
        Ok(Self {
            servers: servers.to_owned(),
            kafka,
            source,
            target,
        })
    }

    pub(crate) async fn connect(
        servers: &str,
        protocol: GroupProtocol,
        source: &Destination,
        target: &Destination,
    ) -> Result<Kafka> {
        Self::builder(servers, protocol, source, target)
            .connect()
            .await
    }

    /// Under the classic protocol a killed member holds up its group for 6 s, not for 45.
    fn builder(
        servers: &str,
        protocol: GroupProtocol,
        source: &Destination,
        target: &Destination,
    ) -> KafkaBuilder {
        Kafka::builder(servers)
            .topic(&**source.name(), TopicSettings::new().partitions(2))
            .topic(&**target.name(), TopicSettings::new().partitions(3))
            .group_protocol(protocol)
            .session_timeout(Duration::from_secs(6))
    }

    /// Publishes so many numbers, over 16 keys.
    pub(crate) async fn fill(&self, numbers: std::ops::Range<u32>) -> Check {
        let messages = numbers
            .map(|n| {
                Message::new(n.to_string())
                    .key(format!("k{}", n % 16))
                    .build()
            })
            .collect();
        self.kafka
            .publisher()
            .publish_batch(&self.source, messages)
            .await
            .all_confirmed()?;
        Ok(())
    }

    /// A worker that is not run yet.
    pub(crate) fn worker(&self, guarantee: &ExactlyOnce) -> Worker<Kafka, ExactlyOnce> {
        Worker::new(&self.kafka, Subscription::queue(self.source.name().clone()))
            .guarantee(guarantee.clone())
            .prefetch(500)
            .concurrency(8)
    }

    /// Copies until it is stopped.
    pub(crate) fn copy(&self, guarantee: &ExactlyOnce) -> Copier {
        let target = self.target.clone();
        Copier::start(|stopped| {
            self.worker(guarantee)
                .run(move |received: Received| {
                    let target = target.clone();
                    async move { copy(&received, &target) }
                })
                .with_graceful_shutdown(stopped)
        })
    }

    /// Reads until it has copies of so many records and nothing more comes; then checks that each is there once, in order.
    pub(crate) async fn read(&self, reader: &str, count: usize) -> Check {
        let copies = self.copies(reader, count).await?;
        once_in_order(&copies, count, reader)
    }

    /// What a reader of committed data sees: for each partition of the target, where its copies come from, in order.
    pub(crate) async fn copies(
        &self,
        reader: &str,
        count: usize,
    ) -> Check<BTreeMap<u32, Vec<Place>>> {
        let mut copies: BTreeMap<u32, Vec<Place>> = BTreeMap::new();
        for copy in self.outputs(reader, count).await? {
            let at = copy.position().expect("a position").partition;
            copies.entry(at).or_default().push(origin(&copy)?);
        }
        Ok(copies)
    }

    /// All that a reader of committed data sees in the target, once there are so many and nothing more comes.
    pub(crate) async fn outputs(&self, reader: &str, count: usize) -> Check<Vec<Received>> {
        let from = Subscription::durable(self.target.name().clone(), reader);
        let plan = ConsumePlan::new()
            .prefetch(u16::MAX)
            .dead_letters(DeadLetters::None);
        let mut consumer = self.kafka.consumer(&from, plan).await?;
        let (mut outputs, start) = (Vec::new(), Instant::now());
        loop {
            let wait = match outputs.len() < count {
                true => PATIENCE.saturating_sub(start.elapsed()),
                // What comes twice would come by now.
                false => Duration::from_secs(2),
            };
            let Ok(delivery) = tokio::time::timeout(wait, consumer.receive()).await else {
                break;
            };
            let Some(delivery) = delivery? else { break };
            outputs.push(delivery.received().clone());
            delivery.ack()?;
        }
        consumer.close().await?;
        Ok(outputs)
    }

    /// How many copies there are for one who reads aborted ones too.
    pub(crate) async fn written(&self) -> Check<usize> {
        self.records(self.target.name(), IsolationLevel::ReadUncommitted)
            .await
    }

    /// How many records of a topic there are for one who reads so.
    pub(crate) async fn records(&self, topic: &str, isolation: IsolationLevel) -> Check<usize> {
        let kafka = krafka::Kafka::builder(&self.servers).connect().await?;
        let reader = kafka
            .consumer_without_group()
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .isolation_level(isolation)
            .build()
            .await?;
        reader.subscribe([topic]).await?;
        let mut written = 0;
        let mut quiet = Instant::now();
        while quiet.elapsed() < Duration::from_secs(3) {
            let records = reader.poll(Duration::from_millis(300)).await?;
            if !records.is_empty() {
                (written, quiet) = (written + records.len(), Instant::now());
            }
        }
        Ok(written)
    }
}

/// The copy of a record, which says where it comes from.
pub(crate) fn copy(received: &Received, target: &Destination) -> Outcome {
    let at = received.position().expect("a position");
    let copy = Message::new(received.payload().cloned().unwrap_or_default())
        .key(received.key().expect("a key").clone())
        .header(FROM, format!("{}:{}", at.partition, at.offset));
    Outcome::ack().publish(target, copy)
}

fn origin(received: &Received) -> Check<Place> {
    let text = received.headers().text(FROM);
    let place = text.and_then(|text| {
        let (partition, offset) = text.split_once(':')?;
        Some((partition.parse().ok()?, offset.parse().ok()?))
    });
    place.ok_or_else(|| Failure::new(format!("it does not say where it comes from: {text:?}")))
}

pub(crate) fn once_in_order(copies: &BTreeMap<u32, Vec<Place>>, count: usize, who: &str) -> Check {
    let mut seen = BTreeSet::new();
    for (at, places) in copies {
        let mut last: HashMap<u32, u64> = HashMap::new();
        for (partition, offset) in places {
            check(
                seen.insert((*partition, *offset)),
                format!("{who}: the copy of {partition}:{offset} is there twice"),
            )?;
            if let Some(before) = last.insert(*partition, *offset) {
                check(
                    before < *offset,
                    format!("{who}: in {at}, {partition}:{offset} came after {before}"),
                )?;
            }
        }
    }
    same(seen.len(), count, &format!("{who}: records copied"))
}

/// A worker in a task of its own.
pub(crate) struct Copier {
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<()>>,
}

impl Copier {
    pub(crate) fn start<R>(
        run: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> R,
    ) -> Self
    where
        R: IntoFuture<Output = Result<()>, IntoFuture: Send + 'static>,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = Box::pin(async move {
            let _ = stopped.await;
        });
        Self {
            stop: Some(stop),
            ended: tokio::spawn(run(stopped).into_future()),
        }
    }

    /// Stops it; what it ended with.
    pub(crate) async fn stop(mut self) -> Check<Result<()>> {
        drop(self.stop.take());
        Ok(within(60, self.ended).await??)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_finished()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) -> Check<Result<()>> {
        let ended = within(90, self.ended).await??;
        drop(self.stop);
        Ok(ended)
    }
}

/// Who reads the target: one at the time, one afterwards.
pub(crate) const READERS: [&str; 2] = ["now", "late"];
pub(crate) const FROM: &str = "from";
const PATIENCE: Duration = Duration::from_secs(150);
