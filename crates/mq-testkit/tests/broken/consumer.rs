//! Broken consuming.

use std::{future::pending, sync::Arc, time::Duration};

use futures::FutureExt;
use mq_core::{Broker, Consumer, Delivery, Destination, Received, Result, headers};
use mq_memory::Memory;
use tokio::task::unconstrained;

use super::{Fault, broker::Broken, link::Line, settle::BrokenSettle};

type Inner = <Memory as Broker>::Consumer;

pub(crate) struct BrokenConsumer {
    /// Gone once closed.
    inner: Option<Inner>,
    fault: Fault,
    source: Arc<str>,
    /// Not the first consumer of its broker.
    later: bool,
    /// Deliveries that wait to be handed out in the wrong order.
    held: Vec<Delivery>,
    sink: Arc<BrokenSettle>,
    line: Line,
}

impl BrokenConsumer {
    pub(super) fn new(
        broker: &Broken,
        inner: Inner,
        source: Arc<str>,
        home: Option<Destination>,
        later: bool,
    ) -> Self {
        let sink = Arc::new(BrokenSettle::new(broker, home));
        let (inner, held) = (Some(inner), Vec::new());
        Self {
            inner,
            fault: broker.fault,
            source,
            later,
            held,
            sink,
            line: broker.line.clone(),
        }
    }

    fn inner(&mut self) -> &mut Inner {
        self.inner.as_mut().expect("not closed")
    }

    /// Everything the inner consumer has at hand.
    fn at_hand(&mut self) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while let Some(Ok(1..)) = self
            .inner()
            .receive_many(&mut deliveries, 1000)
            .now_or_never()
        {}
        deliveries
    }

    fn wrapped(&self, delivery: Delivery) -> Delivery {
        let (received, settlement) = delivery.into_parts();
        let routing_key = match self.fault {
            Fault::LosesRoutingKeys => None,
            _ => received.routing_key().map(Into::into),
        };
        let message = received.message().clone();
        let garbled = message
            .headers()
            .get(headers::ATTEMPT)
            .is_some_and(|v| v.as_str().is_none_or(|text| text.parse::<u32>().is_err()));
        let mut copy = Received::new(message, Arc::clone(&self.source), routing_key);
        if self.fault != Fault::ForgetsAttempts {
            copy = copy.with_attempt(received.attempt());
        }
        if self.fault == Fault::TakesGarbledAttempts && garbled {
            copy = copy.with_attempt(u32::MAX);
        }
        if let Some(redelivered) = received.redelivered() {
            copy = copy.with_redelivered(redelivered && self.fault != Fault::ForgetsRedelivery);
        }
        if let Some(position) = received
            .position()
            .filter(|_| self.fault != Fault::LosesPositions)
        {
            copy = copy.with_position(position);
        }
        let tag = self.sink.keep(settlement);
        let sink = Arc::clone(&self.sink);
        Delivery::new(copy, sink, tag)
    }
}

impl Consumer for BrokenConsumer {
    async fn receive_many(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        let line = self.line.clone();
        tokio::select! {
            biased;
            () = line.held() => {}
            received = self.receive_open(into, max) => return received,
        }
        line.lost().await;
        match self.fault {
            Fault::LostLinkIsSilence => return pending().await,
            Fault::LostLinkAcksWhatItHeld => self.sink.ack_all(),
            _ => {}
        }
        // Without it the broker has everything back.
        self.inner = None;
        line.check()?;
        Ok(0)
    }

    async fn settled(&mut self) -> Result<()> {
        self.line.check()?;
        match self.fault {
            Fault::AcksLate => Ok(()),
            _ => self.inner().settled().await,
        }
    }

    async fn close(mut self) -> Result<()> {
        let Some(inner) = self.inner.take() else {
            return self.line.check();
        };
        if self.fault == Fault::LosesOnClose {
            self.sink.ack_all();
        }
        self.sink.close();
        match self.fault {
            Fault::ClosesNothing => Ok(()),
            _ => inner.close().await,
        }
    }
}

impl BrokenConsumer {
    async fn receive_open(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        let fault = self.fault;
        if fault == Fault::OneConsumerStarves && self.later {
            return pending().await;
        }
        let mut batch = Vec::new();
        match fault {
            Fault::GivesMoreThanWasAskedFor => {
                self.inner().receive_many(&mut batch, max + 1).await?;
            }
            Fault::NeverWakes => {
                let receive = self.inner().receive_many(&mut batch, max);
                match unconstrained(receive).now_or_never() {
                    Some(received) => drop(received?),
                    None => return pending().await,
                }
            }
            Fault::ReversesOrder => {
                if self.held.is_empty() {
                    let mut held = Vec::new();
                    self.inner().receive_many(&mut held, 100).await?;
                    self.held = held;
                }
                batch.extend(self.held.pop());
            }
            _ => {
                self.inner().receive_many(&mut batch, max).await?;
            }
        }
        if fault == Fault::LosesOnCancel {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let count = batch.len();
        into.extend(batch.into_iter().map(|delivery| self.wrapped(delivery)));
        Ok(count)
    }
}

impl Drop for BrokenConsumer {
    fn drop(&mut self) {
        if self.inner.is_none() {
            return;
        }
        match self.fault {
            Fault::LosesOnDrop => {
                self.sink.ack_all();
                for delivery in self.at_hand() {
                    let _ = delivery.ack();
                }
            }
            Fault::CountsAllOnDrop => drop(self.at_hand()),
            _ => {}
        }
    }
}
