//! Boxed twins of the traits, for a broker that is chosen while the program runs.
//!
//! ```
//! use mq_core::{Broker, Destination, Message, Publisher, Result, dynamic::AnyBroker};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! // In a service: chosen by its configuration.
//! let broker = AnyBroker::new(mq_memory::Memory::new());
//! let orders = Destination::queue("orders");
//! broker.declare(&orders).await?;
//! broker.publisher().publish(&orders, Message::new("7")).await?;
//! # Ok(())
//! # }
//! ```

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use crate::{
    Broker, Capabilities, ConsumePlan, Consumer, Declaration, Deletion, Delivery, Destination,
    Message, PendingBatch, Publisher, Receipt, Result, Subscription, Unconfirmed, flow::Flow,
    trace::Tracer,
};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Any broker. A call costs one allocation more than on the broker itself.
#[derive(Clone)]
pub struct AnyBroker(Arc<dyn DynBroker>);

/// The publisher of [`AnyBroker`].
#[derive(Clone)]
pub struct AnyPublisher(Arc<dyn DynPublisher>);

/// The publisher of [`AnyBroker`] that waits for no answer.
#[derive(Clone)]
pub struct AnyUnconfirmed(Arc<dyn DynUnconfirmed>);

/// The consumer of [`AnyBroker`].
pub struct AnyConsumer(Box<dyn DynConsumer>);

impl AnyBroker {
    /// Hides the type of a broker.
    pub fn new(broker: impl Broker) -> Self {
        Self(Arc::new(broker))
    }
}

impl Broker for AnyBroker {
    type Publisher = AnyPublisher;
    type Unconfirmed = AnyUnconfirmed;
    type Consumer = AnyConsumer;

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn product(&self) -> String {
        self.0.product()
    }

    fn flow(&self) -> Flow {
        self.0.flow()
    }

    fn tracer(&self) -> Tracer {
        self.0.tracer()
    }

    fn publisher(&self) -> AnyPublisher {
        self.0.publisher()
    }

    fn unconfirmed(&self) -> AnyUnconfirmed {
        self.0.unconfirmed()
    }

    async fn consumer(
        &self,
        subscription: &Subscription,
        plan: ConsumePlan,
    ) -> Result<AnyConsumer> {
        self.0.consumer(subscription, plan).await
    }

    async fn declare(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.0.declare(what.into()).await
    }

    async fn verify(&self, what: impl Into<Declaration> + Send) -> Result<()> {
        self.0.verify(what.into()).await
    }

    async fn delete(&self, what: impl Into<Deletion> + Send) -> Result<()> {
        self.0.delete(what.into()).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

impl Publisher for AnyPublisher {
    type Pending = BoxFuture<'static, Result<Receipt>>;

    async fn enqueue(
        &self,
        to: &Destination,
        message: impl Into<Message> + Send,
    ) -> Result<Self::Pending> {
        self.0.enqueue(to, message.into()).await
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }

    async fn enqueue_batch(&self, to: &Destination, messages: Vec<Message>) -> PendingBatch {
        self.0.enqueue_batch(to, messages).await
    }
}

impl Unconfirmed for AnyUnconfirmed {
    async fn hand_over(&self, to: &Destination, message: impl Into<Message> + Send) -> Result<()> {
        self.0.hand_over(to, message.into()).await
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
}

impl Consumer for AnyConsumer {
    async fn receive_many(&mut self, into: &mut Vec<Delivery>, max: usize) -> Result<usize> {
        self.0.receive_many(into, max).await
    }

    async fn settled(&mut self) -> Result<()> {
        self.0.settled().await
    }

    async fn close(self) -> Result<()> {
        self.0.close().await
    }
}

trait DynBroker: Send + Sync {
    fn capabilities(&self) -> Capabilities;
    fn product(&self) -> String;
    fn flow(&self) -> Flow;
    fn tracer(&self) -> Tracer;
    fn publisher(&self) -> AnyPublisher;
    fn unconfirmed(&self) -> AnyUnconfirmed;
    fn consumer<'a>(
        &'a self,
        subscription: &'a Subscription,
        plan: ConsumePlan,
    ) -> BoxFuture<'a, Result<AnyConsumer>>;
    fn declare(&self, what: Declaration) -> BoxFuture<'_, Result<()>>;
    fn verify(&self, what: Declaration) -> BoxFuture<'_, Result<()>>;
    fn delete(&self, what: Deletion) -> BoxFuture<'_, Result<()>>;
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

impl<B: Broker> DynBroker for B {
    fn capabilities(&self) -> Capabilities {
        Broker::capabilities(self)
    }

    fn product(&self) -> String {
        Broker::product(self)
    }

    fn flow(&self) -> Flow {
        Broker::flow(self)
    }

    fn tracer(&self) -> Tracer {
        Broker::tracer(self)
    }

    fn publisher(&self) -> AnyPublisher {
        AnyPublisher(Arc::new(Broker::publisher(self)))
    }

    fn unconfirmed(&self) -> AnyUnconfirmed {
        AnyUnconfirmed(Arc::new(Broker::unconfirmed(self)))
    }

    fn consumer<'a>(
        &'a self,
        subscription: &'a Subscription,
        plan: ConsumePlan,
    ) -> BoxFuture<'a, Result<AnyConsumer>> {
        Box::pin(async move {
            Ok(AnyConsumer(Box::new(
                Broker::consumer(self, subscription, plan).await?,
            )))
        })
    }

    fn declare(&self, what: Declaration) -> BoxFuture<'_, Result<()>> {
        Box::pin(Broker::declare(self, what))
    }

