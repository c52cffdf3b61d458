//! RustStream over RabbitMQ: its publisher with confirms, its subscriber, and its app.

use std::{
    convert::Infallible, error::Error, future::ready, num::NonZeroUsize, sync::Arc, time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use ruststream::{Bytes, ConnectedBroker, OutgoingMessage, Subscriber};
use ruststream_lapin::{AmqpError, ConfirmsPublisher, ConnectedLapinBroker, prelude::*};

use super::{PREFETCH, WINDOW};
use crate::{
    Result,
    arm::{Clock, Order, SharedTally, Tally, payload},
};

/// Its client-side transactions: a commit publishes what was kept, and awaits all of the confirms.
pub(crate) async fn publish_transaction(order: &Order, clock: &mut Clock) -> Result {
    let (broker, publisher) = confirming(order).await?;
    clock.start();
    let mut next = 0;
    while next < order.messages {
        let last = order.messages.min(next + WINDOW as u64);
        let mut transaction = publisher.transaction().await?;
        for number in next..last {
            // A transaction keeps what it is given, so nothing is copied here.
            let body = BytesMut::from(Bytes::from(payload(number, order.size)));
            let message = OutgoingMessage::produced(&order.queue, body);
            transaction.publish(message, None).await?;
        }
        transaction.commit().await?;
        next = last;
    }
    clock.stop(order.messages);
    broker.shutdown().await?;
    Ok(())
}

/// A publish ends with its confirm, so as many of them as the window has room for are polled together.
pub(crate) async fn publish_polled(order: &Order, clock: &mut Clock) -> Result {
    let (broker, publisher) = confirming(order).await?;
    let (queue, size, publisher) = (order.queue.as_str(), order.size, &publisher);
    clock.start();
    stream::iter(0..order.messages)
        .map(|number| async move {
            let body = payload(number, size);
            publisher
                .publish(OutgoingMessage::new(queue, &body), None)
                .await
        })
        .buffer_unordered(WINDOW)
        .try_for_each(|()| ready(Ok(())))
        .await?;
    clock.stop(order.messages);
    broker.shutdown().await?;
    Ok(())
}

/// The stream of its subscriber. An acknowledgement ends when it was written, so those of a whole prefetch are polled together.
pub(crate) async fn consume_stream(order: &Order, clock: &mut Clock) -> Result {
    let broker = connect(order).await?;
    clock.start();
    let mut subscriber = broker
        .subscribe(RabbitQueue::new(order.queue.as_str()))
        .await?;
    let mut tally = Tally::default();
    subscriber
        .stream()
        .take(usize::try_from(order.messages)?)
        .map_err(|error| -> Box<dyn Error + Send + Sync> { error.into() })
        .inspect_ok(|message| tally.add(message.payload()))
        .try_for_each_concurrent(usize::from(PREFETCH), |message| async move {
            Ok(message.ack().await?)
        })
        .await?;
    clock.stop(order.messages);
    tokio::time::sleep(CATCHES_UP).await;
    broker.shutdown().await?;
    tally.check(order.messages)
}

/// Its app with a handler of raw bytes, in the best of its two documented shapes: a handler is settled before its place is free
/// again, so a pool of workers lets the client write many acknowledgements at once.
pub(crate) async fn consume_app(order: &Order, clock: &mut Clock) -> Result {
    let broker = connect(order).await?;
    let tally = Arc::new(SharedTally::new(order.messages));
    let counted = Counted(Arc::clone(&tally));
    let app = RustStream::new(AppInfo::new("bench", "0.0.0"))
        .on_startup(async move |()| Ok::<_, Infallible>(counted))
        .with_broker(Dialled(broker), |scope| {
            scope.include(receive.name(order.queue.clone()).workers(WORKERS));
        });
    clock.start();
    let running = app.start().await?;
    tokio::select! {
        () = tally.all() => {}
        () = running.stopping() => return Err("the app has stopped by itself".into()),
    }
    clock.stop(order.messages);
    tokio::time::sleep(CATCHES_UP).await;
    // Handlers under way are settled, and then the connection is closed.
    running.shutdown().await?;
    Ok(())
}

/// What its handler shares with the arm.
struct Counted(Arc<SharedTally>);

/// The payload as it came, without a codec.
#[derive(Deserialized)]
struct Frame<'a>(&'a [u8]);

#[subscriber]
async fn receive(frame: &Frame<'_>, ctx: &mut Context<'_, (), Counted>) -> HandlerOutcome {
    ctx.state().0.add(frame.0);
    HandlerOutcome::ack()
}

/// A broker that is connected before its app starts: connecting is no work of a row.
struct Dialled(ConnectedLapinBroker);

impl Broker for Dialled {
    type Error = AmqpError;
    type Connected = ConnectedLapinBroker;

    async fn connect(self) -> Result<Self::Connected, Self::Error> {
        Ok(self.0)
    }
}

async fn connect(order: &Order) -> Result<ConnectedLapinBroker> {
    let broker = LapinBroker::new(order.address.as_str()).prefetch(nonzero!(PREFETCH));
    Ok(broker.connect().await?)
}

/// Persistent messages by the default exchange are its defaults.
async fn confirming(order: &Order) -> Result<(ConnectedLapinBroker, ConfirmsPublisher)> {
    let broker = connect(order).await?;
    let publisher = broker.publisher(Publish::default().confirms());
    // Its channel is opened by the first publish: here by one that reaches no queue, which is confirmed too.
    let nowhere = format!("{}-nowhere", order.queue);
    let message = OutgoingMessage::new(&nowhere, b"warm");
    publisher.publish(message, None).await?;
    Ok((broker, publisher))
}

/// Its end closes the connection without cancelling its consumer, and then a quorum queue that is behind loses acknowledgements. So it
/// is given time before that, and measured up to the last message, not up to its end.
const CATCHES_UP: Duration = Duration::from_millis(300);
const WORKERS: NonZeroUsize = nonzero!(64_usize);
