//! Spans and trace context of each broker, seen by OpenTelemetry: on the in-process broker in both
//! shapes, on RabbitMQ (`MQ_RABBITMQ_URL`), on Kafka (`MQ_KAFKA_SERVERS`), and from one to the
//! other.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod alone;
mod cases;
mod scene;
mod w3c;

use std::{process::ExitCode, sync::Arc};

use mq_amqp::Amqp;
use mq_core::{Broker, Result, trace::Propagator};
use mq_kafka::Kafka;
use mq_memory::Memory;
use mq_testkit::{Address, Suite, broker_address};
use scene::{Scene, Words};
use w3c::{collect, w3c};

fn main() -> ExitCode {
    collect();
    let suite = |broker, address| Suite::new("tracing", broker, address);
    let (rabbit, kafka) = ("MQ_RABBITMQ_URL", "MQ_KAFKA_SERVERS");
    mq_testkit::run([
        cases(
            suite("mq-memory", Address::in_process()),
            IN_PROCESS,
            |_, hook| async { Ok(Memory::builder().name(CLIENT).propagator(hook).build()) },
        )
        .case(
            "filtered_out_a_message_gets_the_context_of_its_caller",
            |_| async { alone::filtered_out() },
        )
        .case(
            "without_create_spans_a_batch_carries_its_own_context",
            |_| async { alone::no_create() },
        ),
        cases(
            suite("mq-memory (log)", Address::in_process()),
            IN_LOG,
            |_, hook| async {
                let builder = Memory::builder().log(2);
                Ok(builder.name(CLIENT).propagator(hook).build())
            },
        ),
        cases(
            suite("mq-amqp", broker_address(rabbit)),
            RABBITMQ,
            |url, hook| async move { amqp(&url, hook).await },
        )
        .case(
            "a_topic_has_exchange_key_and_queue_in_its_name",
            alone::topic,
        )
        .case("one_trace_goes_from_rabbitmq_to_kafka", alone::across),
        cases(
            suite("mq-kafka", broker_address(kafka)),
            KAFKA,
            |servers, hook| async move { on_kafka(&servers, hook).await },
        ),
    ])
}

async fn amqp(url: &str, hook: Arc<dyn Propagator>) -> Result<Amqp> {
    let builder = Amqp::builder().url(url)?;
    builder.name(CLIENT).propagator(hook).connect().await
}

async fn on_kafka(servers: &str, hook: Arc<dyn Propagator>) -> Result<Kafka> {
    let builder = Kafka::builder(servers).partitions(2);
    builder.name(CLIENT).propagator(hook).connect().await
}

const CLIENT: &str = "span test";

const IN_PROCESS: Words = Words {
    system: "mq-memory",
    send: "send",
    receive: "receive",
    settle: None,
    of_send: &[],
    of_process: &[],
};

const IN_LOG: Words = Words {
    of_send: &["messaging.destination.partition.id"],
    of_process: &["messaging.destination.partition.id"],
    ..IN_PROCESS
};

const RABBITMQ: Words = Words {
    system: "rabbitmq",
    send: "publish",
    receive: "consume",
    settle: Some("ack"),
    of_send: &[
        "messaging.rabbitmq.destination.routing_key",
        "server.address",
        "server.port",
    ],
    of_process: &[
        "messaging.rabbitmq.destination.routing_key",
        "messaging.rabbitmq.message.delivery_tag",
        "server.address",
        "server.port",
    ],
};

const KAFKA: Words = Words {
    system: "kafka",
    send: "send",
    receive: "poll",
    settle: Some("commit"),
    of_send: &[
        "messaging.destination.partition.id",
        "messaging.kafka.offset",
        "server.address",
        "server.port",
    ],
    of_process: &[
        "messaging.consumer.group.name",
        "messaging.destination.partition.id",
        "messaging.kafka.offset",
        "server.address",
        "server.port",
    ],
};

fn cases<B: Broker, F: Future<Output = Result<B>> + Send>(
    suite: Suite,
    words: Words,
    connect: impl Fn(String, Arc<dyn Propagator>) -> F + Copy + Send + 'static,
) -> Suite {
    macro_rules! cases {
        ($($case:ident)+) => {
            suite$(.case(stringify!($case), move |address| async move {
                let broker = connect(address, w3c()).await?;
                let scene = Scene::new(broker, words);
                cases::$case(&scene).await?;
                scene.close().await
            }))+
        };
    }
    cases! {
        one_trace_spans_two_hops
        spans_have_the_attributes_of_the_conventions_and_no_others
        a_batch_is_one_send_that_links_what_it_created
        a_context_that_a_message_has_is_never_overwritten
        a_dead_letter_keeps_the_context_of_its_original
        a_message_that_comes_again_belongs_to_the_same_trace
        a_failed_publish_has_its_error_type
        a_batch_handed_out_is_one_receive_and_a_flush_one_settle
    }
}
