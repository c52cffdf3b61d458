//! Values of one type as messages: what every pattern with a type of its own shares.

use std::{fmt, marker::PhantomData, sync::Arc};

use serde::Serialize;

use crate::{
    Destination, Error, ErrorKind, Message, MessageBuilder, Outcomes, PendingBatch, Publisher,
    Receipt, Result, codec::Codec,
};

/// How values of the type `T` become messages: by the codec `C`, in an envelope
/// (EIP *Datatype Channel*, *Envelope Wrapper*). A clone shares the envelope.
///
/// It is the publishing part of a pattern; whoever writes one puts a destination around it.
///
/// ```
/// use mq_core::{Broker, Datatype, Destination, codec::JsonCodec};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> mq_core::Result<()> {
/// # let broker = mq_memory::Memory::new();
/// # broker.declare(Destination::queue("readings")).await?;
/// let readings = Datatype::<f64, JsonCodec>::new()
///     .envelope(|celsius, message| message.header("hot", (*celsius > 30.0).to_string()));
/// let to = |_: &f64| Destination::queue("readings");
/// let outcomes = readings.publish_all(&broker.publisher(), &[21.5, 33.0], to).await;
/// assert_eq!(outcomes.len(), 2); // one for each value, in their order
/// outcomes.all_confirmed()?;
/// # Ok(())
/// # }
/// ```
pub struct Datatype<T, C> {
    envelope: Option<Envelope<T>>,
    codec: PhantomData<fn() -> C>,
}

type Envelope<T> = Arc<dyn Fn(&T, MessageBuilder) -> MessageBuilder + Send + Sync>;

impl<T, C: Codec> Datatype<T, C> {
    /// Values in this codec, in a plain envelope.
    pub fn new() -> Self {
        Self {
            envelope: None,
            codec: PhantomData,
        }
    }

    /// Writes the values by another codec.
    #[must_use]
    pub fn codec<C2: Codec>(self) -> Datatype<T, C2> {
        Datatype {
            envelope: self.envelope,
            codec: PhantomData,
        }
    }

    /// Sets what each value's message has besides its payload: ordering key, headers, id.
    #[must_use]
    pub fn envelope(
        mut self,
        envelope: impl Fn(&T, MessageBuilder) -> MessageBuilder + Send + Sync + 'static,
    ) -> Self {
        self.envelope = Some(Arc::new(envelope));
        self
    }
}

impl<T: Serialize, C: Codec> Datatype<T, C> {
    /// The message of a value.
    ///
    /// # Errors
    /// [`Codec`](ErrorKind::Codec) if the value cannot be written.
    pub fn message(&self, value: &T) -> Result<Message> {
        let message = Message::encode::<C, T>(value)?;
        Ok(match &self.envelope {
            Some(envelope) => envelope(value, message),
            None => message,
        }
        .build())
    }

    /// Publishes many values, pipelined, and waits for all outcomes, in the order of the values.
    ///
    /// A value that fails does not keep the others from being stored. Those for one destination are
    /// written in their order.
    ///
    /// # Cancel safety
    /// Dropped, each of the values may or may not be stored.
    pub async fn publish_all(
        &self,
        publisher: &impl Publisher,
        values: &[T],
        to: impl Fn(&T) -> Destination,
    ) -> Outcomes {
        let unknown = Error::new(ErrorKind::Bug, "publish", "the publisher told no outcome");
        let mut outcomes: Vec<Result<Receipt>> = vec![Err(unknown); values.len()];
        let mut under_way = Vec::new();
        let mut batch = Batch::default();
        for (place, value) in values.iter().enumerate() {
            let message = match self.message(value) {
                Ok(message) => message,
                Err(error) => {
                    outcomes[place] = Err(error);
                    continue;
                }
            };
            let to = to(value);
            if !batch.takes(&to) {
                under_way.extend(batch.send(publisher).await);
                batch = Batch::default();
            }
            batch.push(to, place, message);
        }
        under_way.extend(batch.send(publisher).await);
        for (places, stored) in under_way {
            for (place, outcome) in places.into_iter().zip(stored.await) {
                outcomes[place] = outcome;
            }
        }
        outcomes.into()
    }
}

/// Messages in a row for one destination, and the places of their values.
#[derive(Default)]
struct Batch {
    to: Option<Destination>,
    places: Vec<usize>,
    messages: Vec<Message>,
}

impl Batch {
    fn takes(&self, to: &Destination) -> bool {
        self.messages.len() < CHUNK && self.to.as_ref().is_none_or(|own| own == to)
    }

    fn push(&mut self, to: Destination, place: usize, message: Message) {
        self.to = Some(to);
        self.places.push(place);
        self.messages.push(message);
    }

    async fn send(self, publisher: &impl Publisher) -> Option<(Vec<usize>, PendingBatch)> {
        let stored = publisher.enqueue_batch(&self.to?, self.messages).await;
        Some((self.places, stored))
    }
}

/// Enough to share the cost of a round trip, few enough to encode in a moment.
const CHUNK: usize = 256;

impl<T, C: Codec> Default for Datatype<T, C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, C> Clone for Datatype<T, C> {
    fn clone(&self) -> Self {
        Self {
            envelope: self.envelope.clone(),
            codec: PhantomData,
        }
    }
}

impl<T, C> fmt::Debug for Datatype<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datatype")
            .field("envelope", &self.envelope.is_some())
            .finish_non_exhaustive()
    }
}
