//! Filters, which run in the consumer. On a running Kafka, named by `MQ_KAFKA_SERVERS`.
#![allow(clippy::expect_used, reason = "a test panics where it fails")]

mod support;

use std::{
    collections::BTreeSet,
    env,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use futures::{FutureExt, future::try_join_all};
use mq_kafka::{
    Kafka, KafkaConsumer,
    core::{
        Broker, ConsumePlan, Consumer, Destination, Filter, Headers, Message, Publisher,
        Subscription,
    },
};
use mq_testkit::{Check, Failure, Suite, broker_address};
use support::{Bare, check, quiet, same, take, text, unique, within};

fn main() -> ExitCode {
    let address = broker_address("MQ_KAFKA_SERVERS");
    Suite::new("kafka-filters", "mq-kafka", address)
        .deadline(Duration::from_secs(150))
        .case(
            "records_that_a_filter_leaves_out_are_passed_by_offset",
            filtered_offsets,
        )
        .case(
            "a_subscription_that_takes_nothing_commits_the_end",
            takes_nothing,
        )
        .case(
            "an_ephemeral_subscription_passes_what_it_does_not_take",
            ephemeral_passes,
        )
        .case(
            "thirty_random_subscriptions_get_what_their_filters_take",
            random_subscriptions,
        )
        .run()
}

async fn filtered_offsets(servers: String) -> Check {
    let kafka = Kafka::connect(&servers).await?;
    let topic = Destination::topic(unique("filter"));
    kafka.declare(&topic).await?;
    let wanted = Subscription::durable(topic.name().clone(), "eu").filter(Filter::pattern("eu.#"));
    kafka.declare(&wanted).await?;
    for n in 0..20_u32 {
        let key = if n == 19 { "eu.paid" } else { "us.paid" };
        let to = topic.clone().routing_key(key);
        kafka
            .publisher()
            .publish(&to, Message::new(n.to_string()).key("one"))
            .await?;
    }
    let mut consumer = kafka.consumer(&wanted, ConsumePlan::new()).await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    same(text(&delivery).as_str(), "19", "what is taken")?;
    let at = delivery.position().expect("a position");
    delivery.ack()?;
    consumer.close().await?;
    let bare = Bare::connect(&servers).await?;
    let places = bare.places(wanted.name(), topic.name()).await?;
    let offset = places.get(&at.partition.cast_signed()).map(|place| place.0);
    same(offset, Some(20), "committed offset")
}

async fn takes_nothing(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(2).connect().await?;
    let topic = Destination::topic(unique("nothing"));
    kafka.declare(&topic).await?;
    let wanted = [
        Filter::exact("no.such.key"),
        Filter::pattern("no.#"),
        Filter::AllHeaders(vec![("kind".to_owned(), "none".to_owned())]),
        Filter::AnyHeader(vec![("kind".to_owned(), "none".to_owned())]),
    ];
    let bare = Bare::connect(&servers).await?;
    let mut consumers = Vec::new();
    for (n, filter) in wanted.into_iter().enumerate() {
        let source = Subscription::durable(topic.name().clone(), format!("s{n}")).filter(filter);
        kafka.declare(&source).await?;
        let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
        // Nothing is committed before somebody has asked for messages.
        let none = consumer.receive().now_or_never();
        check(none.is_none(), "there is nothing yet")?;
        consumers.push((source.name().clone(), consumer));
    }
    for n in 0..100_u32 {
        let message = Message::new("x").header("kind", "some").build();
        let to = topic.clone().routing_key("some.key");
        kafka
            .publisher()
            .partition(n % 2)
            .publish(&to, message)
            .await?;
    }
    for (group, mut consumer) in consumers {
        let committed = async {
            loop {
                let places = bare.places(&group, topic.name()).await?;
                if (0..2).all(|p| places.get(&p).is_some_and(|place| place.0 == 50)) {
                    return Check::Ok(());
                }
            }
        };
        within(20, committed).await??;
        quiet(&mut consumer).await?;
    }
    Ok(())
}

async fn ephemeral_passes(servers: String) -> Check {
    let kafka = Kafka::builder(&servers).partitions(1).connect().await?;
    let topic = Destination::topic(unique("passes"));
    kafka.declare(&topic).await?;
    let source = Subscription::ephemeral(topic.name().clone()).filter(Filter::exact("wanted"));
    let mut consumer = kafka.consumer(&source, ConsumePlan::new()).await?;
    // More than a partition may have between its watermark and its newest record.
    let other = topic.clone().routing_key("other");
    let many = (0..25_000).map(|_| Message::new("x").build()).collect();
    kafka
        .publisher()
        .publish_batch(&other, many)
        .await
        .all_confirmed()?;
    let wanted = topic.clone().routing_key("wanted");
    kafka
        .publisher()
        .publish(&wanted, Message::new("y"))
        .await?;
    let delivery = take(&mut consumer, 1).await?.remove(0);
    same(
        delivery.position().map(|p| p.offset),
        Some(25_000),
        "offset",
    )
}

async fn random_subscriptions(servers: String) -> Check {
    let seed = match env::var("MQ_TEST_SEED") {
        Ok(text) => text.parse()?,
        Err(_) => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)?
            .subsec_nanos()
            .into(),
    };
    random_with(&servers, Random(seed))
        .await
        .map_err(|failure| Failure::new(format!("MQ_TEST_SEED={seed}: {failure}")))
}

