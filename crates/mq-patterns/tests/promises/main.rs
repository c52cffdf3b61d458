//! What the pages promise, as cases on the in-process broker in both shapes, on RabbitMQ
//! (`MQ_RABBITMQ_URL`) and on Kafka (`MQ_KAFKA_SERVERS`).
//!
//! Each case is `<pattern>: <sentence>`, in the file of its pattern. The records of the suite
//! `patterns` are the table of patterns and brokers.

mod consumer_group;
mod fan_out;
mod pipeline;
mod producer_consumer;
mod routing;
mod scene;
mod work_queue;

use std::{process::ExitCode, time::Duration};

use mq_amqp::Amqp;
use mq_core::Result;
use mq_kafka::Kafka;
use mq_memory::Memory;
use mq_testkit::{Address, Fixture, Suite, broker_address};
use scene::{Kind, OtherFilter, Scene};

fn main() -> ExitCode {
    if let Some(doomed) = work_queue::Doomed::from_env() {
        return doomed.run();
    }
    let suite = |broker, address| Suite::new("patterns", broker, address);
    let (rabbit, kafka) = ("MQ_RABBITMQ_URL", "MQ_KAFKA_SERVERS");
    mq_testkit::run([
        promises(suite("mq-memory", Address::in_process()), |_| {
            InProcess(Memory::new())
        }),
        promises(suite("mq-memory (log)", Address::in_process()), |_| {
            InProcess(Memory::builder().log(PARTITIONS).build())
        }),
        promises(suite("mq-amqp", broker_address(rabbit)), Rabbit),
        promises(suite("mq-kafka", broker_address(kafka)), Servers),
    ])
}

macro_rules! promises {
    ($suite:ident, $fixture:ident; $($pattern:ident::$case:ident, $sentence:literal;)+) => {
        $suite$(.case(concat!(stringify!($pattern), ": ", $sentence), move |address| async move {
            let scene = Scene::new($fixture(address), stringify!($case)).await?;
            $pattern::$case(&scene).await?;
            scene.close().await
        }))+
    };
}

fn promises<F: Fixture + Kind>(
    suite: Suite,
    fixture: impl Fn(String) -> F + Copy + Send + 'static,
) -> Suite {
    promises! { suite, fixture;
        producer_consumer::received, "every confirmed item is received";
        producer_consumer::ordered, "items of one key are received in the order sent";
        producer_consumer::undecodable, "what cannot be decoded goes to the dead letters byte for byte, and the consumer goes on";
        work_queue::once, "each job is done once, by one of several workers";
        work_queue::killed, "the jobs of a killed worker are done by others";
        work_queue::slow, "a slow worker holds up at most its prefetch, or the partitions it has";
        work_queue::dead, "a job that never succeeds goes to the dead letters";
        fan_out::everyone, "every subscriber gets every event, also those that came while it was away";
        fan_out::listeners, "a listener gets what comes after it opened";
        fan_out::apart, "what one subscriber rejects the others still get";
        fan_out::slow, "a slow subscriber holds up no other";
        fan_out::dots, "names with dots may share a dead-letter home, where the origin tells them apart";
        fan_out::undeclared, "a subscriber that was not declared is not found";
        routing::keys, "an exact key and a pattern take what they name";
        routing::headers, "headers are matched all or any";
        routing::nobody, "an event that nobody takes is unroutable where that is asked for and can be told";
        routing::another_filter, "a subscriber run with another filter than declared gets what the page says";
        routing::declared_again, "a subscriber declared again with another filter gets what the page says";
        routing::undeclared, "a subscriber that was not declared is not found";
        consumer_group::shared, "every group gets every message, and its members share them";
        consumer_group::ordered, "the messages of a key are handled in order, also when one fails";
        consumer_group::one_member, "a key stays with one member where the broker has partitions";
        consumer_group::dies, "the messages of a member that dies go to the others";
        consumer_group::dead, "what never succeeds goes to the dead letters, and its key goes on";
        pipeline::unconfirmed, "an input whose output is not confirmed stays with the broker";
        pipeline::twice, "an input that is run twice makes outputs with equal ids";
        pipeline::impossible, "an input whose output can never be stored goes to the dead letters";
        pipeline::stages, "translates, filters and splits through three stages";
    }
}

struct InProcess(Memory);

impl Fixture for InProcess {
    type Broker = Memory;

    async fn connect(&self) -> Result<Memory> {
        Ok(self.0.client())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn quiet(&self) -> Duration {
        Duration::from_millis(100)
    }
}

impl Kind for InProcess {
    fn other_filter(&self) -> OtherFilter {
        OtherFilter::Refused
    }
}

struct Rabbit(String);

impl Fixture for Rabbit {
    type Broker = Amqp;

    async fn connect(&self) -> Result<Amqp> {
        Amqp::connect(&self.0).await
    }
}

impl Kind for Rabbit {
    fn elsewhere(&self) -> Option<String> {
        Some(format!("rabbitmq {}", self.0))
    }

    fn other_filter(&self) -> OtherFilter {
        OtherFilter::AsDeclared
    }
}

struct Servers(String);

impl Fixture for Servers {
    type Broker = Kafka;

    async fn connect(&self) -> Result<Kafka> {
        Kafka::builder(&self.0)
            .partitions(PARTITIONS)
            .connect()
            .await
    }

    /// A member that joins waits for two heartbeats of the group, and what a killed one held for the
    /// session timeout: 5 s and 45 s unless the broker is told otherwise.
    fn patience(&self) -> Duration {
        Duration::from_secs(50)
    }

    fn quiet(&self) -> Duration {
        // Longer than a fetch waits for records.
        Duration::from_secs(1)
    }
}

impl Kind for Servers {
    fn elsewhere(&self) -> Option<String> {
        Some(format!("kafka {}", self.0))
    }

    fn other_filter(&self) -> OtherFilter {
        OtherFilter::AsRun
    }

    fn homes_mark_queues(&self) -> bool {
        true
    }
}

const PARTITIONS: u32 = 4;
