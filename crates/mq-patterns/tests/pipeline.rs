//! Pipelines on the in-process broker.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

mod support;

use std::convert::Infallible;

use mq_core::{
    AtMostOnce, Broker, Destination, Failure, Message, MessageBuilder, MessageId, Publisher,
    Received, Result, Subscription, codec::PostcardCodec, headers,
};
use mq_memory::Memory;
use mq_patterns::pipeline::Stage;
use serde::{Serialize, Serializer, ser::Error as _};
use support::{bytes, nothing, queue, reports, start, take};

/// A stage from the queue `in` to the queue `out`.
async fn declared<U>(broker: &Memory, name: &str) -> Stage<u32, U, Memory> {
    let (from, to) = (Subscription::queue("in"), Destination::queue("out"));
    let stage = Stage::new(broker, name, from, to);
    stage.declare().await.expect("declared");
    stage
}

async fn send(broker: &Memory, message: impl Into<Message> + Send) {
    let to = Destination::queue("in");
    broker
        .publisher()
        .publish(&to, message)
        .await
        .expect("stored");
}

fn order(number: u32) -> MessageBuilder {
    let id = MessageId::new(format!("order-{number}")).expect("an id");
    Message::new(number.to_string()).id(id)
}

async fn double(number: u32) -> Result<u32, Infallible> {
    Ok(2 * number)
}

fn ids(received: &[Received]) -> Vec<String> {
    received
        .iter()
        .map(|message| message.id().to_string())
        .collect()
}

#[tokio::test]
async fn an_output_keeps_key_and_correlation_id_and_nothing_else() {
    let broker = Memory::new();
    let stage = declared(&broker, "double").await;
    let input = order(7)
        .key("alice")
        .correlation_id("trade-1")
        .header("tenant", "t");
    send(&broker, input.priority(9).reply_to("answers")).await;
    let worker = start(stage.worker().run(stage.translate(double)));
    let output = queue(&broker, "out", 1).await.remove(0);
    worker.stop().await;
    assert_eq!(bytes(&output), Some(&b"14"[..]));
    assert_eq!(output.content_type(), Some("application/json"));
    assert_eq!(output.key().and_then(|key| key.as_str()), Some("alice"));
    assert_eq!(output.correlation_id(), Some("trade-1"));
    assert_eq!((output.priority(), output.reply_to()), (None, None));
    assert!(output.headers().is_empty());
}

#[tokio::test]
async fn the_envelope_sees_the_input_and_can_carry_its_headers_on() {
    let broker = Memory::new();
    let envelope = |input: &Received, output: &u32, message: MessageBuilder| {
        let tenant = input.headers().text("tenant").unwrap_or("none").to_owned();
        message.header("tenant", tenant).key(output.to_string())
    };
    let stage = declared(&broker, "double").await.envelope(envelope);
    send(&broker, order(7).key("alice").header("tenant", "t")).await;
    let worker = start(stage.worker().run(stage.translate(double)));
    let output = queue(&broker, "out", 1).await.remove(0);
    worker.stop().await;
    assert_eq!(output.headers().text("tenant"), Some("t"));
    assert_eq!(output.key().and_then(|key| key.as_str()), Some("14"));
}

