//! A consumer as a case uses it: every wait has its bound.

use std::time::Duration;

use mq_core::{Broker, Consumer, Delivery, Received};
use tokio::time::{Instant, timeout_at};

use crate::{Check, Failure, Fixture, failure::located};

/// A consumer whose waits are bounded.
pub(crate) struct Reader<F: Fixture> {
    consumer: <F::Broker as Broker>::Consumer,
    patience: Duration,
    quiet: Duration,
    /// A client lives as long as its consumers, as in a process.
    _client: F::Broker,
}

impl<F: Fixture> Reader<F> {
    pub(crate) fn new(
        fixture: &F,
        client: F::Broker,
        consumer: <F::Broker as Broker>::Consumer,
    ) -> Self {
        let (patience, quiet) = (fixture.patience(), fixture.quiet());
        Self {
            consumer,
            patience,
            quiet,
            _client: client,
        }
    }

    /// The next delivery, which has to come.
    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = Check<Delivery>> + Send {
        located(async move {
            match timeout_at(Instant::now() + self.patience, self.consumer.receive()).await {
                Ok(received) => received?.ok_or_else(|| Failure::new("the consumer ended")),
                Err(_) => Err(Failure::new(format!(
                    "no delivery within {:?}",
                    self.patience
                ))),
            }
        })
    }

    /// The next deliveries, unsettled.
    #[track_caller]
    pub(crate) fn take(
        &mut self,
        count: usize,
    ) -> impl Future<Output = Check<Vec<Delivery>>> + Send {
        located(async move {
            let mut taken = Vec::with_capacity(count);
            while taken.len() < count {
                let next = self.next().await;
                let seen = || format!("delivery {} of {count}", taken.len() + 1);
                taken.push(next.map_err(|failure| failure.while_doing(&seen()))?);
            }
            Ok(taken)
        })
    }

    /// Takes and acknowledges.
    #[track_caller]
    pub(crate) fn ack(
        &mut self,
        count: usize,
    ) -> impl Future<Output = Check<Vec<Received>>> + Send {
        located(async move {
            let mut acked = Vec::with_capacity(count);
            while acked.len() < count {
                let next = self.next().await;
                let seen = || format!("delivery {} of {count}", acked.len() + 1);
                let (received, settlement) = next.map_err(|f| f.while_doing(&seen()))?.into_parts();
                settlement.ack()?;
                acked.push(received);
            }
            Ok(acked)
        })
    }

    /// Passes if nothing comes.
    #[track_caller]
    pub(crate) fn nothing(&mut self) -> impl Future<Output = Check> + Send {
        located(async move {
            match timeout_at(Instant::now() + self.quiet, self.consumer.receive()).await {
                Err(_) => Ok(()),
                Ok(received) => {
                    let text = match received? {
                        Some(delivery) => {
                            format!("an unexpected delivery: {:?}", delivery.received())
                        }
                        None => "the consumer ended".to_owned(),
                    };
                    Err(Failure::new(text))
                }
            }
        })
    }

    /// Waits until the broker has every verdict.
    #[track_caller]
    pub(crate) fn settled(&mut self) -> impl Future<Output = Check> + Send {
        located(async move { Ok(self.consumer.settled().await?) })
    }

    /// Closes the consumer.
    #[track_caller]
    pub(crate) fn close(self) -> impl Future<Output = Check> + Send {
        located(async move { Ok(self.consumer.close().await?) })
    }

    /// The bare consumer.
    pub(crate) fn into_inner(self) -> <F::Broker as Broker>::Consumer {
        self.consumer
    }

    /// The bare consumer, to call it in other ways.
    pub(crate) fn inner(&mut self) -> &mut <F::Broker as Broker>::Consumer {
        &mut self.consumer
    }
}
