//! The client's producer of one kind of acknowledgement, and those that take its place.
//!
//! krafka 0.28 may keep a partition's place for ever for a request that it has lost, and then sends nothing more to that partition
//! (decision 0030). So a producer gets a successor when an outcome did not come by the publish deadline; and before that hands
//! anything over the outcomes of the former one are known, so that the messages of a key do not overtake each other.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use krafka::{
    CloseOptions, KrafkaError,
    producer::{Acks, Producer},
};
use mq_core::Result;
use tokio::{
    runtime::Handle,
    sync::{RwLock, RwLockReadGuard},
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    config::KafkaBuilder,
    error::{self, Stage},
};

/// Producers, one after the other.
pub(crate) struct Line {
    kafka: krafka::Kafka,
    config: KafkaBuilder,
    acks: Acks,
    serving: RwLock<Serving>,
    /// A successor is on its way.
    renewing: AtomicBool,
    closed: AtomicBool,
}

/// The producer of the moment.
pub(crate) struct Serving {
    pub(crate) producer: Producer,
    /// How many there were before.
    pub(crate) number: u64,
}

impl Line {
    pub(crate) async fn open(
        kafka: &krafka::Kafka,
        config: &KafkaBuilder,
        acks: Acks,
        operation: &'static str,
    ) -> Result<Arc<Self>> {
        let built = build(kafka, config, acks).await;
        let producer = built.map_err(|e| error::map(operation, Stage::Before, e))?;
        Ok(Arc::new(Self {
            kafka: kafka.clone(),
            config: config.clone(),
            acks,
            serving: RwLock::new(Serving {
                producer,
                number: 0,
            }),
            renewing: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }))
    }

    /// The producer of the moment. While this is held no other one takes its place.
    ///
    /// # Errors
    /// A time-out, if its successor was not there by the publish deadline.
    pub(crate) async fn serving(&self) -> Result<RwLockReadGuard<'_, Serving>, KrafkaError> {
        if let Ok(serving) = self.serving.try_read() {
            return Ok(serving);
        }
        timeout(self.config.publish_timeout, self.serving.read())
            .await
            .map_err(|_| KrafkaError::timeout("a producer that takes the place of a stuck one"))
    }

    /// An outcome of the producer of this number did not come in time.
    pub(crate) fn suspect(self: &Arc<Self>, number: u64) {
        // Whoever hears of the next one has a runtime, perhaps.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.renewing.swap(true, SeqCst) {
            return;
        }
        let line = Arc::clone(self);
        runtime.spawn(async move {
            line.renew(number).await;
            line.renewing.store(false, SeqCst);
        });
    }

    async fn renew(&self, number: u64) {
        let mut serving = self.serving.write().await;
        if serving.number != number || self.closed.load(SeqCst) {
            return;
        }
        // Each has its outcome by then, also what waits behind a lost request, which has none for the client.
        let _ = timeout(self.config.publish_timeout, serving.producer.flush()).await;
        let next = match build(&self.kafka, &self.config, self.acks).await {
            Ok(next) => next,
            Err(error) => {
                debug!(%error, "no other producer yet");
                return;
            }
        };
        let former = mem::replace(&mut serving.producer, next);
        serving.number += 1;
        drop(serving);
        warn!(acks = ?self.acks, "an outcome did not come by the publish deadline; the producer is made anew");
        let options = CloseOptions::new().timeout(self.config.request_timeout());
        if let Err(error) = former.close_with(options).await {
            debug!(%error, "the former producer did not close");
        }
    }

    pub(crate) async fn close(&self, options: CloseOptions) -> Result<(), KrafkaError> {
        self.closed.store(true, SeqCst);
        self.serving.read().await.producer.close_with(options).await
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use krafka::{
        Record,
        testing::{ApiKey, Control, FakeBroker},
    };
    use tokio::time::{Instant, sleep};

    use super::*;

    async fn line(fake: &FakeBroker) -> Arc<Line> {
        fake.create_topic("orders", 2);
        let config = KafkaBuilder::new("fake").publish_timeout(DEADLINE);
        let kafka = fake.kafka().request_timeout(config.request_timeout());
        let kafka = kafka.connect().await.unwrap();
        Line::open(&kafka, &config, Acks::All, "test")
            .await
            .unwrap()
    }

    /// Publishes to a partition, and tells the line of an outcome that is late.
    async fn publish(line: &Arc<Line>, partition: i32) -> Result<u64, KrafkaError> {
        let serving = line.serving().await?;
        let (number, record) = (serving.number, Record::new("orders", "one"));
        let handle = serving.producer.enqueue(record.partition(partition)).await;
        drop(serving);
        let outcome = handle?.await;
        if let Err(KrafkaError::DeliveryTimeout { .. }) = outcome {
            line.suspect(number);
        }
        outcome.map(|_| number)
    }

    #[tokio::test(start_paused = true)]
    async fn a_producer_of_which_an_outcome_was_late_gets_a_successor() {
        let fake = FakeBroker::start_in_memory(1);
        let line = line(&fake).await;
        assert_eq!(publish(&line, 0).await.unwrap(), 0);
        let start = Instant::now();
        fake.on(ApiKey::Produce, move |_| match start.elapsed() < DEADLINE {
            true => Control::Silence,
            false => Control::Pass,
        });
        publish(&line, 0).await.unwrap_err();
        // The next publish waits for the successor.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(publish(&line, 0).await.unwrap(), 1);
        assert_eq!(publish(&line, 1).await.unwrap(), 1);
        // One that is late to tell of the former one changes nothing.
        line.suspect(0);
        sleep(DEADLINE).await;
        assert_eq!(publish(&line, 0).await.unwrap(), 1);
        line.close(CloseOptions::new()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_waits_for_the_outcomes_of_the_former_one() {
        // A new producer asks one of the two, behind what that is slow with or not.
        for _ in 0..20 {
            let fake = FakeBroker::start_in_memory(2);
            let line = line(&fake).await;
            publish(&line, 0).await.unwrap();
            publish(&line, 1).await.unwrap();
            fake.on(ApiKey::Produce, |_| Control::Delay(DEADLINE / 6));
            let serving = line.serving().await.unwrap();
            let record = Record::new("orders", "one").partition(1);
            let slow = serving.producer.enqueue(record).await.unwrap();
            drop(serving);
            sleep(Duration::from_millis(1)).await;
            line.suspect(0);
            while line.serving().await.unwrap().number == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            let outcome = slow.now_or_never();
            assert!(matches!(outcome, Some(Ok(_))), "{outcome:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_is_closed_gets_no_successor() {
        let fake = FakeBroker::start_in_memory(1);
        let line = line(&fake).await;
        publish(&line, 0).await.unwrap();
        line.close(CloseOptions::new()).await.unwrap();
        line.suspect(0);
        sleep(DEADLINE).await;
        assert_eq!(line.serving().await.unwrap().number, 0);
    }

    const DEADLINE: Duration = Duration::from_secs(30);
}
