//! Dead letters: a rejected message is in its home once, as it was, and gone from where it came.

use std::time::Duration;

use mq_core::{
    Broker, ConsumePlan, DeadLetters, ErrorKind, Message, Reason, Received, Rejection, headers,
};

use super::case::list;
use crate::{
    Check, Failure, Fixture,
    checks::{each_once, number, numbered, numbers, refused},
    failure::{ensure, ensure_eq},
    scene::{Queue, Scene},
};

list![
    a_rejected_message_is_dead_lettered_once needs WholeMessages,
    a_dead_letter_keeps_every_field_of_its_message needs WholeMessages,
    a_binary_dead_letter_is_equal_byte_for_byte needs WholeMessages,
    a_dead_letter_tells_its_attempts needs WholeMessages,
    many_rejected_messages_are_each_dead_lettered needs WholeMessages,
    a_dead_letter_goes_where_the_plan_says needs WholeMessages,
    a_reject_without_a_home_is_refused_and_the_message_comes_back,
    a_home_has_no_home_of_its_own,
    a_consumer_without_its_home_is_not_opened needs WholeMessages,
    a_subscription_has_a_home_of_its_own needs DurableSubscriptions,
];

/// Rejects the next message of the queue and returns its dead letter, the only one.
async fn rejected<F: Fixture>(scene: &Scene<F>, queue: &Queue, why: Rejection) -> Check<Received> {
    let mut reader = scene.open(&queue.from).await?;
    reader.next().await?.into_settlement().reject(why)?;
    reader.settled().await?;
    reader.nothing().await?;
    reader.close().await?;
    scene.is_empty(queue).await?;
    let mut dead = scene.open(&queue.dead().from).await?;
    let letter = dead.ack(1).await?.remove(0);
    dead.nothing().await?;
    dead.close().await?;
    scene.is_empty(&queue.dead()).await?;
    Ok(letter)
}

fn text<'a>(letter: &'a Received, name: &str) -> Option<&'a str> {
    letter.headers().text(name)
}

async fn a_rejected_message_is_dead_lettered_once<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let before = mq_core::time::to_millis(std::time::SystemTime::now());
    scene.publish(&queue.to, numbered(7)).await?;
    let why = Rejection::new(Reason::Permanent, "no such account");
    let letter = rejected(scene, &queue, why).await?;
    ensure_eq!(number(&letter)?, 7, "the number of the dead letter");
    ensure_eq!(
        text(&letter, headers::DEAD_ORIGIN),
        Some(&**queue.from.name()),
        "origin"
    );
    ensure_eq!(
        text(&letter, headers::DEAD_REASON),
        Some("permanent"),
        "reason"
    );
    ensure_eq!(
        text(&letter, headers::DEAD_ERROR),
        Some("no such account"),
        "error"
    );
    ensure_eq!(text(&letter, headers::DEAD_ATTEMPTS), Some("1"), "attempts");
    for name in [headers::DEAD_FIRST, headers::DEAD_LAST] {
        let time = text(&letter, name).and_then(|text| text.parse::<u64>().ok());
        ensure!(
            time.is_some_and(|time| time >= before),
            "{name} is {time:?}, before {before}"
        );
    }
    Ok(())
}

async fn a_dead_letter_keeps_every_field_of_its_message<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let sent = Message::new("payload")
        .key("customer-7")
        .header("region", "größer")
        .content_type("text/plain")
        .correlation_id("request-1")
        .reply_to("answers")
        .expires_in(Duration::from_secs(600))
        .build();
    scene.publish(&queue.to, sent.clone()).await?;
    let letter = rejected(scene, &queue, Rejection::from("wrong")).await?;
    ensure_eq!(letter.id(), sent.id(), "id");
    ensure_eq!(letter.key(), sent.key(), "key");
    ensure_eq!(text(&letter, "region"), Some("größer"), "header");
    ensure_eq!(letter.payload(), sent.payload(), "payload");
    ensure_eq!(letter.content_type(), sent.content_type(), "content type");
    ensure_eq!(
        letter.correlation_id(),
        sent.correlation_id(),
        "correlation id"
    );
    ensure_eq!(letter.reply_to(), sent.reply_to(), "reply-to");
    ensure_eq!(letter.time(), sent.time(), "time");
    ensure_eq!(
        letter.expires_in(),
        None,
        "expiry: a dead letter waits for a person"
    );
    Ok(())
}

async fn a_binary_dead_letter_is_equal_byte_for_byte<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let bytes: Vec<u8> = (0..=255).chain([0xc3, 0x28, 0]).collect();
    for sent in [
        Message::new(bytes.clone()),
        Message::new(""),
        Message::tombstone(),
    ] {
        let sent = sent.header("raw", bytes.clone()).build();
        scene.publish(&queue.to, sent.clone()).await?;
        let why = Rejection::new(Reason::Undecodable, "no JSON");
        let letter = rejected(scene, &queue, why).await?;
        ensure_eq!(letter.payload(), sent.payload(), "payload");
        ensure_eq!(
            letter.headers().get("raw"),
            sent.headers().get("raw"),
            "binary header"
        );
        ensure_eq!(
            text(&letter, headers::DEAD_REASON),
            Some("undecodable"),
            "reason"
        );
    }
    Ok(())
}

async fn a_dead_letter_tells_its_attempts<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(0)).await?;
    let mut reader = scene.open(&queue.from).await?;
    reader.next().await?.into_settlement().requeue()?;
    reader.next().await?.into_settlement().requeue()?;
    let why = Rejection::new(Reason::Exhausted, "third time");
    reader.next().await?.into_settlement().reject(why)?;
    reader.close().await?;
    let mut dead = scene.open(&queue.dead().from).await?;
    let letter = dead.ack(1).await?.remove(0);
    ensure_eq!(text(&letter, headers::DEAD_ATTEMPTS), Some("3"), "attempts");
    ensure_eq!(letter.attempt(), 1, "the attempt at the dead letter itself");
    dead.close().await
}

