//! Both at one queue: what one side declares, fails or asks, and what the other makes of it.

use mq_amqp::{
    Amqp,
    core::{
        Broker, ConsumePlan, Consumer, Destination, Message, Outcome, Publisher, Received,
        Subscription, Worker,
    },
};
use mq_testkit::{Check, Suite};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    peer::{hex, pika, same},
    support::{next, soon, unique},
};

/// Adds the cases.
pub(crate) fn add(suite: Suite) -> Suite {
    suite
        .case("queue and its arguments to pika", arguments)
        .case("dead-letter home to pika", home)
        .case("topic exchange and binding to pika", exchange)
        .case("message handled by a worker from pika", worker)
        .case("request to pika", ask)
        .case("request from pika", answer)
        .case("attempt after a reject from pika", reject)
        .case("attempt after a nack from pika", nack)
        .case("broker's dead letter after a reject from pika", refuse)
}

/// A queue of ours with its dead-letter home, gone at the end.
struct Queue {
    broker: Amqp,
    url: String,
    name: String,
}

impl Queue {
    async fn declare(url: &str, what: &str) -> Check<Self> {
        let broker = Amqp::connect(url).await?;
        let name = unique(&format!("interop-{what}"));
        broker.declare(Destination::queue(name.as_str())).await?;
        let url = url.to_owned();
        Ok(Self { broker, url, name })
    }

    async fn delete(self) -> Check {
        self.broker.close().await?;
        let queues = [&self.name, &format!("{}.dead", self.name)];
        pika(&self.url, json!([{"do": "delete", "queues": queues}])).await?;
        Ok(())
    }

    async fn publish(&self, body: &'static str) -> Check {
        let to = Destination::queue(self.name.as_str());
        self.broker
            .publisher()
            .publish(&to, Message::new(body))
            .await?;
        Ok(())
    }

    /// The next message of the queue, or of its dead-letter home.
    async fn take(&self, queue: &str) -> Check<Received> {
        let subscription = Subscription::queue(queue);
        let mut consumer = self
            .broker
            .consumer(&subscription, ConsumePlan::new())
            .await?;
        let delivery = next(&mut consumer).await?;
        let received = delivery.received().clone();
        delivery.ack()?;
        consumer.close().await?;
        Ok(received)
    }
}

/// The arguments are seen by declaring the queue once more: the broker refuses each other value.
async fn arguments(url: String) -> Check {
    let queue = Queue::declare(&url, "arguments").await?;
    let home = format!("{}.dead", queue.name);
    let right = json!({
        "x-queue-type": {"text": "quorum"},
        "x-delivery-limit": {"int": 20},
        "x-dead-letter-exchange": {"text": ""},
        "x-dead-letter-routing-key": {"text": home},
        "x-dead-letter-strategy": {"text": "at-least-once"},
        "x-overflow": {"text": "reject-publish"},
    });
    refuses_all_but(&queue, &queue.name, &right).await?;
    queue.delete().await
}

async fn home(url: String) -> Check {
    let queue = Queue::declare(&url, "home").await?;
    let right = json!({"x-queue-type": {"text": "quorum"}, "x-delivery-limit": {"int": 20}});
    refuses_all_but(&queue, &format!("{}.dead", queue.name), &right).await?;
    queue.delete().await
}

/// Passes if the queue takes these arguments, and refuses fewer and others.
async fn refuses_all_but(queue: &Queue, name: &str, right: &Value) -> Check {
    let mut wrong = Vec::new();
    for argument in right.as_object().into_iter().flat_map(|table| table.keys()) {
        let mut fewer = right.clone();
        fewer.as_object_mut().expect("a table").remove(argument);
        wrong.push((format!("without {argument}"), fewer));
    }
    let mut other = right.clone();
    other["x-delivery-limit"] = json!({"int": 21});
    wrong.push(("with another limit".to_owned(), other));
    let declare = |arguments: &Value| json!({"do": "queue", "queue": name, "arguments": arguments});
    let steps = std::iter::once(right).chain(wrong.iter().map(|(_, arguments)| arguments));
    let results = pika(&queue.url, steps.map(declare).collect()).await?;
    same(&results[0], &json!("ok"), "the same arguments")?;
    for (result, (how, _)) in results[1..].iter().zip(wrong) {
        let text = result.as_str().unwrap_or_default();
        same(
            text.starts_with("PRECONDITION_FAILED"),
            true,
            &format!("{how}: {text}"),
        )?;
    }
    Ok(())
}

async fn exchange(url: String) -> Check {
    let broker = Amqp::connect(&url).await?;
    let topic = unique("interop-exchange");
    broker.declare(Destination::topic(topic.as_str())).await?;
    let filter = mq_amqp::core::Filter::pattern("eu.*");
    let subscription = Subscription::durable(topic.as_str(), "s").filter(filter);
    broker.declare(&subscription).await?;
    broker.close().await?;
    let publish = |key: &str| json!({"do": "publish", "exchange": topic, "routing_key": key});
    let results = pika(
        &url,
        json!([
            {"do": "exchange", "exchange": topic, "kind": "topic"},
            {"do": "exchange", "exchange": topic, "kind": "fanout"},
            publish("eu.paid"),
            publish("us.paid"),
            {"do": "read", "queue": format!("s@{topic}"), "count": 1},
            {"do": "delete", "queues": [format!("s@{topic}"), format!("{topic}.s.dead")], "exchanges": [topic]},
        ]),
    )
    .await?;
    same(&results[0], &json!("ok"), "a durable topic exchange")?;
    let refused = results[1].as_str().unwrap_or_default();
    same(refused.starts_with("PRECONDITION_FAILED"), true, refused)?;
    let outcomes = (&results[2], &results[3]);
    same(
        outcomes,
        (&json!("confirmed"), &json!("unroutable")),
        "the binding",
    )?;
    same(
        &results[4][0]["routing_key"],
        &json!("eu.paid"),
        "routing key",
    )
}

