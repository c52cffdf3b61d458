//! The conformance suite, on both shapes of the broker.

use std::{process::ExitCode, time::Duration};

use mq_memory::Memory;
use mq_testkit::{Address, Fixture, Suite};

struct InProcess(Memory);

impl Fixture for InProcess {
    type Broker = Memory;

    async fn connect(&self) -> mq_core::Result<Memory> {
        Ok(self.0.client())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn quiet(&self) -> Duration {
        Duration::from_millis(100)
    }
}

fn main() -> ExitCode {
    let queues = Suite::new("conformance", "mq-memory", Address::in_process()).conformance(
        |_| InProcess(Memory::new()),
        include_str!("conformance.expected"),
    );
    let log = || InProcess(Memory::builder().log(4).build());
    let log = Suite::new("conformance", "mq-memory (log)", Address::in_process())
        .conformance(move |_| log(), include_str!("conformance-log.expected"));
    mq_testkit::run([queues, log])
}