async fn many_rejected_messages_are_each_dead_lettered<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    scene.fill(&queue.to, 200).await?;
    let mut reader = scene.open(&queue.from).await?;
    let mut kept = Vec::new();
    for _ in 0..200 {
        let (received, settlement) = reader.next().await?.into_parts();
        match number(&received)? {
            n if n % 2 == 0 => settlement.reject("even")?,
            n => {
                kept.push(n / 2);
                settlement.ack()?;
            }
        }
    }
    reader.settled().await?;
    drop(reader);
    each_once(&kept, 0..100)?;
    let mut dead = scene.open(&queue.dead().from).await?;
    let letters = numbers(&dead.ack(100).await?)?;
    ensure!(
        letters.iter().all(|n| n % 2 == 0),
        "an odd number was dead-lettered"
    );
    each_once(&letters.iter().map(|n| n / 2).collect::<Vec<_>>(), 0..100)?;
    dead.nothing().await?;
    dead.close().await?;
    scene.is_empty(&queue).await
}

async fn a_dead_letter_goes_where_the_plan_says<F: Fixture>(scene: &Scene<F>) -> Check {
    let queue = scene.queue().await?;
    let morgue = scene.further_queue("morgue").await?;
    scene.publish(&queue.to, numbered(7)).await?;
    let plan = ConsumePlan::new().dead_letters(DeadLetters::To(morgue.to.clone()));
    let mut reader = scene.open_with(&queue.from, plan).await?;
    reader.next().await?.into_settlement().reject("wrong")?;
    reader.close().await?;
    let mut dead = scene.open(&morgue.from).await?;
    ensure_eq!(
        numbers(&dead.ack(1).await?)?,
        [7],
        "what is in the named home"
    );
    dead.nothing().await?;
    dead.close().await?;
    scene.is_empty(&queue.dead()).await
}

async fn a_reject_without_a_home_is_refused_and_the_message_comes_back<F: Fixture>(
    scene: &Scene<F>,
) -> Check {
    let queue = scene.queue().await?;
    scene.publish(&queue.to, numbered(7)).await?;
    let plan = ConsumePlan::new().dead_letters(DeadLetters::None);
    let mut reader = scene.open_with(&queue.from, plan).await?;
    let settlement = reader.next().await?.into_settlement();
    refused(
        settlement.reject("wrong"),
        ErrorKind::Unsupported,
        "a reject without a home",
    )?;
    let again = reader.ack(1).await?.remove(0);
    ensure_eq!(number(&again)?, 7, "what comes back");
    ensure_eq!(again.attempt(), 2, "attempt after a refused reject");
    reader.close().await?;
    scene.is_empty(&queue.dead()).await
}

async fn a_home_has_no_home_of_its_own<F: Fixture>(scene: &Scene<F>) -> Check {
    let dead = scene.queue().await?.dead();
    scene.publish(&dead.to, numbered(7)).await?;
    let mut reader = scene.open(&dead.from).await?;
    let settlement = reader.next().await?.into_settlement();
    refused(
        settlement.reject("again"),
        ErrorKind::Unsupported,
        "a reject of a dead letter",
    )?;
    ensure_eq!(numbers(&reader.ack(1).await?)?, [7], "what comes back");
    reader.close().await
}

async fn a_consumer_without_its_home_is_not_opened<F: Fixture>(scene: &Scene<F>) -> Check {
    let (queue, missing) = (scene.queue().await?, scene.missing_queue());
    let plan = ConsumePlan::new().dead_letters(DeadLetters::To(missing.to.clone()));
    let text = scene
        .refuses_to_open(&queue.from, plan, ErrorKind::NotFound)
        .await?;
    ensure!(
        text.contains(&**missing.to.name()),
        "the error does not name the home: {text}"
    );
    let result = scene.broker.verify(&missing.to).await;
    refused(
        result,
        ErrorKind::NotFound,
        "verifying the home that was not there",
    )
    .map(drop)
}

async fn a_subscription_has_a_home_of_its_own<F: Fixture>(scene: &Scene<F>) -> Check {
    let topic = scene.topic().await?;
    let (audit, billing) = (
        scene.subscribe(&topic, "audit").await?,
        scene.subscribe(&topic, "billing").await?,
    );
    let paid = topic.clone().routing_key("eu.paid");
    scene.publish(&paid, numbered(7)).await?;
    let mut reader = scene.open(&billing).await?;
    reader.next().await?.into_settlement().reject("wrong")?;
    reader.settled().await?;
    reader.nothing().await?;
    reader.close().await?;
    let home = billing
        .dead_letter_home()
        .map(|home| Queue::named(home.name()));
    let home = home.ok_or_else(|| Failure::new("a durable subscription without home"))?;
    let mut dead = scene.open(&home.from).await?;
    let letter = dead.ack(1).await?.remove(0);
    ensure_eq!(number(&letter)?, 7, "the number of the dead letter");
    ensure_eq!(
        text(&letter, headers::DEAD_ORIGIN),
        Some(&**billing.name()),
        "origin"
    );
    ensure_eq!(
        text(&letter, headers::DEAD_ROUTING_KEY),
        Some("eu.paid"),
        "routing key"
    );
    dead.nothing().await?;
    dead.close().await?;
    // Never back through the topic: the other subscription has its own message, once.
    let mut reader = scene.open(&audit).await?;
    let received = reader.ack(1).await?.remove(0);
    ensure_eq!(
        text(&received, headers::DEAD_REASON),
        None,
        "reason at the other subscription"
    );
    reader.nothing().await?;
    reader.close().await
}
