//! The consumer of this broker.

use std::{pin::pin, sync::Arc};

use futures::future::select;
use mq_core::{Consumer, Delivery, Result};
use tokio::{task::coop, time::sleep_until};

use crate::{settle::Channel, topology::Wait};

/// Receives from a queue, or from its share of a log.
///
/// Dropped, it gives back what is not settled, as failed; see [`Consumer`].
#[derive(Debug)]
pub struct MemoryConsumer {
    channel: Arc<Channel>,
    closed: bool,
}

impl MemoryConsumer {
    pub(crate) fn new(channel: Arc<Channel>) -> Self {
        Self {
            channel,
            closed: false,
        }
    }
}

impl Consumer for MemoryConsumer {
    async fn receive_many(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        // A loop over a full queue never waits; this lets other tasks of the thread run.
        coop::consume_budget().await;
        let max = max.max(1);
        let channel = &self.channel;
        let mut wait = match channel.fill(into, max, None)? {
            Ok(count) => return Ok(count),
            Err(wait) => wait,
        };
        loop {
            // The ear is open before the second look: nothing that comes in between is missed.
            let notify = channel.source.waker(wait).unwrap_or(&channel.wake);
            let mut notified = pin!(notify.notified());
            let second = channel.fill(into, max, Some(notified.as_mut()))?;
            match second {
                Ok(count) => return Ok(count),
                Err(other) if other != wait => wait = other,
                Err(Wait::Until(Some(due))) => {
                    select(notified, pin!(sleep_until(due))).await;
                }
                Err(_) => notified.await,
            }
        }
    }

    async fn settled(&mut self) -> Result<()> {
        // A verdict is carried out where it is given; only a failed copy is left to tell.
        self.channel.over()
    }

    async fn close(mut self) -> Result<()> {
        self.closed = true;
        let result = self.channel.over();
        self.channel.leave(false);
        result
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        if !self.closed {
            self.channel.leave(true);
        }
    }
}
