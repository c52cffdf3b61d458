//! The kinds of exchange a topic can be, and what each filter takes on them.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test may panic, and one of them shows its seed"
)]

mod support;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use lapin::{
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::FieldTable,
};
use mq_amqp::{
    Amqp, AmqpConsumer, ExchangeKind,
    core::{
        Broker, ConsumePlan, DeadLetters, Destination, Error, ErrorKind, Filter, HeaderValue,
        Message, Publisher, Subscription,
    },
};
use mq_testkit::{Check, Suite, broker_address};
use support::{Bare, builder, expect_kind, next, soon, text, unique};
use tokio::time::sleep;

fn main() -> ExitCode {
    Suite::new("exchanges", "mq-amqp", broker_address("MQ_RABBITMQ_URL"))
        .case("a_direct_exchange_routes_by_the_whole_key", direct)
        .case("a_fanout_exchange_gives_everything_to_everyone", fanout)
        .case("a_topic_exchange_routes_by_patterns", patterns)
        .case("a_fanout_exchange_keeps_filters_by_headers", fanout_headers)
        .case("headers_match_all_or_any_and_x_headers_too", by_headers)
        .case(
            "a_durable_subscription_of_each_kind_is_declared_and_verified",
            durable,
        )
        .case("an_exchange_of_another_kind_shows_both_sides", mismatch)
        .case("a_filter_that_a_kind_cannot_keep_is_named", refused)
        .case("the_broker_takes_what_a_filter_takes", as_the_filter_says)
        .case("an_exclusive_queue_is_in_use_and_then_not_found", exclusive)
        .case(
            "openings_fail_for_their_own_reason_however_many_there_were",
            openings,
        )
        .case(
            "an_exclusive_consumer_leaves_the_queue_in_use",
            exclusive_consumer,
        )
        .run()
}

/// A broker where this topic is declared as an exchange of this kind.
async fn with(url: &str, kind: ExchangeKind) -> Check<(Amqp, Destination)> {
    let topic = unique(&kind.to_string());
    let broker = builder(url)?
        .exchange(topic.as_str(), kind)
        .connect()
        .await?;
    let topic = Destination::topic(topic);
    broker.declare(&topic).await?;
    Ok((broker, topic))
}

async fn listen(broker: &Amqp, topic: &Destination, filter: Filter) -> Check<AmqpConsumer> {
    let subscription = Subscription::ephemeral(topic.name().clone()).filter(filter);
    Ok(broker.consumer(&subscription, ConsumePlan::new()).await?)
}

/// Publishes each key as the payload under that key, mandatory where somebody listens.
async fn publish(broker: &Amqp, topic: &Destination, keys: &[&str]) -> Check {
    for key in keys {
        let to = topic.clone().routing_key(*key);
        broker
            .publisher()
            .publish(&to, Message::new(key.to_string()))
            .await?;
    }
    Ok(())
}

/// What a consumer has got by now: a last message through the default exchange comes behind it.
async fn taken(broker: &Amqp, consumer: &mut AmqpConsumer) -> Check<Vec<String>> {
    let queue = Destination::queue(consumer.queue());
    broker
        .publisher()
        .publish(&queue, Message::new(LAST))
        .await?;
    let mut taken = Vec::new();
    loop {
        let delivery = next(consumer).await?;
        let payload = text(&delivery);
        delivery.ack()?;
        if payload == LAST {
            return Ok(taken);
        }
        taken.push(payload);
    }
}

async fn delete(url: &str, topic: &Destination) -> Check {
    let bare = Bare::connect(url).await?;
    for name in [
        topic.name().to_string(),
        format!("{}.headers", topic.name()),
    ] {
        let options = ExchangeDeleteOptions::default();
        bare.channel
            .exchange_delete(name.as_str().into(), options)
            .await?;
    }
    Ok(())
}

