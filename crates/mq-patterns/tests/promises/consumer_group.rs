//! What the page of consumer groups promises.

use std::collections::{BTreeMap, BTreeSet};

use mq_core::{Attempt, Broker, Capability, Json, headers};
use mq_patterns::consumer_group::ConsumerGroup;
use mq_testkit::{Check, Failure, Fixture};
use tokio::sync::mpsc;

use crate::scene::{Item, Running, Scene, durable, items, numbers, report, reports, same};

async fn declared<F: Fixture>(
    scene: &Scene<F>,
    client: &F::Broker,
    group: &str,
) -> Check<ConsumerGroup<Item, F::Broker>> {
    let group = ConsumerGroup::new(client, scene.name("events"), group)
        .envelope(|item: &Item, message| message.key(&item.key));
    group.declare().await?;
    Ok(group)
}

/// Runs a member; its handler reports each item with the member's name.
fn run<F: Fixture>(
    scene: &Scene<F>,
    group: &ConsumerGroup<Item, F::Broker>,
    member: &'static str,
    to: &mpsc::Sender<(&'static str, Item)>,
) -> Running {
    let to = to.clone();
    scene.start(group.member(4).run(move |Json(item): Json<Item>| {
        let to = to.clone();
        async move { report(&to, (member, item)) }
    }))
}

pub(crate) async fn shared<F: Fixture>(scene: &Scene<F>) -> Check {
    let elsewhere = scene.fixture.connect().await?;
    let bills = declared(scene, &scene.broker, "bills").await?;
    let bills_too = declared(scene, &elsewhere, "bills").await?;
    let mails = declared(scene, &elsewhere, "mails").await?;
    let (to_bills, mut billed) = reports();
    let (to_mails, mut mailed) = reports();
    let workers = [
        run(scene, &bills, "a", &to_bills),
        run(scene, &bills_too, "b", &to_bills),
        run(scene, &mails, "c", &to_mails),
    ];
    // Rounds, until both members of the first group had something: a group takes a moment to share.
    let mut members = BTreeSet::new();
    let mut rounds = (0..ROUNDS).map(round);
    while members.len() < 2 {
        let Some(items) = rounds.next() else {
            return Err(Failure::new("one member gets everything"));
        };
        bills.publish_all(&items).await.all_confirmed()?;
        let got = handled(scene, &mut billed, &items).await?;
        members.extend(got.into_iter().map(|(member, _)| member));
        handled(scene, &mut mailed, &items).await?;
    }
    for worker in workers {
        scene.stop(worker).await?;
    }
    Ok(elsewhere.close().await?)
}

pub(crate) async fn ordered<F: Fixture>(scene: &Scene<F>) -> Check {
    let group = declared(scene, &scene.broker, "balances").await?;
    let items = items(200, 10);
    group.publish_all(&items).await.all_confirmed()?;
    let (to, mut done) = reports();
    let worker = scene.start(group.member(8).run(
        move |Json(item): Json<Item>, Attempt(attempt)| {
            let to = to.clone();
            async move {
                // Every seventh fails twice; those behind it wait.
                if item.number.is_multiple_of(7) && attempt < 3 {
                    return Err("not yet");
                }
                tokio::task::yield_now().await;
                report(&to, item)
            }
        },
    ));
    let done = scene.reports(&mut done, items.len()).await?;
    same(numbers(&done), numbers(&items), "the items")?;
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for item in &done {
        if let Some(before) = last.insert(&item.key, item.number)
            && before > item.number
        {
            let text = format!("{} of {} came behind {before}", item.number, item.key);
            return Err(Failure::new(text));
        }
    }
    scene.stop(worker).await
}

pub(crate) async fn one_member<F: Fixture>(scene: &Scene<F>) -> Check {
    if !scene.broker.capabilities().has(Capability::Partitions) {
        return Err(Failure::not_declared(Capability::Partitions));
    }
    let elsewhere = scene.fixture.connect().await?;
    let here = declared(scene, &scene.broker, "balances").await?;
    let there = declared(scene, &elsewhere, "balances").await?;
    let (to, mut done) = reports();
    let workers = [run(scene, &here, "a", &to), run(scene, &there, "b", &to)];
    // Until a whole round went as the one before, with both members at work: a group takes a moment
    // to share. Where any member gets any message that would not come about.
    let (mut before, mut shared) = (BTreeMap::new(), false);
    let mut rounds = (0..ROUNDS).map(round);
    while !shared {
        let Some(items) = rounds.next() else {
            return Err(Failure::new("the keys do not stay with their members"));
        };
        here.publish_all(&items).await.all_confirmed()?;
        let got = handled(scene, &mut done, &items).await?;
        let mut owners: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (member, item) in &got {
            owners.entry(item.key.clone()).or_default().insert(member);
        }
        let members: BTreeSet<&str> = got.iter().map(|(member, _)| *member).collect();
        let alone = owners.values().all(|members| members.len() == 1);
        shared = members.len() == 2 && alone && owners == before;
        before = owners;
    }
    for worker in workers {
        scene.stop(worker).await?;
    }
    Ok(elsewhere.close().await?)
}

pub(crate) async fn dies<F: Fixture>(scene: &Scene<F>) -> Check {
    let elsewhere = scene.fixture.connect().await?;
    let here = declared(scene, &scene.broker, "balances").await?;
    let there = declared(scene, &elsewhere, "balances").await?;
    let (to, mut begun) = reports();
    let doomed = scene.start(there.member(4).run(move || {
        let _ = to.try_send(());
        std::future::pending::<()>()
    }));
    let items = round(0);
    here.publish_all(&items).await.all_confirmed()?;
    scene.reports(&mut begun, 1).await?;
    let (to, mut done) = reports();
    let worker = run(scene, &here, "a", &to);
    doomed.abort().await;
    handled(scene, &mut done, &items).await?;
    scene.stop(worker).await?;
    Ok(elsewhere.close().await?)
}

pub(crate) async fn dead<F: Fixture>(scene: &Scene<F>) -> Check {
    let group = declared(scene, &scene.broker, "balances").await?;
    let items = items(3, 1);
    group.publish_all(&items).await.all_confirmed()?;
    let (to, mut done) = reports();
    let run = group
        .member(2)
        .max_attempts(3)
        .run(move |Json(item): Json<Item>| {
            let to = to.clone();
            async move {
                match item.number {
                    1 => Err("never"),
                    _ => report(&to, item),
                }
            }
        });
    let worker = scene.start(run);
    let rest = scene.reports(&mut done, 2).await?;
    let order: Vec<u64> = rest.iter().map(|item| item.number).collect();
    same(order, vec![0, 2], "those that succeed")?;
    scene.stop(worker).await?;
    let topic = group.destination().name();
    let letter = scene.dead(&durable(topic, "balances")).await?;
    let text = |name| letter.headers().text(name);
    same(text(headers::DEAD_REASON), Some("exhausted"), "the reason")?;
    same(text(headers::DEAD_ATTEMPTS), Some("3"), "the attempts")
}

/// The items of one round, with numbers of their own: five of each of nineteen keys, so that no
/// turn-taking among partitions falls together with the keys.
fn round(round: u64) -> Vec<Item> {
    let item = |n| Item {
        number: round * 100 + n,
        key: format!("key-{}", n % 19),
    };
    (0..95).map(item).collect()
}

/// What members report, until all these items are done. One that a partition's move made them do
/// twice is in it twice.
async fn handled<F: Fixture>(
    scene: &Scene<F>,
    from: &mut mpsc::Receiver<(&'static str, Item)>,
    items: &[Item],
) -> Check<Vec<(&'static str, Item)>> {
    let mut missing: BTreeSet<u64> = items.iter().map(|item| item.number).collect();
    let mut all = Vec::new();
    while !missing.is_empty() {
        let (member, item) = scene.reports(from, 1).await?.remove(0);
        missing.remove(&item.number);
        all.push((member, item));
    }
    Ok(all)
}

const ROUNDS: u64 = 300;