#[tokio::test]
async fn the_same_input_makes_the_same_ids_and_another_stage_or_input_others() {
    let broker = Memory::new();
    let split = |number: u32| async move { Ok::<_, Infallible>(vec![number, number]) };
    let mut made = Vec::new();
    for (name, number) in [("a", 1), ("a", 1), ("b", 1), ("a", 2)] {
        let stage = declared(&broker, name).await;
        send(&broker, order(number)).await;
        let worker = start(stage.worker().run(stage.split(split)));
        let outputs = queue(&broker, "out", 2).await;
        worker.stop().await;
        assert_ne!(outputs[0].id(), outputs[1].id());
        made.push(ids(&outputs));
    }
    assert_eq!(made[0], made[1]);
    let different = [&made[0], &made[2], &made[3]].map(|ids| ids.iter().collect::<Vec<_>>());
    let mut all = different.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn an_input_that_yields_nothing_is_acknowledged_and_gone() {
    let broker = Memory::new();
    let stage = declared(&broker, "odd").await;
    for number in 0..4 {
        send(&broker, order(number)).await;
    }
    let odd = |n: u32| async move { Ok::<_, Infallible>((n % 2 == 1).then_some(n)) };
    let worker = start(stage.worker().run(stage.filter(odd)));
    let outputs = queue(&broker, "out", 2).await;
    assert_eq!(
        outputs.iter().map(bytes).collect::<Vec<_>>(),
        [Some(&b"1"[..]), Some(b"3")]
    );
    worker.stop().await;
    send(&broker, order(4)).await;
    let none = |_: u32| async move { Ok::<Vec<u32>, Infallible>(Vec::new()) };
    let (seen, mut begun) = reports();
    let none = move |number| {
        let _ = seen.try_send(());
        none(number)
    };
    let worker = start(stage.worker().run(stage.split(none)));
    take(&mut begun, 1).await;
    worker.stop().await;
    for name in ["in", "out", "in.dead"] {
        nothing(&broker, name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_destination_keeps_the_input_and_counts_no_attempt() {
    // A queue with room for one: what is behind is refused until somebody makes room.
    let broker = Memory::builder().max_messages(1).build();
    let stage = declared(&broker, "double").await;
    let full = Destination::queue("out");
    let stored = broker
        .publisher()
        .publish(&full, Message::new("full"))
        .await;
    stored.expect("stored");
    send(&broker, order(7)).await;
    let (to, mut attempts) = reports();
    let worker = stage
        .worker()
        .max_attempts(2)
        .run(stage.translate(move |number| {
            let _ = to.try_send(());
            double(number)
        }));
    let worker = start(worker);
    // More often than a failed message is attempted.
    take(&mut attempts, 5).await;
    let outputs = queue(&broker, "out", 2).await;
    assert_eq!(bytes(&outputs[1]), Some(&b"14"[..]));
    worker.stop().await;
    nothing(&broker, "in.dead").await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_transform_publishes_nothing_and_its_input_is_attempted_again() {
    let broker = Memory::new();
    let stage = declared(&broker, "split").await;
    send(&broker, order(7)).await;
    let (to, mut attempts) = reports();
    let run = stage
        .worker()
        .max_attempts(3)
        .run(stage.split(move |number: u32| {
            let made = to.try_send(number);
            async move {
                made.map_err(|e| e.to_string())
                    .and(Err::<Vec<u32>, _>("no".to_owned()))
            }
        }));
    let worker = start(run);
    assert_eq!(take(&mut attempts, 3).await, [7, 7, 7]);
    let letter = queue(&broker, "in.dead", 1).await.remove(0);
    assert_eq!(
        letter.headers().text(headers::DEAD_REASON),
        Some("exhausted")
    );
    worker.stop().await;
    nothing(&broker, "out").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_input_goes_to_the_dead_letters_and_the_stage_goes_on() {
    let broker = Memory::new();
    let stage = declared(&broker, "double").await;
    send(&broker, Message::new("seven")).await;
    send(&broker, Message::tombstone()).await;
    send(&broker, order(7)).await;
    let worker = start(stage.worker().run(stage.translate(double)));
    let output = queue(&broker, "out", 1).await.remove(0);
    assert_eq!(bytes(&output), Some(&b"14"[..]));
    worker.stop().await;
    let letters = queue(&broker, "in.dead", 2).await;
    assert_eq!(
        letters.iter().map(bytes).collect::<Vec<_>>(),
        [Some(&b"seven"[..]), None]
    );
    for letter in letters {
        let reason = letter.headers().text(headers::DEAD_REASON);
        assert_eq!(reason, Some("undecodable"));
    }
}

/// An output that cannot be written.
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("not today"))
    }
}

#[tokio::test]
async fn an_output_that_cannot_be_written_names_its_stage_in_the_dead_letter() {
    let broker = Memory::new();
    let stage = declared(&broker, "paint").await;
    send(&broker, order(7)).await;
    let paint = |_: u32| async { Ok::<_, Failure>(Unwritable) };
    let worker = start(stage.worker().run(stage.translate(paint)));
    let letter = queue(&broker, "in.dead", 1).await.remove(0);
    worker.stop().await;
    let text = |name| letter.headers().text(name).unwrap_or_default().to_owned();
    assert_eq!(text(headers::DEAD_REASON), "permanent");
    let error = text(headers::DEAD_ERROR);
    assert!(
        error.contains("paint") && error.contains("not today"),
        "{error}"
    );
}

#[tokio::test]
async fn a_stage_runs_under_another_guarantee_and_codec_and_from_a_topic() {
    let broker = Memory::new();
    let (topic, name) = (Destination::topic("numbers"), "double");
    let from = Subscription::durable("numbers", name);
    let stage =
        Stage::new(&broker, name, from, Destination::topic("doubled")).codec::<PostcardCodec>();
    let error = stage.declare().await.expect_err("its topic is not there");
    assert_eq!(error.kind(), mq_core::ErrorKind::NotFound);
    broker.declare(&topic).await.expect("a topic");
    stage.declare().await.expect("declared");
    let to = Subscription::durable("doubled", "all");
    broker.declare(&to).await.expect("a subscription");
    let input = Message::encode::<PostcardCodec, u32>(&150).expect("postcard");
    broker
        .publisher()
        .publish(&topic, input)
        .await
        .expect("stored");
    let worker = stage
        .worker()
        .guarantee(AtMostOnce)
        .run(stage.translate(double));
    let worker = start(worker);
    let output = support::drain(&broker, &to, 1).await.remove(0);
    assert_eq!(
        output.decode::<PostcardCodec, u32>().expect("postcard"),
        300
    );
    worker.stop().await;
}