async fn direct(url: String) -> Check {
    let (broker, topic) = with(&url, ExchangeKind::Direct).await?;
    let mut paid = listen(&broker, &topic, Filter::exact("eu.paid")).await?;
    // A word that would be a pattern elsewhere is just a word here.
    let mut star = listen(&broker, &topic, Filter::exact("eu.*")).await?;
    let mut none = listen(&broker, &topic, Filter::exact("")).await?;
    publish(
        &broker,
        &topic,
        &["eu.paid", "eu.open", "eu", "eu.*", "", "eu.paid"],
    )
    .await?;
    assert_eq!(taken(&broker, &mut paid).await?, ["eu.paid", "eu.paid"]);
    assert_eq!(taken(&broker, &mut star).await?, ["eu.*"]);
    assert_eq!(taken(&broker, &mut none).await?, [""]);
    let unbound = topic.clone().routing_key("eu.open").mandatory();
    expect_kind(
        broker
            .publisher()
            .publish(&unbound, Message::new("x"))
            .await,
        ErrorKind::Unroutable,
    )?;
    delete(&url, &topic).await
}

async fn fanout(url: String) -> Check {
    let (broker, topic) = with(&url, ExchangeKind::Fanout).await?;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(listen(&broker, &topic, Filter::All).await?);
    }
    let keys = ["", "eu.paid", "#"];
    publish(&broker, &topic, &keys).await?;
    for listener in &mut listeners {
        assert_eq!(taken(&broker, listener).await?, keys);
    }
    delete(&url, &topic).await
}

async fn patterns(url: String) -> Check {
    let (broker, topic) = with(&url, ExchangeKind::Topic).await?;
    let mut one = listen(&broker, &topic, Filter::pattern("eu.*.paid")).await?;
    let mut any = listen(&broker, &topic, Filter::pattern("#.paid")).await?;
    publish(
        &broker,
        &topic,
        &["eu.a.paid", "eu.paid", "paid", "eu.a.b.paid", "eu.a.open"],
    )
    .await?;
    assert_eq!(taken(&broker, &mut one).await?, ["eu.a.paid"]);
    assert_eq!(
        taken(&broker, &mut any).await?,
        ["eu.a.paid", "eu.paid", "paid", "eu.a.b.paid"]
    );
    delete(&url, &topic).await
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(n, v)| ((*n).into(), (*v).into()))
        .collect()
}

/// Two subscriptions by the same headers, one for all of them and one for any.
async fn both_headers(broker: &Amqp, topic: &Destination) -> Check {
    let wanted = pairs(&[("x-kind", "order"), ("size", "big")]);
    let mut all = listen(broker, topic, Filter::AllHeaders(wanted.clone())).await?;
    let mut any = listen(broker, topic, Filter::AnyHeader(wanted)).await?;
    let messages = [
        Message::new("both")
            .header("x-kind", "order")
            .header("size", "big")
            .header("more", "1"),
        Message::new("x alone").header("x-kind", "order"),
        Message::new("size alone")
            .header("size", "big")
            .header("x-kind", "other"),
        Message::new("other values")
            .header("size", "small")
            .header("x-kind", "Order"),
        Message::new("none"),
    ];
    for message in messages {
        broker
            .publisher()
            .publish(&topic.clone().routing_key("any.key"), message)
            .await?;
    }
    assert_eq!(taken(broker, &mut all).await?, ["both"]);
    assert_eq!(
        taken(broker, &mut any).await?,
        ["both", "x alone", "size alone"]
    );
    Ok(())
}

async fn by_headers(url: String) -> Check {
    let (broker, topic) = with(&url, ExchangeKind::Topic).await?;
    both_headers(&broker, &topic).await?;
    delete(&url, &topic).await
}

async fn fanout_headers(url: String) -> Check {
    let (broker, topic) = with(&url, ExchangeKind::Fanout).await?;
    both_headers(&broker, &topic).await?;
    delete(&url, &topic).await
}

