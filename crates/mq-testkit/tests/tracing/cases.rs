//! What holds on every broker.

use mq_core::{
    Broker, ConsumePlan, Consumer, Destination, ErrorKind, Message, Outcome, Publisher,
    Subscription, headers::TRACEPARENT,
};
use mq_testkit::{Check, Failure};
use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::SpanData;

use crate::{
    CLIENT,
    scene::{Scene, below, failed, linked, named, root, same, soon, text},
};

/// publish → process → publish → process.
pub(crate) async fn one_trace_spans_two_hops<B: Broker>(scene: &Scene<B>) -> Check {
    let (first, second) = (scene.queue("first").await?, scene.queue("second").await?);
    let to = second.clone();
    let forward = scene.work(&first, move |received| {
        let copy = Message::new(received.payload().cloned().unwrap_or_default());
        let outcome = Outcome::ack().publish(&to, copy);
        async { outcome }
    });
    let end = scene.work(&second, |_| async { Outcome::ack() });
    scene.publish(&first, Message::new("x")).await?;
    let [published, processed] = hop(scene, &first).await?;
    let [published_next, processed_next] = hop(scene, &second).await?;
    root(&published)?;
    below(&processed, &published)?;
    below(&published_next, &processed)?;
    below(&processed_next, &published_next)?;
    linked(&processed, &[&published])?;
    linked(&processed_next, &[&published_next])?;
    forward.stop().await?;
    end.stop().await
}

/// The two spans of a message's way through a queue.
pub(crate) async fn hop<B: Broker>(scene: &Scene<B>, queue: &Destination) -> Check<[SpanData; 2]> {
    let published = scene.span("send", queue).await?;
    let processed = scene.span("process", queue).await?;
    named(&published, SpanKind::Producer, scene.words.send, queue)?;
    named(&processed, SpanKind::Consumer, "process", queue)?;
    failed(&published, None)?;
    failed(&processed, None)?;
    Ok([published, processed])
}

pub(crate) async fn spans_have_the_attributes_of_the_conventions_and_no_others<B: Broker>(
    scene: &Scene<B>,
) -> Check {
    let queue = scene.queue("attributes").await?;
    let work = scene.work(&queue, |_| async { Outcome::ack() });
    let message = Message::new("x")
        .key("personal")
        .correlation_id("conversation")
        .build();
    let id = message.id().to_string();
    scene.publish(&queue, message).await?;
    let [published, processed] = hop(scene, &queue).await?;
    work.stop().await?;
    let common = [
        "messaging.client.id",
        "messaging.destination.name",
        "messaging.message.conversation_id",
        "messaging.message.id",
        "messaging.operation.name",
        "messaging.operation.type",
        "messaging.system",
    ];
    let (send, process) = (scene.words.of_send, scene.words.of_process);
    for (span, own, operation) in [
        (&published, send, scene.words.send),
        (&processed, process, "process"),
    ] {
        let mut names: Vec<_> = span.attributes.iter().map(|a| a.key.as_str()).collect();
        let mut expected: Vec<_> = common.iter().chain(own).copied().collect();
        names.sort_unstable();
        expected.sort_unstable();
        same(names, expected)?;
        let is = |name, expected: &str| same(text(span, name).as_deref(), Some(expected));
        is("messaging.system", scene.words.system)?;
        is("messaging.operation.name", operation)?;
        is("messaging.client.id", CLIENT)?;
        is("messaging.message.id", &id)?;
        is("messaging.message.conversation_id", "conversation")?;
    }
    // Where it was stored is where it was read.
    for name in [
        "messaging.destination.partition.id",
        "messaging.kafka.offset",
    ] {
        if send.contains(&name) {
            same(text(&published, name), text(&processed, name))?;
        }
    }
    Ok(())
}

pub(crate) async fn a_batch_is_one_send_that_links_what_it_created<B: Broker>(
    scene: &Scene<B>,
) -> Check {
    let queue = scene.queue("batch").await?;
    let messages = (0..3)
        .map(|i| Message::new(i.to_string()).build())
        .collect();
    let publisher = scene.broker.publisher();
    soon(publisher.publish_batch(&queue, messages))
        .await?
        .all_confirmed()?;
    let created = scene.spans("create", &queue, 3).await?;
    let sent = scene.span("send", &queue).await?;
    named(&sent, SpanKind::Client, scene.words.send, &queue)?;
    linked(&sent, &created.iter().collect::<Vec<_>>())?;
    same(
        text(&sent, "messaging.batch.message_count").as_deref(),
        Some("3"),
    )?;
    same(text(&sent, "messaging.message.id"), None)?;
    let work = scene.work(&queue, |_| async { Outcome::ack() });
    for processed in scene.spans("process", &queue, 3).await? {
        let its = created
            .iter()
            .find(|one| one.span_context.span_id() == processed.parent_span_id)
            .ok_or_else(|| Failure::new("a message that no create span is above"))?;
        named(its, SpanKind::Producer, "create", &queue)?;
        below(&processed, its)?;
        same(
            text(&processed, "messaging.message.id"),
            text(its, "messaging.message.id"),
        )?;
    }
    work.stop().await
}

