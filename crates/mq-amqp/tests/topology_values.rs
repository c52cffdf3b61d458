//! Topologies as values: declared, verified and deleted as a whole.
#![allow(clippy::expect_used, reason = "a test may panic")]

mod support;

use std::{process::ExitCode, time::Duration};

use lapin::types::AMQPValue;
use mq_amqp::{
    Amqp, Binding, ExchangeKind, QueueSettings, Topology,
    core::{
        Broker, ConsumePlan, Consumer, Deletion, Destination, ErrorKind, Filter, Message,
        Publisher, Subscription,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, argument, expect_kind, next, patient, text, unique};

fn main() -> ExitCode {
    let address = broker_address("MQ_RABBITMQ_URL");
    Suite::new("topology_values", "mq-amqp", address)
        .deadline(Duration::from_secs(240))
        .case("a_declared_topology_routes_as_it_says", routes)
        .case("a_declared_topology_verifies_and_declares_again", again)
        .case("every_difference_of_a_topology_is_named", differences)
        .case(
            "a_topology_that_contradicts_its_client_is_refused",
            contradiction,
        )
        .case("a_topology_is_deleted_unless_it_holds_messages", deletes)
        .run()
}

/// Names for one run.
struct Names {
    topic: String,
    direct: String,
    fanout: String,
    headers: String,
    queues: [String; 5],
}

impl Names {
    fn new() -> Self {
        let of = |what: &str| unique(&format!("values-{what}"));
        Self {
            topic: of("topic"),
            direct: of("direct"),
            fanout: of("fanout"),
            headers: of("headers"),
            queues: ["pattern", "exact", "all", "either", "chained"].map(of),
        }
    }

    /// All kinds of exchanges, queues and bindings.
    fn topology(&self) -> Topology {
        let [pattern, exact, all, either, chained] = &self.queues;
        let pairs = [("a", "1"), ("b", "2")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        Topology::new()
            .exchange(&self.topic, ExchangeKind::Topic)
            .exchange(&self.direct, ExchangeKind::Direct)
            .exchange(&self.fanout, ExchangeKind::Fanout)
            .exchange(&self.headers, ExchangeKind::Headers)
            .queue(pattern, QueueSettings::classic().max_length(1000))
            .queue(exact, QueueSettings::classic())
            .queue(all, QueueSettings::quorum())
            .queue(either, QueueSettings::classic())
            .queue(chained, QueueSettings::classic())
            .bind(Binding::queue(pattern, &self.topic).filter(Filter::pattern("eu.#")))
            .bind(Binding::queue(exact, &self.direct).filter(Filter::exact("eu.paid")))
            .bind(Binding::queue(all, &self.fanout))
            .bind(Binding::queue(all, &self.headers))
            .bind(Binding::queue(either, &self.headers).filter(Filter::AnyHeader(pairs.to_vec())))
            .bind(Binding::exchange(&self.fanout, &self.topic).filter(Filter::pattern("*.paid")))
            .bind(Binding::queue(chained, &self.fanout))
    }

    /// What the queues hold, cut down to the payloads in order.
    async fn taken(&self, broker: &Amqp, last: usize) -> Check<Vec<String>> {
        let mut all = Vec::new();
        for queue in &self.queues {
            let subscription = Subscription::queue(queue.as_str());
            let mut consumer = broker.consumer(&subscription, ConsumePlan::new()).await?;
            let mut taken = String::new();
            // One more to each queue itself says that all has come.
            let end = format!("{last}");
            broker
                .publisher()
                .publish(
                    &Destination::queue(queue.as_str()),
                    Message::new(end.clone()),
                )
                .await?;
            loop {
                let delivery = next(&mut consumer).await?;
                let text = text(&delivery);
                delivery.ack()?;
                if text == end {
                    break;
                }
                taken.push_str(&text);
            }
            consumer.close().await?;
            all.push(taken);
        }
        Ok(all)
    }
}

async fn routes(url: String) -> Check {
    let names = Names::new();
    let topology = names.topology();
    let broker = patient(&url)?.topology(&topology).connect().await?;
    broker.declare_topology(&topology).await?;
    let to = |exchange: &str, key: &str| Destination::topic(exchange).routing_key(key);
    for (destination, message) in [
        (to(&names.topic, "eu.paid"), Message::new("a")),
        (to(&names.topic, "eu.open.late"), Message::new("b")),
        (to(&names.topic, "us.paid"), Message::new("c")),
        (to(&names.direct, "eu.paid"), Message::new("d")),
        (to(&names.fanout, "anything"), Message::new("f")),
        (to(&names.headers, ""), Message::new("g").header("b", "2")),
        (to(&names.headers, "k"), Message::new("h").header("b", "3")),
    ] {
        broker
            .publisher()
            .publish(&destination.mandatory(), message)
            .await?;
    }
    let nowhere = to(&names.direct, "eu.open").mandatory();
    let lost = broker
        .publisher()
        .publish(&nowhere, Message::new("e"))
        .await;
    expect_kind(lost, ErrorKind::Unroutable)?;
    let taken = names.taken(&broker, 9).await?;
    assert_eq!(taken, ["ab", "d", "acfgh", "g", "acf"]);
    broker.delete_topology(&topology).await?;
    Ok(())
}

async fn again(url: String) -> Check {
    let names = Names::new();
    let topology = names.topology();
    let broker = patient(&url)?.topology(&topology).connect().await?;
    expect_kind(broker.verify_topology(&topology).await, ErrorKind::NotFound)?;
    broker.declare_topology(&topology).await?;
    broker.verify_topology(&topology).await?;
    let kept = Destination::queue(names.queues[0].as_str());
    broker
        .publisher()
        .publish(&kept, Message::new("kept"))
        .await?;
    broker.declare_topology(&topology).await?;
    // The same queues by the other way to say it.
    for queue in &names.queues {
        broker.verify(Destination::queue(queue.as_str())).await?;
        let home = format!("{queue}.dead");
        broker.verify(Destination::queue(home)).await?;
    }
    assert_eq!(names.taken(&broker, 9).await?[0], "kept");
    broker.delete_topology(&topology).await?;
    Ok(())
}

async fn differences(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let broker = patient(&url)?.connect().await?;
    let (exchange, queue, missing) = (unique("other"), unique("other"), unique("missing"));
    bare.exchange(&exchange, "fanout").await?;
    let there = [
        ("x-queue-type", argument("classic")),
        ("x-max-length", AMQPValue::LongInt(5)),
    ];
    bare.queue(&queue, &there).await?;
    let topology = Topology::new()
        .exchange(&exchange, ExchangeKind::Direct)
        .queue(&queue, QueueSettings::classic().max_length(7))
        .queue(&missing, QueueSettings::classic())
        .bind(Binding::queue(&queue, &exchange).filter(Filter::exact("k")));
    for _ in 0..2 {
        let error = expect_kind(broker.verify_topology(&topology).await, ErrorKind::Mismatch)?;
        let text = error.to_string();
        let homes = [&queue, &missing].map(|q| format!("{q}.dead"));
        for named in [&exchange, &queue, &missing, &homes[0], &homes[1]] {
            assert!(text.contains(named.as_str()), "{named}: {text}");
        }
        let sides: Vec<_> = error
            .parts()
            .iter()
            .filter_map(|e| {
                Some((
                    e.context("argument")?,
                    e.context("asked")?,
                    e.context("there")?,
                ))
            })
            .collect();
        for wanted in [
            ("type", "'direct'", "'fanout'"),
            ("x-max-length", "'7'", "'5'"),
        ] {
            assert!(sides.contains(&wanted), "{sides:?}");
        }
    }
    // Both sides, and the first thing that is not as it should be ends it.
    let error = expect_kind(
        broker.declare_topology(&topology).await,
        ErrorKind::Mismatch,
    )?;
    assert_eq!(error.context("topic"), Some(exchange.as_str()), "{error}");
    assert_eq!(error.context("there"), Some("'fanout'"), "{error}");
    broker.delete_topology(&topology).await?;
    let error = expect_kind(broker.verify_topology(&topology).await, ErrorKind::NotFound)?;
    assert_eq!(error.parts().len(), 5, "{error}");
    Ok(())
}

async fn contradiction(url: String) -> Check {
    let (topic, queue) = (unique("against"), unique("against"));
    let broker = patient(&url)?
        .queue(&queue, QueueSettings::classic())
        .exchange(&topic, ExchangeKind::Fanout)
        .connect()
        .await?;
    let as_quorum = Topology::new().queue(&queue, QueueSettings::quorum());
    let as_topic = Topology::new().exchange(&topic, ExchangeKind::Topic);
    for (topology, what, name) in [(as_quorum, "queue", &queue), (as_topic, "topic", &topic)] {
        for refused in [
            broker.declare_topology(&topology).await,
            broker.verify_topology(&topology).await,
        ] {
            let error = expect_kind(refused, ErrorKind::Config)?;
            assert_eq!(error.context(what), Some(name.as_str()), "{error}");
        }
    }
    let same = Topology::new().queue(&queue, QueueSettings::classic());
    expect_kind(broker.verify_topology(&same).await, ErrorKind::NotFound)?;
    Ok(())
}

async fn deletes(url: String) -> Check {
    let names = Names::new();
    let topology = names.topology();
    let broker = patient(&url)?.topology(&topology).connect().await?;
    broker.delete_topology(&topology).await?;
    broker.declare_topology(&topology).await?;
    let full = Destination::queue(names.queues[4].as_str());
    broker.publisher().publish(&full, Message::new("x")).await?;
    let error = expect_kind(broker.delete_topology(&topology).await, ErrorKind::InUse)?;
    assert_eq!(
        error.context("queue"),
        Some(names.queues[4].as_str()),
        "{error}"
    );
    // Nothing was deleted.
    broker.verify_topology(&topology).await?;
    broker.delete(Deletion::of(&full).with_messages()).await?;
    // Something of others on one of its exchanges: that one stays.
    let stranger = Subscription::ephemeral(names.topic.as_str());
    let other = patient(&url)?.connect().await?;
    let reading = other.consumer(&stranger, ConsumePlan::new()).await?;
    let error = expect_kind(broker.delete_topology(&topology).await, ErrorKind::InUse)?;
    assert_eq!(
        error.context("topic"),
        Some(names.topic.as_str()),
        "{error}"
    );
    reading.close().await?;
    // Its queue is gone with its connection.
    other.close().await?;
    for _ in 0..2 {
        broker.delete_topology(&topology).await?;
        let error = expect_kind(broker.verify_topology(&topology).await, ErrorKind::NotFound)?;
        // Four exchanges, five queues, five homes.
        assert_eq!(error.parts().len(), 14, "{error}");
    }
    Ok(())
}