async fn durable(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let kinds = [
        (ExchangeKind::Direct, Filter::exact("eu"), "a"),
        (ExchangeKind::Fanout, Filter::All, "ab"),
        (ExchangeKind::Topic, Filter::pattern("u.#"), "b"),
    ];
    let each = kinds.map(|(kind, filter, expected)| {
        let (url, bare) = (url.as_str(), &bare);
        async move {
            let (broker, topic) = with(url, kind).await?;
            let subscription = Subscription::durable(topic.name().clone(), "s").filter(filter);
            broker.declare(&subscription).await?;
            broker.verify(&subscription).await?;
            broker.verify(&topic).await?;
            bare.exchange(topic.name(), &kind.to_string()).await?;
            for (key, payload) in [("eu", "a"), ("u.s", "b")] {
                let to = topic.clone().routing_key(key);
                broker
                    .publisher()
                    .publish(&to, Message::new(payload))
                    .await?;
            }
            let mut consumer = broker.consumer(&subscription, ConsumePlan::new()).await?;
            assert_eq!(consumer.queue(), format!("s@{}", topic.name()));
            assert_eq!(
                taken(&broker, &mut consumer).await?.concat(),
                expected,
                "{kind}"
            );
            bare.delete(consumer.queue()).await?;
            bare.delete(&format!("{}.s.dead", topic.name())).await?;
            delete(url, &topic).await
        }
    });
    futures::future::try_join_all(each).await?;
    Ok(())
}

async fn mismatch(url: String) -> Check {
    let (direct, topic) = with(&url, ExchangeKind::Direct).await?;
    let name = topic.name().as_ref();
    let plain = Amqp::connect(&url).await?;
    let durable = Subscription::durable(topic.name().clone(), "s");
    let ephemeral = Subscription::ephemeral(topic.name().clone());
    let opened = plain.consumer(&ephemeral, ConsumePlan::new()).await;
    for result in [
        plain.declare(&topic).await,
        plain.verify(&topic).await,
        plain.declare(&durable).await,
        opened.map(drop),
    ] {
        let error = expect_kind(result, ErrorKind::Mismatch)?;
        assert_eq!(error.context("topic"), Some(name), "{error}");
        assert_eq!(error.context("argument"), Some("type"), "{error}");
        assert_eq!(error.context("asked"), Some("'topic'"), "{error}");
        assert_eq!(error.context("there"), Some("'direct'"), "{error}");
        assert!(
            error.to_string().contains("AmqpBuilder::exchange"),
            "{error}"
        );
    }
    direct.verify(&topic).await?;
    // How a stranger's exchange is stored does not matter to who binds to it.
    let bare = Bare::connect(&url).await?;
    let passing = unique("passing");
    let declare = bare.channel.exchange_declare(
        passing.as_str().into(),
        lapin::ExchangeKind::Topic,
        ExchangeDeclareOptions::default(),
        FieldTable::default(),
    );
    declare.await?;
    let passing = Destination::topic(passing);
    let mut listener = listen(&plain, &passing, Filter::All).await?;
    publish(&plain, &passing, &["eu"]).await?;
    assert_eq!(taken(&plain, &mut listener).await?, ["eu"]);
    delete(&url, &passing).await?;
    delete(&url, &topic).await
}

async fn refused(url: String) -> Check {
    let headers = || Filter::AnyHeader(pairs(&[("size", "big")]));
    let cases = [
        (ExchangeKind::Direct, Filter::All, "all"),
        (
            ExchangeKind::Direct,
            Filter::pattern("eu.*"),
            "pattern \"eu.*\"",
        ),
        (
            ExchangeKind::Direct,
            headers(),
            "any header [(\"size\", \"big\")]",
        ),
        (ExchangeKind::Fanout, Filter::exact("eu"), "exact \"eu\""),
        (
            ExchangeKind::Fanout,
            Filter::pattern("eu"),
            "pattern \"eu\"",
        ),
    ];
    for (kind, filter, shown) in cases {
        let (broker, topic) = with(&url, kind).await?;
        let durable = Subscription::durable(topic.name().clone(), "s").filter(filter.clone());
        let ephemeral = Subscription::ephemeral(topic.name().clone()).filter(filter);
        let opened = broker.consumer(&ephemeral, ConsumePlan::new()).await;
        for result in [broker.declare(&durable).await, opened.map(drop)] {
            let error = expect_kind(result, ErrorKind::Config)?;
            assert_eq!(
                error.context("kind"),
                Some(kind.to_string().as_str()),
                "{error}"
            );
            assert_eq!(error.context("filter"), Some(shown), "{error}");
            assert_eq!(
                error.context("topic"),
                Some(topic.name().as_ref()),
                "{error}"
            );
        }
        // Nothing was made before it was refused.
        expect_kind(
            broker
                .verify(Destination::queue(format!("s@{}", topic.name())))
                .await,
            ErrorKind::NotFound,
        )?;
        delete(&url, &topic).await?;
    }
    let name = builder(&url)?
        .exchange("", ExchangeKind::Direct)
        .connect()
        .await;
    expect_kind(name.map(drop), ErrorKind::InvalidName)?;
    Ok(())
}

