//! The memory endpoint of mq-bridge: its batches, and a route.

use std::sync::Arc;

use mq_bridge::{
    Route,
    endpoints::memory::{MemoryConsumer, MemoryPublisher},
    models::{Endpoint, EndpointType, MemoryConfig},
    traits::{MessageConsumer, MessageDisposition, MessagePublisher},
};

use super::ROOM_IN_BATCHES;
use crate::{
    Result,
    arm::{Clock, Order, Tally},
    arms::amqp::mq_bridge::{Counting, confirmed, messages_of},
};

/// Batches of 128 are sent, taken and committed, as its own bench does.
pub(crate) async fn batches(order: &Order, clock: &mut Clock) -> Result {
    let publisher = MemoryPublisher::new(&config(order))?;
    let mut consumer = MemoryConsumer::new(&config(order))?;
    clock.start();
    let sending = tokio::spawn(send(publisher, order.clone()));
    let mut tally = Tally::default();
    while tally.count < order.messages {
        let taken = consumer.receive_batch(BATCH as usize).await?;
        for message in &taken.messages {
            tally.add(&message.payload);
        }
        let verdicts = vec![MessageDisposition::Ack; taken.messages.len()];
        (taken.commit)(verdicts).await?;
    }
    clock.stop(order.messages);
    sending.await??;
    tally.check(order.messages)
}

/// A route to a handler, which is sent batches of 128: single messages would only be dearer.
pub(crate) async fn route(order: &Order, clock: &mut Clock) -> Result {
    let publisher = MemoryPublisher::new(&config(order))?;
    let counting = Arc::new(Counting::new(order));
    let input = Endpoint::new(EndpointType::Memory(config(order)));
    let route = Route::new(input, Endpoint::null()).with_handler(Arc::clone(&counting));
    let route = route.run("bench").await?;
    clock.start();
    let sending = tokio::spawn(send(publisher, order.clone()));
    counting.all().await;
    // Its end waits for its commits.
    route.stop().await;
    route.join().await?;
    clock.stop(order.messages);
    sending.await?
}

fn config(order: &Order) -> MemoryConfig {
    MemoryConfig::new(order.queue.as_str(), Some(ROOM_IN_BATCHES))
}

async fn send(publisher: MemoryPublisher, order: Order) -> Result {
    let mut next = 0;
    while next < order.messages {
        let last = order.messages.min(next + BATCH);
        let batch = messages_of(next, last, order.size);
        confirmed(publisher.send_batch(batch).await?)?;
        next = last;
    }
    Ok(())
}

const BATCH: u64 = 128;