    fn verify(&self, what: Declaration) -> BoxFuture<'_, Result<()>> {
        Box::pin(Broker::verify(self, what))
    }

    fn delete(&self, what: Deletion) -> BoxFuture<'_, Result<()>> {
        Box::pin(Broker::delete(self, what))
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(Broker::close(self))
    }
}

trait DynPublisher: Send + Sync {
    fn enqueue<'a>(
        &'a self,
        to: &'a Destination,
        message: Message,
    ) -> BoxFuture<'a, Result<BoxFuture<'static, Result<Receipt>>>>;
    fn enqueue_batch<'a>(
        &'a self,
        to: &'a Destination,
        messages: Vec<Message>,
    ) -> BoxFuture<'a, PendingBatch>;
    fn flush(&self) -> BoxFuture<'_, Result<()>>;
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

impl<P: Publisher> DynPublisher for P {
    fn enqueue<'a>(
        &'a self,
        to: &'a Destination,
        message: Message,
    ) -> BoxFuture<'a, Result<BoxFuture<'static, Result<Receipt>>>> {
        Box::pin(async move { Ok(Box::pin(Publisher::enqueue(self, to, message).await?) as _) })
    }

    fn enqueue_batch<'a>(
        &'a self,
        to: &'a Destination,
        messages: Vec<Message>,
    ) -> BoxFuture<'a, PendingBatch> {
        Box::pin(Publisher::enqueue_batch(self, to, messages))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(Publisher::flush(self))
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(Publisher::close(self))
    }
}

trait DynUnconfirmed: Send + Sync {
    fn hand_over<'a>(&'a self, to: &'a Destination, message: Message) -> BoxFuture<'a, Result<()>>;
    fn flush(&self) -> BoxFuture<'_, Result<()>>;
}

impl<U: Unconfirmed> DynUnconfirmed for U {
    fn hand_over<'a>(&'a self, to: &'a Destination, message: Message) -> BoxFuture<'a, Result<()>> {
        Box::pin(Unconfirmed::hand_over(self, to, message))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(Unconfirmed::flush(self))
    }
}

trait DynConsumer: Send {
    fn receive_many<'a>(
        &'a mut self,
        into: &'a mut Vec<Delivery>,
        max: usize,
    ) -> BoxFuture<'a, Result<usize>>;
    fn settled(&mut self) -> BoxFuture<'_, Result<()>>;
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

impl<C: Consumer> DynConsumer for C {
    fn receive_many<'a>(
        &'a mut self,
        into: &'a mut Vec<Delivery>,
        max: usize,
    ) -> BoxFuture<'a, Result<usize>> {
        Box::pin(Consumer::receive_many(self, into, max))
    }

    fn settled(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(Consumer::settled(self))
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(Consumer::close(*self))
    }
}

impl fmt::Debug for AnyBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnyBroker").field(&self.0.product()).finish()
    }
}

macro_rules! opaque_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

opaque_debug!(AnyPublisher, AnyUnconfirmed, AnyConsumer);
