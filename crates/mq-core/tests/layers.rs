//! Layers, services as handlers, and the boxed twins.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use common::{Bench, run_until, soon};
use mq_core::{
    Broker, Classify, ConsumePlan, ErrorKind, Message, Outcome, Publisher, Received, Worker,
    dynamic::AnyBroker, headers, layer::PlanLayer,
};
use mq_memory::Memory;
use tokio::sync::mpsc;
use tower::{Layer, Service, timeout::TimeoutLayer};

type Log = Arc<Mutex<Vec<&'static str>>>;

/// Notes its name on each call.
#[derive(Clone)]
struct Named(&'static str, Log);

#[derive(Clone)]
struct NamedService<T>(T, Named);

impl<T> Layer<T> for Named {
    type Service = NamedService<T>;

    fn layer(&self, inner: T) -> NamedService<T> {
        NamedService(inner, self.clone())
    }
}

impl<T: Service<Received>> Service<Received> for NamedService<T> {
    type Response = T::Response;
    type Error = T::Error;
    type Future = T::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), T::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, received: Received) -> T::Future {
        self.1.1.lock().expect("no panic").push(self.1.0);
        self.0.call(received)
    }
}

#[tokio::test]
async fn the_layer_added_last_is_outermost() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let log = Log::default();
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .layer(Named("first", Arc::clone(&log)))
        .layer(Named("second", Arc::clone(&log)))
        .run(move || {
            let sent = tx.send(());
            async move { sent.transient() }
        });
    run_until(run, rx, 1).await;
    assert_eq!(*log.lock().expect("no panic"), ["second", "first"]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_tower_is_a_failed_attempt() {
    let bench = Bench::new().await;
    bench.publish(Message::new("x")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source())
        .max_attempts(2)
        .layer(TimeoutLayer::new(Duration::from_secs(3)))
        .run(move |received: Received| {
            let _ = tx.send(received.attempt());
            std::future::pending::<()>()
        });
    let start = tokio::time::Instant::now();
    assert_eq!(run_until(run, rx, 2).await, [1, 2]);
    assert_eq!(start.elapsed().as_secs(), 6);
    let dead = bench.take("orders.dead").await;
    assert_eq!(dead.headers().text(headers::DEAD_REASON), Some("exhausted"));
}

/// A handler that is a service.
#[derive(Clone)]
struct Doubler(mpsc::UnboundedSender<usize>);

impl Service<Received> for Doubler {
    type Response = Outcome;
    type Error = Infallible;
    type Future = Ready<Result<Outcome, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, received: Received) -> Self::Future {
        let _ = self.0.send(received.payload().map_or(0, |p| p.len() * 2));
        ready(Ok(Outcome::ack()))
    }
}

#[tokio::test]
async fn a_tower_service_is_a_handler() {
    let bench = Bench::new().await;
    bench.publish(Message::new("abc")).await;
    let (tx, rx) = mpsc::unbounded_channel();
    let run = Worker::new(&bench.broker, bench.source()).run(Doubler(tx));
    assert_eq!(run_until(run, rx, 1).await, [6]);
}

/// A layer that asks for delays.
#[derive(Clone)]
struct Delays(Log);

impl PlanLayer for Delays {
    type Layer = Named;

    fn plan(self, plan: &mut ConsumePlan) -> Named {
        plan.delays.push(Duration::from_secs(10));
        Named("planned", self.0)
    }
}

#[tokio::test]
async fn a_layer_that_needs_what_the_broker_lacks_is_refused_at_the_start() {
    let log = Log::default();
    // A log has no timers of its own in the in-process broker unless it says so.
    let bench = Bench::on(Memory::builder().log(1).build()).await;
    let run = Worker::new(&bench.broker, bench.source())
        .layer(Delays(log))
        .run(async || {});
    let can = bench.broker.capabilities().has(mq_core::Capability::Defer);
    let ended = soon(run.with_graceful_shutdown(async {})).await;
    match can {
        true => ended.expect("has delays"),
        false => {
            let error = ended.expect_err("has no delays");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert_eq!(error.context("capability"), Some("defer"));
        }
    }
}

#[tokio::test]
async fn a_boxed_broker_does_what_the_broker_does() {
    let bench = Bench::new().await;
    let any = AnyBroker::new(bench.broker.clone());
    assert_eq!(any.capabilities(), bench.broker.capabilities());
    let (tx, rx) = mpsc::unbounded_channel();
    for outcome in any
        .publisher()
        .publish_batch(
            &bench.orders,
            vec![
                Message::new("a").build(),
                Message::new("b").header(headers::ID, "mine").build(),
                Message::new("c").build(),
            ],
        )
        .await
        .iter()
        .enumerate()
        .map(|(i, o)| (i, o.as_ref().map_err(mq_core::Error::kind)))
    {
        match outcome {
            (1, outcome) => assert_eq!(outcome.err(), Some(ErrorKind::InvalidMessage)),
            (_, outcome) => assert!(outcome.is_ok()),
        }
    }
    let run = Worker::new(&any, bench.source()).run(move || {
        let sent = tx.send(());
        async move { sent.transient() }
    });
    run_until(run, rx, 2).await;
    any.close().await.expect("closes");
    let error = bench
        .broker
        .publisher()
        .publish(&bench.orders, Message::new("d"))
        .await;
    assert_eq!(error.expect_err("closed").kind(), ErrorKind::Closed);
}
