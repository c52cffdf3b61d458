//! The consuming side: typed items, one at a time, settled by hand.

use std::{fmt, marker::PhantomData};

use mq_core::{
    Broker, ConsumePlan, Delivery, Error, ErrorKind, Reason, Rejection, Result, Settlement,
    Subscription,
    codec::{Codec, JsonCodec},
};
use serde::de::DeserializeOwned;

use super::Item;

/// Receives items of the type `T`, read by the codec `C`, one at a time
/// (EIP *Polling Consumer*).
///
/// Dropped, what is not settled goes back to the broker.
pub struct Consumer<T, R, C = JsonCodec> {
    inner: R,
    received: Vec<Delivery>,
    max_attempts: u32,
    types: PhantomData<fn() -> (T, C)>,
}

impl<T, R: mq_core::Consumer> Consumer<T, R> {
    /// Opens a consumer whose items are JSON.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the plan leaves no home for rejected messages, and as
    /// [`Broker::consumer`].
    ///
    /// # Cancel safety
    /// Dropped, nothing stays open.
    pub async fn open(
        broker: &impl Broker<Consumer = R>,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<Self> {
        if plan.dead_letter_home(subscription).is_none() {
            let text = "there is no home for rejected messages";
            return Err(Error::new(ErrorKind::Config, "consume", text)
                .with("subscription", subscription)
                .help("name one with `dead_letters(DeadLetters::To(..))`"));
        }
        let max_attempts = plan.max_attempts;
        Ok(Self {
            inner: broker.consumer(subscription, plan).await?,
            received: Vec::with_capacity(1),
            max_attempts,
            types: PhantomData,
        })
    }
}

impl<T, R: mq_core::Consumer, C: Codec> Consumer<T, R, C> {
    /// Reads the items by another codec.
    #[must_use]
    pub fn codec<C2: Codec>(self) -> Consumer<T, R, C2> {
        Consumer {
            inner: self.inner,
            received: self.received,
            max_attempts: self.max_attempts,
            types: PhantomData,
        }
    }

    /// Waits until the broker has every verdict given so far.
    ///
    /// # Errors
    /// As [`mq_core::Consumer::settled`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn settled(&mut self) -> Result<()> {
        self.inner.settled().await
    }

    /// Waits as [`settled`](Self::settled) does, and closes.
    ///
    /// # Errors
    /// As [`mq_core::Consumer::close`].
    ///
    /// # Cancel safety
    /// Dropped, the consumer is dropped.
    pub async fn close(self) -> Result<()> {
        self.inner.close().await
    }
}

impl<T: DeserializeOwned, R: mq_core::Consumer, C: Codec> Consumer<T, R, C> {
    /// Waits for the next item; `None` if the consumer has ended.
    ///
    /// What is no item of this type, and what was delivered as often as the plan allows without
    /// ever being settled, goes to the dead-letter home and is not shown.
    ///
    /// # Errors
    /// As [`mq_core::Consumer::receive_many`].
    ///
    /// # Cancel safety
    /// Safe: no item is lost.
    pub async fn next(&mut self) -> Result<Option<Item<T>>> {
        loop {
            self.inner.receive_many(&mut self.received, 1).await?;
            let Some(delivery) = self.received.pop() else {
                return Ok(None);
            };
            let attempt = delivery.attempt();
            // Where the broker counts what was fetched alone, nobody may have seen it yet.
            let used_up = delivery.attempt_is_exact() && attempt > self.max_attempts;
            let settlement = delivery.into_settlement();
            if used_up {
                let text = format!("{} attempts ended without a verdict", attempt - 1);
                let rejection = Rejection::new(Reason::Exhausted, text).attempts(attempt - 1);
                reject(settlement, rejection)?;
                continue;
            }
            match settlement.received().decode::<C, T>() {
                Ok(value) => return Ok(Some(Item::new(value, settlement, self.max_attempts))),
                Err(error) => {
                    let rejection = Rejection::from_error(Reason::Undecodable, &error.into());
                    reject(settlement, rejection)?;
                }
            }
        }
    }
}

fn reject(settlement: Settlement, rejection: Rejection) -> Result<()> {
    match settlement.reject(rejection) {
        // Too late: the broker delivers it again, and it is rejected then.
        Err(error) if error.kind() == ErrorKind::Stale => Ok(()),
        result => result,
    }
}

impl<T, R, C> fmt::Debug for Consumer<T, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("max_attempts", &self.max_attempts)
            .finish_non_exhaustive()
    }
}
