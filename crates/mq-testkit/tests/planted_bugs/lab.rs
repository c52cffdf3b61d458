//! What the programs share: a folder for the history, chance by seed, a broker, and a queue on it.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use mq_memory::{
    Memory, MemoryConsumer,
    core::{
        Broker, ConsumePlan, Consumer, Delivery, Destination, Message, Publisher, Subscription,
    },
};
use mq_testkit::history::{Event, Recorder, Tag, Tags};

/// One run of a program.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) bug: bool,
    shape: Shape,
    chance: Cell<u64>,
    folder: PathBuf,
}

/// What the program runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Queues,
    Log,
    Own,
}

/// The broker of a run, with one queue.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) broker: Memory,
    pub(crate) queue: Destination,
}

pub(crate) const QUEUE: &str = "orders";

impl Lab {
    pub(crate) fn new(seed: u64, bug: bool, shape: Shape) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("mq-planted-{}-{number}", std::process::id());
        Self {
            bug,
            shape,
            chance: Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            folder: std::env::temp_dir().join(folder),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The next life of a process.
    pub(crate) fn recorder(&self, process: &str) -> Recorder {
        Recorder::create(&self.folder, "planted", process).expect("a recorder")
    }

    /// A number below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        let mut x = self.chance.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.chance.set(x);
        (x >> 11) % end
    }

    /// Runs the program's future; waiting takes no time.
    pub(crate) fn block_on<T>(&self, program: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(program)
    }

    /// A broker with the queue.
    pub(crate) async fn bench(&self) -> Bench {
        let broker = match self.shape {
            Shape::Log => Memory::builder().log(2).build(),
            Shape::Queues | Shape::Own => Memory::new(),
        };
        Bench::on(broker).await
    }

    /// A broker with the queue that holds so many recorded messages of three keys.
    pub(crate) async fn filled(&self, count: u64) -> Bench {
        let bench = self.bench().await;
        let recorder = self.recorder("producer");
        let tags = recorder.tags();
        for number in 0..count {
            bench
                .send(&recorder, &tags.next(&format!("key-{}", number % 3)))
                .await;
        }
        bench
    }

    /// Says that nothing is left, if that is so.
    pub(crate) async fn drained(&self, bench: &Bench) {
        let mut consumer = bench.consumer(1).await;
        assert!(next(&mut consumer).await.is_none(), "something is left");
        record(&self.recorder("harness"), Event::drained());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Bench {
    pub(crate) async fn on(broker: Memory) -> Self {
        let queue = Destination::queue(QUEUE);
        broker.declare(&queue).await.expect("declared");
        Self { broker, queue }
    }

    pub(crate) async fn consumer(&self, prefetch: u16) -> MemoryConsumer {
        let plan = ConsumePlan::new().prefetch(prefetch);
        let consumer = self
            .broker
            .client()
            .consumer(&Subscription::queue(QUEUE), plan)
            .await;
        consumer.expect("a consumer")
    }

    /// Publishes as a program should.
    pub(crate) async fn send(&self, recorder: &Recorder, tag: &Tag) {
        record(recorder, Event::send(tag));
        let outcome = self
            .broker
            .publisher()
            .publish(&self.queue, message(tag))
            .await;
        record(recorder, Event::outcome(tag, QUEUE, &outcome));
    }
}

/// The next delivery; `None` if nothing comes any more.
pub(crate) async fn next(consumer: &mut MemoryConsumer) -> Option<Delivery> {
    let waited = tokio::time::timeout(Duration::from_secs(60), consumer.receive()).await;
    waited.ok()?.expect("no error")
}

pub(crate) fn message(tag: &Tag) -> Message {
    Message::new(tag.to_payload(80)).key(tag.key()).into()
}

pub(crate) fn record(recorder: &Recorder, event: Event<'_>) {
    recorder.record(event).expect("recorded");
}

/// Records that the handler has it; the tag.
pub(crate) fn received(recorder: &Recorder, delivery: &Delivery) -> Tag {
    let read = recorder.received(QUEUE, delivery.received());
    read.expect("recorded").expect("a tag")
}

pub(crate) fn effect(recorder: &Recorder, delivery: &Delivery, tag: &Tag) {
    let event = Event::effect(QUEUE, tag).maybe_at(QUEUE, delivery.position());
    record(recorder, event);
}

pub(crate) fn ack(recorder: &Recorder, delivery: Delivery, tag: &Tag) {
    delivery.ack().expect("not stale");
    record(recorder, Event::ack(QUEUE, tag));
}

/// Handles what is there as a program should: effect, record, ack.
pub(crate) async fn handle_the_rest(lab: &Lab, bench: &Bench) {
    let recorder = lab.recorder("consumer");
    let mut consumer = bench.consumer(10).await;
    while let Some(delivery) = next(&mut consumer).await {
        let tag = received(&recorder, &delivery);
        effect(&recorder, &delivery, &tag);
        ack(&recorder, delivery, &tag);
    }
}

/// Tags in a vector.
pub(crate) fn some(tags: &Tags, count: u64) -> Vec<Tag> {
    (0..count)
        .map(|number| tags.next(&format!("key-{}", number % 3)))
        .collect()
}