async fn worker(url: String) -> Check {
    let queue = Queue::declare(&url, "worker").await?;
    let publish = json!({"do": "publish", "routing_key": queue.name, "body": hex(b"from pika")});
    let outcomes = pika(&url, json!([publish])).await?;
    same(&outcomes[0], &json!("confirmed"), "outcome")?;
    let (seen, mut handled) = mpsc::channel(1);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = Worker::new(&queue.broker, Subscription::queue(queue.name.as_str()))
        .run(move |received: Received| {
            let seen = seen.clone();
            async move { seen.send(received.payload().cloned()).await }
        })
        .with_graceful_shutdown(async { stopped.await.unwrap_or_default() });
    let running = tokio::spawn(running.into_future());
    let payload = soon("the handler", handled.recv()).await?.flatten();
    same(payload.as_deref(), Some(&b"from pika"[..]), "payload")?;
    drop(stop);
    soon("the worker's end", running).await???;
    queue.delete().await
}

/// We ask, pika answers.
async fn ask(url: String) -> Check {
    let (requests, replies) =
        tokio::join!(Queue::declare(&url, "ask"), Queue::declare(&url, "replies"));
    let (requests, replies) = (requests?, replies?);
    let question = Message::new("6 × 7")
        .reply_to(replies.name.as_str())
        .correlation_id("q-1");
    let to = Destination::queue(requests.name.as_str());
    requests.broker.publisher().publish(&to, question).await?;
    pika(&url, json!([{"do": "answer", "queue": requests.name}])).await?;
    let reply = replies.take(&replies.name).await?;
    let payload = reply
        .payload()
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    same(payload.as_deref(), Some("answer to 6 × 7"), "payload")?;
    same(reply.correlation_id(), Some("q-1"), "correlation id")?;
    requests.delete().await?;
    replies.delete().await
}

/// Pika asks, with an exclusive queue for the answer; a worker of ours answers.
async fn answer(url: String) -> Check {
    let queue = Queue::declare(&url, "answer").await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = Worker::new(&queue.broker, Subscription::queue(queue.name.as_str()))
        .run(async |question: Received| {
            let to = Destination::queue(question.reply_to().unwrap_or_default());
            let id = question.correlation_id().unwrap_or_default();
            Outcome::ack().publish(&to, Message::new("42").correlation_id(id))
        })
        .with_graceful_shutdown(async { stopped.await.unwrap_or_default() });
    let running = tokio::spawn(running.into_future());
    let ask = json!({"do": "ask", "queue": queue.name, "body": hex(b"?"), "correlation_id": "q-2"});
    let results = pika(&url, json!([ask])).await?;
    let reply = &results[0][0];
    same(&reply["body"], &json!(hex(b"42")), "body")?;
    same(
        &reply["properties"]["correlation_id"],
        &json!("q-2"),
        "correlation id",
    )?;
    drop(stop);
    soon("the worker's end", running).await???;
    queue.delete().await
}

async fn reject(url: String) -> Check {
    let queue = Queue::declare(&url, "reject").await?;
    queue.publish("x").await?;
    let reject = json!({"do": "fail", "queue": queue.name, "how": "reject"});
    let seen = pika(&url, json!([reject, reject])).await?;
    same(
        &seen[1]["headers"]["x-delivery-count"],
        &json!({"int": 1}),
        "the broker's count",
    )?;
    let received = queue.take(&queue.name).await?;
    same(
        (received.attempt(), received.redelivered()),
        (3, Some(true)),
        "attempt",
    )?;
    same(
        received.headers().len(),
        0,
        "the broker's counters among the headers",
    )?;
    queue.delete().await
}

/// A nack is a hand-back since RabbitMQ 4.3; before, it counts as a reject does.
async fn nack(url: String) -> Check {
    let queue = Queue::declare(&url, "nack").await?;
    queue.publish("x").await?;
    let nack = json!({"do": "fail", "queue": queue.name, "how": "nack"});
    let results = pika(&url, json!([nack, {"do": "version"}])).await?;
    let version = results[1].as_str().unwrap_or_default();
    let mut numbers = version
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    let since = (numbers.next(), numbers.next()) >= (Some(4), Some(3));
    let received = queue.take(&queue.name).await?;
    let expected = if since { 1 } else { 2 };
    same(
        (received.attempt(), received.redelivered()),
        (expected, Some(true)),
        version,
    )?;
    queue.delete().await
}

/// What pika rejects for good, the broker moves to our dead-letter home, without our headers.
async fn refuse(url: String) -> Check {
    let queue = Queue::declare(&url, "refuse").await?;
    queue.publish("bad").await?;
    pika(
        &url,
        json!([{"do": "fail", "queue": queue.name, "how": "refuse"}]),
    )
    .await?;
    let letter = queue.take(&format!("{}.dead", queue.name)).await?;
    same(
        letter.payload().map(AsRef::as_ref),
        Some(&b"bad"[..]),
        "payload",
    )?;
    let ours = letter
        .headers()
        .iter()
        .any(|(name, _)| name.starts_with("mq-"));
    same(
        ours,
        false,
        &format!("our headers in {:?}", letter.headers()),
    )?;
    same(
        letter.headers().text("x-first-death-queue"),
        Some(queue.name.as_str()),
        "first queue",
    )?;
    queue.delete().await
}
