//! What the page of fan-out promises.

use std::collections::BTreeSet;

use mq_core::{
    Broker, ConsumePlan, Consumer, ErrorKind, Failure, IntoOutcome, Json, Message, Outcome,
    Publisher, Reason, Rejection, Subscription, headers,
};
use mq_patterns::fan_out::{FanOut, Listener};
use mq_testkit::{Check, Failure as Failed, Fixture};
use tokio::sync::mpsc;

use crate::scene::{
    Item, Kind, Running, Scene, durable, items, numbers, refused, report, reports, same,
};

fn topic<F: Fixture>(scene: &Scene<F>) -> FanOut<Item, F::Broker> {
    FanOut::new(&scene.broker, scene.name("events"))
        .envelope(|item: &Item, message| message.key(&item.key))
}

/// Runs the subscriber; its handler reports each event.
fn run<F: Fixture>(
    scene: &Scene<F>,
    topic: &FanOut<Item, F::Broker>,
    name: &str,
) -> (Running, mpsc::Receiver<Item>) {
    let (seen, events) = reports();
    let run = topic
        .subscriber(name)
        .worker()
        .concurrency(4)
        .run(move |Json(item)| {
            let seen = seen.clone();
            async move { report(&seen, item) }
        });
    (scene.start(run), events)
}

/// The next so many events, and the payloads of so many messages that are none.
async fn hear<F: Fixture>(
    scene: &Scene<F>,
    listener: &mut Listener<Item, <F::Broker as Broker>::Consumer>,
    count: usize,
) -> Check<(Vec<Item>, Vec<Vec<u8>>)> {
    let (mut events, mut bad) = (Vec::new(), Vec::new());
    while events.len() + bad.len() < count {
        let heard = scene.soon("an event", listener.next()).await??;
        let heard = heard.ok_or_else(|| Failed::new("the listener ended"))?;
        match heard.event() {
            Ok(event) => events.push(event),
            Err(error) => {
                same(error.kind(), ErrorKind::Codec, "the error")?;
                bad.push(
                    heard
                        .received()
                        .payload()
                        .map(|p| p.to_vec())
                        .unwrap_or_default(),
                );
            }
        }
    }
    scene.quiet("one event more", listener.next()).await?;
    Ok((events, bad))
}

pub(crate) async fn everyone<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = topic(scene);
    topic.declare().await?;
    tokio::try_join!(
        topic.subscriber("here").declare(),
        topic.subscriber("late").declare(),
        topic.subscriber("away").declare(),
    )?;
    let items = items(60, 7);
    let expected = numbers(&items);
    // The first reads from the start, the second comes in the middle, the third at the end.
    let (here, mut to_here) = run(scene, &topic, "here");
    topic.publish_all(&items[..30]).await.all_confirmed()?;
    let (late, mut to_late) = run(scene, &topic, "late");
    topic.publish_all(&items[30..]).await.all_confirmed()?;
    let (away, mut to_away) = run(scene, &topic, "away");
    for events in [&mut to_here, &mut to_late, &mut to_away] {
        let events_seen = scene.reports(events, items.len()).await?;
        same(numbers(&events_seen), expected.clone(), "the events")?;
    }
    for worker in [here, late, away] {
        scene.stop(worker).await?;
    }
    for events in [&mut to_here, &mut to_late, &mut to_away] {
        same(events.try_recv().ok(), None, "one event more")?;
    }
    Ok(())
}

pub(crate) async fn listeners<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = topic(scene);
    topic.declare().await?;
    let items = items(30, 7);
    // Nobody subscribes, which is no error.
    topic.publish_all(&items[..10]).await.all_confirmed()?;
    let mut first = topic.listener().await?;
    topic.publish_all(&items[10..20]).await.all_confirmed()?;
    let mut second = topic.listener().await?;
    // What is no event is handed over with its error, and the listener goes on.
    let publisher = scene.broker.publisher();
    publisher
        .publish(topic.destination(), Message::new("{"))
        .await?;
    topic.publish_all(&items[20..]).await.all_confirmed()?;
    let (events, bad) = hear(scene, &mut first, 21).await?;
    same(
        numbers(&events),
        (10..30).collect(),
        "the first one's events",
    )?;
    same(bad, vec![b"{".to_vec()], "what is no event")?;
    let (events, bad) = hear(scene, &mut second, 11).await?;
    same(
        numbers(&events),
        (20..30).collect(),
        "the second one's events",
    )?;
    same(bad, vec![b"{".to_vec()], "what is no event")?;
    first.close().await?;
    // The other one goes on, and what is closed is gone.
    topic.publish_all(&items[..1]).await.all_confirmed()?;
    let (events, _) = hear(scene, &mut second, 1).await?;
    same(numbers(&events), vec![0], "the second one's events")?;
    Ok(second.close().await?)
}

