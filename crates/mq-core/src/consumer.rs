//! Consuming: deliveries one by one, in batches, or as a stream.

use std::{collections::VecDeque, future::Future};

use futures::{Stream, stream};

use crate::{Delivery, Result};

/// Receives the deliveries of one subscription.
///
/// At most the plan's prefetch is unsettled at a time. Dropping a consumer gives back what is not
/// settled: what was handed out counts as failed, what was only buffered does not.
pub trait Consumer: Send + 'static {
    /// Waits for at least one delivery and appends up to `max` of those at hand.
    ///
    /// Returns how many; 0 means that the consumer has ended and will never deliver again.
    ///
    /// # Errors
    /// [`Disconnected`](crate::ErrorKind::Disconnected) or [`Lost`](crate::ErrorKind::Lost) if the
    /// subscription was lost, and the error of a copy (dead letter, delay) that the broker did not
    /// confirm. After an error the consumer is over; what was not settled is delivered again.
    ///
    /// # Cancel safety
    /// Safe: a delivery is either in `into` or still with the consumer.
    fn receive_many(
        &mut self,
        into: &mut Vec<Delivery>,
        max: usize,
    ) -> impl Future<Output = Result<usize>> + Send;

    /// Waits until the broker has every verdict given so far on this consumer.
    ///
    /// # Errors
    /// [`Stale`](crate::ErrorKind::Stale) if one did not reach it, so its message is delivered
    /// again; [`Timeout`](crate::ErrorKind::Timeout) if the broker did not answer in time.
    ///
    /// # Cancel safety
    /// Safe: dropping it changes nothing.
    fn settled(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Stops the intake, waits until the broker has every verdict, gives back what was never
    /// handed out, and closes.
    ///
    /// Deliveries that are handed out and not settled become stale.
    ///
    /// # Errors
    /// As [`settled`](Self::settled).
    ///
    /// # Cancel safety
    /// Dropped, the consumer is dropped.
    fn close(self) -> impl Future<Output = Result<()>> + Send;

    /// Waits for one delivery; `None` if the consumer has ended.
    ///
    /// # Errors
    /// As [`receive_many`](Self::receive_many).
    ///
    /// # Cancel safety
    /// Safe.
    fn receive(&mut self) -> impl Future<Output = Result<Option<Delivery>>> + Send {
        async move {
            let mut one = Vec::with_capacity(1);
            self.receive_many(&mut one, 1).await?;
            Ok(one.pop())
        }
    }

    /// The deliveries as a stream, which ends after its first error.
    ///
    /// Dropping the stream drops the consumer.
    fn into_stream(self) -> impl Stream<Item = Result<Delivery>> + Send
    where
        Self: Sized,
    {
        let state = (Some(self), Vec::new(), VecDeque::new());
        stream::unfold(state, |(mut consumer, mut batch, mut ready)| async move {
            loop {
                if let Some(delivery) = ready.pop_front() {
                    return Some((Ok(delivery), (consumer, batch, ready)));
                }
                match consumer
                    .as_mut()?
                    .receive_many(&mut batch, STREAM_BATCH)
                    .await
                {
                    Ok(0) => return None,
                    Ok(_) => ready.extend(batch.drain(..)),
                    Err(error) => return Some((Err(error), (None, batch, ready))),
                }
            }
        })
    }
}

const STREAM_BATCH: usize = 64;
