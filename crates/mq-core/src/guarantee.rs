//! Delivery guarantees: the seam, and the two that need no store.

use std::{fmt, future::Future};

use futures::future::join_all;

use crate::{
    Acknowledge, Broker, ConsumePlan, Destination, Error, Message, Outcome, Publisher, Received,
    Result, Settlement,
};

/// What a worker promises about each message, and how it keeps the promise.
///
/// The worker calls `plan` and `start` once; for each attempt `open`, the handler, `close`; and
/// for each message, after all layers, `settle`. An implementation for one broker alone, or with a
/// bound on the broker, makes the worker refuse others at compile time.
#[diagnostic::on_unimplemented(
    message = "the guarantee `{Self}` cannot be given by a worker on `{B}`",
    note = "`AtLeastOnce` and `AtMostOnce` work on every broker; others need the broker or store they are made for"
)]
pub trait Guarantee<B: Broker>: Clone + Send + Sync + 'static {
    /// What is opened for one attempt and handed to extractors: `()`, or a database transaction.
    ///
    /// Dropped without `close` it must undo itself without waiting: a timeout, a shutdown deadline
    /// and a handler that keeps its scope all end there.
    type Scope: Send + 'static;
    /// What lives as long as the consumer: a publisher, or the broker transaction of the consumer.
    type Session: Send + Sync + 'static;

    /// Adds to the consume plan what the guarantee needs.
    fn plan(&self, plan: &mut ConsumePlan);

    /// Called once, when the consumer is open.
    ///
    /// # Errors
    /// Whatever only the running broker can tell. The worker then ends with it.
    fn start(
        &self,
        broker: &B,
        consumer: &mut B::Consumer,
    ) -> impl Future<Output = Result<Self::Session>> + Send;

    /// Opens the scope of one attempt, or finds that the message is done.
    ///
    /// # Errors
    /// An error is no fault of the message
    /// ([`Infrastructure`](crate::FailureClass::Infrastructure)).
    fn open(&self, received: &Received) -> impl Future<Output = Result<Entry<Self::Scope>>> + Send;

    /// Ends the scope of one attempt: on a failed one it must leave nothing behind.
    ///
    /// # Errors
    /// As for [`open`](Self::open). Whether the scope took effect may be unknown: the next `open`
    /// of the message must find out.
    fn close(
        &self,
        scope: Self::Scope,
        outcome: Outcome,
    ) -> impl Future<Output = Result<Outcome>> + Send;

    /// Publishes the outputs and settles the message, in the order that the promise needs.
    ///
    /// # Errors
    /// [`Undone`] gives the settlement back unused: the worker hands the message back after a pause
    /// where the error may pass, and else rejects the message, or ends.
    ///
    /// # Cancel safety
    /// Dropped, the settlement is dropped: the message is given back.
    fn settle(
        &self,
        session: &Self::Session,
        settlement: Settlement,
        outcome: Outcome,
    ) -> impl Future<Output = Result<(), Undone>> + Send;
}

/// How one attempt begins.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "an attempt is made or it is not")]
pub enum Entry<S> {
    /// Call the handler, in this scope.
    Run(S),
    /// The message was handled before: this is its outcome, and the handler is not called.
    Done(Outcome),
}

/// A settlement that was not used, and why.
#[derive(Debug)]
pub struct Undone {
    settlement: Settlement,
    error: Error,
}

impl Undone {
    /// Gives a settlement back with the error that kept it from being used.
    pub fn new(settlement: Settlement, error: Error) -> Self {
        Self { settlement, error }
    }

    /// The settlement and the error.
    pub fn into_parts(self) -> (Settlement, Error) {
        (self.settlement, self.error)
    }
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

/// Every message is handled at least once; a crash or a lost answer makes duplicates, never a
/// loss. The default.
///
/// Outputs are confirmed first, then the message is acknowledged. A crash between the two
/// publishes the outputs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::exhaustive_structs, reason = "it is named as a value")]
pub struct AtLeastOnce;

/// Every message is handled at most once; a crash loses what was acknowledged and not handled.
///
/// A bounded batch is acknowledged, the broker's answer is awaited, then the handlers run. What
/// the broker did not answer for is not handled. A failed handler is logged and its message is
/// gone, and so is an output that was not confirmed. A layer that calls the handler again does so
/// on its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::exhaustive_structs, reason = "it is named as a value")]
pub struct AtMostOnce;

impl<B: Broker> Guarantee<B> for AtLeastOnce {
    type Scope = ();
    type Session = B::Publisher;

    fn plan(&self, _plan: &mut ConsumePlan) {}

    async fn start(&self, broker: &B, _consumer: &mut B::Consumer) -> Result<B::Publisher> {
        Ok(broker.publisher())
    }

    async fn open(&self, _received: &Received) -> Result<Entry<()>> {
        Ok(Entry::Run(()))
    }

    async fn close(&self, (): (), outcome: Outcome) -> Result<Outcome> {
        Ok(outcome)
    }

    async fn settle(
        &self,
        publisher: &B::Publisher,
        settlement: Settlement,
        outcome: Outcome,
    ) -> Result<(), Undone> {
        let (decision, outputs) = outcome.into_parts();
        if !outputs.is_empty()
            && let Err(error) = publish_all(publisher, outputs).await
        {
            return Err(Undone::new(settlement, error));
        }
        settlement.finish_logged(decision.into_verdict());
        Ok(())
    }
}

impl<B: Broker> Guarantee<B> for AtMostOnce {
    type Scope = ();
    type Session = B::Publisher;

    fn plan(&self, plan: &mut ConsumePlan) {
        plan.acknowledge = Acknowledge::BeforeHandling;
    }

    async fn start(&self, broker: &B, _consumer: &mut B::Consumer) -> Result<B::Publisher> {
        Ok(broker.publisher())
    }

    async fn open(&self, _received: &Received) -> Result<Entry<()>> {
        Ok(Entry::Run(()))
    }

    async fn close(&self, (): (), outcome: Outcome) -> Result<Outcome> {
        Ok(outcome)
    }

    async fn settle(
        &self,
        publisher: &B::Publisher,
        settlement: Settlement,
        outcome: Outcome,
    ) -> Result<(), Undone> {
        let id = settlement.received().id().clone();
        let (decision, outputs) = outcome.into_parts();
        if !matches!(decision, crate::Decision::Ack) {
            tracing::warn!(%id, ?decision, "at most once: the message is not handled again");
        }
        if let Err(error) = publish_all(publisher, outputs).await {
            tracing::warn!(%id, %error, "at most once: an output was not confirmed");
        }
        // It was acknowledged before the handler ran.
        drop(settlement);
        Ok(())
    }
}

/// Publishes the outputs of one outcome together and waits for every answer.
///
/// # Errors
/// The first error; the other outputs may be stored.
///
/// # Cancel safety
/// Dropped, the outputs' outcomes are unknown.
pub async fn publish_all<P: Publisher>(
    publisher: &P,
    outputs: Vec<(Destination, Message)>,
) -> Result<()> {
    if outputs.is_empty() {
        return Ok(());
    }
    let mut pending = Vec::with_capacity(outputs.len());
    let mut result = Ok(());
    for (to, message) in outputs {
        match publisher.enqueue(&to, message).await {
            Ok(handle) => pending.push(handle),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    for outcome in join_all(pending).await {
        result = result.and(outcome.map(drop));
    }
    result
}
