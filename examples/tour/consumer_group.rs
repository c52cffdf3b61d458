//! Consumer groups: every group gets every message, its members share them, keys keep their order.

use std::collections::{BTreeMap, BTreeSet};

use mq_examples::Result;
use mq_patterns::consumer_group::ConsumerGroup;

use crate::{
    tour::{Tour, check},
    workers::{Workers, texts},
};

/// Publishes to a group of two members and to a group of one.
pub(crate) async fn run(tour: &Tour) -> Result<()> {
    let topic = tour.name("bookings");
    let group = |name: &str| {
        let stamp = tour.stamp();
        ConsumerGroup::new(&tour.broker, topic.as_str(), name).envelope(
            move |booking: &String, message| {
                let account = booking.split(' ').next().unwrap_or_default().to_owned();
                stamp(booking, message).key(account)
            },
        )
    };
    let (balances, audit) = (group("balances"), group("audit"));
    tokio::try_join!(balances.declare(), audit.declare())?;

    let mut bookings = Vec::new();
    for number in 1..=10 {
        bookings.extend(["ada", "bob", "eve"].map(|account| format!("{account} {number:02}")));
    }
    let mut workers = Workers::new(tour);
    workers.start("balances", balances.member(2));
    workers.start("balances", balances.member(2));
    workers.start("audit", audit.member(2));
    balances.publish_all(&bookings).await.all_confirmed()?;
    let taken = workers.take(2 * bookings.len()).await?;

    let due: BTreeSet<_> = bookings.iter().map(String::as_str).collect();
    for group in ["balances", "audit"] {
        let arrived = BTreeSet::from_iter(texts(&taken, group));
        check(group, &arrived, &due)?;
    }
    // In one member on every broker; over all members only where the broker has partitions.
    let mut last = BTreeMap::new();
    for booking in &taken {
        let (account, number) = booking.text.split_once(' ').ok_or("no booking")?;
        let before = last.insert((booking.worker, account), number);
        if before.is_some_and(|before| before > number) {
            return Err(format!("consumer_group: {account} {number} came too late").into());
        }
    }
    println!("   consumer_group: two groups got each of 30 messages, in the order of their keys");
    Ok(())
}
