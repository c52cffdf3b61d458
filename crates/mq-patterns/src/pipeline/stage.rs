//! One stage: from a subscription, through a transform, to a destination.

use std::{
    fmt,
    future::{Future, ready},
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
};

use mq_core::{
    Broker, Destination, Failure, MessageBuilder, Outcome, Received, Result, Subscription,
    SubscriptionKind, Worker,
    codec::{Codec, JsonCodec},
    extract::undecodable,
};
use serde::{Serialize, de::DeserializeOwned};

use super::output::Output;

/// A stage that reads values of the type `T` and publishes values of the type `U`, both in the codec
/// `C`. A clone shares it.
///
/// Nothing is created until [`declare`](Self::declare).
pub struct Stage<T, U, B, C = JsonCodec> {
    broker: B,
    from: Subscription,
    output: Output<U>,
    types: PhantomData<fn(T) -> C>,
}

/// The outcome of one input, on its way.
pub type Transformed = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl<T, U, B: Broker> Stage<T, U, B> {
    /// A stage from a subscription to a destination, with inputs and outputs as JSON.
    ///
    /// The name is part of the outputs' ids: keep it when the program changes, and give each stage
    /// its own.
    pub fn new(broker: &B, name: impl Into<Arc<str>>, from: Subscription, to: Destination) -> Self {
        Self {
            broker: broker.clone(),
            from,
            output: Output::new(name.into(), to),
            types: PhantomData,
        }
    }
}

impl<T, U, B: Broker, C: Codec> Stage<T, U, B, C> {
    /// Reads and writes by another codec.
    #[must_use]
    pub fn codec<C2: Codec>(self) -> Stage<T, U, B, C2> {
        Stage {
            broker: self.broker,
            from: self.from,
            output: self.output,
            types: PhantomData,
        }
    }

    /// Sets what each output's message has besides its payload (EIP *Envelope Wrapper*), from the
    /// input's message and the output: another ordering key, headers of the input that go on.
    ///
    /// The builder has the input's key and correlation id, and the derived id. An id set here has to
    /// be the same for the same input, or a duplicate cannot be told.
    #[must_use]
    pub fn envelope(
        mut self,
        envelope: impl Fn(&Received, &U, MessageBuilder) -> MessageBuilder + Send + Sync + 'static,
    ) -> Self {
        self.output.envelope = Some(Arc::new(envelope));
        self
    }

    /// Creates what the stage publishes to, then what it reads, with its dead-letter home, unless
    /// they are there.
    ///
    /// # Errors
    /// [`NotFound`](mq_core::ErrorKind::NotFound) if the stage reads a subscription of a topic that
    /// is not there, and as [`Broker::declare`].
    ///
    /// # Cancel safety
    /// Dropped, some parts may exist; calling it again completes them.
    pub async fn declare(&self) -> Result<()> {
        self.broker.declare(&self.output.to).await?;
        match self.from.kind() {
            // It lives with its consumer.
            SubscriptionKind::Ephemeral { .. } => Ok(()),
            _ => self.broker.declare(&self.from).await,
        }
    }

    /// A worker on what the stage reads, to be run with [`translate`](Self::translate),
    /// [`filter`](Self::filter) or [`split`](Self::split).
    pub fn worker(&self) -> Worker<B> {
        Worker::new(&self.broker, self.from.clone())
    }
}

impl<T, U, B, C> Stage<T, U, B, C>
where
    T: DeserializeOwned + Send + 'static,
    U: Serialize + Send + 'static,
    B: Broker,
    C: Codec,
{
    /// A handler that makes one output of each input (EIP *Message Translator*).
    ///
    /// A failed transform publishes nothing, and its input is attempted again or goes to the
    /// dead-letter home, as the worker says. An input that cannot be decoded goes there at once, and
    /// so does one whose output can never be stored.
    pub fn translate<F, Fut, E>(
        &self,
        transform: F,
    ) -> impl Fn(Received) -> Transformed + Clone + Send + Sync + 'static + use<T, U, B, C, F, Fut, E>
    where
        F: Fn(T) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<U, E>> + Send + 'static,
        E: Into<Failure>,
    {
        handler::<T, U, C, _, _, _, _, _>(self.output.clone(), transform, |output| [output])
    }

    /// A handler that makes one output of an input, or none (EIP *Message Filter*).
    ///
    /// **With `None` the input is acknowledged and nothing is published: it is gone.** Else as
    /// [`translate`](Self::translate).
    pub fn filter<F, Fut, E>(
        &self,
        transform: F,
    ) -> impl Fn(Received) -> Transformed + Clone + Send + Sync + 'static + use<T, U, B, C, F, Fut, E>
    where
        F: Fn(T) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<U>, E>> + Send + 'static,
        E: Into<Failure>,
    {
        handler::<T, U, C, _, _, _, _, _>(self.output.clone(), transform, |output| output)
    }

    /// A handler that makes any number of outputs of an input, in their order (EIP *Splitter*).
    ///
    /// **With none the input is acknowledged and nothing is published: it is gone.** All outputs are
    /// confirmed before the input is acknowledged. Else as [`translate`](Self::translate).
    pub fn split<F, Fut, E>(
        &self,
        transform: F,
    ) -> impl Fn(Received) -> Transformed + Clone + Send + Sync + 'static + use<T, U, B, C, F, Fut, E>
    where
        F: Fn(T) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<U>, E>> + Send + 'static,
        E: Into<Failure>,
    {
        handler::<T, U, C, _, _, _, _, _>(self.output.clone(), transform, |outputs| outputs)
    }
}

impl<T, U, B: Clone, C> Clone for Stage<T, U, B, C> {
    fn clone(&self) -> Self {
        Self {
            broker: self.broker.clone(),
            from: self.from.clone(),
            output: self.output.clone(),
            types: PhantomData,
        }
    }
}

impl<T, U, B, C> fmt::Debug for Stage<T, U, B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("name", &self.output.stage)
            .field("from", &self.from)
            .field("to", &self.output.to)
            .finish_non_exhaustive()
    }
}

/// A handler that publishes what the transform made of its input.
fn handler<T, U, C, F, Fut, V, E, I>(
    output: Output<U>,
    transform: F,
    outputs: impl Fn(V) -> I + Copy + Send + Sync + 'static,
) -> impl Fn(Received) -> Transformed + Clone + Send + Sync + 'static
where
    T: DeserializeOwned + Send + 'static,
    U: Serialize + Send + 'static,
    C: Codec,
    F: Fn(T) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<V, E>> + Send + 'static,
    E: Into<Failure>,
    I: IntoIterator<Item = U>,
{
    move |input: Received| -> Transformed {
        let value = match input.decode::<C, T>() {
            Ok(value) => value,
            Err(error) => return Box::pin(ready(undecodable(error))),
        };
        let (transformed, output) = (transform(value), output.clone());
        Box::pin(async move {
            match transformed.await {
                Ok(made) => output.outcome::<C>(&input, outputs(made)),
                Err(failure) => Outcome::retry(failure),
            }
        })
    }
}
