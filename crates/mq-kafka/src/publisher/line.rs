//! The client's producer of one kind of acknowledgement, and those that take its place.
//!
//! krafka 0.28 may keep a partition's place for ever for a request that it has lost, and then sends nothing more to that partition
//! (decision 0030). A producer of which a publish was lost so gets a successor; and before that hands anything over the outcomes of
//! the former one are known, so that the messages of a key do not overtake each other.

use std::{
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use krafka::{
    CloseOptions, KrafkaError,
    producer::{Acks, Producer},
};
use mq_core::Result;
use tokio::{
    runtime::Handle,
    sync::{RwLock, RwLockReadGuard},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    config::KafkaBuilder,
    connection,
    error::{self, Stage},
};

/// Producers, one after the other.
pub(crate) struct Line {
    config: KafkaBuilder,
    acks: Acks,
    serving: RwLock<Serving>,
    /// A successor is on its way.
    renewing: AtomicBool,
    closed: AtomicBool,
    /// Whoever hears of an outcome may be about to leave its own.
    runtime: Handle,
    connect: Mutex<Connect>,
}

/// Makes a handle that shares nothing with those before.
type Connect = Box<dyn FnMut() -> BoxFuture<'static, Result<krafka::Kafka, KrafkaError>> + Send>;

/// The producer of the moment.
pub(crate) struct Serving {
    pub(crate) producer: Arc<Producer>,
    /// How many there were before.
    pub(crate) number: u64,
}

/// Set back however the renewal ends.
struct Renewing(Arc<Line>);

impl Line {
    pub(crate) async fn open(
        kafka: &krafka::Kafka,
        config: &KafkaBuilder,
        acks: Acks,
        operation: &'static str,
    ) -> Result<Arc<Self>> {
        let built = build(kafka, config, acks).await;
        let producer = built.map_err(|e| error::map(operation, Stage::Before, e))?;
        let settings = config.clone();
        let connect = Box::new(move || {
            let settings = settings.clone();
            async move { connection::handle_of(&settings).await }.boxed()
        });
        Ok(Self::new(producer, config.clone(), acks, connect))
    }

    fn new(producer: Producer, config: KafkaBuilder, acks: Acks, connect: Connect) -> Arc<Self> {
        Arc::new(Self {
            config,
            acks,
            serving: RwLock::new(Serving {
                producer: Arc::new(producer),
                number: 0,
            }),
            renewing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            runtime: Handle::current(),
            connect: Mutex::new(connect),
        })
    }

    /// The producer of the moment. While this is held no other one takes its place.
    ///
    /// # Errors
    /// A time-out, if its successor was not there in time.
    pub(crate) async fn serving(&self) -> Result<RwLockReadGuard<'_, Serving>, KrafkaError> {
        if let Ok(serving) = self.serving.try_read() {
            return Ok(serving);
        }
        // A successor waits for those that are handing over, and then for outcomes.
        let patience = 2 * self.config.publish_timeout + self.config.request_timeout();
        let serving = timeout(patience, self.serving.read()).await;
        serving.map_err(|_| KrafkaError::timeout("waiting for another producer"))
    }

    /// The producer of the moment, for as long as it is asked to send what it has.
    pub(crate) async fn producer(&self) -> Result<Arc<Producer>, KrafkaError> {
        Ok(Arc::clone(&self.serving().await?.producer))
    }

    /// A publish of the producer of this number was lost.
    pub(crate) fn lost(self: &Arc<Self>, number: u64) {
        // What is told of a former one would hide what is told of its successor.
        let former = self
            .serving
            .try_read()
            .is_ok_and(|now| now.number != number);
        if former || self.renewing.swap(true, SeqCst) {
            return;
        }
        let renewing = Renewing(Arc::clone(self));
        self.runtime.spawn(async move {
            let line = &renewing.0;
            let mut pause = PAUSE;
            while let Err(error) = line.renew(number).await {
                if Arc::strong_count(line) == 1 {
                    // Nobody publishes any more.
                    return;
                }
                debug!(%error, "no other producer yet");
                sleep(pause).await;
                pause = LONG_PAUSE.min(pause * 2);
            }
        });
    }

    async fn renew(&self, number: u64) -> Result<(), KrafkaError> {
        if self.closed.load(SeqCst) || self.serving.read().await.number != number {
            return Ok(());
        }
        // Over a handle of its own: what was lost may have been more than the publish.
        let connecting = self.connect.lock().unwrap_or_else(PoisonError::into_inner)();
        // What is lost here would be waited for as long.
        let within = self.config.connect_timeout + self.config.request_timeout();
        let kafka = timeout(within, connecting)
            .await
            .unwrap_or_else(|_| Err(KrafkaError::timeout("connect")))?;
        let next = Arc::new(build(&kafka, &self.config, self.acks).await?);
        let mut serving = self.serving.write().await;
        // Each has its outcome by then, also what waits behind the lost one.
        let _ = timeout(self.config.publish_timeout, serving.producer.flush()).await;
        // Closed meanwhile, it is the successor that is not needed.
        let over = self.closed.load(SeqCst);
        let former = match over {
            true => next,
            false => mem::replace(&mut serving.producer, next),
        };
        serving.number += u64::from(!over);
        drop(serving);
        if !over {
            warn!(acks = ?self.acks, "the client has lost a publish with its connection; another producer takes over");
        }
        let options = CloseOptions::new().timeout(self.config.request_timeout());
        if let Err(error) = former.close_with(options).await {
            debug!(%error, "the former producer did not close");
        }
        Ok(())
    }

    pub(crate) async fn close(&self, options: CloseOptions) -> Result<(), KrafkaError> {
        self.closed.store(true, SeqCst);
        self.producer().await?.close_with(options).await
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        self.0.renewing.store(false, SeqCst);
    }
}

