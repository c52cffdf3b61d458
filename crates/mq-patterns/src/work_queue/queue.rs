//! A queue of jobs of one type.

use std::{fmt, marker::PhantomData, sync::Arc};

use mq_core::{
    Broker, Destination, Error, Message, MessageBuilder, PendingBatch, Publisher, Receipt, Result,
    Subscription, Worker,
    codec::{Codec, JsonCodec},
};
use serde::Serialize;

/// A queue of jobs of the type `T`, on a broker, written by the codec `C`. A clone shares it.
///
/// Nothing is created until [`declare`](Self::declare).
pub struct WorkQueue<T, B, C = JsonCodec> {
    broker: B,
    queue: Destination,
    envelope: Option<Envelope<T>>,
    codec: PhantomData<fn() -> C>,
}

type Envelope<T> = Arc<dyn Fn(&T, MessageBuilder) -> MessageBuilder + Send + Sync>;

impl<T, B: Broker> WorkQueue<T, B> {
    /// The queue of this name, with jobs as JSON.
    pub fn new(broker: &B, name: impl Into<Arc<str>>) -> Self {
        Self {
            broker: broker.clone(),
            queue: Destination::queue(name),
            envelope: None,
            codec: PhantomData,
        }
    }
}

impl<T, B: Broker, C: Codec> WorkQueue<T, B, C> {
    /// Writes the jobs by another codec.
    #[must_use]
    pub fn codec<C2: Codec>(self) -> WorkQueue<T, B, C2> {
        WorkQueue {
            broker: self.broker,
            queue: self.queue,
            envelope: self.envelope,
            codec: PhantomData,
        }
    }

    /// Sets what each job's message has besides its payload: ordering key, headers, id
    /// (EIP *Envelope Wrapper*).
    #[must_use]
    pub fn envelope(
        mut self,
        envelope: impl Fn(&T, MessageBuilder) -> MessageBuilder + Send + Sync + 'static,
    ) -> Self {
        self.envelope = Some(Arc::new(envelope));
        self
    }

    /// Where the jobs go.
    pub fn destination(&self) -> &Destination {
        &self.queue
    }

    /// Creates the queue and its dead-letter home, unless they are there.
    ///
    /// # Errors
    /// As [`Broker::declare`].
    ///
    /// # Cancel safety
    /// Dropped, some parts may exist; calling it again completes them.
    pub async fn declare(&self) -> Result<()> {
        self.broker.declare(&self.queue).await
    }

    /// A worker that competes for the jobs with every other one on this queue
    /// (EIP *Competing Consumers*), and handles `concurrency` of them at a time.
    ///
    /// At most as many more wait in it for their turn, so that a slow worker holds up few jobs
    /// that others could do. Where jobs are short, a higher
    /// [`prefetch`](Worker::prefetch) saves it from waiting for the broker.
    pub fn worker(&self, concurrency: usize) -> Worker<B> {
        let prefetch = u16::try_from(concurrency.saturating_mul(2)).unwrap_or(u16::MAX);
        Worker::new(
            &self.broker,
            Subscription::queue(Arc::clone(self.queue.name())),
        )
        .concurrency(concurrency)
        .prefetch(prefetch)
    }
}

impl<T: Serialize, B: Broker, C: Codec> WorkQueue<T, B, C> {
    /// Submits a job and waits until the broker has stored it.
    ///
    /// # Errors
    /// [`Codec`](mq_core::ErrorKind::Codec) if the job cannot be written, else as
    /// [`Publisher::publish`]: [`possibly_delivered`](Error::possibly_delivered) tells whether
    /// submitting it again can make a second one.
    ///
    /// # Cancel safety
    /// Dropped, the job may or may not be stored.
    pub async fn submit(&self, job: &T) -> Result<Receipt> {
        let message = self.message(job)?;
        self.broker.publisher().publish(&self.queue, message).await
    }

    /// Submits many jobs, pipelined, and waits for all outcomes, in the order of the jobs.
    ///
    /// A job that fails does not keep the others from being stored.
    ///
    /// # Cancel safety
    /// Dropped, each of the jobs may or may not be stored.
    pub async fn submit_all(&self, jobs: &[T]) -> Vec<Result<Receipt>> {
        let publisher = self.broker.publisher();
        let mut submitted = Vec::with_capacity(jobs.len().div_ceil(CHUNK));
        for jobs in jobs.chunks(CHUNK) {
            let mut messages = Vec::with_capacity(jobs.len());
            let mut unwritable = Vec::new();
            for (place, job) in jobs.iter().enumerate() {
                match self.message(job) {
                    Ok(message) => messages.push(message),
                    Err(error) => unwritable.push((place, error)),
                }
            }
            let stored = publisher.enqueue_batch(&self.queue, messages).await;
            submitted.push(Submitted { stored, unwritable });
        }
        let mut outcomes = Vec::with_capacity(jobs.len());
        for Submitted { stored, unwritable } in submitted {
            let start = outcomes.len();
            outcomes.extend(stored.await);
            // In ascending order, so that each place is the final one.
            for (place, error) in unwritable {
                outcomes.insert(start + place, Err(error));
            }
        }
        outcomes
    }

    fn message(&self, job: &T) -> Result<Message> {
        let message = Message::encode::<C, T>(job)?;
        Ok(match &self.envelope {
            Some(envelope) => envelope(job, message),
            None => message,
        }
        .build())
    }
}

/// The outcomes of one chunk: of what was sent, and of what could not be written.
struct Submitted {
    stored: PendingBatch,
    unwritable: Vec<(usize, Error)>,
}

/// Enough to share the cost of a round trip, few enough to encode in a moment.
const CHUNK: usize = 256;

impl<T, B: Clone, C> Clone for WorkQueue<T, B, C> {
    fn clone(&self) -> Self {
        Self {
            broker: self.broker.clone(),
            queue: self.queue.clone(),
            envelope: self.envelope.clone(),
            codec: PhantomData,
        }
    }
}

impl<T, B, C> fmt::Debug for WorkQueue<T, B, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkQueue")
            .field("queue", &self.queue.name())
            .finish_non_exhaustive()
    }
}
