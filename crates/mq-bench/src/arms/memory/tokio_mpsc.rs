//! A bounded channel of tokio: no queue, no settlement, the least there can be.

use tokio::sync::mpsc;

use super::ROOM;
use crate::{
    Result,
    arm::{Clock, Order, Tally, payload},
};

/// One message at a time.
pub(crate) async fn one_by_one(order: &Order, clock: &mut Clock) -> Result {
    let (sender, mut receiver) = mpsc::channel(ROOM);
    let (messages, size) = (order.messages, order.size);
    clock.start();
    let sending = tokio::spawn(async move {
        for number in 0..messages {
            if sender.send(payload(number, size)).await.is_err() {
                return;
            }
        }
    });
    let mut tally = Tally::default();
    while let Some(message) = receiver.recv().await {
        tally.add(&message);
    }
    clock.stop(order.messages);
    sending.await?;
    tally.check(order.messages)
}

/// As many as are at hand.
pub(crate) async fn many(order: &Order, clock: &mut Clock) -> Result {
    let (sender, mut receiver) = mpsc::channel(ROOM);
    let (messages, size) = (order.messages, order.size);
    clock.start();
    let sending = tokio::spawn(async move {
        for number in 0..messages {
            if sender.send(payload(number, size)).await.is_err() {
                return;
            }
        }
    });
    let mut tally = Tally::default();
    let mut batch = Vec::with_capacity(128);
    while receiver.recv_many(&mut batch, 128).await > 0 {
        batch.drain(..).for_each(|message| tally.add(&message));
    }
    clock.stop(order.messages);
    sending.await?;
    tally.check(order.messages)
}
