//! Members that are told to be fenced, at the client's own fake of a broker.

use krafka::{
    producer::Record,
    testing::{ApiKey, Control, FakeBroker},
};
use mq_core::{ConsumePlan, Consumer, Error, ErrorKind, Filter, Subscription};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    Kafka, KafkaConsumer, KafkaEvent, KafkaEvents,
    consumer::log::{Common, Log, LogReader},
    settle::{Homes, Window},
};

/// A member of a group, with what it is told of. The fake knows no settings of topics, which `consumer` would ask for.
pub(crate) async fn member(fake: &FakeBroker) -> (Kafka, KafkaConsumer, KafkaEvents) {
    fake.create_topic("orders", 1);
    let session = Duration::from_secs(2);
    let kafka = Kafka::builder(fake.bootstrap_servers())
        .instance_id("one")
        .session_timeout(session)
        .connect()
        .await
        .unwrap();
    let events = kafka.events();
    let subscription = Subscription::queue("orders");
    let plan = ConsumePlan::new();
    let (window, stop) = (Window::new(10), CancellationToken::new());
    let common = Common {
        inner: kafka.inner(),
        subscription: &subscription,
        plan: &plan,
        window: &window,
        homes: &Homes::default(),
        stop: &stop,
    };
    let log = Log {
        topic: "orders".into(),
        topic_id: fake.topic_id("orders").unwrap(),
        partitions: 1,
        group: Some("orders".into()),
        filter: Filter::All,
        tier: None,
    };
    let client = fake.kafka().connect().await.unwrap();
    let mut reader = LogReader::start(&common, &client, log).await.unwrap();
    reader.join(session).await.unwrap();
    let consumer = KafkaConsumer {
        readers: vec![reader],
        shared: None,
        turn: 0,
        window,
        source: "orders".into(),
        deadline: SOON,
        stop,
        transacted: None,
    };
    (kafka, consumer, events)
}

async fn is_told(events: &mut KafkaEvents, wanted: fn(&KafkaEvent) -> bool) {
    let told = async {
        while let Some(event) = events.next().await {
            if wanted(&event) {
                return;
            }
        }
        panic!("the events ended");
    };
    timeout(SOON, told).await.unwrap();
}

/// What is published is received, and its acknowledgement is committed.
async fn works(kafka: &Kafka, consumer: &mut KafkaConsumer) -> Result<(), Error> {
    let record = Record::new("orders", "work");
    let serving = kafka.inner().in_sync().serving().await.unwrap();
    let _ = serving.producer.send(record).await.unwrap();
    drop(serving);
    let next = timeout(SOON, consumer.receive()).await.unwrap()?;
    next.unwrap().ack()?;
    timeout(SOON, consumer.settled()).await.unwrap()
}

#[tokio::test]
async fn a_member_that_fences_itself_joins_again() {
    let fake = FakeBroker::start().await.unwrap();
    let (kafka, mut consumer, mut events) = member(&fake).await;
    works(&kafka, &mut consumer).await.unwrap();
    fake.on_once(ApiKey::Heartbeat, |_| {
        Control::Error(ErrorCode::FencedInstanceId)
    });
    is_told(&mut events, |event| {
        matches!(event, KafkaEvent::Lost { .. })
    })
    .await;
    works(&kafka, &mut consumer).await.unwrap();
    assert_eq!(fake.committed_offset("orders", "orders", 0), Some(2));
}

#[tokio::test]
async fn a_member_whose_name_another_has_ends_and_does_not_take_it_back() {
    let fake = FakeBroker::start().await.unwrap();
    let (kafka, mut consumer, mut events) = member(&fake).await;
    fake.with_state(|state| {
        let group = state.groups.get_mut("orders").unwrap();
        group.members[0].member_id = "of-another".into();
    });
    fake.on(ApiKey::Heartbeat, |_| {
        Control::Error(ErrorCode::FencedInstanceId)
    });
    let joins = fake.request_count(ApiKey::JoinGroup);
    is_told(&mut events, |event| {
        matches!(event, KafkaEvent::Fenced { .. })
    })
    .await;
    let error = works(&kafka, &mut consumer).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    // Its end is an error too, and not one more join.
    consumer.close().await.unwrap_err();
    assert_eq!(fake.request_count(ApiKey::JoinGroup), joins);
}

/// The join is the first to hear that the broker has forgotten the member.
#[tokio::test]
async fn what_a_forgotten_id_had_is_told_as_lost_and_placed_anew() {
    let fake = FakeBroker::start().await.unwrap();
    let (kafka, mut consumer, mut events) = member(&fake).await;
    works(&kafka, &mut consumer).await.unwrap();
    fake.on_once(ApiKey::JoinGroup, |_| {
        Control::Error(ErrorCode::UnknownMemberId)
    });
    fake.on_once(ApiKey::Heartbeat, |_| {
        Control::Error(ErrorCode::RebalanceInProgress)
    });
    is_told(&mut events, |event| {
        matches!(event, KafkaEvent::Lost { .. })
    })
    .await;
    works(&kafka, &mut consumer).await.unwrap();
    assert_eq!(fake.committed_offset("orders", "orders", 0), Some(2));
}

const SOON: Duration = Duration::from_secs(20);