async fn random_with(servers: &str, mut random: Random) -> Check {
    let kafka = Kafka::builder(servers).partitions(4).connect().await?;
    let topic = Destination::topic(unique("random"));
    kafka.declare(&topic).await?;
    let sources: Vec<Subscription> = (0..30)
        .map(|n| {
            let name = topic.name().clone();
            let source = match n % 2 {
                0 => Subscription::durable(name, format!("s{n}")),
                _ => Subscription::ephemeral(name),
            };
            // Each kind of filter on each kind of subscription.
            source.filter(random.filter(n % 5))
        })
        .collect();
    let broker = &kafka;
    let opened = sources.iter().map(|source| async move {
        broker.declare(source).await?;
        broker
            .consumer(source, ConsumePlan::new().prefetch(1000))
            .await
    });
    let consumers = try_join_all(opened).await?;
    let messages: Vec<(String, Headers)> = (0..200)
        .map(|_| (random.routing_key(), random.headers()))
        .collect();
    let mut handles = Vec::new();
    for (n, (key, headers)) in messages.iter().enumerate() {
        let to = topic.clone().routing_key(key.as_str());
        let message = Message::new(n.to_string())
            .key((n % 7).to_string())
            .headers(headers.clone());
        handles.push(kafka.publisher().enqueue(&to, message).await?);
    }
    for handle in handles {
        handle.await?;
    }
    let gets = sources.iter().zip(consumers).map(|(source, consumer)| {
        let takes =
            |(key, headers): &(String, Headers)| source.filter_by().takes(Some(key), headers);
        let expected = messages
            .iter()
            .enumerate()
            .filter(|(_, message)| takes(message));
        gets(
            source,
            consumer,
            expected.map(|(n, _)| n.to_string()).collect(),
        )
    });
    try_join_all(gets).await?;
    Ok(())
}

/// A subscription gets each of these once, and nothing else.
async fn gets(
    source: &Subscription,
    mut consumer: KafkaConsumer,
    expected: BTreeSet<String>,
) -> Check {
    let what = format!("{:?} of {}", source.filter_by(), source.name());
    let told = |failure: Failure| Failure::new(format!("{what}: {failure}"));
    let found = take(&mut consumer, expected.len()).await.map_err(told)?;
    let found: BTreeSet<String> = found.iter().map(text).collect();
    same(found, expected, &what)?;
    quiet(&mut consumer).await.map_err(told)
}

/// Numbers that a seed gives again (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).map_or(0, |n| n % end)
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    fn words(&mut self, of: &[&str]) -> String {
        let count = self.below(4);
        (0..count)
            .map(|_| self.of(of))
            .collect::<Vec<_>>()
            .join(".")
    }

    /// Few words, so that patterns often fit.
    fn routing_key(&mut self) -> String {
        self.words(&["eu", "us", "paid", ""])
    }

    fn headers(&mut self) -> Headers {
        let count = self.below(4);
        (0..count).map(|_| self.pair()).collect()
    }

    fn pair(&mut self) -> (String, String) {
        let (name, value) = (self.of(&["kind", "region"]), self.of(&["a", "b", "ü", ""]));
        (name.to_owned(), value.to_owned())
    }

    fn filter(&mut self, kind: usize) -> Filter {
        // A filter names a header once, and at least one.
        let pairs = |random: &mut Self| {
            let mut pairs = vec![random.pair()];
            let other = random.pair();
            if other.0 != pairs[0].0 {
                pairs.push(other);
            }
            pairs
        };
        match kind {
            0 => Filter::All,
            1 => Filter::exact(self.routing_key()),
            2 => Filter::pattern(self.words(&["eu", "us", "paid", "*", "#"])),
            3 => Filter::AllHeaders(pairs(self)),
            _ => Filter::AnyHeader(pairs(self)),
        }
    }
}
