//! What one broker alone has, or two together, and what a filter changes.

use mq_core::{
    Broker, ConsumePlan, Consumer, Destination, Message, Outcome, Publisher, Subscription, Worker,
    headers::TRACEPARENT,
};
use mq_memory::Memory;
use mq_testkit::{Check, Failure};
use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::oneshot;
use tracing::Instrument;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::{
    KAFKA, RABBITMQ, amqp,
    cases::hop,
    on_kafka,
    scene::{Scene, below, same, soon, text},
    w3c::{apart, w3c},
};

/// RabbitMQ alone: `exchange:routing_key:queue`.
pub(crate) async fn topic(url: String) -> Check {
    let scene = Scene::new(amqp(&url, w3c()).await?, RABBITMQ);
    let events = scene.queue("events").await?;
    let events = Destination::topic(events.name().clone()).routing_key("eu.paid");
    soon(scene.broker.declare(&events)).await??;
    let mail = Subscription::durable(events.name().clone(), "mail");
    soon(scene.broker.declare(&mail)).await??;
    scene.publish(&events, Message::new("x")).await?;
    let name = events.name();
    let path = Destination::queue(format!("{name}:eu.paid"));
    let sent = scene.span("send", &path).await?;
    same(&*sent.name, &*format!("publish {name}"))?;
    let is = |span: &SpanData, attribute, expected: &str| {
        same(text(span, attribute).as_deref(), Some(expected))
    };
    is(&sent, "messaging.destination.template", name)?;
    is(
        &sent,
        "messaging.rabbitmq.destination.routing_key",
        "eu.paid",
    )?;
    let queue = format!("mail@{name}");
    let (stop, stopped) = oneshot::channel::<()>();
    let run = Worker::new(&scene.broker, mail)
        .run(|| async {})
        .with_graceful_shutdown(async move {
            let _ = stopped.await;
        });
    let work = tokio::spawn(run.into_future());
    let path = Destination::queue(format!("{name}:eu.paid:{queue}"));
    let processed = scene.span("process", &path).await?;
    same(&*processed.name, &*format!("process {queue}"))?;
    below(&processed, &sent)?;
    let _ = stop.send(());
    soon(work).await???;
    scene.close().await
}

/// A handler of one broker publishes to the other.
pub(crate) async fn across(url: String) -> Check {
    let servers = std::env::var("MQ_KAFKA_SERVERS");
    let Ok(servers) = servers else {
        return Err(Failure::new("this case needs MQ_KAFKA_SERVERS too"));
    };
    let rabbit = Scene::new(amqp(&url, w3c()).await?, RABBITMQ);
    let kafka = Scene::new(on_kafka(&servers, w3c()).await?, KAFKA);
    let (first, second) = (rabbit.queue("first").await?, kafka.queue("second").await?);
    let (publisher, to) = (kafka.broker.publisher(), second.clone());
    let forward = rabbit.work(&first, move |_| {
        let (publisher, to) = (publisher.clone(), to.clone());
        async move {
            match publisher.publish(&to, Message::new("x")).await {
                Ok(_) => Outcome::ack(),
                Err(error) => Outcome::retry(error),
            }
        }
    });
    let end = kafka.work(&second, |_| async { Outcome::ack() });
    rabbit.publish(&first, Message::new("x")).await?;
    let [published, processed] = hop(&rabbit, &first).await?;
    let [published_next, processed_next] = hop(&kafka, &second).await?;
    below(&processed, &published)?;
    below(&published_next, &processed)?;
    below(&processed_next, &published_next)?;
    forward.stop().await?;
    end.stop().await?;
    rabbit.close().await?;
    kafka.close().await
}

/// The spans of the crates are filtered out, those of the program are not.
pub(crate) fn filtered_out() -> Check {
    let (context, spans) = apart(Targets::new().with_target("caller", DEBUG), async {
        let span = tracing::debug_span!(target: "caller", "caller");
        publish_and_look().instrument(span).await
    });
    same(spans.len(), 1)?;
    let caller = &spans[0].span_context;
    let expected = format!("00-{}-{}-01", caller.trace_id(), caller.span_id());
    same(context?, expected)
}

pub(crate) async fn publish_and_look() -> Check<String> {
    let broker = Memory::builder().propagator(w3c()).build();
    let queue = Destination::queue("filtered");
    broker.declare(&queue).await?;
    broker
        .publisher()
        .publish(&queue, Message::new("x"))
        .await?;
    let source = Subscription::queue("filtered");
    let mut consumer = broker.consumer(&source, ConsumePlan::new()).await?;
    let delivery = consumer.receive().await?.expect("a message");
    let context = delivery.headers().text(TRACEPARENT).unwrap_or_default();
    let context = context.to_owned();
    delivery.ack()?;
    Ok(context)
}

pub(crate) fn no_create() -> Check {
    let targets = Targets::new()
        .with_target("mq_core", DEBUG)
        .with_target("mq_core::create", LevelFilter::OFF);
    let (sent, spans) = apart(targets, async {
        let broker = Memory::builder().propagator(w3c()).build();
        let queue = Destination::queue("batch");
        broker.declare(&queue).await?;
        let messages = vec![Message::new("1").build(), Message::new("2").build()];
        let outcomes = broker.publisher().publish_batch(&queue, messages).await;
        Check::Ok(outcomes.all_confirmed().map(drop)?)
    });
    sent?;
    same(spans.len(), 1)?;
    same(&spans[0].span_kind, &SpanKind::Producer)?;
    same(spans[0].links.len(), 0)
}

const DEBUG: LevelFilter = LevelFilter::DEBUG;
