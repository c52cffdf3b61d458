//! Filters of durable subscriptions (EIP *Selective Consumer*).

use mq_core::{Broker, ConsumePlan, Destination, ErrorKind, Filter, MessageBuilder, Subscription};

use super::case::list;
use crate::{
    Check, Fixture,
    checks::{numbered, numbers, refused},
    failure::ensure_eq,
    scene::Scene,
};

list![
    a_filter_takes_one_exact_routing_key needs DurableSubscriptions,
    a_filter_takes_a_pattern_of_routing_keys needs DurableSubscriptions,
    a_filter_takes_messages_with_all_of_its_headers needs DurableSubscriptions,
    a_filter_takes_messages_with_any_of_its_headers needs DurableSubscriptions,
    a_filter_on_a_queue_is_refused,
    a_filter_that_no_broker_can_hold_is_refused needs DurableSubscriptions,
    an_open_filter_that_no_broker_can_hold_is_refused needs EphemeralSubscriptions,
];

/// Passes if a subscription with the filter gets exactly these of the published messages.
async fn takes<F: Fixture>(
    scene: &Scene<F>,
    filter: Filter,
    messages: impl IntoIterator<Item = (Option<&'static str>, MessageBuilder)>,
    expected: &[u64],
) -> Check {
    let topic = scene.topic().await?;
    let some = Subscription::durable(topic.name().clone(), "some").filter(filter);
    scene.broker.declare(&some).await?;
    publish(scene, &topic, messages).await?;
    gets(scene, &some, expected).await
}

async fn publish<F: Fixture>(
    scene: &Scene<F>,
    topic: &Destination,
    messages: impl IntoIterator<Item = (Option<&'static str>, MessageBuilder)>,
) -> Check {
    for (routing_key, message) in messages {
        let to = match routing_key {
            Some(key) => topic.clone().routing_key(key),
            None => topic.clone(),
        };
        // One ordering key, so that partitions keep the order.
        scene.publish(&to, message.key("k")).await?;
    }
    Ok(())
}

async fn gets<F: Fixture>(
    scene: &Scene<F>,
    subscription: &Subscription,
    expected: &[u64],
) -> Check {
    let mut reader = scene.open(subscription).await?;
    let received = numbers(&reader.ack(expected.len()).await?)?;
    ensure_eq!(
        received,
        expected,
        "what {:?} takes",
        subscription.filter_by()
    );
    reader.nothing().await?;
    reader.close().await?;
    // What it does not take is behind it for good.
    let mut reader = scene.open_elsewhere(subscription).await?;
    reader.nothing().await?;
    reader.close().await
}

fn with_keys(
    keys: &'static [Option<&'static str>],
) -> impl Iterator<Item = (Option<&'static str>, MessageBuilder)> {
    keys.iter().zip(0..).map(|(key, n)| (*key, numbered(n)))
}

const KEYS: &[Option<&str>] = &[
    Some("eu.order.paid"),
    Some("eu.order"),
    None,
    Some("us.order.paid"),
    Some("eu.order.paid.late"),
    Some("eu"),
    Some("eu.invoice.paid"),
    Some("EU.order.paid"),
];

async fn a_filter_takes_one_exact_routing_key<F: Fixture>(scene: &Scene<F>) -> Check {
    takes(scene, Filter::exact("eu.order.paid"), with_keys(KEYS), &[0]).await
}

async fn a_filter_takes_a_pattern_of_routing_keys<F: Fixture>(scene: &Scene<F>) -> Check {
    let patterns: [(&str, &[u64]); 4] = [
        ("eu.*.paid", &[0, 6]),
        ("eu.#", &[0, 1, 4, 5, 6]),
        ("*", &[5]),
        ("#", &[0, 1, 2, 3, 4, 5, 6, 7]),
    ];
    let mut cases = Vec::new();
    let topic = scene.topic().await?;
    for (n, (pattern, expected)) in patterns.into_iter().enumerate() {
        let name = format!("pattern-{n}");
        let some =
            Subscription::durable(topic.name().clone(), name).filter(Filter::pattern(pattern));
        scene.broker.declare(&some).await?;
        cases.push((some, expected));
    }
    publish(scene, &topic, with_keys(KEYS)).await?;
    for (some, expected) in cases {
        gets(scene, &some, expected).await?;
    }
    Ok(())
}

async fn a_filter_takes_messages_with_all_of_its_headers<F: Fixture>(scene: &Scene<F>) -> Check {
    takes(scene, Filter::AllHeaders(wanted()), with_headers(), &[0, 4]).await
}

async fn a_filter_takes_messages_with_any_of_its_headers<F: Fixture>(scene: &Scene<F>) -> Check {
    takes(
        scene,
        Filter::AnyHeader(wanted()),
        with_headers(),
        &[0, 1, 2, 4],
    )
    .await
}

fn wanted() -> Vec<(String, String)> {
    vec![
        ("region".into(), "eu".into()),
        ("kind".into(), "order".into()),
    ]
}

fn with_headers() -> impl Iterator<Item = (Option<&'static str>, MessageBuilder)> {
    let messages = [
        numbered(0).header("region", "eu").header("kind", "order"),
        numbered(1).header("region", "eu"),
        numbered(2).header("region", "us").header("kind", "order"),
        numbered(3).header("region", "us"),
        numbered(4)
            .header("kind", "order")
            .header("region", "eu")
            .header("more", "1"),
        numbered(5),
    ];
    messages.into_iter().map(|message| (None, message))
}

async fn a_filter_on_a_queue_is_refused<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let filtered = queue.from.filter(Filter::exact("eu"));
    scene
        .refuses_to_open(&filtered, ConsumePlan::new(), ErrorKind::Config)
        .await
        .map(drop)
}

/// What [`Filter::check`] refuses.
fn unfit() -> [Filter; 4] {
    let header = |name: &str| vec![(name.to_owned(), "x".to_owned())];
    [
        Filter::pattern("k".repeat(256)),
        Filter::AllHeaders(Vec::new()),
        Filter::AnyHeader(header("mq-id")),
        Filter::AllHeaders([header("a"), header("a")].concat()),
    ]
}

async fn a_filter_that_no_broker_can_hold_is_refused<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    for filter in unfit() {
        let some = Subscription::durable(topic.name().clone(), "some").filter(filter.clone());
        let declared = scene.broker.declare(&some).await;
        refused(declared, ErrorKind::Config, "declaring it")?;
        let verified = scene.broker.verify(&some).await;
        refused(verified, ErrorKind::Config, "verifying it")?;
    }
    Ok(())
}

async fn an_open_filter_that_no_broker_can_hold_is_refused<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    for filter in unfit() {
        let some = Subscription::ephemeral(topic.name().clone()).filter(filter);
        scene
            .refuses_to_open(&some, ConsumePlan::new(), ErrorKind::Config)
            .await?;
    }
    Ok(())
}
