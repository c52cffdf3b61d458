//! Order: of a key, over redelivery, and over several consumers.

use std::{collections::BTreeMap, sync::Arc};

use mq_core::{Capability, ConsumePlan, ErrorKind, Message, Received, Subscription};

use super::case::list;
use crate::{
    Check, Failure, Fixture,
    checks::{each_once, number, numbered, numbers},
    failure::{ensure, ensure_eq},
    reader::Reader,
    scene::Scene,
};

list![
    the_messages_of_a_key_keep_their_order needs KeyOrder,
    a_requeued_message_comes_before_the_next_of_its_key needs KeyOrder,
    a_key_goes_to_one_consumer_at_a_time needs Partitions,
    one_consumer_is_active_while_others_stand_by needs SingleActiveConsumer,
    a_single_active_consumer_is_refused_where_there_is_none lacks SingleActiveConsumer,
];

/// Messages numbered from 0, the keys in turn.
fn keyed(count: u64, keys: u64) -> Vec<Message> {
    (0..count)
        .map(|n| numbered(n).key(format!("key-{}", n % keys)).build())
        .collect()
}

/// Passes if the numbers of each key rise.
fn in_order(received: &[Received]) -> Check {
    let mut last: BTreeMap<_, u64> = BTreeMap::new();
    for one in received {
        let key = one
            .key()
            .ok_or_else(|| Failure::new("a key is missing"))?
            .clone();
        let number = number(one)?;
        if let Some(before) = last.insert(key.clone(), number) {
            ensure!(
                before < number,
                "{number} came after {before}, both of {key:?}"
            );
        }
    }
    Ok(())
}

async fn the_messages_of_a_key_keep_their_order<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish_all(&queue.to, keyed(500, 7)).await?;
    let mut reader = scene.open(&queue.from).await?;
    let received = reader.ack(500).await?;
    each_once(&numbers(&received)?, 0..500)?;
    in_order(&received)?;
    reader.close().await
}

async fn a_requeued_message_comes_before_the_next_of_its_key<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    scene.publish_all(&queue.to, keyed(5, 1)).await?;
    let mut reader = scene
        .open_with(&queue.from, ConsumePlan::new().prefetch(1))
        .await?;
    for n in 0..5 {
        let delivery = reader.next().await?;
        ensure_eq!(number(&delivery)?, n, "the first delivery");
        delivery.into_settlement().requeue()?;
        let delivery = reader.next().await?;
        ensure_eq!(number(&delivery)?, n, "the delivery after a requeue");
        delivery.ack()?;
    }
    reader.close().await
}

async fn a_key_goes_to_one_consumer_at_a_time<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let mut first = scene.open(&queue.from).await?;
    let mut second = scene.open_elsewhere(&queue.from).await?;
    scene.publish_all(&queue.to, keyed(400, 20)).await?;
    let both = both(&mut first, &mut second, 400).await?;
    for received in &both {
        in_order(received)?;
    }
    let numbers = [numbers(&both[0])?, numbers(&both[1])?];
    each_once(&numbers.concat(), 0..400)?;
    let keys = |n: usize| {
        numbers[n]
            .iter()
            .map(|number| number % 20)
            .collect::<Vec<_>>()
    };
    let shared = keys(0).into_iter().find(|key| keys(1).contains(key));
    ensure_eq!(shared, None, "a key that both consumers got");
    first.close().await?;
    second.close().await
}

/// Acknowledges so many messages from two consumers; what each got.
pub(super) async fn both<F: Fixture>(
    first: &mut Reader<F>,
    second: &mut Reader<F>,
    count: usize,
) -> Check<[Vec<Received>; 2]> {
    let mut got = [Vec::new(), Vec::new()];
    while got[0].len() + got[1].len() < count {
        let (reader, delivery) = tokio::select! {
            delivery = first.next() => (0, delivery?),
            delivery = second.next() => (1, delivery?),
        };
        let (received, settlement) = delivery.into_parts();
        settlement.ack()?;
        got[reader].push(received);
    }
    Ok(got)
}

fn single_active() -> ConsumePlan {
    let mut plan = ConsumePlan::new();
    plan.single_active_consumer = true;
    plan
}

async fn one_consumer_is_active_while_others_stand_by<F: Fixture>(scene: &Scene<F>) -> Check {
    let (client, queue) = scene.single_active_queue().await?;
    let (other, _) = scene.single_active_queue().await?;
    let from = Subscription::queue(Arc::clone(queue.name()));
    let mut active = scene.open_on(&client, &from, single_active()).await?;
    let mut standby = scene.open_on(&other, &from, single_active()).await?;
    scene.fill(&queue, 20).await?;
    let mut seen = numbers(&active.ack(10).await?)?;
    standby.nothing().await?;
    active.close().await?;
    seen.extend(numbers(&standby.ack(10).await?)?);
    each_once(&seen, 0..20)?;
    standby.close().await
}

async fn a_single_active_consumer_is_refused_where_there_is_none<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    let refused = scene.refuses_to_open(&queue.from, single_active(), ErrorKind::Unsupported);
    let (text, missing) = (refused.await?, Capability::SingleActiveConsumer.to_string());
    ensure!(
        text.contains(&missing),
        "the error does not name the capability: {text}"
    );
    Ok(())
}
