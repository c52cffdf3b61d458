//! Routing: each subscriber gets what its filter takes.

use mq_core::Filter;
use mq_examples::Result;
use mq_patterns::routing::Routing;

use crate::{
    tour::{Tour, check},
    workers::{Workers, texts},
};

/// Publishes events to subscribers with an exact key, a pattern and a header.
pub(crate) async fn run(tour: &Tour) -> Result<()> {
    let stamp = tour.stamp();
    let topic = Routing::new(&tour.broker, tour.name("orders"))
        .route(String::clone)
        .envelope(move |event, message| {
            let region = event.split('.').next().unwrap_or_default().to_owned();
            stamp(event, message).header("region", region)
        });
    topic.declare().await?;
    let us = Filter::AllHeaders(vec![("region".to_owned(), "us".to_owned())]);
    let exact = topic.subscriber("exact", Filter::exact("us.lost"));
    let pattern = topic.subscriber("pattern", Filter::pattern("*.paid"));
    let header = topic.subscriber("header", us);
    tokio::try_join!(exact.declare(), pattern.declare(), header.declare())?;

    for event in ["us.paid", "eu.lost", "eu.paid", "us.lost"] {
        topic.publish(&event.to_owned()).await?;
    }
    let mut workers = Workers::new(tour);
    workers.start("exact", exact.worker());
    workers.start("pattern", pattern.worker());
    workers.start("header", header.worker());
    let taken = workers.take(5).await?;
    check("routing, exact", texts(&taken, "exact"), ["us.lost"])?;
    check(
        "routing, pattern",
        texts(&taken, "pattern"),
        ["us.paid", "eu.paid"],
    )?;
    check(
        "routing, header",
        texts(&taken, "header"),
        ["us.paid", "us.lost"],
    )?;
    println!("   routing: of 4 events an exact key took 1, a pattern 2, a header 2");
    Ok(())
}
