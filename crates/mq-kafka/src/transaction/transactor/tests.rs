//! Transactions that fail before their commit, at the client's own fake of a broker.

use std::sync::Arc;

use krafka::{
    Record,
    error::ErrorCode,
    testing::{ApiKey, Control, FakeBroker},
};
use mq_core::{Broker, Consumer};
use tokio::time::timeout;

use super::*;
use crate::{
    Kafka, KafkaConsumer,
    connection::transactional,
    consumer::member,
    settle::{Announced, Output},
    transaction::status::Status,
};

/// A worker without its handler: each record is copied to another topic.
struct Copier {
    kafka: Kafka,
    consumer: KafkaConsumer,
    announced: Arc<Announced>,
    status: Arc<Status>,
}

impl Copier {
    async fn start(fake: &FakeBroker, transaction_version: i16, abort_after: Duration) -> Self {
        fake.set_transaction_version(transaction_version);
        fake.create_topic("copies", 1);
        let (kafka, mut consumer, _) = member(fake).await;
        let seat = consumer.begin_transactions().unwrap();
        let inner = kafka.inner();
        let producer = transactional(&inner.config, "copier", Duration::from_secs(60));
        let (producer, brokers) = producer.await.unwrap();
        let status = Arc::<Status>::default();
        let transactor = Transactor {
            producer,
            brokers,
            logs: seat.logs,
            publisher: kafka.publisher(),
            watch: inner.watch.clone(),
            running: status.begin().unwrap(),
            every: Duration::from_millis(10),
            after: 10,
            abort_after,
            unreachable_after: SOON,
            close_within: SOON,
            over: seat.over,
        };
        tokio::spawn(transactor.run());
        let announced = seat.announced;
        Self {
            kafka,
            consumer,
            announced,
            status,
        }
    }

    async fn publish(&self) {
        let record = Record::new("orders", "work");
        let serving = self.kafka.inner().in_sync().serving().await.unwrap();
        let _ = serving.producer.send(record).await.unwrap();
    }

    /// Handles the next record.
    async fn copy(&mut self) -> Result<()> {
        let next = timeout(SOON, self.consumer.receive()).await.unwrap()?;
        let settlement = next.unwrap().into_settlement();
        let output = Output {
            record: Record::new("copies", "work"),
            flow: None,
        };
        self.announced.put(settlement.tag(), vec![output]);
        settlement.ack()
    }

    /// Waits until so many are committed and aborted.
    async fn has(&self, committed: u64, aborted: u64) {
        let has = async {
            loop {
                let read = self.status.read();
                if (read.committed, read.aborted) == (committed, aborted) {
                    return;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let had = timeout(SOON, has).await;
        had.unwrap_or_else(|_| panic!("{:?}", self.status.read()));
    }

    /// Waits until its transactions have ended for good.
    async fn ended(mut self) -> Error {
        match timeout(SOON, self.consumer.receive()).await.unwrap() {
            Err(error) => error,
            Ok(_) => panic!("it goes on"),
        }
    }
}

async fn is_aborted_in_time(step: ApiKey, answer: Control) {
    let fake = FakeBroker::start().await.unwrap();
    let mut copier = Copier::start(&fake, 2, ABORT_AFTER).await;
    copier.publish().await;
    fake.on(step, move |_| answer.clone());
    copier.copy().await.unwrap();
    copier.has(0, 1).await;
    fake.clear_hooks();
    // It comes again.
    copier.copy().await.unwrap();
    copier.has(1, 1).await;
    assert_eq!(fake.committed_offset("orders", "orders", 0), Some(1));
    assert_eq!(fake.committed_records("copies").unwrap().len(), 1);
}

#[tokio::test]
async fn one_whose_offsets_are_not_taken_is_aborted_in_time() {
    // The client itself would ask for longer than the test waits.
    let loading = Control::Error(ErrorCode::CoordinatorLoadInProgress);
    is_aborted_in_time(ApiKey::TxnOffsetCommit, loading).await;
}

#[tokio::test]
async fn one_whose_outputs_are_not_stored_is_aborted_in_time() {
    is_aborted_in_time(ApiKey::Produce, Control::Delay(3 * ABORT_AFTER)).await;
}

#[tokio::test]
async fn a_step_that_takes_too_long_says_what_it_waited_for() {
    let latest = tokio::time::Instant::now() + ABORT_AFTER;
    let never = std::future::pending::<Result<(), Fault>>();
    let Err(Fault::Abort(error)) = in_time(latest, || late("no offsets"), never).await else {
        panic!("it is not aborted");
    };
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.is_retryable());
    assert_eq!(error.to_string(), "transaction: no offsets");
}

/// The answer ends the client while the outputs are stored, after the offsets were.
#[tokio::test]
async fn what_ends_the_client_before_the_commit_is_told() {
    let fake = FakeBroker::start().await.unwrap();
    let mut copier = Copier::start(&fake, 2, SOON).await;
    copier.publish().await;
    fake.on(ApiKey::Produce, |_| {
        let denied = Control::Error(ErrorCode::TransactionalIdAuthorizationFailed);
        Control::DelayThen(ABORT_AFTER, Box::new(denied))
    });
    copier.copy().await.unwrap();
    assert_eq!(copier.ended().await.kind(), ErrorKind::Permission);
}

#[tokio::test]
async fn one_whose_id_was_forgotten_may_start_again() {
    for transaction_version in [1, 2] {
        let fake = FakeBroker::start().await.unwrap();
        let mut copier = Copier::start(&fake, transaction_version, SOON).await;
        copier.publish().await;
        copier.copy().await.unwrap();
        copier.has(1, 0).await;
        // As after a week without a transaction.
        fake.with_state(|state| state.transactions.clear());
        copier.publish().await;
        copier.copy().await.unwrap();
        let start = Instant::now();
        let error = copier.ended().await;
        assert!(start.elapsed() < SOON / 2, "{error}");
        assert_eq!(error.kind(), ErrorKind::Broker, "{error}");
        assert!(error.is_retryable(), "{error}");
        assert_eq!(error.context("transactional id"), Some("copier"));
        assert!(error.to_string().contains("start again"), "{error}");
    }
}

#[tokio::test]
async fn a_producer_is_had_whatever_times_are_set() {
    let fake = FakeBroker::start().await.unwrap();
    let kafka = Kafka::connect(fake.bootstrap_servers()).await.unwrap();
    let seconds = Duration::from_secs;
    for (timeout, linger, connect) in [(10, 0, 5), (10, 15, 5), (30, 1, 10), (60, 15, 30)] {
        let mut config = kafka.inner().config.clone();
        config.linger = seconds(linger);
        config.connect_timeout = seconds(connect);
        let producer = transactional(&config, "copier", seconds(timeout)).await;
        let (producer, _) = producer.unwrap();
        producer.close().await.unwrap();
    }
}

const ABORT_AFTER: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(20);
