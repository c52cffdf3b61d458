//! A pipeline: a stage that drops, and one that splits.

use mq_core::{BoxError, Broker, Destination, Message, Publisher, Subscription, Worker};
use mq_examples::{Background, Result};
use mq_patterns::pipeline::Stage;

use crate::{
    tour::{TOKEN, Tour, check},
    workers::{Workers, texts},
};

/// Sends texts through two stages: one drops the empty ones, one makes words of them.
pub(crate) async fn run(tour: &Tour) -> Result<()> {
    let [texts_in, checked, words] = ["texts", "checked", "words"].map(|name| tour.name(name));
    let stage = |name: &str, from: &str, to: &str| {
        let from = Subscription::queue(from);
        Stage::new(&tour.broker, name, from, Destination::queue(to)).envelope(
            |input, _: &String, message| {
                let token = input.headers().text(TOKEN).unwrap_or_default();
                message.header(TOKEN, token.to_owned())
            },
        )
    };
    let check_texts = stage("check", &texts_in, &checked);
    let split_texts = stage("split", &checked, &words);
    tokio::try_join!(check_texts.declare(), split_texts.declare())?;

    let stamp = tour.stamp();
    for text in ["tea", "", "cups milk"].map(str::to_owned) {
        let message = stamp(&text, Message::json(&text)?);
        let publisher = tour.broker.publisher();
        publisher
            .publish(&Destination::queue(texts_in.as_str()), message)
            .await?;
    }
    let stages = [
        Background::start(check_texts.worker().run(check_texts.filter(not_empty))),
        Background::start(split_texts.worker().run(split_texts.split(into_words))),
    ];
    let mut workers = Workers::new(tour);
    workers.start(
        "words",
        Worker::new(&tour.broker, Subscription::queue(words)),
    );
    let taken = workers.take(3).await?;
    for stage in stages {
        stage.stop().await?;
    }
    check("pipeline", texts(&taken, "words"), ["tea", "cups", "milk"])?;
    println!("   pipeline: of 3 messages one was dropped, one split in two");
    Ok(())
}

async fn not_empty(text: String) -> Result<Option<String>, BoxError> {
    Ok((!text.is_empty()).then_some(text))
}

async fn into_words(text: String) -> Result<Vec<String>, BoxError> {
    Ok(text.split(' ').map(str::to_owned).collect())
}
