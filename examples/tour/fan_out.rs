//! Fan-out: every subscriber gets every event, and so does a listener.

use mq_examples::{Result, within};
use mq_patterns::fan_out::FanOut;

use crate::{
    tour::{Tour, check},
    workers::{Workers, texts},
};

/// Publishes events to two durable subscribers and to a listener.
pub(crate) async fn run(tour: &Tour) -> Result<()> {
    let topic = FanOut::new(&tour.broker, tour.name("events")).envelope(tour.stamp());
    topic.declare().await?;
    let (mail, stock) = (topic.subscriber("mail"), topic.subscriber("stock"));
    tokio::try_join!(mail.declare(), stock.declare())?;
    let mut listener = topic.listener().await?;
    let events = ["ordered", "paid", "sent"].map(str::to_owned);
    topic.publish_all(&events).await.all_confirmed()?;

    let mut workers = Workers::new(tour);
    workers.start("mail", mail.worker());
    workers.start("stock", stock.worker());
    let taken = workers.take(2 * events.len()).await?;
    check("fan_out, mail", texts(&taken, "mail"), &events)?;
    check("fan_out, stock", texts(&taken, "stock"), &events)?;

    let mut heard = Vec::new();
    while heard.len() < events.len() {
        let next = within("an event", listener.next()).await??;
        let event = next.ok_or("the listener ended")?;
        if tour.ours(event.received()) {
            heard.push(event.event()?);
        }
    }
    listener.close().await?;
    check("fan_out, listener", heard, &events)?;
    println!("   fan_out: two subscribers and a listener got each of 3 events");
    Ok(())
}
