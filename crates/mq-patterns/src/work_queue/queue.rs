//! A queue of jobs of one type.

use std::{fmt, sync::Arc};

use mq_core::{
    Broker, Datatype, Destination, MessageBuilder, Outcomes, Publisher, Receipt, Result,
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
    jobs: Datatype<T, C>,
}

impl<T, B: Broker> WorkQueue<T, B> {
    /// The queue of this name, with jobs as JSON.
    pub fn new(broker: &B, name: impl Into<Arc<str>>) -> Self {
        Self {
            broker: broker.clone(),
            queue: Destination::queue(name),
            jobs: Datatype::new(),
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
            jobs: self.jobs.codec(),
        }
    }

    /// Sets what each job's message has besides its payload: ordering key, headers, id
    /// (EIP *Envelope Wrapper*).
    #[must_use]
    pub fn envelope(
        mut self,
        envelope: impl Fn(&T, MessageBuilder) -> MessageBuilder + Send + Sync + 'static,
    ) -> Self {
        self.jobs = self.jobs.envelope(envelope);
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
    /// [`Publisher::publish`]: [`possibly_delivered`](mq_core::Error::possibly_delivered) tells whether
    /// submitting it again can make a second one.
    ///
    /// # Cancel safety
    /// Dropped, the job may or may not be stored.
    pub async fn submit(&self, job: &T) -> Result<Receipt> {
        let message = self.jobs.message(job)?;
        self.broker.publisher().publish(&self.queue, message).await
    }

    /// Submits many jobs, pipelined, and waits for all outcomes, in the order of the jobs.
    ///
    /// A job that fails does not keep the others from being stored.
    ///
    /// # Cancel safety
    /// Dropped, each of the jobs may or may not be stored.
    pub async fn submit_all(&self, jobs: &[T]) -> Outcomes {
        let to = |_: &T| self.queue.clone();
        let publisher = self.broker.publisher();
        self.jobs.publish_all(&publisher, jobs, to).await
    }
}

impl<T, B: Clone, C> Clone for WorkQueue<T, B, C> {
    fn clone(&self) -> Self {
        Self {
            broker: self.broker.clone(),
            queue: self.queue.clone(),
            jobs: self.jobs.clone(),
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