async fn as_the_filter_says(url: String) -> Check {
    let seed = std::env::var("MQ_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(1, |d| d.as_nanos() as u64)
    });
    println!("the_broker_takes_what_a_filter_takes: MQ_SEED={seed}");
    let mut random = Random(seed | 1);
    let (broker, topic) = with(&url, ExchangeKind::Topic).await?;
    let mut subscribed = Vec::new();
    while subscribed.len() < 30 {
        let filter = random.filter();
        let subscription = Subscription::ephemeral(topic.name().clone()).filter(filter.clone());
        match broker.consumer(&subscription, ConsumePlan::new()).await {
            Ok(consumer) => subscribed.push((filter, consumer, BTreeSet::new())),
            // What this crate refuses since the broker means something else by it.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Config, "{error}"),
        }
    }
    let mut pending = Vec::new();
    for number in 0..200 {
        let key = random.key(&["a", "b", "ab", ""], 5);
        let mut message = Message::new(number.to_string());
        for name in NAMES {
            if let Some(value) = random.value() {
                message = message.header(name, value);
            }
        }
        let message = message.build();
        for (filter, _, expected) in &mut subscribed {
            if filter.takes(Some(&key), message.headers()) {
                expected.insert(number);
            }
        }
        let to = topic.clone().routing_key(key.as_str());
        pending.push(broker.publisher().enqueue(&to, message).await?);
    }
    for one in pending {
        soon("an outcome", one).await??;
    }
    let mut some = 0;
    for (filter, mut consumer, expected) in subscribed {
        let taken = taken(&broker, &mut consumer).await?;
        let numbers: BTreeSet<usize> = taken.iter().flat_map(|t| t.parse()).collect();
        assert_eq!(taken.len(), numbers.len(), "{filter:?} got one twice");
        assert_eq!(numbers, expected, "{filter:?} MQ_SEED={seed}");
        some += numbers.len();
    }
    assert!(some > 200, "the filters took next to nothing: {some}");
    delete(&url, &topic).await
}

async fn exclusive(url: String) -> Check {
    let (owner, topic) = with(&url, ExchangeKind::Fanout).await?;
    let consumer = listen(&owner, &topic, Filter::All).await?;
    let queue = consumer.queue().to_owned();
    let other = Amqp::connect(&url).await?;
    let subscription = Subscription::queue(queue.as_str());
    let plans = [
        ConsumePlan::new().dead_letters(DeadLetters::None),
        // The home is missing too, but that is not what is wrong.
        ConsumePlan::new(),
    ];
    for plan in plans.clone() {
        let error = opened(&other, &subscription, plan, ErrorKind::InUse).await?;
        assert_eq!(error.context("queue"), Some(queue.as_str()), "{error}");
        assert!(
            error.is_retryable() && error.to_string().contains("closed"),
            "{error}"
        );
    }
    let verified = other.verify(Destination::queue(queue.as_str())).await;
    // Names of the broker cannot be declared, so they cannot be verified either.
    expect_kind(verified, ErrorKind::InvalidName)?;
    // The owner goes on: nothing of its own was harmed.
    let mut consumer = consumer;
    publish(&owner, &topic, &["still"]).await?;
    assert_eq!(taken(&owner, &mut consumer).await?, ["still"]);

    owner.close().await?;
    for plan in plans {
        // The broker deletes it a moment after it said goodbye, and the advice is to try again.
        let gone = async {
            loop {
                let opened = other.consumer(&subscription, plan.clone()).await.map(drop);
                match opened {
                    Err(error) if error.kind() == ErrorKind::InUse => sleep(TRY_AGAIN).await,
                    opened => return expect_kind(opened, ErrorKind::NotFound),
                }
            }
        };
        let error = soon("the end of the queue", gone).await??;
        assert!(error.to_string().contains(&queue), "{error}");
    }
    delete(&url, &topic).await
}

