//! Settings of an in-process broker.

use std::sync::Arc;

use mq_core::{
    flow::{Flow, FlowSink},
    trace::Propagator,
};

use crate::{Memory, capabilities::WORDS};

/// Settings of an in-process broker; [`Memory::builder`] makes one.
///
/// ```
/// let queues = mq_memory::Memory::new();
/// let log = mq_memory::Memory::builder().log(4).build();
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder makes a broker only when it is built"]
pub struct Builder {
    pub(crate) partitions: Option<u32>,
    pub(crate) max_message_bytes: usize,
    pub(crate) max_messages: usize,
    pub(crate) name: Arc<str>,
    pub(crate) flow: Flow,
    pub(crate) propagator: Option<Arc<dyn Propagator>>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            partitions: None,
            max_message_bytes: MESSAGE_BYTES,
            max_messages: MESSAGES,
            name: NAME.into(),
            flow: Flow::default(),
            propagator: None,
        }
    }

    /// Takes the shape of a log, as Kafka has it, with this many partitions for each queue and
    /// topic (at least 1). Without it the broker has the shape of queues, as RabbitMQ has it.
    pub fn log(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions.max(1));
        self
    }

    /// Sets how many bytes a message may have, as [`mq_core::Message::size`] counts them. Default
    /// 16 MiB, which is RabbitMQ's own.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Sets how many messages a queue, or a partition of a log, may hold (at least 1). Default
    /// 1,000,000.
    ///
    /// A publish to a full queue is *rejected*, unsettled messages counted. A full partition
    /// forgets its oldest record once every group has it behind it; until then a publish is
    /// *rejected*.
    pub fn max_messages(mut self, messages: usize) -> Self {
        self.max_messages = messages.max(1);
        self
    }

    /// Sets the name of the client, as its flow events and spans tell it. Default `mq-memory`.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self.flow = self.flow.renamed(&self.name);
        self
    }

    /// Tells every step of its messages to a sink; see [`mq_core::flow`].
    ///
    /// The outcome of a publish is known at once. A settlement is told just before it is carried
    /// out.
    pub fn flow(mut self, sink: Arc<dyn FlowSink>) -> Self {
        self.flow = Flow::new(&self.name, &WORDS, sink);
        self
    }

    /// Carries trace context through the headers of messages; see [`mq_core::trace`].
    pub fn propagator(mut self, propagator: Arc<dyn Propagator>) -> Self {
        self.propagator = Some(propagator);
        self
    }

    /// The broker. Nothing is declared in it.
    #[must_use]
    pub fn build(&self) -> Memory {
        Memory::with(self)
    }
}

const NAME: &str = "mq-memory";
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;
const MESSAGES: usize = 1_000_000;
