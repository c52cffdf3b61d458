//! The conformance suite, on both shapes of the broker.

use std::{process::ExitCode, time::Duration};

use mq_core::{Broker, Destination, Message, Publisher};
use mq_memory::Memory;
use mq_testkit::{Address, Fixture, Hook, Suite};

/// One broker for all cases, as a server would be.
#[derive(Clone)]
struct InProcess {
    broker: Memory,
    /// A broker whose queues hold 20 messages.
    narrow: Memory,
}

impl InProcess {
    fn queues() -> Self {
        Self {
            broker: Memory::new(),
            narrow: Memory::builder().max_messages(20).build(),
        }
    }

    fn log() -> Self {
        Self {
            broker: Memory::builder().log(4).build(),
            narrow: Memory::builder().log(1).max_messages(20).build(),
        }
    }
}

impl Fixture for InProcess {
    type Broker = Memory;

    async fn connect(&self) -> mq_core::Result<Memory> {
        Ok(self.broker.client())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn quiet(&self) -> Duration {
        Duration::from_millis(100)
    }

    fn hooks(&self) -> &'static [Hook] {
        &[Hook::RefusingQueue]
    }

    async fn refusing_queue(&self, name: &str) -> mq_core::Result<(Memory, Destination)> {
        let client = self.narrow.client();
        let queue = Destination::queue(name);
        client.declare(&queue).await?;
        let full = (0..20).map(|_| Message::new("x").build()).collect();
        let full = client.publisher().publish_batch(&queue, full).await;
        full.all_confirmed()?;
        Ok((client, queue))
    }
}

fn main() -> ExitCode {
    let (queues, log) = (InProcess::queues(), InProcess::log());
    let queues = Suite::new("conformance", "mq-memory", Address::in_process()).conformance(
        move |_| queues.clone(),
        include_str!("conformance.expected"),
    );
    let log = Suite::new("conformance", "mq-memory (log)", Address::in_process()).conformance(
        move |_| log.clone(),
        include_str!("conformance-log.expected"),
    );
    mq_testkit::run([queues, log])
}