/// True of the outcome of a publish that the client has lost: it was on its way until its time was over, and nothing went wrong with
/// it. The time of a request is over long before.
pub(crate) fn is_lost(error: &KrafkaError) -> bool {
    matches!(error, KrafkaError::DeliveryTimeout { possibly_written: true, message } if !message.contains("last error"))
}

/// Only with the answer of all in-sync replicas can the broker tell a record that comes twice (idempotence).
pub(crate) async fn build(
    kafka: &krafka::Kafka,
    config: &KafkaBuilder,
    acks: Acks,
) -> Result<Producer, KrafkaError> {
    let producer = kafka
        .producer()
        .acks(acks)
        .idempotent(acks == Acks::All)
        .batch_size(config.batch_size())
        .linger(config.linger)
        .compression(config.compression.setting())
        .buffer_memory(config.window)
        .max_block(config.publish_timeout)
        .delivery_timeout(config.publish_timeout)
        .metrics_push(false)
        .build();
    producer.await
}

/// Between two attempts at a successor.
const PAUSE: Duration = Duration::from_millis(100);
const LONG_PAUSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use krafka::{
        Record,
        testing::{ApiKey, Control, FakeBroker},
    };
    use tokio::time::Instant;

    use super::*;

    /// A line whose later connections fail so many times.
    async fn line(fake: &Arc<FakeBroker>, mut fails: usize) -> Arc<Line> {
        fake.create_topic("orders", 2);
        let config = KafkaBuilder::new("fake").publish_timeout(DEADLINE);
        let kafka = connected(fake, config.request_timeout()).await.unwrap();
        let (fake, request) = (Arc::clone(fake), config.request_timeout());
        let connect: Connect = Box::new(move || {
            if let Some(less) = fails.checked_sub(1) {
                fails = less;
                return async { Err(KrafkaError::timeout("connect")) }.boxed();
            }
            let fake = Arc::clone(&fake);
            async move { connected(&fake, request).await }.boxed()
        });
        let producer = build(&kafka, &config, Acks::All).await.unwrap();
        Line::new(producer, config, Acks::All, connect)
    }

    async fn connected(fake: &FakeBroker, request: Duration) -> Result<krafka::Kafka, KrafkaError> {
        fake.kafka().request_timeout(request).connect().await
    }

    /// Publishes to a partition; tells which producer did it.
    async fn publish(line: &Line, partition: i32) -> Result<u64, KrafkaError> {
        let serving = line.serving().await?;
        let (number, record) = (serving.number, Record::new("orders", "one"));
        let handle = serving.producer.enqueue(record.partition(partition)).await;
        drop(serving);
        handle?.await.map(|_| number)
    }

    async fn succeeded(line: &Line) {
        let start = Instant::now();
        while line.serving().await.unwrap().number == 0 {
            assert!(start.elapsed() < 2 * DEADLINE, "there is none");
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_producer_that_has_lost_a_publish_gets_a_successor() {
        let fake = Arc::new(FakeBroker::start_in_memory(1));
        let line = line(&fake, 0).await;
        assert_eq!(publish(&line, 0).await.unwrap(), 0);
        line.lost(0);
        succeeded(&line).await;
        assert_eq!(publish(&line, 0).await.unwrap(), 1);
        assert_eq!(publish(&line, 1).await.unwrap(), 1);
        // One that is late to tell of the former one changes nothing.
        line.lost(0);
        sleep(DEADLINE).await;
        assert_eq!(publish(&line, 0).await.unwrap(), 1);
        line.close(CloseOptions::new()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_is_tried_for_while_the_former_one_serves() {
        let fake = Arc::new(FakeBroker::start_in_memory(1));
        let line = line(&fake, 5).await;
        let start = Instant::now();
        line.lost(0);
        sleep(2 * PAUSE).await;
        assert_eq!(publish(&line, 0).await.unwrap(), 0);
        succeeded(&line).await;
        assert!(start.elapsed() >= 31 * PAUSE, "{:?}", start.elapsed());
        assert_eq!(publish(&line, 0).await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_waits_for_the_outcomes_of_the_former_one() {
        let fake = Arc::new(FakeBroker::start_in_memory(1));
        let line = line(&fake, 0).await;
        publish(&line, 1).await.unwrap();
        fake.on(ApiKey::Produce, |_| Control::Delay(DEADLINE / 6));
        let serving = line.serving().await.unwrap();
        let record = Record::new("orders", "one").partition(1);
        let slow = serving.producer.enqueue(record).await.unwrap();
        drop(serving);
        sleep(Duration::from_millis(1)).await;
        line.lost(0);
        succeeded(&line).await;
        let outcome = slow.now_or_never();
        assert!(matches!(outcome, Some(Ok(_))), "{outcome:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_closed_gets_no_successor() {
        let fake = Arc::new(FakeBroker::start_in_memory(1));
        let line = line(&fake, 0).await;
        publish(&line, 0).await.unwrap();
        line.close(CloseOptions::new()).await.unwrap();
        line.lost(0);
        sleep(DEADLINE).await;
        assert_eq!(line.serving().await.unwrap().number, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_never_failed_before_its_time_was_over_is_lost() {
        let fake = Arc::new(FakeBroker::start_in_memory(1));
        let line = line(&fake, 0).await;
        // A broker that is silent: its requests end by their own time.
        fake.on(ApiKey::Produce, |_| Control::Silence);
        let error = publish(&line, 0).await.unwrap_err();
        assert!(
            matches!(error, KrafkaError::DeliveryTimeout { .. }),
            "{error}"
        );
        assert!(!is_lost(&error), "{error}");
        // What waited behind it was never sent.
        assert!(!is_lost(&KrafkaError::delivery_timeout(false, "")));
        assert!(is_lost(&KrafkaError::delivery_timeout(
            true,
            "not acknowledged within delivery_timeout after 1 attempt(s)"
        )));
    }

    const DEADLINE: Duration = Duration::from_secs(30);
}
