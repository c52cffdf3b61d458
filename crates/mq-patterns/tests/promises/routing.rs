//! What the page of routing promises.

use mq_core::{Broker, Capability, ErrorKind, Filter, Json};
use mq_patterns::routing::Routing;
use mq_testkit::{Check, Fixture};
use tokio::task::JoinSet;

use crate::scene::{
    Item, Kind, OtherFilter, Scene, items, numbers, refused, report, reports, same,
};

/// Item 0 goes to `kind-0.even`, item 1 to `kind-1.odd`, with headers that say the same.
fn topic<F: Fixture>(scene: &Scene<F>) -> Routing<Item, F::Broker> {
    Routing::new(&scene.broker, scene.name("events"))
        .route(|item: &Item| format!("{}.{}", kind(item), parity(item)))
        .envelope(|item: &Item, message| {
            let message = message.key(&item.key).header("kind", kind(item));
            message.header("parity", parity(item))
        })
}

fn kind(item: &Item) -> String {
    format!("kind-{}", item.number % 3)
}

fn parity(item: &Item) -> &'static str {
    if item.number.is_multiple_of(2) {
        "even"
    } else {
        "odd"
    }
}

/// Declares a subscriber for each filter, publishes, and compares what each of them gets.
async fn each_gets<F: Fixture>(
    scene: &Scene<F>,
    filters: Vec<(&'static str, Filter, Vec<u64>)>,
) -> Check {
    let topic = topic(scene);
    topic.declare().await?;
    // Together: a new queue may take its time.
    let mut declared = JoinSet::new();
    for (name, filter, _) in &filters {
        let (topic, name, filter) = (topic.clone(), *name, filter.clone());
        declared.spawn(async move { topic.subscriber(name, filter).declare().await });
    }
    for declared in declared.join_all().await {
        declared?;
    }
    topic.publish_all(&items(12, 5)).await.all_confirmed()?;
    let mut running = Vec::new();
    for (name, filter, expected) in filters {
        let (seen, events) = reports();
        let run = topic
            .subscriber(name, filter)
            .worker()
            .run(move |Json(item): Json<Item>| {
                let seen = seen.clone();
                async move { report(&seen, item) }
            });
        running.push((name, scene.start(run), events, expected));
    }
    for (name, worker, mut events, expected) in running {
        let got = scene.reports(&mut events, expected.len()).await?;
        same(numbers(&got), expected, name)?;
        scene.quiet(name, events.recv()).await?;
        scene.stop(worker).await?;
    }
    Ok(())
}

pub(crate) async fn keys<F: Fixture>(scene: &Scene<F>) -> Check {
    each_gets(
        scene,
        vec![
            ("exact", Filter::exact("kind-1.odd"), vec![1, 7]),
            ("word", Filter::pattern("*.even"), vec![0, 2, 4, 6, 8, 10]),
            ("words", Filter::pattern("kind-2.#"), vec![2, 5, 8, 11]),
            ("all", Filter::All, (0..12).collect()),
            ("none", Filter::pattern("kind-2"), vec![]),
        ],
    )
    .await
}

pub(crate) async fn headers<F: Fixture>(scene: &Scene<F>) -> Check {
    let wanted = || {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![pair("kind", "kind-1"), pair("parity", "odd")]
    };
    each_gets(
        scene,
        vec![
            ("all", Filter::AllHeaders(wanted()), vec![1, 7]),
            (
                "any",
                Filter::AnyHeader(wanted()),
                vec![1, 3, 4, 5, 7, 9, 10, 11],
            ),
        ],
    )
    .await
}

pub(crate) async fn nobody<F: Fixture>(scene: &Scene<F>) -> Check {
    let plain = topic(scene);
    plain.declare().await?;
    let odd = Filter::pattern("*.odd");
    plain.subscriber("odd", odd).declare().await?;
    let items = items(2, 1);
    // Without listeners an event is confirmed, unless it is asked for.
    plain.publish(&items[0]).await?;
    let asking = topic(scene).mandatory();
    let name = scene.name("events");
    if !scene.broker.capabilities().has(Capability::MandatoryTopics) {
        refused(asking.declare().await, ErrorKind::Unsupported, &name)?;
        let published = asking
            .publish(&items[1])
            .await
            .map_err(|error| error.kind());
        return same(published, Err(ErrorKind::Unsupported), "a publish");
    }
    asking.declare().await?;
    let published = asking.publish(&items[0]).await.map_err(|e| e.kind());
    same(published, Err(ErrorKind::Unroutable), "what nobody takes")?;
    asking.publish(&items[1]).await?;
    let outcomes = asking.publish_all(&items).await;
    let kinds: Vec<_> = outcomes
        .into_iter()
        .map(|o| o.err().map(|e| e.kind()))
        .collect();
    same(
        kinds,
        vec![Some(ErrorKind::Unroutable), None],
        "both together",
    )
}

pub(crate) async fn another_filter<F: Fixture + Kind>(scene: &Scene<F>) -> Check {
    let topic = topic(scene);
    topic.declare().await?;
    topic
        .subscriber("one", Filter::pattern("*.odd"))
        .declare()
        .await?;
    let expected = match scene.fixture.other_filter() {
        OtherFilter::Refused => None,
        OtherFilter::AsDeclared => Some(vec![1, 3, 5]),
        OtherFilter::AsRun => Some(vec![0, 2, 4]),
    };
    run_with_even(scene, &topic, expected).await
}

pub(crate) async fn declared_again<F: Fixture + Kind>(scene: &Scene<F>) -> Check {
    let topic = topic(scene);
    topic.declare().await?;
    topic
        .subscriber("one", Filter::pattern("*.odd"))
        .declare()
        .await?;
    let again = topic
        .subscriber("one", Filter::pattern("*.even"))
        .declare()
        .await;
    let expected = match scene.fixture.other_filter() {
        OtherFilter::Refused => {
            let kind = again.map_err(|error| error.kind());
            return same(kind, Err(ErrorKind::Mismatch), "the second declaration");
        }
        OtherFilter::AsDeclared => vec![0, 1, 2, 3, 4, 5],
        OtherFilter::AsRun => vec![0, 2, 4],
    };
    again?;
    run_with_even(scene, &topic, Some(expected)).await
}

/// What the subscriber `one` gets of six events when it is run for the even ones; `None` if it is
/// refused.
async fn run_with_even<F: Fixture>(
    scene: &Scene<F>,
    topic: &Routing<Item, F::Broker>,
    expected: Option<Vec<u64>>,
) -> Check {
    topic.publish_all(&items(6, 1)).await.all_confirmed()?;
    let (seen, mut events) = reports();
    let even = Filter::pattern("*.even");
    let run = topic
        .subscriber("one", even)
        .worker()
        .run(move |Json(item): Json<Item>| {
            let seen = seen.clone();
            async move { report(&seen, item) }
        });
    let Some(expected) = expected else {
        let ended = scene.soon("the end of a worker", run.into_future()).await?;
        return same(
            ended.err().map(|e| e.kind()),
            Some(ErrorKind::Mismatch),
            "the end",
        );
    };
    let worker = scene.start(run);
    let got = scene.reports(&mut events, expected.len()).await?;
    same(numbers(&got), expected, "the events")?;
    scene.quiet("one event more", events.recv()).await?;
    scene.stop(worker).await
}

pub(crate) async fn undeclared<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = topic(scene);
    let name = scene.name("events");
    let declared = topic
        .subscriber("nobody", Filter::exact("x"))
        .declare()
        .await;
    refused(declared, ErrorKind::NotFound, &name)?;
    topic.declare().await?;
    let run = topic
        .subscriber("nobody", Filter::exact("x"))
        .worker()
        .run(|| async {});
    let ended = scene.soon("the end of a worker", run.into_future()).await?;
    refused(ended, ErrorKind::NotFound, "nobody")
}
