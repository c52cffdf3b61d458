//! Values of one type, published many at a time.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{Bench, soon};
use mq_core::{
    Broker, ConsumePlan, Consumer, Datatype, Destination, ErrorKind, Publisher, Subscription,
    codec::JsonCodec,
};
use serde::{Serialize, Serializer};

/// A number; negative ones have no form in any codec.
struct Number(i64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            negative @ ..0 => Err(serde::ser::Error::custom(format!("{negative} is negative"))),
            number => serializer.serialize_i64(number),
        }
    }
}

#[tokio::test]
async fn outcomes_are_in_the_order_of_the_values_whatever_became_of_each() {
    let bench = Bench::new().await;
    let missing = Destination::queue("nowhere");
    let values: Vec<Number> = (0..700_i64)
        .map(|n| Number(if n % 100 == 7 { -n } else { n }))
        .collect();
    let to = |value: &Number| match value.0 % 300 {
        11 => missing.clone(),
        _ => bench.orders.clone(),
    };
    let numbers = Datatype::<Number, JsonCodec>::new()
        .envelope(|number, message| message.key(number.0.to_string()));
    let outcomes = soon(numbers.publish_all(&bench.broker.publisher(), &values, to)).await;

    assert_eq!(outcomes.len(), values.len());
    let mut stored = Vec::new();
    for (value, outcome) in values.iter().zip(outcomes) {
        let expected = match value.0 {
            ..0 => Err(ErrorKind::Codec),
            number if number % 300 == 11 => Err(ErrorKind::Unroutable),
            number => {
                stored.push(number);
                Ok(())
            }
        };
        let told = outcome.map(drop).map_err(|error| error.kind());
        assert_eq!(told, expected, "{}", value.0);
    }

    let from = Subscription::queue("orders");
    let plan = ConsumePlan::new().prefetch(1000);
    let mut consumer = bench.broker.consumer(&from, plan).await.expect("opens");
    for number in stored {
        let delivery = soon(consumer.receive()).await.expect("receives");
        let delivery = delivery.expect("a message");
        let read = delivery.decode::<JsonCodec, i64>().expect("a number");
        assert_eq!(read, number);
        let key = delivery.key().and_then(|key| key.as_str());
        assert_eq!(key, Some(&*number.to_string()));
        delivery.ack().expect("settles");
    }
}

#[tokio::test]
async fn no_values_have_no_outcomes() {
    let bench = Bench::new().await;
    let numbers = Datatype::<Number, JsonCodec>::new();
    let publisher = bench.broker.publisher();
    let outcomes = numbers.publish_all(&publisher, &[], |_| bench.orders.clone());
    assert!(soon(outcomes).await.is_empty());
    publisher.close().await.expect("closes");
}