pub(crate) async fn apart<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = topic(scene);
    topic.declare().await?;
    tokio::try_join!(
        topic.subscriber("strict").declare(),
        topic.subscriber("easy").declare(),
    )?;
    let items = items(20, 4);
    topic.publish_all(&items).await.all_confirmed()?;
    let (seen, mut to_strict) = reports();
    let strict = topic
        .subscriber("strict")
        .worker()
        .run(move |Json(item): Json<Item>| {
            let seen = seen.clone();
            async move {
                if item.number == 7 {
                    return Outcome::reject(Rejection::new(Reason::Permanent, "not seven"));
                }
                report(&seen, item).into_outcome()
            }
        });
    let strict = scene.start(strict);
    let (easy, mut to_easy) = run(scene, &topic, "easy");
    let all = scene.reports(&mut to_easy, 20).await?;
    same(numbers(&all), numbers(&items), "the other one's events")?;
    let rest = scene.reports(&mut to_strict, 19).await?;
    let expected = (0..20).filter(|n| *n != 7).collect();
    same(
        numbers(&rest),
        expected,
        "the events that were not rejected",
    )?;
    scene.stop(strict).await?;
    scene.stop(easy).await?;

    let source = durable(topic.destination().name(), "strict");
    let letter = scene.dead(&source).await?;
    let reason = letter.headers().text(headers::DEAD_REASON);
    same(reason, Some("permanent"), "the reason")?;
    let origin = letter.headers().text(headers::DEAD_ORIGIN);
    same(origin, Some(&**source.name()), "the origin")?;
    let other = durable(topic.destination().name(), "easy");
    let Some(home) = other.dead_letter_home() else {
        return Err(Failed::new("no dead-letter home"));
    };
    let home = Subscription::queue(home.name().as_ref());
    let mut homes = scene.broker.consumer(&home, ConsumePlan::new()).await?;
    scene
        .quiet("a dead letter of the other", homes.receive())
        .await?;
    Ok(homes.close().await?)
}

pub(crate) async fn undeclared<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = topic(scene);
    let name = scene.name("events");
    let declared = topic.subscriber("nobody").declare().await;
    refused(declared, ErrorKind::NotFound, &name)?;
    refused(topic.listener().await, ErrorKind::NotFound, &name)?;
    let published = topic.publish(&items(1, 1)[0]).await;
    refused(published, ErrorKind::NotFound, &name)?;
    topic.declare().await?;
    let run = topic.subscriber("nobody").worker().run(|| async {});
    let ended = scene.soon("the end of a worker", run.into_future()).await?;
    refused(ended, ErrorKind::NotFound, "nobody")
}

pub(crate) async fn slow<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = topic(scene);
    topic.declare().await?;
    tokio::try_join!(
        topic.subscriber("stuck").declare(),
        topic.subscriber("quick").declare(),
    )?;
    let (to, mut begun) = reports();
    let stuck = scene.start(topic.subscriber("stuck").worker().run(move || {
        let _ = to.try_send(());
        std::future::pending::<()>()
    }));
    let (quick, mut to_quick) = run(scene, &topic, "quick");
    // More than the stuck one's prefetch.
    let items = items(300, 7);
    topic.publish_all(&items).await.all_confirmed()?;
    scene.reports(&mut begun, 1).await?;
    let all = scene.reports(&mut to_quick, items.len()).await?;
    same(numbers(&all), numbers(&items), "the quick one's events")?;
    stuck.abort().await;
    scene.stop(quick).await
}

pub(crate) async fn dots<F: Fixture + Kind>(scene: &Scene<F>) -> Check {
    let topic = |name: &str| FanOut::<Item, _>::new(&scene.broker, scene.name(name));
    let (shop, shop_eu) = (topic("shop"), topic("shop.eu"));
    tokio::try_join!(shop.declare(), shop_eu.declare())?;
    let pairs = [(&shop, "eu.bills"), (&shop_eu, "bills")];
    for (topic, name) in pairs {
        topic.subscriber(name).declare().await?;
        topic.publish(&items(1, 1)[0]).await?;
    }
    let (to, mut begun) = reports();
    let mut origins = BTreeSet::new();
    for (topic, name) in pairs {
        let to = to.clone();
        let run = topic.subscriber(name).worker().run(move || {
            let to = to.clone();
            async move {
                report(&to, ())?;
                Err::<(), _>(Failure::permanent("no"))
            }
        });
        let worker = scene.start(run);
        scene.reports(&mut begun, 1).await?;
        scene.stop(worker).await?;
        // Each finds its own in the home that both share.
        let source = durable(topic.destination().name(), name);
        let letter = scene.dead(&source).await?;
        let origin = letter.headers().text(headers::DEAD_ORIGIN);
        origins.insert(origin.map(str::to_owned));
        same(
            origins.contains(&Some(source.name().to_string())),
            true,
            "the origin",
        )?;
    }
    // A home is what marks a queue on Kafka, so that this name is taken.
    let taken = topic("shop.eu.bills")
        .declare()
        .await
        .map_err(|error| error.kind());
    match scene.fixture.homes_mark_queues() {
        true => same(
            taken,
            Err(ErrorKind::Mismatch),
            "a topic of the home's queue",
        ),
        false => same(taken, Ok(()), "a topic of the home's queue"),
    }
}