/// More openings fail than a connection has numbers for channels: it is made anew, and each opening has its own answer.
async fn openings(url: String) -> Check {
    let (owner, topic) = with(&url, ExchangeKind::Fanout).await?;
    let consumer = listen(&owner, &topic, Filter::All).await?;
    let other = Amqp::connect(&url).await?;
    let subscription = Subscription::queue(consumer.queue());
    let without_home = ConsumePlan::new().dead_letters(DeadLetters::None);
    for _ in 0..900 {
        for plan in [without_home.clone(), ConsumePlan::new()] {
            opened(&other, &subscription, plan, ErrorKind::InUse).await?;
        }
    }
    owner.close().await?;
    delete(&url, &topic).await
}

async fn opened(
    broker: &Amqp,
    subscription: &Subscription,
    plan: ConsumePlan,
    kind: ErrorKind,
) -> Check<Error> {
    expect_kind(broker.consumer(subscription, plan).await.map(drop), kind)
}

async fn exclusive_consumer(url: String) -> Check {
    let bare = Bare::connect(&url).await?;
    let name = unique("alone");
    bare.queue(&name, &[]).await?;
    let options = lapin::options::BasicConsumeOptions {
        exclusive: true,
        ..Default::default()
    };
    let consume = bare.channel.basic_consume(
        name.as_str().into(),
        "".into(),
        options,
        FieldTable::default(),
    );
    let alone = consume.await?;
    let broker = Amqp::connect(&url).await?;
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let error = opened(
        &broker,
        &Subscription::queue(name.as_str()),
        plan,
        ErrorKind::InUse,
    )
    .await?;
    assert_eq!(error.context("queue"), Some(name.as_str()), "{error}");
    drop(alone);
    bare.delete(&name).await
}

/// Random filters and messages, from one seed (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    fn key(&mut self, words: &[&str], most: usize) -> String {
        let key: Vec<_> = (0..self.below(most))
            .map(|_| words[self.below(words.len())])
            .collect();
        key.join(".")
    }

    /// None, null, bytes that are no text, or text.
    fn value(&mut self) -> Option<HeaderValue> {
        match self.below(6) {
            0 | 1 => None,
            2 => Some(HeaderValue::null()),
            3 => Some(HeaderValue::from(vec![0xff, b'1'])),
            _ => Some(VALUES[self.below(VALUES.len())].into()),
        }
    }

    fn filter(&mut self) -> Filter {
        match self.below(10) {
            0 => Filter::All,
            1 | 2 => Filter::exact(self.key(&["a", "b", "ab", ""], 4)),
            3..=6 => Filter::pattern(self.key(&["a", "b", "", "*", "#"], 5)),
            one => {
                let mut wanted = Vec::new();
                for _ in 0..=self.below(3) {
                    let name = NAMES[self.below(NAMES.len())];
                    wanted.push((name.to_owned(), VALUES[self.below(VALUES.len())].to_owned()));
                }
                if one == 7 {
                    Filter::AllHeaders(wanted)
                } else {
                    Filter::AnyHeader(wanted)
                }
            }
        }
    }
}

const NAMES: [&str; 4] = ["size", "Size", "x-kind", "größe"];
const VALUES: [&str; 4] = ["1", "2", "", "ü"];
const LAST: &str = "the last one";
const TRY_AGAIN: Duration = Duration::from_millis(50);
