//! Clients with names, as so many processes would have them, whose flow events go to one sink.

use std::{fmt, sync::Arc};

use mq_amqp::Amqp;
use mq_core::{dynamic::AnyBroker, flow::FlowSink};
use mq_kafka::{GroupProtocol, Kafka};
use mq_memory::Memory;

use crate::{Args, Result, args::Address};

/// Clients of the broker that was asked for. Those in this process share one.
pub struct Clients<'a> {
    address: &'a Address,
    sink: Arc<dyn FlowSink>,
    memory: Memory,
}

impl<'a> Clients<'a> {
    /// None yet.
    pub fn new(args: &'a Args, sink: Arc<dyn FlowSink>) -> Self {
        Self {
            address: args.address(),
            memory: Memory::builder().flow(Arc::clone(&sink)).build(),
            sink,
        }
    }

    /// Connects one of this name. On Kafka, what it declares has two partitions if `few` is set,
    /// so that a diagram of them stays small.
    ///
    /// # Errors
    /// As the `connect` of its crate.
    pub async fn connect(&self, name: &str, few: bool) -> Result<AnyBroker> {
        let sink = Arc::clone(&self.sink);
        Ok(match self.address {
            Address::Memory => AnyBroker::new(self.memory.client_named(name)),
            Address::RabbitMq(url) => {
                let builder = Amqp::builder().url(url)?.name(name).flow(sink);
                AnyBroker::new(builder.connect().await?)
            }
            Address::Kafka(servers) | Address::KafkaShare(servers) => {
                let builder = Kafka::builder(servers).name(name).flow(sink);
                let builder = match self.address {
                    Address::KafkaShare(_) => builder.group_protocol(GroupProtocol::Share),
                    _ => builder,
                };
                let builder = if few { builder.partitions(2) } else { builder };
                AnyBroker::new(builder.connect().await?)
            }
        })
    }
}

impl fmt::Debug for Clients<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}
