//! Bare lapin: as its users write it, and as well as it can be written by hand with the same guarantee.

use std::collections::VecDeque;

use futures::{FutureExt, StreamExt, TryStreamExt, future::join_all, stream};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    PublisherConfirm,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions,
        BasicQosOptions, ConfirmSelectOptions,
    },
    types::FieldTable,
};

use crate::{
    Result,
    arm::{Clock, Order, Tally, id, payload},
};

/// As its README shows it: each publish is awaited, and then its confirm.
pub(crate) async fn publish_each(order: &Order, clock: &mut Clock) -> Result {
    let (connection, channel) = confirming(order).await?;
    clock.start();
    for number in 0..order.messages {
        let body = payload(number, order.size);
        let publish = channel.basic_publish(
            "".into(),
            order.queue.as_str().into(),
            BasicPublishOptions::default(),
            &body,
            BasicProperties::default().with_delivery_mode(PERSISTENT),
        );
        confirmed(publish.await?.await?)?;
    }
    clock.stop(order.messages);
    close(&connection).await
}

/// Publishes are awaited one after the other, their confirms are joined once a window of them is full.
pub(crate) async fn publish_joined(order: &Order, clock: &mut Clock) -> Result {
    let (connection, channel) = confirming(order).await?;
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    clock.start();
    let mut confirms = Vec::with_capacity(WINDOW);
    for number in 0..order.messages {
        let body = payload(number, order.size);
        let publish = channel.basic_publish(
            "".into(),
            order.queue.as_str().into(),
            BasicPublishOptions::default(),
            &body,
            properties.clone(),
        );
        confirms.push(publish.await?);
        if confirms.len() == WINDOW {
            settle(join_all(confirms.drain(..)).await)?;
        }
    }
    settle(join_all(confirms).await)?;
    clock.stop(order.messages);
    close(&connection).await
}

/// The best that is known: with ids and mandatory, so that a message that reached no queue is known by its return. Bursts of
/// publishes are begun together, so that the client's thread writes them together, and the window never runs empty: while one part
/// of it is confirmed the next one is written.
pub(crate) async fn publish_best(order: &Order, clock: &mut Clock) -> Result {
    let (connection, channel) = confirming(order).await?;
    clock.start();
    let mut bursts: VecDeque<Vec<PublisherConfirm>> = VecDeque::new();
    let mut next = 0;
    while next < order.messages {
        let last = order.messages.min(next + BURST);
        let bodies: Vec<Vec<u8>> = (next..last).map(|n| payload(n, order.size)).collect();
        let publishes = (next..last)
            .zip(&bodies)
            .map(|(number, body)| careful(&channel, order, number, body));
        let begun: std::result::Result<Vec<_>, _> = join_all(publishes).await.into_iter().collect();
        bursts.push_back(begun?);
        next = last;
        if bursts.len() as u64 * BURST > WINDOW as u64 - BURST
            && let Some(oldest) = bursts.pop_front()
        {
            settle(join_all(oldest).await)?;
        }
    }
    for burst in bursts {
        settle(join_all(burst).await)?;
    }
    clock.stop(order.messages);
    close(&connection).await
}

/// The same guarantee, and the other shape that is a candidate for the best: as many publishes as the window has room for are polled
/// together, each up to its confirm.
pub(crate) async fn publish_polled(order: &Order, clock: &mut Clock) -> Result {
    let (connection, channel) = confirming(order).await?;
    let channel = &channel;
    clock.start();
    stream::iter(0..order.messages)
        .map(|number| async move {
            let body = payload(number, order.size);
            confirmed(careful(channel, order, number, &body).await?.await?)
        })
        .buffer_unordered(WINDOW)
        .try_collect::<()>()
        .await?;
    clock.stop(order.messages);
    close(&connection).await
}

/// A publish with an id, and mandatory.
fn careful(
    channel: &Channel,
    order: &Order,
    number: u64,
    body: &[u8],
) -> impl Future<Output = lapin::Result<PublisherConfirm>> {
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(id(number).into());
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let key = order.queue.as_str();
    channel.basic_publish("".into(), key.into(), options, body, properties)
}

/// Each delivery is acknowledged, and that is awaited.
pub(crate) async fn consume_each(order: &Order, clock: &mut Clock) -> Result {
    let (connection, channel) = connect(order).await?;
    clock.start();
    let mut consumer = consume(&channel, order).await?;
    let mut tally = Tally::default();
    while tally.count < order.messages {
        let delivery = consumer.next().await.ok_or("the consumer ended")??;
        tally.add(&delivery.data);
        delivery.ack(BasicAckOptions::default()).await?;
    }
    finish(&connection, &channel, order, clock, tally).await
}

/// One acknowledgement for many deliveries, as often as the prefetch does not run dry.
pub(crate) async fn consume_best(order: &Order, clock: &mut Clock) -> Result {
    let (connection, channel) = connect(order).await?;
    clock.start();
    let mut consumer = consume(&channel, order).await?;
    let mut tally = Tally::default();
    while tally.count < order.messages {
        let delivery = consumer.next().await.ok_or("the consumer ended")??;
        tally.add(&delivery.data);
        if tally.count.is_multiple_of(ACKS) || tally.count == order.messages {
            // It is on its way with the first poll. Its outcome is only that it was written; the end says whether it arrived.
            let options = BasicAckOptions { multiple: true };
            let ack = channel.basic_ack(delivery.delivery_tag, options);
            if let Some(acked) = ack.now_or_never() {
                acked?;
            }
        }
    }
    finish(&connection, &channel, order, clock, tally).await
}

/// Checks what was received. The answer to a cancel comes after every acknowledgement before it. The answer to a close of the
/// channel does so too, but a quorum queue that is behind loses some of them when their channel goes.
async fn finish(
    connection: &Connection,
    channel: &Channel,
    order: &Order,
    clock: &mut Clock,
    tally: Tally,
) -> Result {
    channel
        .basic_cancel(TAG.into(), BasicCancelOptions::default())
        .await?;
    channel.close(200, "done".into()).await?;
    clock.stop(order.messages);
    tally.check(order.messages)?;
    close(connection).await
}

fn settle(confirmations: Vec<lapin::Result<Confirmation>>) -> Result {
    for confirmation in confirmations {
        confirmed(confirmation?)?;
    }
    Ok(())
}

fn confirmed(confirmation: Confirmation) -> Result {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        other => Err(format!("not confirmed: {other:?}").into()),
    }
}

async fn connect(order: &Order) -> Result<(Connection, Channel)> {
    let connection = Connection::connect(&order.address, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

async fn confirming(order: &Order) -> Result<(Connection, Channel)> {
    let (connection, channel) = connect(order).await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok((connection, channel))
}

async fn consume(channel: &Channel, order: &Order) -> Result<Consumer> {
    channel
        .basic_qos(super::PREFETCH, BasicQosOptions::default())
        .await?;
    let options = BasicConsumeOptions::default();
    let queue = order.queue.as_str().into();
    let consumer = channel.basic_consume(queue, TAG.into(), options, FieldTable::default());
    Ok(consumer.await?)
}

async fn close(connection: &Connection) -> Result {
    Ok(connection.close(200, "done".into()).await?)
}

const PERSISTENT: u8 = 2;
const TAG: &str = "bench";
/// Publishes without a confirm.
const WINDOW: usize = super::WINDOW;
const BURST: u64 = 250;
/// Deliveries to an acknowledgement.
const ACKS: u64 = 100;