pub(crate) async fn a_context_that_a_message_has_is_never_overwritten<B: Broker>(
    scene: &Scene<B>,
) -> Check {
    let queue = scene.queue("relayed").await?;
    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let message = || Message::new("x").header(TRACEPARENT, given);
    scene.publish(&queue, message()).await?;
    let publisher = scene.broker.publisher();
    let batch = vec![message().build()];
    soon(publisher.publish_batch(&queue, batch))
        .await?
        .all_confirmed()?;
    for sent in scene.spans("send", &queue, 2).await? {
        named(&sent, SpanKind::Client, scene.words.send, &queue)?;
        let link = sent.links.iter().next().map(|link| &link.span_context);
        let link = link.ok_or_else(|| Failure::new("no link"))?;
        same(link.span_id().to_string().as_str(), "b7ad6b7169203331")?;
    }
    let work = scene.work(&queue, |received| async move {
        match received.headers().all(TRACEPARENT).count() {
            1 => Outcome::ack(),
            _ => Outcome::reject("not one context"),
        }
    });
    for processed in scene.spans("process", &queue, 2).await? {
        let trace = processed.span_context.trace_id().to_string();
        same(trace.as_str(), "0af7651916cd43dd8448eb211c80319c")?;
        failed(&processed, None)?;
    }
    work.stop().await
}

pub(crate) async fn a_dead_letter_keeps_the_context_of_its_original<B: Broker>(
    scene: &Scene<B>,
) -> Check {
    let queue = scene.queue("rejected").await?;
    let work = scene.work(&queue, |_| async { Outcome::reject("no good") });
    scene.publish(&queue, Message::new("x")).await?;
    let published = scene.span("send", &queue).await?;
    let processed = scene.span("process", &queue).await?;
    failed(&processed, Some("rejected"))?;
    let home = queue.dead_letter_home().expect("a queue has one");
    let copied = scene.span("send", &home).await?;
    // Its context is the one it came with: the copy's own span is not in it.
    named(&copied, SpanKind::Client, scene.words.send, &home)?;
    linked(&copied, &[&published])?;
    let trace = published.span_context.trace_id();
    same(copied.span_context.trace_id(), trace)?;
    work.stop().await?;
    let source = Subscription::queue(home.name().clone());
    let mut consumer = soon(scene.broker.consumer(&source, ConsumePlan::new())).await??;
    let letter = soon(consumer.receive()).await??.expect("the letter");
    let context = letter.headers().text(TRACEPARENT).unwrap_or_default();
    let expected = format!("00-{trace}-{}-01", published.span_context.span_id());
    same(context, &*expected)?;
    letter.ack()?;
    Ok(soon(consumer.close()).await??)
}

pub(crate) async fn a_message_that_comes_again_belongs_to_the_same_trace<B: Broker>(
    scene: &Scene<B>,
) -> Check {
    let queue = scene.queue("again").await?;
    let work = scene.work(&queue, |received| async move {
        match received.attempt() {
            1 => Outcome::retry("not yet"),
            _ => Outcome::ack(),
        }
    });
    scene.publish(&queue, Message::new("x")).await?;
    let published = scene.span("send", &queue).await?;
    let processed = scene.spans("process", &queue, 2).await?;
    for span in &processed {
        below(span, &published)?;
    }
    failed(&processed[0], Some("unclassified"))?;
    failed(&processed[1], None)?;
    work.stop().await
}

pub(crate) async fn a_failed_publish_has_its_error_type<B: Broker>(scene: &Scene<B>) -> Check {
    let nowhere = Destination::queue(format!("{}.nowhere", scene.queue("there").await?.name()));
    let publisher = scene.broker.publisher();
    let outcome = soon(publisher.publish(&nowhere, Message::new("x"))).await?;
    same(outcome.err().map(|e| e.kind()), Some(ErrorKind::Unroutable))?;
    failed(&scene.span("send", &nowhere).await?, Some("unroutable"))
}

pub(crate) async fn a_batch_handed_out_is_one_receive_and_a_flush_one_settle<B: Broker>(
    scene: &Scene<B>,
) -> Check {
    let queue = scene.queue("flush").await?;
    let messages = (0..5)
        .map(|i| Message::new(i.to_string()).build())
        .collect();
    let publisher = scene.broker.publisher();
    soon(publisher.publish_batch(&queue, messages))
        .await?
        .all_confirmed()?;
    let source = Subscription::queue(queue.name().clone());
    let mut consumer = soon(scene.broker.consumer(&source, ConsumePlan::new())).await??;
    let (mut held, mut batches) = (Vec::new(), 0);
    while held.len() < 5 {
        soon(consumer.receive_many(&mut held, 10)).await??;
        batches += 1;
    }
    let received = scene.spans("receive", &queue, batches).await?;
    let counted = received.iter().map(|span| span.links.len()).sum::<usize>();
    same(counted, 5)?;
    for span in &received {
        named(span, SpanKind::Client, scene.words.receive, &queue)?;
        let count = text(span, "messaging.batch.message_count");
        same(count, Some(span.links.len().to_string()))?;
    }
    for delivery in held {
        delivery.ack()?;
    }
    soon(consumer.settled()).await??;
    soon(consumer.close()).await??;
    let Some(settle) = scene.words.settle else {
        return scene.spans("settle", &queue, 0).await.map(drop);
    };
    // One for each flush: a slow machine may need some more, never one for each message.
    let settled = scene.at_least("settle", &queue, 1).await?;
    same(settled.len() < 5, true)?;
    for span in &settled {
        named(span, SpanKind::Client, settle, &queue)?;
    }
    let count = |span| text(span, "messaging.batch.message_count");
    let counts = settled.iter().filter_map(count);
    // A commit tells how far it is, not how many that are.
    if settle == "ack" {
        same(counts.filter_map(|n| n.parse::<u32>().ok()).sum::<u32>(), 5)?;
    }
    Ok(())
}
