//! The scenario `exactly-once`: two copiers from a topic of two partitions to one of three, in transactions, while copiers and
//! broker are killed, copiers become zombies and transactions are aborted on purpose.
//!
//! * [`run`](mod@run) is its conductor, [`seats`] has the copiers in hand, [`copier`] is such a process.
//! * [`reading`] is who reads the copies: one at the time, one afterwards, and one that sees aborted ones too.
//! * [`report`] says what came of it.

mod copier;
mod reading;
mod report;
mod run;
mod seats;

use std::time::Duration;

use mq_core::{Destination, Result, Subscription};
use mq_kafka::{GroupProtocol, Kafka, TopicSettings};

pub(crate) use copier::start as copier;
pub(crate) use run::{Plan, run};

/// Connects to Kafka, with the topics of this scenario.
async fn connect(address: &str, name: &str) -> Result<Kafka> {
    Kafka::builder(address)
        .name(name)
        .topic(SOURCE, TopicSettings::new().partitions(2))
        .topic(TARGET, TopicSettings::new().partitions(3))
        // A killed copier holds up its group for so long.
        .group_protocol(GroupProtocol::Classic)
        .session_timeout(Duration::from_secs(6))
        .publish_timeout(Duration::from_secs(60))
        .connect()
        .await
}

fn target() -> Destination {
    Destination::topic(TARGET)
}

/// Who reads all copies afterwards.
fn late() -> Subscription {
    Subscription::durable(TARGET, "late")
}

const SOURCE: &str = "originals";
const TARGET: &str = "copies";
/// The header that says which record a copy is of: partition and offset.
const FROM: &str = "from";
/// The header that says which of the two copies of a record it is. They go to partitions of their own, and are there
/// together or not at all.
const PART: &str = "part";
const COPIERS: usize = 2;
/// The least that the guarantee takes: so a zombie need not stand still for long.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
