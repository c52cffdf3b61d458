//! The memory broker of RustStream: the stream of its subscriber, and its app.

use std::{convert::Infallible, pin::pin, sync::Arc};

use futures::StreamExt;
use ruststream::{
    Bytes, OutgoingMessage, Subscriber,
    memory::{MemoryPublisher, prelude::*},
};

use crate::{
    Result,
    arm::{Clock, Order, SharedTally, Tally, payload},
};

/// Each message is taken from the stream, and acknowledged.
pub(crate) async fn stream(order: &Order, clock: &mut Clock) -> Result {
    let broker = MemoryBroker::new();
    let mut subscriber = broker.subscribe(NAME);
    let mut tally = Tally::default();
    clock.start();
    let sending = tokio::spawn(publish(broker.publisher(), order.clone()));
    {
        let mut messages = pin!(subscriber.stream());
        while tally.count < order.messages {
            let message = messages.next().await.ok_or("the stream ended")??;
            tally.add(message.payload());
            message.ack().await?;
        }
    }
    clock.stop(order.messages);
    sending.await??;
    tally.check(order.messages)
}

/// Its app with a handler of raw bytes.
pub(crate) async fn app(order: &Order, clock: &mut Clock) -> Result {
    let broker = MemoryBroker::new();
    let publisher = broker.publisher();
    let tally = Arc::new(SharedTally::new(order.messages));
    let counted = Counted(Arc::clone(&tally));
    let app = RustStream::new(AppInfo::new("bench", "0.0.0"))
        .on_startup(async move |()| Ok::<_, Infallible>(counted))
        .with_broker(broker, |scope| {
            scope.include(receive);
        });
    // What is published before it runs is kept nowhere.
    let running = app.start().await?;
    clock.start();
    let sending = tokio::spawn(publish(publisher, order.clone()));
    tokio::select! {
        () = tally.all() => {}
        () = running.stopping() => return Err("the app has stopped by itself".into()),
    }
    // It waits until the last message is settled.
    running.shutdown().await?;
    clock.stop(order.messages);
    sending.await?
}

async fn publish(publisher: MemoryPublisher, order: Order) -> Result {
    for number in 0..order.messages {
        // The broker keeps what it is given, so nothing is copied here.
        let body = BytesMut::from(Bytes::from(payload(number, order.size)));
        let message = OutgoingMessage::produced(NAME, body);
        publisher.publish(message, None).await?;
    }
    Ok(())
}

/// What its handler shares with the arm.
struct Counted(Arc<SharedTally>);

/// The payload as it came, without a codec.
#[derive(Deserialized)]
struct Frame<'a>(&'a [u8]);

#[subscriber("bench")]
async fn receive(frame: &Frame<'_>, ctx: &mut Context<'_, (), Counted>) -> HandlerOutcome {
    ctx.state().0.add(frame.0);
    HandlerOutcome::ack()
}

const NAME: &str = "bench";
