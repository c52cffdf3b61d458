//! A listener: what is published while it is open.

use std::{fmt, marker::PhantomData, sync::Arc};

use mq_core::{
    Broker, ConsumePlan, Consumer, Delivery, ErrorKind, Received, Result, Subscription,
    codec::{Codec, JsonCodec},
};
use serde::de::DeserializeOwned;

/// Hears the events of a topic while it is open, each at most once.
///
/// An event is acknowledged when it is handed over: there is nobody it could be delivered to
/// again. Dropped or closed, the listener's subscription is gone.
pub struct Listener<T, R, C = JsonCodec> {
    inner: R,
    received: Vec<Delivery>,
    types: PhantomData<fn() -> (T, C)>,
}

/// One event as it was heard: whatever somebody published, whether it can be decoded or not.
#[must_use = "an event that cannot be decoded shows only when it is asked for"]
pub struct Heard<T, C = JsonCodec> {
    received: Received,
    types: PhantomData<fn() -> (T, C)>,
}

impl<T, R: Consumer, C: Codec> Listener<T, R, C> {
    pub(super) async fn open(broker: &impl Broker<Consumer = R>, topic: &Arc<str>) -> Result<Self> {
        let subscription = Subscription::ephemeral(Arc::clone(topic));
        // Nothing is ever rejected, so that no home is needed.
        let inner = broker.consumer(&subscription, ConsumePlan::new()).await?;
        Ok(Self {
            inner,
            received: Vec::with_capacity(1),
            types: PhantomData,
        })
    }

    /// Waits for the next event; `None` if the listener has ended.
    ///
    /// # Errors
    /// As [`Consumer::receive_many`]: the subscription was lost. Events from then until a new
    /// listener is open are not heard.
    ///
    /// # Cancel safety
    /// Safe: no event is lost.
    pub async fn next(&mut self) -> Result<Option<Heard<T, C>>> {
        if self.received.is_empty() {
            self.inner.receive_many(&mut self.received, 1).await?;
        }
        let Some(delivery) = self.received.pop() else {
            return Ok(None);
        };
        let (received, settlement) = delivery.into_parts();
        match settlement.ack() {
            // The subscription is gone, which the next call tells. This event is at hand.
            Err(error) if error.kind() == ErrorKind::Stale => {}
            acknowledged => acknowledged?,
        }
        Ok(Some(Heard {
            received,
            types: PhantomData,
        }))
    }

    /// Ends the subscription.
    ///
    /// # Errors
    /// As [`Consumer::close`].
    ///
    /// # Cancel safety
    /// Dropped, the listener is dropped.
    pub async fn close(self) -> Result<()> {
        self.inner.close().await
    }
}

impl<T: DeserializeOwned, C: Codec> Heard<T, C> {
    /// The event.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec) if the message is no event of this type. Its bytes are in
    /// [`received`](Self::received).
    pub fn event(&self) -> Result<T> {
        self.received.decode::<C, T>()
    }
}

impl<T, C> Heard<T, C> {
    /// The message it came in, with headers and key.
    pub fn received(&self) -> &Received {
        &self.received
    }
}

impl<T, R, C> fmt::Debug for Listener<T, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl<T, C> fmt::Debug for Heard<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heard")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}
