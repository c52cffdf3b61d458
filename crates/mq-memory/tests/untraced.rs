//! What spans cost where nobody wants them: nothing that is allocated.
#![allow(clippy::expect_used, reason = "a test may panic")]

use std::sync::{Mutex, PoisonError};

use allocation_counter::measure;
use mq_core::{
    Broker, ConsumePlan, Consumer, Destination, Message, Publisher, Received, Subscription, Worker,
};
use mq_memory::Memory;
use tokio::{runtime, sync::mpsc};
use tracing::{level_filters::LevelFilter, subscriber::with_default};
use tracing_subscriber::{Layer, layer::SubscriberExt, registry};

/// One test at a time: what a call site asks depends on every subscriber of the process.
static ALONE: Mutex<()> = Mutex::new(());

/// Messages of a run: what is allocated once for a run does not count.
const MESSAGES: usize = 1000;

#[test]
fn the_call_of_a_span_that_is_filtered_out_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let broker = Memory::new();
    let tracer = broker.tracer();
    let (to, source) = (Destination::queue("q"), Subscription::queue("q"));
    let mut message = Message::new("x").build();
    let received = Received::new(message.clone(), "q".into(), None);
    let calls = |message: &mut Message| {
        drop(tracer.send(&to, message));
        drop(tracer.send_copy(&to, message));
        drop(tracer.send_batch(&to, std::slice::from_mut(message)));
        tracer.received(&source, std::iter::once(&received));
        drop(tracer.process(&source, &received, 1));
        drop(tracer.process_batch(&source, std::slice::from_ref(&received)));
        drop(tracer.settle(&source, "ack", Some(1)));
    };
    // The first call registers its place in the code.
    at(LevelFilter::INFO, || calls(&mut message));
    let filtered = at(LevelFilter::INFO, || measure(|| calls(&mut message)));
    assert_eq!(filtered.count_total, 0, "{filtered:?}");
    let wanted = at(LevelFilter::DEBUG, || measure(|| calls(&mut message)));
    assert!(wanted.count_total > 0, "{wanted:?}");
}

#[test]
fn a_message_by_hand_allocates_what_it_did() {
    same_but_traced(by_hand, BY_HAND);
}

#[test]
fn a_message_through_a_worker_allocates_what_it_did() {
    same_but_traced(by_worker, BY_WORKER);
}

/// At most so many allocations for each message, without a subscriber and with one that filters; one
/// more at least with one that does not.
fn same_but_traced(run: impl Fn() -> u64, each: usize) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    run();
    // What a run as a whole needs grows with the logarithm of its messages.
    let allowed = (each * MESSAGES + 200) as u64;
    // A subscriber of another test that is gone leaves call sites as it wanted them.
    tracing::callsite::rebuild_interest_cache();
    let none = run();
    let filtered = at(LevelFilter::INFO, &run);
    let wanted = at(LevelFilter::DEBUG, &run);
    let all = format!("{none} {filtered} {wanted} of {allowed}");
    assert!(none <= allowed && filtered <= allowed, "{all}");
    assert!(wanted >= none + MESSAGES as u64, "{all}");
}

/// Publishes, receives and acknowledges.
fn by_hand() -> u64 {
    block_on(async |broker| {
        let to = Destination::queue("q");
        let publisher = broker.publisher();
        let source = Subscription::queue("q");
        let consumer = broker.consumer(&source, ConsumePlan::new()).await;
        let mut consumer = consumer.expect("a consumer");
        for _ in 0..MESSAGES {
            publisher
                .publish(&to, Message::new("x"))
                .await
                .expect("stored");
            let delivery = consumer.receive().await.expect("open").expect("one");
            delivery.ack().expect("in time");
        }
    })
}

/// Publishes and has a worker handle it.
fn by_worker() -> u64 {
    block_on(async |broker| {
        let to = Destination::queue("q");
        let publisher = broker.publisher();
        let (done, mut handled) = mpsc::channel::<()>(MESSAGES);
        let run = Worker::new(&broker, Subscription::queue("q")).run(move |_: Received| {
            let done = done.clone();
            async move { done.try_send(()).map_err(|e| e.to_string()) }
        });
        let work = tokio::spawn(run.into_future());
        for _ in 0..MESSAGES {
            publisher
                .publish(&to, Message::new("x"))
                .await
                .expect("stored");
            handled.recv().await.expect("handled");
        }
        work.abort();
    })
}

/// The allocations of a run on a thread and a broker of its own.
fn block_on(run: impl AsyncFn(Memory)) -> u64 {
    let mut runtime = runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    let broker = Memory::new();
    runtime
        .block_on(broker.declare(Destination::queue("q")))
        .expect("declared");
    measure(|| runtime.block_on(run(broker))).count_total
}

/// With a subscriber that keeps spans of this level and above.
fn at<T>(level: LevelFilter, run: impl FnOnce() -> T) -> T {
    with_default(registry().with(Keeps.with_filter(level)), run)
}

/// A layer that does nothing with a span, which the registry keeps.
struct Keeps;

impl<S: tracing::Subscriber> Layer<S> for Keeps {}

/// Allocations of a message: what it is received as, and the list that one delivery is taken out of; with a worker its handler's
/// future instead.
const BY_HAND: usize = 2;
const BY_WORKER: usize = 2;
