//! Public types can be sent and shared between tasks, and the boxed twins are brokers themselves.

use mq_core::{
    AtLeastOnce, AtMostOnce, BatchOutcome, Broker, Capabilities, ConsumePlan, Consumer, Delivery,
    Destination, Error, Headers, Message, MessageId, Outcome, PendingBatch, Publisher, Receipt,
    Received, Rejection, Run, Settlement, Subscription, Unconfirmed, Worker,
    dynamic::{AnyBroker, AnyConsumer, AnyPublisher, AnyUnconfirmed},
};
use mq_memory::Memory;

fn shared<T: Send + Sync + 'static>() {}
fn sent<T: Send + 'static>() {}

#[test]
fn values_cross_tasks() {
    shared::<(
        Message,
        MessageId,
        Headers,
        Destination,
        Subscription,
        ConsumePlan,
    )>();
    shared::<(
        Error,
        Receipt,
        Rejection,
        Capabilities,
        AtLeastOnce,
        AtMostOnce,
    )>();
    shared::<(Received, Delivery, Settlement)>();
    shared::<Worker<Memory>>();
    sent::<(Outcome, BatchOutcome, PendingBatch, Run)>();
}

#[test]
fn the_boxed_twins_are_what_they_stand_for() {
    fn broker<B: Broker>() {}
    fn publisher<P: Publisher>() {}
    fn unconfirmed<U: Unconfirmed>() {}
    fn consumer<C: Consumer>() {}
    broker::<AnyBroker>();
    publisher::<AnyPublisher>();
    unconfirmed::<AnyUnconfirmed>();
    consumer::<AnyConsumer>();
}
